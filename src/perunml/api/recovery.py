"""Shares of outputs' keys: fetched from the manager that made them, given to the one that takes its place.

GET  /v1/outputs/{asset}/shares     party                     -> KeptShares
POST /v1/recovery/outputs           party     ClaimOutput     -> RecoveryView
POST /v1/recovery/shares            party     GiveShare       -> RecoveryView
GET  /v1/recovery?agreement=        party                     -> RecoveryList
"""

from __future__ import annotations

from perunml.api.base import Message, Signed


class KeptShares(Message):
    """What an owner keeps of an output: DSSE kind "OutputShares" (agreements.recovery), the run's receipt, the sealed output's manifest.
    No secret: each share is sealed to its party."""

    shares: Signed
    receipt: Signed
    manifest: Signed


class ClaimOutput(Message):
    """A lost manager's output, for an agreement in force here that names that manager."""

    agreement: str
    kept: KeptShares


class GiveShare(Message):
    """DSSE kind "OutputShare" (agreements.recovery), signed by the party's board."""

    share: Signed


class RecoveryView(Message):
    """How far an output is recovered. `shares` is the digest of the document of its shares."""

    asset: str
    agreement: str
    job: str
    output: str
    run: str
    shares: str
    at_least: int
    holders: list[str]
    given: list[str]
    recovered: bool  # its key is here
    complete: bool  # its ciphertext is here


class RecoveryList(Message):
    outputs: list[RecoveryView]
