"""docs/spec/ledger.md: its worked example is what the code makes."""

from __future__ import annotations

import json
from pathlib import Path

from perunml.ledger.checkpoint import sign_checkpoint
from perunml.ledger.entries import Entry, entry_hash, leaf_data
from perunml.ledger.merkle import root
from perunml.wire.canonical import canonical
from perunml.wire.identity import SigningKey

SPEC = Path(__file__).parents[2] / "docs" / "spec" / "ledger.md"


def test_the_worked_example() -> None:
    """Entry, leaf, hash and signed checkpoint, byte by byte."""
    example = SPEC.read_text("utf-8").partition("## Worked example")[2]
    blocks = [line[4:] for line in example.splitlines() if line.startswith("    ")]
    entry = Entry.from_json(json.loads(blocks[0]))
    leaf = leaf_data(entry, bytes(range(32)))
    manager = SigningKey.from_secret(bytes(range(32)))
    assert blocks[:3] == [canonical(entry.as_json()).decode(), leaf.decode(), entry_hash(leaf)]
    assert manager.public.text in example
    note = sign_checkpoint(1, root([leaf]), manager)
    assert blocks[3:] == [line for line in note.splitlines() if line]
