"""From two passes over the same updates to sentences: what differs, where it comes from, what to do."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch

from ._digest import first_difference, tokens

if TYPE_CHECKING:
    from ._plan import MicroBatch
    from ._reach import Found
    from ._spies import Calls

__all__ = ["Evidence", "Finding", "judge"]

_MOST_NAMES = 4


@dataclass(frozen=True)
class Finding:
    """One thing that keeps a run from resuming exactly."""

    kind: str
    """``data``, ``draws``, ``clock``, ``memory``, ``gradients``, ``kernel``, or ``untracked``."""
    name: str
    """The thing, as the loop's code names it."""
    text: str
    """A sentence: what it is, and what to do."""


@dataclass
class Evidence:
    """What one pass left behind, as tokens."""

    batches: list[tuple[str, dict[str, Any]]] = field(default_factory=lambda: list[tuple[str, dict[str, Any]]]())
    """Each batch: where it belongs, and its parts."""
    gradients: list[tuple[str, list[Any]]] = field(default_factory=lambda: list[tuple[str, list[Any]]]())
    """The gradients of each step of each optimizer."""
    updates: list[tuple[dict[str, Any], dict[str, dict[str, Any]]]] = field(
        default_factory=lambda: list[tuple[dict[str, Any], dict[str, dict[str, Any]]]]()
    )
    """Recorded values and tracked state after each update."""
    reached: Mapping[str, Found] = field(default_factory=lambda: dict[str, "Found"]())
    """What the body reaches, after the last update."""
    data_generators: list[str] = field(default_factory=lambda: list[str]())
    """Generators that making the first batch advanced."""
    data_calls: Calls = field(default_factory=lambda: dict[str, str]())
    """Clocks and unseeded generators, asked while the first batch was made."""
    body_calls: Calls = field(default_factory=lambda: dict[str, str]())
    """The same, in the loop's body."""

    def batch(self, micro_batch: MicroBatch | None, batch: Any) -> None:
        """Takes note of a batch."""
        where = "" if micro_batch is None else f"epoch {micro_batch.epoch}, step {micro_batch.step}"
        self.batches.append((where, tokens(batch)))

    def update(self, values: dict[str, Any], state: dict[str, dict[str, Any]]) -> None:
        """Takes note of an update."""
        self.updates.append((values, state))


def judge(first: Evidence, second: Evidence, dataset: Any, tracked: Mapping[str, Any]) -> list[Finding]:
    """Compares two passes and returns what was found: what differs first, then what is not tracked."""
    findings = _data(first, second, dataset)
    if not findings:
        findings = _updates(first, second, tracked)
    findings += [each for each in _drawn_by_data(first) if not findings]
    known = {finding.name for finding in findings}
    untracked = _untracked(first, second, same_bits=all(each.kind == "untracked" for each in findings))
    return findings + [finding for finding in untracked if finding.name not in known]


def _data(first: Evidence, second: Evidence, dataset: Any) -> list[Finding]:
    hint = "draw from `random`, `numpy.random` or `torch` itself, which are seeded for each sample"
    for (where, one), (_, other) in zip(first.batches, second.batches):
        path = first_difference(one, other)
        if path is None:
            continue
        what = f"the batch at {where} is another one when it is made again (at `batch{path.split(' ')[0]}`)"
        causes = [f"`{name}` is a generator of its own" for name in first.data_generators]
        causes += [f"{place} calls {name}" for place, name in first.data_calls.items()]
        if not causes:
            causes = [f"`{type(dataset).__name__}` or its collator depends on something that keepstep does not see"]
        name = next(iter([*first.data_generators, *first.data_calls]), type(dataset).__name__)
        if not first.data_generators and "time" in "".join(first.data_calls.values()):
            return [Finding("clock", name, f"{what}: {_joined(causes)}; leave time out of what a batch holds")]
        return [Finding("data", name, f"{what}: {_joined(causes)}; {hint}")]
    return []


def _drawn_by_data(first: Evidence) -> list[Finding]:
    """Returns generators of the dataset's own that happened to stand at the same place in two processes."""
    why = "is a generator of its own, so a batch depends on those that were made before it"
    hint = "draw from `random`, `numpy.random` or `torch` itself, which are seeded for each sample"
    return [Finding("untracked", name, f"`{name}` {why}; {hint}") for name in first.data_generators]


