"""Receipts: the manager's signed word on what ran. A DSSE document of kind ``Receipt``, made at the end of a run.

It can be checked offline against the pinned manager key; with an inclusion proof, also that the ledger holds it.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from perunml.ledger.checkpoint import Checkpoint
from perunml.ledger.codes import BAD_RECEIPT
from perunml.ledger.devices import Devices
from perunml.ledger.merkle import MAX_SIZE
from perunml.ledger.proofs import verify_inclusion
from perunml.wire.digests import parse_digest
from perunml.wire.dsse import Envelope, signed
from perunml.wire.errors import PerunError, refuse
from perunml.wire.identity import PublicKey, Signer
from perunml.wire.timestamps import format_time, parse_time

KIND = "Receipt"
MAX_SENTENCES = 64
_RUN = re.compile(r"[0-9a-f]{32}")
_MEMBERS = {
    "manager", "agreement", "job", "run", "inputs", "code", "host", "parameters", "outputs", "entry", "time", "sentences",
}  # fmt: skip
_HOST = {"machine", "profile", "imitates", "simulated"}


@dataclass(frozen=True, slots=True)
class Ran:
    """Where it ran: what the machine proved. `simulated` says that it proved nothing to rely on."""

    machine: str
    profile: str
    imitates: str
    simulated: bool


@dataclass(frozen=True, slots=True)
class Receipt:
    """What ran: digests of inputs, code ("" for a service) and outputs by name, the host's verdict, and the ledger entry
    that recorded the end (`entry_index`, `entry_hash`). `devices` are the GPUs that the job was shown. `sentences` tell people what the profile does not protect."""

    manager: str
    agreement: str
    job: str
    run: str
    inputs: Mapping[str, str]
    code: str
    host: Ran
    parameters: Mapping[str, Any]
    outputs: Mapping[str, str]
    entry_index: int
    entry_hash: str
    time: int
    sentences: tuple[str, ...] = ()
    devices: Devices | None = None

    def as_json(self) -> dict[str, Any]:
        more = {"devices": self.devices.as_json()} if self.devices else {}
        return {
            "manager": self.manager,
            "agreement": self.agreement,
            "job": self.job,
            "run": self.run,
            "inputs": dict(self.inputs),
            "code": self.code,
            "host": {name: getattr(self.host, name) for name in sorted(_HOST)},
            "parameters": dict(self.parameters),
            "outputs": dict(self.outputs),
            "entry": {"index": self.entry_index, "hash": self.entry_hash},
            "time": format_time(self.time),
            "sentences": list(self.sentences),
            **more,
        }

    @classmethod
    def from_json(cls, data: Any) -> Receipt:
        """From `as_json`'s members. Raises `IntegrityError` (bad_receipt)."""
        try:
            return _read(data)
        except (PerunError, TypeError, ValueError, KeyError, AttributeError):
            raise refuse(BAD_RECEIPT, "the receipt is not of its form") from None


def sign_receipt(receipt: Receipt, manager: Signer) -> Envelope:
    """The signed receipt. Raises `ValueError` when `manager` is not the one it names."""
    if receipt.manager != manager.public.text:
        raise ValueError("a receipt is signed by the manager that it names")
    return signed(KIND, Receipt.from_json(receipt.as_json()).as_json(), manager)


def open_receipt(envelope: Envelope, manager: PublicKey) -> Receipt:
    """The receipt, after its signature. Raises `IntegrityError` (bad_signature, wrong_payload_type, bad_receipt)."""
    body = envelope.open(KIND, [manager])
    found = Receipt.from_json({name: value for name, value in body.items() if name not in ("apiVersion", "kind")})
    if found.manager != manager.text:
        raise refuse(BAD_RECEIPT, "the receipt names another manager", expected=manager.text, seen=found.manager)
    return found


def verify_recorded(receipt: Receipt, checkpoint: Checkpoint, proof: Sequence[bytes]) -> None:
    """Raises `IntegrityError` (bad_inclusion_proof) unless the ledger under `checkpoint` holds the receipt's entry. The
    caller has opened `checkpoint` with the key of the receipt's manager."""
    leaf = parse_digest(receipt.entry_hash)
    verify_inclusion(leaf, receipt.entry_index, checkpoint.size, proof, checkpoint.root)


def _read(data: Any) -> Receipt:
    if not isinstance(data, dict) or set(data) - {"devices"} != _MEMBERS or set(data["host"]) != _HOST:
        raise TypeError
    host, entry, sentences = Ran(**data["host"]), data["entry"], data["sentences"]
    texts = [data["job"], host.machine, host.profile, host.imitates, *sentences]
    if not all(isinstance(text, str) for text in texts) or type(host.simulated) is not bool:
        raise TypeError
    if not isinstance(sentences, list) or len(sentences) > MAX_SENTENCES or not isinstance(data["parameters"], dict):
        raise TypeError
    if set(entry) != {"index", "hash"} or type(entry["index"]) is not int or not 0 <= entry["index"] <= MAX_SIZE:
        raise TypeError
    if not _RUN.fullmatch(data["run"]):
        raise ValueError
    digests = [data["agreement"], entry["hash"], *data["inputs"].values(), *data["outputs"].values()]
    for text in [*digests, *([data["code"]] if data["code"] != "" else [])]:
        parse_digest(text)
    return Receipt(
        manager=PublicKey(data["manager"]).text,
        agreement=data["agreement"],
        job=data["job"],
        run=data["run"],
        inputs=data["inputs"],
        code=data["code"],
        host=host,
        parameters=data["parameters"],
        outputs=data["outputs"],
        entry_index=entry["index"],
        entry_hash=entry["hash"],
        time=parse_time(data["time"]),
        sentences=tuple(sentences),
        devices=Devices.from_json(data["devices"]) if "devices" in data else None,
    )
