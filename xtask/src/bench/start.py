"""A PyTorch loop that resumes: imports, GPT-2, AdamW, torch.load, load_state_dict, one update. Says what it has done."""

import sys

import torch

print("torch")
from transformers import GPT2Config, GPT2LMHeadModel

print("transformers")
config = GPT2Config(
    vocab_size=256, n_positions=128, n_layer=5, n_head=6, n_embd=384,
    resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0, attn_implementation="sdpa", use_cache=False,
)
model = GPT2LMHeadModel(config)
decay = [p for p in model.parameters() if p.dim() >= 2]
rest = [p for p in model.parameters() if p.dim() < 2]
optimizer = torch.optim.AdamW([{"params": decay, "weight_decay": 0.1}, {"params": rest, "weight_decay": 0.0}], lr=5e-4)
print("built")
checkpoint = torch.load(sys.argv[1], weights_only=True)
model.load_state_dict(checkpoint["model_state_dict"])
optimizer.load_state_dict(checkpoint["optimizer_state_dict"])
print("loaded")
tokens = torch.randint(0, 256, (4, 129))
logits = model(input_ids=tokens[:, :-1]).logits
loss = torch.nn.functional.cross_entropy(logits.reshape(-1, 256), tokens[:, 1:].reshape(-1))
loss.backward()
torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
optimizer.step()
print("update")
