"""Documents beside agreements: read from YAML or JSON, checked, ready to be signed."""

from __future__ import annotations

from typing import Any

from perunml.evidence.baseline import MAX_BASELINE, Baseline
from perunml.wire.canonical import load_json, load_yaml
from perunml.wire.codes import MALFORMED
from perunml.wire.dsse import API_VERSION
from perunml.wire.errors import refuse


def read_document(data: bytes) -> tuple[str, dict[str, Any]]:
    """(kind, body without apiVersion and kind) of a document that `document push` sends. Raises `UsageError`
    (malformed): unknown kinds, and bodies that are not of their form."""
    value = load_json(data, limit=MAX_BASELINE) if data.lstrip()[:1] == b"{" else load_yaml(data)
    kind = value.get("kind") if isinstance(value, dict) else None
    if kind != "Baseline" or value.get("apiVersion") != API_VERSION:
        raise refuse(MALFORMED, "not a document that can be sent", expected=f"{API_VERSION} Baseline", seen=str(kind))
    return kind, Baseline.from_json(value).as_json()
