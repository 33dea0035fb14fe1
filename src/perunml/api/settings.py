"""A machine's settings, as its operator writes them for a machine that nobody logs in to: strict YAML, an unknown word is an error.

What may be said there is little on purpose: an operator's words must never name a program, a device or a log, for then they
would run what nothing measured.
"""

from __future__ import annotations

import difflib
from pathlib import Path
from typing import Any, TypeVar

from pydantic import ValidationError

from perunml.api.base import Message
from perunml.api.codes import SETTINGS_ODD
from perunml.wire.canonical import load_yaml
from perunml.wire.errors import PerunError, refuse

MAX_SETTINGS = 64 * 1024
"""Bytes of a file of settings."""
MAX_FILES = 32
"""Files of one folder beside it: certificates."""
M = TypeVar("M", bound=Message)


def read_settings(path: Path, form: type[M], command: str) -> M:
    """The settings in a file, of one form. `command` is what tells a person more. Raises `UsageError` (settings_odd)."""
    data = _load(path, command)
    unknown = sorted(set(data) - set(form.model_fields))
    if unknown:
        near = difflib.get_close_matches(unknown[0], form.model_fields, 1)
        hint = f"did you mean `{near[0]}`?" if near else ", ".join(form.model_fields)
        raise refuse(SETTINGS_ODD, f"`{unknown[0]}` is no setting", expected=hint, command=command)
    try:
        return form.model_validate(data)
    except ValidationError as exc:
        first = exc.errors()[0]
        where = ".".join(map(str, first["loc"]))
        raise refuse(SETTINGS_ODD, f"`{where}`: {first['msg']}", seen=path.name, command=command) from None


def files_of(folder: Path, command: str) -> tuple[Path, ...]:
    """The files of a folder beside the settings, in order; none where there is no such folder. Raises `UsageError` (settings_odd)."""
    found = sorted(folder.iterdir()) if folder.is_dir() else []
    if len(found) > MAX_FILES:
        raise refuse(SETTINGS_ODD, f"{folder.name} holds too much", expected=f"at most {MAX_FILES}", seen=str(len(found)), command=command)  # fmt: skip
    return tuple(path for path in found if path.is_file())


def read_beside(path: Path, command: str) -> bytes:
    """A file beside the settings. Raises `UsageError` (settings_odd)."""
    try:
        return path.read_bytes()
    except OSError as exc:
        raise refuse(SETTINGS_ODD, f"{path.name} cannot be read", seen=exc.strerror or "OSError", command=command) from None  # fmt: skip


def _load(path: Path, command: str) -> dict[str, Any]:
    try:
        with path.open("rb") as file:
            data = load_yaml(file.read(MAX_SETTINGS + 1), limit=MAX_SETTINGS)
    except OSError as exc:
        raise refuse(SETTINGS_ODD, f"{path.name} cannot be read", seen=exc.strerror or "OSError", command=command) from None  # fmt: skip
    except PerunError as exc:
        raise refuse(SETTINGS_ODD, exc.reasons[0].message, seen=path.name, command=command) from None
    if not isinstance(data, dict) or not all(isinstance(name, str) for name in data):
        raise refuse(SETTINGS_ODD, f"{path.name} is no list of settings by name", command=command)
    return data
