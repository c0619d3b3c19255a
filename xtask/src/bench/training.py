"""One training update of GPT-2 in PyTorch: eager, scaled_dot_product_attention, AdamW, clipping. Prints milliseconds.

A fourth argument, bf16, computes under bfloat16 autocast."""

import sys
import time

import torch
from transformers import GPT2Config, GPT2LMHeadModel

size, updates, threads = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
bf16 = sys.argv[4:] == ["bf16"]
torch.set_num_threads(threads)
torch.manual_seed(1)
sizes = {"S": (4, 4, 128, 64, 12, 256), "M": (6, 6, 384, 256, 16, 256), "V": (2, 4, 128, 64, 64, 50257)}
if size not in sizes:
    # A block size, at 4096 tokens a micro-batch.
    sizes[size] = (2, 4, 128, int(size), 4096 // int(size), 256)
layers, heads, width, block, batch, vocabulary = sizes[size]
config = GPT2Config(
    vocab_size=vocabulary, n_positions=block, n_layer=layers, n_head=heads, n_embd=width,
    resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0, attn_implementation="sdpa", use_cache=False,
)
model = GPT2LMHeadModel(config)
decay = [p for p in model.parameters() if p.dim() >= 2]
rest = [p for p in model.parameters() if p.dim() < 2]
optimizer = torch.optim.AdamW(
    [{"params": decay, "weight_decay": 0.1}, {"params": rest, "weight_decay": 0.0}], lr=1e-4, betas=(0.9, 0.95)
)
print("torch", torch.__version__, flush=True)
for _ in range(updates):
    tokens = torch.randint(0, vocabulary, (batch, block + 1))
    start = time.perf_counter()
    optimizer.zero_grad(set_to_none=True)
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=bf16):
        logits = model(input_ids=tokens[:, :-1]).logits
        loss = torch.nn.functional.cross_entropy(logits.reshape(-1, vocabulary), tokens[:, 1:].reshape(-1))
    loss.backward()
    torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimizer.step()
    print(f"update {(time.perf_counter() - start) * 1e3:.3f}", flush=True)
with open("/proc/self/status") as status:
    peak = next(line for line in status if line.startswith("VmHWM:"))
print(f"peak {int(peak.split()[1]) / 1024:.1f}", flush=True)
