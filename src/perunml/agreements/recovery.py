"""Shares of an output's key, so that what was trained outlives its manager (DESIGN section 6, recovery).

An output's key is split among the parties whose assets flowed into it. Two documents say so: "OutputShares", signed by the manager that
split the key, holds every share sealed to its party and a digest of each; "OutputShare", signed by a party's board, hands one share to
another manager, under one agreement of that manager's. The agreement there names the lost manager in `recovery.managers`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from perunml.agreements import flows
from perunml.agreements.boards import in_words, members, satisfied
from perunml.agreements.codes import NOT_ON_BOARD, SHARE_MISMATCH
from perunml.agreements.schema import Agreement
from perunml.wire.codes import MALFORMED
from perunml.wire.digests import digest_of, parse_digest
from perunml.wire.dsse import Envelope
from perunml.wire.encoding import b64, unb64
from perunml.wire.errors import PerunError, refuse
from perunml.wire.identity import PublicKey
from perunml.wire.shares import MOST_SHARES

KIND = "OutputShares"
GIVEN = "OutputShare"
MAX_SEALED = 4096
"""Bytes of a sealed share: 32, and HPKE's 1,136."""
_FIELDS = frozenset(
    {"apiVersion", "kind", "manager", "agreement", "run", "job", "output", "asset", "signer", "epoch", "entry", "at_least", "check", "holders"}
)  # fmt: skip
_GIVEN = frozenset({"apiVersion", "kind", "manager", "agreement", "party", "asset", "shares", "sealed"})
SHARE_SIZE = 32
"""Bytes of a share: of a data key."""
_RUN = re.compile(r"[0-9a-f]{32}")


@dataclass(frozen=True, slots=True)
class Holder:
    """A party's share: its number, its digest (`share_digest`), and the share sealed to the party's receiving key."""

    number: int
    digest: str
    sealed: bytes

    def as_json(self) -> dict[str, Any]:
        return {"number": self.number, "digest": self.digest, "sealed": b64(self.sealed)}


@dataclass(frozen=True, slots=True)
class OutputShares:
    """How one output's key was split. `asset` is the sealed output's manifest, signed by `signer`; any `at_least` of the holders' shares
    give the key of which `check` is the digest. `epoch` is the manager's, `entry` the size of its ledger then: by both, of two splits of
    one key the later is known (`order`). `digest` names the document."""

    manager: str
    agreement: str
    run: str
    job: str
    output: str
    asset: str
    signer: str
    epoch: int
    entry: int
    at_least: int
    check: str
    holders: Mapping[str, Holder]
    digest: str = ""

    @property
    def order(self) -> tuple[int, int]:
        """Rises from split to split."""
        return self.epoch, self.entry

    def body(self) -> dict[str, Any]:
        """To be signed as kind "OutputShares" by the manager."""
        return {
            "manager": self.manager,
            "agreement": self.agreement,
            "run": self.run,
            "job": self.job,
            "output": self.output,
            "asset": self.asset,
            "signer": self.signer,
            "epoch": self.epoch,
            "entry": self.entry,
            "at_least": self.at_least,
            "check": self.check,
            "holders": {party: holder.as_json() for party, holder in self.holders.items()},
        }


@dataclass(frozen=True, slots=True)
class Given:
    """A checked share that a party hands over: sealed to the manager's intake key under `given_info`."""

    party: str
    asset: str
    shares: str
    sealed: bytes
    digest: str


def holders(agreement: Agreement, job: str, output: str) -> tuple[str, ...]:
    """The parties among whom an output's key is split, by name: owners of what flowed into it; none where one of them has no
    receiving key. Raises `KeyError` for a job that the agreement does not have."""
    found = sorted(flows.owners(agreement, f"{job}.outputs.{output}"))
    return tuple(found) if all(agreement.parties[party].receive for party in found) else ()


def threshold(agreement: Agreement, among: int) -> int:
    """How many of `among` shares give a key: what the agreement says, else all; of fewer holders, all."""
    said = agreement.recovery.at_least if agreement.recovery else None
    return among if said is None else min(said, among)


def share_digest(share: bytes, asset: str, party: str, order: tuple[int, int]) -> str:
    """What is known of a share beforehand. Shares are uniform, 32 bytes: nobody finds one from its digest."""
    body = {"label": "perunml/output-share", "asset": asset, "party": party, "order": list(order), "share": b64(share)}
    return digest_of(body)


def key_check(key: bytes, asset: str) -> str:
    """What is known of an output's key beforehand."""
    return digest_of({"label": "perunml/output-key-check", "asset": asset, "key": b64(key)})


def renamed(shares: OutputShares, line: str) -> str:
    """The id of a lost manager's run where another run has taken its own: whoever submits a run chooses its id, but none of this form."""
    told = {"label": "perunml/recovered-run", "manager": shares.manager, "run": shares.run, "line": line}
    return f"{shares.run}-{digest_of(told).removeprefix('sha256:')[:16]}"


