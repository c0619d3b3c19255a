"""The settings of a run: which keys of a config change the result, and which only how it is run."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

from ._errors import UsageError

__all__ = [
    "RUNTIME_KEYS",
    "UNSET",
    "Unset",
    "parse_count",
    "parse_duration",
    "parse_optional_count",
    "parse_timeout",
    "split_config",
]


class Unset:
    """The type of `UNSET`."""

    def __repr__(self) -> str:
        return "UNSET"


UNSET = Unset()
"""Stands for an argument that was not given, where None means something."""

RUNTIME_KEYS = frozenset(
    {
        "checkpoint_dir",
        "max_checkpoints",
        "num_workers",
        "output_dir",
        "persistent_workers",
        "pin_memory",
        "prefetch_factor",
        "progress_bar",
        "rehearse",
        "remote",
        "resume_from_checkpoint",
        "rewind",
        "save_every",
        "save_steps",
        "session_time_limit",
    }
)
"""Keys of a config that may change between sessions: they are read as settings and never compared."""

_UNITS = {"d": 86400.0, "h": 3600.0, "m": 60.0, "s": 1.0}


def split_config(config: Mapping[str, Any] | None, runtime_keys: Iterable[str]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Returns ``(result_keys, runtime_keys)`` of a config.

    Raises:
        UsageError: if the config is no mapping from texts, or has the key that is keepstep's own.
    """
    runtime = RUNTIME_KEYS | set(runtime_keys)
    results: dict[str, Any] = {}
    settings: dict[str, Any] = {}
    if config is None:
        return results, settings
    if not isinstance(config, Mapping):
        raise UsageError(f"`config` is a {type(config).__name__}, but must be a dict: use vars(config) or asdict(config)")
    for key, value in config.items():
        if not isinstance(key, str):
            raise UsageError(f"`config` has the key {key!r}, but every key must be a str")
        if key == "keepstep":
            raise UsageError("`config` has the key `keepstep`, which keepstep uses itself: rename it")
        (settings if key in runtime else results)[key] = value
    return results, settings


def parse_timeout(name: str, value: float | str) -> float:
    """Returns the seconds that processes wait for each other: as `parse_duration`, at most a year.

    Raises:
        UsageError: if it is no duration, or longer.
    """
    seconds = parse_duration(name, value)
    if seconds is None or seconds > 365 * _UNITS["d"]:
        raise UsageError(f"`{name}` is {value!r}, but must be at most 365 days")
    return seconds


def parse_duration(name: str, value: float | str | None) -> float | None:
    """Returns seconds for a number of seconds or a text such as ``"11h30m"``.

    Raises:
        UsageError: if it is neither.
    """
    if value is None or isinstance(value, (int, float)) and not isinstance(value, bool) and value > 0:
        return None if value is None else float(value)
    if isinstance(value, str) and re.fullmatch(r"\s*(\d+(\.\d+)?\s*[dhms]\s*)+", value):
        parts = re.findall(r"(\d+(?:\.\d+)?)\s*([dhms])", value)
        return sum(float(number) * _UNITS[unit] for number, unit in parts)
    raise UsageError(f"`{name}` is {value!r}, but must be seconds or a text such as '11h30m'")


def parse_count(name: str, value: Any) -> int:
    """Returns `value` if it is an int of at least 1.

    Raises:
        UsageError: if it is not.
    """
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise UsageError(f"`{name}` is {value!r}, but must be an int of at least 1")
    return value


def parse_optional_count(name: str, value: Any) -> int | None:
    """The same, or None for None."""
    return None if value is None else parse_count(name, value)
