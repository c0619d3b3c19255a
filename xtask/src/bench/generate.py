"""Writing text with transformers' generate and its cache: one sequence, and several together. Prints milliseconds per token."""

import sys
import time

import torch
from transformers import GPT2Config, GPT2LMHeadModel

size, prompt, tokens, threads = sys.argv[1], *map(int, sys.argv[2:5])
torch.set_num_threads(threads)
torch.manual_seed(1)
vocabulary, layers, heads, width, block = {
    "S": (256, 4, 4, 128, 64), "M": (256, 6, 6, 384, 256), "GPT-2": (50257, 12, 12, 768, 1024)
}[size]
model = GPT2LMHeadModel(
    GPT2Config(
        vocab_size=vocabulary, n_positions=block, n_layer=layers, n_head=heads, n_embd=width, attn_implementation="sdpa",
        bos_token_id=None, eos_token_id=None,
    )
).eval()
inputs = torch.arange(prompt).reshape(1, -1) % 90 + 32


def write(count, **options):
    start = time.perf_counter()
    out = model.generate(
        inputs, attention_mask=torch.ones_like(inputs), max_new_tokens=count, min_new_tokens=count, use_cache=True,
        pad_token_id=0, **options,
    )
    assert out.shape == (options.get("num_return_sequences", 1), prompt + count)
    return (time.perf_counter() - start) * 1e3


greedy, sampled = {"do_sample": False}, {"do_sample": True, "temperature": 0.8, "top_k": 50}
write(2, **greedy)
write(2, **sampled)
for _ in range(3):
    print(f"prompt {write(1, **greedy):.3f}")
    print(f"greedy {write(tokens, **greedy) / tokens:.4f}")
    print(f"sampled {write(tokens, **sampled) / tokens:.4f}", flush=True)
    for together in (4, 16):
        time_taken = write(tokens, **sampled, num_return_sequences=together)
        print(f"together-{together} {time_taken / tokens / together:.4f}", flush=True)
