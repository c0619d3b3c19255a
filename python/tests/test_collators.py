"""Collators with a generator of their own mask the same tokens wherever a run goes on, and in any worker."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from keepstep._data import Loader
from loops import CountingDriver
from tokenizers import Tokenizer, models
from transformers import DataCollatorForLanguageModeling, PreTrainedTokenizerFast

WORDS = {"[PAD]": 0, "[MASK]": 1, **{f"w{number}": number for number in range(2, 40)}}
TEXTS: list[dict[str, Any]] = [{"input_ids": [(index * 7 + place) % 38 + 2 for place in range(12)]} for index in range(24)]


def masked(at: tuple[int, int], seed: int | None, num_workers: int = 0) -> list[torch.Tensor]:
    words = Tokenizer(models.WordLevel(WORDS, unk_token="[PAD]"))
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=words, pad_token="[PAD]", mask_token="[MASK]")
    collator = DataCollatorForLanguageModeling(tokenizer, mlm_probability=0.4, seed=seed)
    loader = Loader(CountingDriver(at=at), TEXTS, batch_size=4, epochs=1, collate_fn=collator, num_workers=num_workers)
    return [batch["input_ids"] for batch in loader]


@pytest.mark.parametrize("seed", [None, 11])
def test_masks_follow_the_position(seed: int | None) -> None:
    straight = masked((1, 0), seed)
    assert len(straight) == 6 and all((batch == 1).any() for batch in straight)
    for batches in (masked((1, 2), seed), masked((1, 2), seed, num_workers=2)):
        assert len(batches) == 4
        assert all(torch.equal(one, other) for one, other in zip(batches, straight[2:]))
