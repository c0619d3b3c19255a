"""Opening a run: finds the checkpoint to continue from, compares it with the loop, and writes nothing before that."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from . import _core
from ._errors import UsageError
from ._options import Options
from ._remote import is_url
from ._track import Tracked, frozen_digest, load, load_order, new_tensor, parts, plain

if TYPE_CHECKING:
    from ._data import Loader

__all__ = ["Opened", "load_checkpoint", "open_run"]


@dataclass
class Opened:
    """A run that has begun."""

    core: _core.Run
    path: str | None
    """The checkpoint that it continues from."""
    notes: list[str]
    """What people should know."""


def open_run(options: Options, tracked: Tracked, loader: Loader) -> Opened:
    """Compares what is found with the loop, and begins.

    Raises:
        MismatchError: if the checkpoint belongs to another run.
        StateError: if what is tracked cannot be stored.
        UsageError: if nothing is tracked, or the source has nothing to continue from.
    """
    if not tracked.objects:
        raise UsageError("nothing is tracked: call run.track(model=..., optimizer=...) before the loop")
    adopts_threads = options.num_threads is None
    if options.num_threads is None:
        options.num_threads = torch.get_num_threads()
    else:
        torch.set_num_threads(options.num_threads)
    config, inputs = _identity(options, tracked, loader)
    notes: list[str] = []
    rewinds = options.rewind is not None
    source, foreign = options.rewind, None
    if options.source is not None and not rewinds and not is_url(options.source):
        source, foreign = _find(options, config, inputs, notes)
    look = _look(options, source, rewinds)
    if look.path is None and (options.branch_from is not None or foreign is not None):
        look.close()
        notes += _make_first(options, foreign, config, inputs, tracked, loader)
        look = _look(options, None, False)
    path = None if look.path is None else str(look.path)
    # A traceback may keep `look` alive, and with it the lock of the folder.
    try:
        if path is not None:
            tracked.compare(path, look.names() or [])
            saved = (look.config(new_tensor) or {}).get("keepstep", {}).get("num_threads")
            if adopts_threads and isinstance(saved, int) and saved != options.num_threads:
                notes.append(f"This session uses {saved} threads, as the first one did")
                torch.set_num_threads(saved)
                options.num_threads = config["keepstep"]["num_threads"] = saved
        _core.check_storable(parts(tracked, options.frozen), _stand_in)
        core = look.begin(options.seed, config, inputs, plain, **_sizes(loader))
    except _core.MismatchError as error:
        look.close()
        raise _core.MismatchError(_with_branch_hint(str(error), path)) from None
    except BaseException:
        look.close()
        raise
    return Opened(core, path, [*notes, *core.notes()])


def load_checkpoint(core: _core.Run, tracked: Tracked, frozen: str) -> None:
    """Loads what is tracked from the checkpoint that the run continues from, and lets go of the file."""
    objects = tracked.objects
    for name in load_order(objects):
        load(objects[name], core.state_dict(name, new_tensor), frozen, name)
    core.release_checkpoint()


def _identity(options: Options, tracked: Tracked, loader: Loader) -> tuple[dict[str, Any], list[tuple[str, str]]]:
    """Returns the config and the inputs that the result depends on."""
    own: dict[str, Any] = dict(loader.settings())
    for key in ("steps_per_epoch", "gradient_accumulation_steps"):
        own.pop(key, None)  # part of the plan
    own["eval_steps"] = options.eval_steps
    own["num_threads"] = options.num_threads
    if options.elastic:
        own["elastic"] = True
    inputs = [("dataset", loader.fingerprint()), *options.inputs.items()]
    if options.frozen == "reference":
        for name, target in tracked.objects.items():
            if isinstance(target, torch.nn.Module):
                inputs.append((f"frozen weights of {name}", frozen_digest(target)))
    return {**options.config, "keepstep": own}, [(name, value) for name, value in inputs if value]


def _sizes(loader: Loader) -> dict[str, int]:
    return {
        "steps_per_epoch": loader.steps_per_epoch,
        "gradient_accumulation_steps": loader.gradient_accumulation_steps,
        "epochs": loader.epochs,
    }


def _look(options: Options, source: str | None, rewind: bool) -> _core.Look:
    # A URL is fetched into the folder first.
    resume_remote = source if is_url(source) else None
    if resume_remote is None and source is None and not rewind and is_url(options.source):
        resume_remote = options.source
    return _core.look(
        options.folder,
        source=None if is_url(source) else source,
        remote=options.remote,
        resume_remote=resume_remote,
        rewind=rewind,
        save_steps=options.save_steps,
        max_checkpoints=options.max_checkpoints,
        eval_steps=options.eval_steps,
        metric=options.metric,
        goal=options.goal,
    )


def _find(
    options: Options, config: dict[str, Any], inputs: list[tuple[str, str]], notes: list[str]
) -> tuple[str | None, str | None]:
    """Returns the checkpoint of this run in the source, or a file that was saved before keepstep."""
    source = options.source
    assert source is not None
    if not os.path.exists(source):
        raise UsageError(f"resume_from_checkpoint: {source} does not exist")
    if not os.path.isdir(source):
        return (source, None) if _core.is_checkpoint(source) else (None, source)
    path, has_candidates, passed = _core.search_tree(source, options.seed, config, inputs, plain)
    if path is not None:
        notes += [f"Passed over {text}" for text in passed]
        return str(path), None
    if has_candidates:
        all_passed = "; ".join(passed)
        raise _core.MismatchError(f"resume_from_checkpoint: {source} has no checkpoint of this run: {all_passed}")
    raise UsageError(f"resume_from_checkpoint: {source} has no checkpoint of keepstep's names")


def _make_first(
    options: Options,
    foreign: str | None,
    config: dict[str, Any],
    inputs: list[tuple[str, str]],
    tracked: Tracked,
    loader: Loader,
) -> list[str]:
    """Writes the first checkpoint of a run that branches from another, or continues a file from before keepstep."""
    sizes = _sizes(loader)
    if options.branch_from is not None:
        _core.branch(options.branch_from, options.folder, options.seed, config, inputs, plain, **sizes)
        return [f"This run branches from {options.branch_from}"]
    assert foreign is not None
    names = list(tracked.objects)
    return _core.adopt(foreign, options.folder, options.seed, config, inputs, plain, names=names, **sizes)


def _stand_in(value: Any) -> Any:
    """Checks a state without copying tensors: a number stands for each."""
    if isinstance(value, torch.Tensor):
        return 0 if value.layout is torch.strided and not value.is_quantized else None
    return plain(value)


def _with_branch_hint(text: str, path: str | None) -> str:
    if "branch_from" in text:
        return text
    text = text.split("; set it back")[0]
    return f"{text}; set it back to go on, or make a new run from there with keepstep.Run(..., branch_from={path!r})"
