"""What looking at a machine gives: findings about it, what each root of trust can prove, and the profiles that it could meet."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

_READ_AT_MOST = 64 * 1024


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing looked at: is it as a host needs it, what was seen, and how to mend it (empty when it is well).

    need  ``job``: every host; ``measured``: one that proves by its TPM and IMA
    """

    name: str
    ok: bool
    seen: str
    fix: str
    need: str = "job"

    def as_json(self) -> dict[str, Any]:
        return {"name": self.name, "ok": self.ok, "seen": self.seen, "fix": self.fix, "need": self.need}


@dataclass(frozen=True, slots=True)
class Root:
    """One root of trust: whether this machine can prove anything by it, what was seen, and where it cannot what is missing and
    the one thing to do about it."""

    name: str
    proves: bool
    seen: str
    missing: str = ""
    fix: str = ""

    def as_json(self) -> dict[str, Any]:
        return {
            "name": self.name,
            "proves": self.proves,
            "seen": self.seen,
            "missing": self.missing,
            "fix": self.fix,
        }


@dataclass(frozen=True, slots=True)
class Profile:
    """A profile that an agreement may name: whether this machine could meet it, by which roots of trust, or what to do first.
    Whether it does is for the agreement's rules to say."""

    name: str
    possible: bool
    by: tuple[str, ...] = ()
    fix: str = ""

    def as_json(self) -> dict[str, Any]:
        return {"name": self.name, "possible": self.possible, "by": list(self.by), "fix": self.fix}


def finding(name: str, ok: bool, seen: str, fix: str, need: str = "job") -> Finding:
    """With its cure only where there is something to cure."""
    return Finding(name, ok, seen, "" if ok else fix, need)


def text(path: Path) -> str:
    """The beginning of a file, empty where it cannot be read."""
    try:
        with path.open("rb") as file:
            return file.read(_READ_AT_MOST).decode("utf-8", "replace")
    except OSError:
        return ""


def lines(path: Path) -> list[str]:
    """Its lines but for empty ones."""
    return [line for line in text(path).splitlines() if line.strip()]


def mounted(root: Path, kind: str) -> bool:
    """Whether a file system of this kind is mounted anywhere."""
    return any(line.split()[2:3] == [kind] for line in lines(root / "proc/mounts"))


def flags(root: Path) -> frozenset[str]:
    """What /proc/cpuinfo says that the first processor can."""
    found = (line.partition(":")[2].split() for line in lines(root / "proc/cpuinfo") if line.startswith("flags"))
    return frozenset(next(found, []))
