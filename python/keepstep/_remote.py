"""The place that outlives the machine: what it is set to."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from typing import Any

from ._errors import UsageError

__all__ = ["is_url", "parse_remote"]

_KEYS: dict[str, type] = {
    "url": str,
    "endpoint": str,
    "region": str,
    "single_writer": bool,
    "on_error": str,
    "max_lag": int,
}


def is_url(text: str | None) -> bool:
    """Whether a text names a place in an object store, and no path."""
    return text is not None and re.match(r"(s3|gs|az|file|https?)://", text) is not None


def parse_remote(value: str | os.PathLike[str] | Mapping[str, Any] | None) -> dict[str, Any] | None:
    """Returns the settings of a remote: a URL, or a dict with the keys of the program's ``[remote]`` table.

    Raises:
        UsageError: if a key is unknown, or a value has another type.
    """
    if value is None:
        return None
    settings = dict(value) if isinstance(value, Mapping) else {"url": os.fspath(value)}
    for key, setting in settings.items():
        if key not in _KEYS:
            raise UsageError(f"`remote` has the unknown key {key!r}; it takes {', '.join(_KEYS)}")
        if setting is not None and type(setting) is not _KEYS[key]:
            raise UsageError(f"`remote`: `{key}` is {setting!r}, but must be a {_KEYS[key].__name__}")
    if settings.get("on_error") not in (None, "continue", "stop"):
        raise UsageError(f"`remote`: `on_error` is {settings['on_error']!r}, but must be 'continue' or 'stop'")
    if not is_url(settings.get("url")):
        raise UsageError(f"`remote` is {settings.get('url')!r}, but must be a URL such as s3://bucket/run")
    return {key: setting for key, setting in settings.items() if setting is not None}
