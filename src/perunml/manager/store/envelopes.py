"""Envelopes as the store keeps them."""

from __future__ import annotations

import json
from typing import Any

from perunml.wire.dsse import Envelope


def stored(data: Any) -> Envelope:
    """The envelope of a column. Its bytes were checked when they came, and a manifest of 20,000 blobs is longer than a
    document from outside may be."""
    return Envelope.from_json(json.loads(bytes(data)))
