"""Witnessing a manager's ledger.

GET  /v1/witness?size=&wait=     party or witness                  -> WitnessView
POST /v1/witness                 party or witness  Cosignature     -> Accepted
POST /v1/witness/objections      party or witness  Objection       -> Accepted
"""

from __future__ import annotations

from perunml.api.base import B64, Message

MAX_WAIT = 25
"""Seconds for which a manager may keep a witness waiting for news: less than a client waits for an answer."""


class WitnessView(Message):
    """The newest checkpoint, and the proof that it only adds to the one of `old` entries. `named` says whether an agreement
    names the caller as its witness; `every` how many seconds there should be between two cosignatures, at most."""

    checkpoint: str
    old: int
    proof: list[B64]
    named: bool
    every: int


class Cosignature(Message):
    """The checkpoint's note with the caller's cosignature."""

    note: str


class Objection(Message):
    """A note that this very manager signed, and that its ledger does not contain."""

    note: str


class Accepted(Message):
    size: int
