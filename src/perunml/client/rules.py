"""Rules of TEEs and GPUs out of a file that somebody wrote: a profile as an agreement has it, or a `ManagerProfile`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from perunml.client.evidence import read_evidence
from perunml.wire.canonical import load_yaml
from perunml.wire.codes import MALFORMED
from perunml.wire.errors import refuse


def read_rules(path: Path, kind: str) -> list[Any]:
    """What each alternative of the profile says of `kind` (``sgx``, ``tdx``, ``snp``, ``gpu``), as JSON; at least one does.
    Raises `UsageError` (malformed, local_file)."""
    value = load_yaml(read_evidence(path))
    found = list(_rules(value, kind))
    if not found:
        raise refuse(MALFORMED, f"the profile says nothing of {kind}", expected=f"{kind}: {{…}}", seen=str(path))
    return found


def _rules(value: Any, kind: str, depth: int = 0) -> list[Any]:
    """Depth first: ``any_of`` and ``all_of`` hold profiles, a document holds one under ``profile``."""
    if not isinstance(value, dict) or depth > 4:
        return []
    own = [value[kind]] if kind in value else []
    inner = [value["profile"]] if isinstance(value.get("profile"), dict) else []
    for name in ("any_of", "all_of"):
        inner += value[name] if isinstance(value.get(name), list) else []
    return own + [rules for each in inner for rules in _rules(each, kind, depth + 1)]
