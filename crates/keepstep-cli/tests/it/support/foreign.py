import glob
import inspect
import json
import os
import shutil
os.environ["TRANSFORMERS_VERBOSITY"] = "error"

import torch
import transformers
from transformers import GPT2Config, GPT2LMHeadModel

C, T, LAYERS = 32, 16, 2
LINEAR = ("c_attn.weight", "c_proj.weight", "c_fc.weight")


def transformers_model(vocab):
    torch.manual_seed(5)
    return GPT2LMHeadModel(GPT2Config(
        vocab_size=vocab, n_positions=T, n_layer=LAYERS, n_head=2, n_embd=C, bos_token_id=None, eos_token_id=None)).eval()


def parameters(vocab, layers=None):
    torch.manual_seed(5)
    config = GPT2Config(vocab_size=vocab, n_positions=T, n_layer=layers or 1, n_head=2, n_embd=C)
    return {name: torch.nn.Parameter(tensor.detach().clone()) for name, tensor in GPT2LMHeadModel(config).named_parameters()}


def by_dim(p):
    return [{"params": [q for q in p.values() if q.dim() >= 2], "weight_decay": 0.1},
            {"params": [q for q in p.values() if q.dim() < 2], "weight_decay": 0.0}]


def by_name(p):
    no_decay = ["bias", "LayerNorm.weight"]
    return [{"params": [q for n, q in p.items() if not any(x in n for x in no_decay)], "weight_decay": 0.1},
            {"params": [q for n, q in p.items() if any(x in n for x in no_decay)], "weight_decay": 0.0}]


def by_name_with_names(p):
    names = [[n for n in p if not n.endswith("bias")], [n for n in p if n.endswith("bias")]]
    return [{"params": [(n, p[n]) for n in names[0]], "weight_decay": 0.1},
            {"params": [(n, p[n]) for n in names[1]], "weight_decay": 0.0}]


def train(optimizer, p, updates):
    g = torch.Generator().manual_seed(1)

    def closure():
        for q in p.values():
            q.grad = torch.randn(q.shape, generator=g) * 0.1
        return torch.tensor(1.0)

    for _ in range(updates):
        closure()
        optimizer.step(closure)


def save(name, kind=torch.optim.AdamW, groups=by_dim, vocab=256, extra=None, **options):
    """A checkpoint after one update of a run of two layers."""
    p = parameters(vocab, LAYERS)
    optimizer = kind(groups(p), **{"lr": 1e-2, **options})
    train(optimizer, p, 1)
    weights = {n: q.detach() for n, q in p.items()}
    weights["lm_head.weight"] = weights["transformer.wte.weight"]
    torch.save({"epoch": 1, "step": 3, "global_step": 1, "model_state_dict": weights,
                "optimizer_state_dict": optimizer.state_dict(), **(extra or {})}, f"{name}.pt")