def origin(run: str) -> str:
    """The id under which a run's receipt names it."""
    return run.partition("-")[0]


def held_info(manager: str, asset: str, party: str, order: tuple[int, int]) -> dict[str, Any]:
    """HPKE `info` under which the manager that split the key seals a share to its party."""
    label = "perunml/output-share-held"
    return {"label": label, "manager": manager, "asset": asset, "party": party, "order": list(order)}


def given_info(agreement: Agreement, party: str, shares: OutputShares) -> dict[str, Any]:
    """HPKE `info` under which a party seals its share to another manager's intake key: for this agreement of that manager's alone."""
    return {
        "label": "perunml/output-share-given",
        "manager": agreement.manager.key,
        "agreement": agreement.digest,
        "party": party,
        "asset": shares.asset,
        "shares": shares.digest,
    }


def given(agreement: Agreement, party: str, shares: OutputShares, sealed: bytes) -> dict[str, Any]:
    """The body that hands a share over, to be signed as kind "OutputShare" by the party's board."""
    return {
        "manager": agreement.manager.key,
        "agreement": agreement.digest,
        "party": party,
        "asset": shares.asset,
        "shares": shares.digest,
        "sealed": b64(sealed),
    }


def open_shares(envelope: Envelope, managers: Iterable[str]) -> OutputShares:
    """The shares, signed by one of these managers, which they name. Raises `UsageError` (malformed), `IntegrityError` (bad_signature)."""
    body = envelope.open(KIND, [PublicKey(key) for key in managers])
    try:
        found = _read(body, envelope.digest)
    except (PerunError, TypeError, ValueError, KeyError, AttributeError):
        raise refuse(MALFORMED, "not a document of an output's shares") from None
    envelope.verify(KIND, [PublicKey(found.manager)])
    return found


def open_given(agreement: Agreement, envelope: Envelope) -> Given:
    """A share handed over by a party's whole board for exactly this agreement. Raises `UsageError` (malformed), `AgreementRefusal`
    (share_mismatch, not_on_board), `IntegrityError` (bad_signature)."""
    body = envelope.unverified(GIVEN)
    if set(body) != _GIVEN or not all(isinstance(value, str) for value in body.values()):
        raise refuse(MALFORMED, "not an output's share", expected=", ".join(sorted(_GIVEN)), seen=", ".join(body))
    for field, value in (("manager", agreement.manager.key), ("agreement", agreement.digest)):
        if body[field] != value:
            raise refuse(SHARE_MISMATCH, f"the share is for another {field}", expected=value, seen=body[field])
    parse_digest(body["asset"])
    parse_digest(body["shares"])
    sealed, party = unb64(body["sealed"]), body["party"]
    if party not in agreement.parties or len(sealed) > MAX_SEALED:
        raise refuse(SHARE_MISMATCH, "the share is of no party of this agreement", seen=party)
    side = agreement.parties[party]
    board = {name: side.keys[name] for name in members(side.board)}
    signed = {key.text for key in envelope.verify(GIVEN, [PublicKey(text) for text in board.values()])}
    if not satisfied(side.board, {name for name, text in board.items() if text in signed}):
        raise refuse(NOT_ON_BOARD, "a share is given by the party's whole board", expected=in_words(side.board))
    return Given(party, body["asset"], body["shares"], sealed, envelope.digest)


def _read(body: dict[str, Any], digest: str) -> OutputShares:
    if set(body) != _FIELDS or not _RUN.fullmatch(body["run"]):
        raise TypeError
    texts = ("manager", "agreement", "run", "job", "output", "asset", "signer", "check")
    if not all(isinstance(body[name], str) for name in texts):
        raise TypeError
    for name in ("agreement", "asset", "check"):
        parse_digest(body[name])
    PublicKey(body["signer"])
    numbers, listed = [body[name] for name in ("epoch", "entry", "at_least")], body["holders"]
    if not all(type(number) is int for number in numbers):
        raise TypeError
    epoch, entry, least = numbers
    if epoch < 1 or entry < 0 or not 1 <= least <= len(listed) <= MOST_SHARES:
        raise ValueError
    found = {party: _holder(item) for party, item in listed.items()}
    if sorted(holder.number for holder in found.values()) != list(range(1, len(found) + 1)):
        raise ValueError
    return OutputShares(
        **{name: body[name] for name in texts},
        epoch=epoch,
        entry=entry,
        at_least=least,
        holders=found,
        digest=digest,
    )


def _holder(item: Any) -> Holder:
    if set(item) != {"number", "digest", "sealed"} or type(item["number"]) is not int:
        raise TypeError
    parse_digest(item["digest"])
    sealed = unb64(item["sealed"])
    if len(sealed) > MAX_SEALED:
        raise ValueError
    return Holder(item["number"], item["digest"], sealed)