def _updates(first: Evidence, second: Evidence, tracked: Mapping[str, Any]) -> list[Finding]:
    where = _first_update(first, second, tracked)
    if where is None:
        return []
    what, forward = where
    moved = {
        path: (found, second.reached[path])
        for path, found in first.reached.items()
        if path in second.reached and second.reached[path].token != found.token and not found.temporary
    }
    findings: list[Finding] = []
    for path, (found, _) in moved.items():
        if found.kind == "generator":
            text = (
                f"{what}: the body draws from `{path}`, a {found.what} of its own; draw from `random`, `numpy.random` or "
                f"`torch` itself, or track it: run.track({_as_name(path)}=keepstep.as_state(...))"
            )
            findings.append(Finding("draws", path, text))
    if findings:
        return findings
    for path, (found, after) in moved.items():
        if found.kind == "state":
            findings.append(Finding("memory", path, f"{what}: {_track(path, found)}"))
        elif found.kind == "plain" and found.what in ("list", "deque", "set", "tuple"):
            grew = f" (it had {found.token[0]} entries, then {after.token[0]})" if found.token[0] != after.token[0] else ""
            text = (
                f"{what}: `{path}`, a {found.what} that the body changes{grew}, is not tracked; if the loss depends on it, "
                f"run.track({_as_name(path)}=keepstep.as_state(...))"
            )
            findings.append(Finding("memory", path, text))
    if not findings and first.body_calls:
        calls = [f"{place} calls {name}" for place, name in first.body_calls.items()]
        clock = "time" in "".join(first.body_calls.values())
        hint = "leave time out of what the loss depends on" if clock else "seed it from the position, or use the global ones"
        name = next(iter(first.body_calls))
        return [Finding("clock" if clock else "draws", name, f"{what}: {_joined(calls)}; {hint}")]
    if findings:
        return findings
    loose = [path for path, (found, _) in moved.items() if found.kind == "tensor"]
    if loose:
        return [Finding("memory", path, f"{what}: {_track(path, moved[path][0])}") for path in loose[:_MOST_NAMES]]
    if not forward and any(_has_gradient(target) for target in tracked.values()):
        text = f"{what}: gradients of the update before are still there; call optimizer.zero_grad() at the update's end"
        return [Finding("gradients", "zero_grad", text)]
    numbers = [path for path, (found, _) in moved.items() if found.kind == "plain"][:_MOST_NAMES]
    maybe = f", or something that the loop remembers ({', '.join(f'`{each}`' for each in numbers)})" if numbers else ""
    text = (
        f"{what}: a kernel that is not deterministic{maybe}; call torch.use_deterministic_algorithms(True) before the model "
        "is made, which names such kernels"
    )
    return [Finding("kernel", "deterministic", text)]


def _first_update(first: Evidence, second: Evidence, tracked: Mapping[str, Any]) -> tuple[str, bool] | None:
    """Returns where the passes part, and whether already in the forward pass; None if they do not."""
    for number, ((values, state), (others, again)) in enumerate(zip(first.updates, second.updates), 1):
        loss = first_difference(values, others)
        if loss is not None and loss != "grad_norm":
            return f"`{loss}` of update {number} differs", True
        for (name, one), (_, other) in list(zip(first.gradients, second.gradients))[:number]:
            for index, (left, right) in enumerate(zip(one, other)):
                if left != right:
                    return f"the gradient of `{_parameter(tracked, name, index)}` in update {number} differs", False
        if loss is not None:
            return f"`{loss}` of update {number} differs", False
        for name, parts in state.items():
            path = first_difference(parts, again.get(name, {}))
            if path is not None:
                return f"`{name}{path}` after update {number} differs", False
    return None


def _untracked(first: Evidence, second: Evidence, same_bits: bool) -> list[Finding]:
    """Returns tensors and objects with state that two passes leave with different values.

    Where the passes have parted, what the body assigns anew each time differs by itself.
    """
    groups: dict[str, list[str]] = {}
    for path, found in first.reached.items():
        after = second.reached.get(path)
        if found.temporary and not same_bits:
            continue
        if after is not None and after.token != found.token and found.kind in ("tensor", "state"):
            groups.setdefault(path.split(".")[0].split("[")[0], []).append(path)
    findings: list[Finding] = []
    for paths in groups.values():
        path = paths[0]
        more = f" (and {len(paths) - 1} more below it)" if len(paths) > 1 else ""
        holder = _common(paths)
        findings.append(Finding("untracked", holder, _track(path, first.reached[path], more, holder)))
    return findings


def _track(path: str, found: Found, more: str = "", holder: str | None = None) -> str:
    holder = holder or path
    value = holder if found.kind == "state" else "keepstep.as_state(...)"
    what = f"{found.what} with a state" if found.kind == "state" else found.what
    return (
        f"`{path}`{more}, a {what} that the body changes, is not tracked, so a resumed run begins with another one: "
        f"run.track({_as_name(holder)}={value})"
    )


def _common(paths: list[str]) -> str:
    """Returns the longest path that all of `paths` begin with."""
    parts = [re.findall(r"^[^.[]+|\.[^.[]+|\[[^]]*\]", path) for path in paths]
    common = [each[0] for each in zip(*parts) if len(set(each)) == 1]
    return "".join(common)


def _as_name(path: str) -> str:
    name = "".join(letter if letter.isalnum() else "_" for letter in path.split(".")[-1]).strip("_")
    return name or "state"


def _parameter(tracked: Mapping[str, Any], optimizer: str, index: int) -> str:
    parameters = [each for group in tracked[optimizer].param_groups for each in group["params"]]
    for name, target in tracked.items():
        if isinstance(target, torch.nn.Module):
            for path, each in target.named_parameters():
                if each is parameters[index]:
                    return f"{name}.{path}"
    return f"{optimizer}'s parameter {index}"


def _has_gradient(target: Any) -> bool:
    return isinstance(target, torch.nn.Module) and any(each.grad is not None for each in target.parameters())


def _joined(parts: list[str]) -> str:
    return ", ".join(parts[:_MOST_NAMES])
