import copy
import json
import math
import os
os.environ["TRANSFORMERS_VERBOSITY"] = "error"

import torch


try:
    from transformers import GPT2Config, GPT2LMHeadModel
except ImportError:
    pass  # An older PyTorch that only loads.


def notebook_model(checkpoint):
    sizes = checkpoint["config"]["model"]
    weights = checkpoint["model_state_dict"]
    model = GPT2LMHeadModel(GPT2Config(
        vocab_size=weights["transformer.wte.weight"].shape[0], n_positions=sizes["block_size"],
        n_layer=sizes["n_layer"], n_head=sizes["n_head"], n_embd=sizes["n_embd"], use_cache=False,
        resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0, bos_token_id=0, eos_token_id=0))
    model.load_state_dict(weights, strict=True)
    return model.eval()


def loss_of(model, windows):
    text = open("corpus.txt", "rb").read()
    tokens = torch.tensor([list(text[window * 16:window * 16 + 17]) for window in windows])
    logits = model(input_ids=tokens[:, :-1]).logits
    return torch.nn.functional.cross_entropy(logits.reshape(-1, logits.shape[-1]), tokens[:, 1:].reshape(-1))


def factor(step):
    if step < 3:
        return step / 3
    return max(0.0, 0.5 * (1.0 + math.cos(math.pi * 0.5 * 2.0 * ((step - 3) / (100 - 3)))))


def notebook_resume(path):
    checkpoint = torch.load(path, weights_only=True)
    model = notebook_model(checkpoint)
    decay = [p for p in model.parameters() if p.dim() >= 2]
    rest = [p for p in model.parameters() if p.dim() < 2]
    optimizer = torch.optim.AdamW([{"params": decay}, {"params": rest}], lr=1e-3)
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, factor)
    optimizer.load_state_dict(checkpoint["optimizer_state_dict"])
    scheduler.load_state_dict(checkpoint["scheduler_state_dict"])
    return model, optimizer, scheduler, checkpoint


def notebook_train(model, optimizer, scheduler, first, last):
    lines = []
    for update, batches in list(enumerate(json.load(open("batches.json"))))[first:last]:
        optimizer.zero_grad()
        total = 0.0
        for windows in batches:
            loss = loss_of(model, windows)
            (loss / len(batches)).backward()
            total += loss.item()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        rate = optimizer.param_groups[0]["lr"]
        optimizer.step()
        scheduler.step()
        lines.append([update + 1, total / len(batches), rate])
    return lines
