"""Envelopes as the store keeps them."""

from __future__ import annotations

import json
from collections.abc import Iterable, Set
from dataclasses import replace
from typing import Any

from perunml.wire.dsse import Envelope


def stored(data: Any) -> Envelope:
    """The envelope of a column. Its bytes were checked when they came, and a manifest of 20,000 blobs is longer than a
    document from outside may be."""
    return Envelope.from_json(json.loads(bytes(data)))


def fresh(envelope: Envelope, keys: Set[str], known: Iterable[Envelope]) -> Envelope | None:
    """The envelope with the signatures of `keys` (texts, verified) alone, or None when one of the `known` has them all: anybody can add
    signatures of nobody to what others signed, and send it again and again."""
    for one in known:
        if one.digest == envelope.digest and keys <= {key for key, _ in one.signatures}:
            return None
    return replace(envelope, signatures=tuple(one for one in envelope.signatures if one[0] in keys))
