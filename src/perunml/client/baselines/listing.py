"""Collects paths and their digests, as a baseline holds them."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import BinaryIO

from perunml.client.codes import BASELINE_SOURCE
from perunml.evidence.rules import is_path
from perunml.wire.errors import refuse

Progress = Callable[[int, int], None]
"""Called with bytes done and bytes in all, as far as they are known."""
ALGORITHMS = ("sha256", "sha384", "sha512")
CHUNK = 1024 * 1024
MAX_FILES = 2_000_000
MAX_NOTES = 64
"""Notes kept about what could not be listed; the rest is counted."""
_LOADED = re.compile(r".*\.(?:so(?:\.[0-9A-Za-z_.-]+)?|py|pyc|pyo|pth|ko(?:\.(?:gz|xz|zst))?|pl|pm|rb|jar)")
_ELF, _SCRIPT = b"\x7fELF", b"#!"


@dataclass(slots=True)
class Listing:
    """Files found so far: path as the kernel writes it -> digests. `notes` says what was left out and why."""

    algorithms: Sequence[str] = ("sha256",)
    exec_only: bool = False
    files: dict[str, set[str]] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    left_out: int = 0
    read: int = 0

    def add(self, path: str, digests: Sequence[str]) -> None:
        """Raises `UsageError` (baseline_source) when there are too many files."""
        if not self.takes_path(path):
            return
        if path not in self.files and len(self.files) >= MAX_FILES:
            raise refuse(BASELINE_SOURCE, f"more than {MAX_FILES} files", seen=path)
        self.files.setdefault(path, set()).update(digests)

    def takes_path(self, path: str) -> bool:
        """Whether a baseline can hold the path; if not, that is noted."""
        try:
            path.encode()
        except UnicodeEncodeError:
            self.note(f"not UTF-8, left out: {path.encode('utf-8', 'backslashreplace').decode()}")
            return False
        if not is_path(path):
            self.note(f"a path of a wrong length, left out: {path[:200]}")
            return False
        return True

    def note(self, text: str) -> None:
        self.left_out += 1
        if len(self.notes) < MAX_NOTES:
            self.notes.append(text)

    def take(self, path: str, file: BinaryIO, executable: bool, report: Callable[[int], None]) -> list[str] | None:
        """Read a file to its end and add it; its digests, or None when it is not among what is listed."""
        head = file.read(CHUNK)
        wanted = not self.exec_only or executable or is_loaded(path, head)
        if not wanted:
            report(len(head))
            return None
        states = [hashlib.new(name) for name in self.algorithms]
        while head:
            for state in states:
                state.update(head)
            self.read += len(head)
            report(len(head))
            head = file.read(CHUNK)
        digests = [f"{state.name}:{state.hexdigest()}" for state in states]
        self.add(path, digests)
        return digests


def is_loaded(path: str, head: bytes) -> bool:
    """Whether a file looks like something that is executed or loaded: by its first bytes or its name."""
    return head.startswith((_ELF, _SCRIPT)) or _LOADED.fullmatch(path.rpartition("/")[2]) is not None


def absolute(name: str) -> str | None:
    """A member's name in an archive as a path from the root; None for one that leads out of it."""
    parts = [part for part in name.split("/") if part not in ("", ".")]
    return None if ".." in parts or not parts else "/" + "/".join(parts)
