"""Replaying a ledger: a run's receipt against the entries of its release and its end."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from perunml.ledger.entries import OpenedEntry, entry_hash
from perunml.ledger.receipts import KIND as RECEIPT
from perunml.ledger.receipts import Receipt, open_receipt
from perunml.release.replay_agreements import wrong
from perunml.wire.dsse import Envelope
from perunml.wire.identity import PublicKey


@dataclass(frozen=True, slots=True)
class Ended:
    """A run as the ledger tells it: what was asked for, what was released to whom, and what came out."""

    agreement: str
    job: str
    parameters: Mapping[str, Any]
    assets: Mapping[str, Any]
    machine: str
    verdict: Mapping[str, Any]
    outputs: Mapping[str, str]


def check_receipt(item: OpenedEntry, ran: Ended, envelope: Envelope | None, manager: PublicKey) -> None:
    """That the run's receipt is the manager's word on this very entry, and says what the release and the end say. Raises
    `IntegrityError`."""
    if envelope is None:
        raise wrong(item, "the run's receipt is not in the export", expected=RECEIPT, seen="nothing")
    found = open_receipt(envelope, manager)
    host = {name: ran.verdict.get(name) for name in ("profile", "imitates", "simulated")} | {"machine": ran.machine}
    said: list[tuple[str, object, object]] = [
        ("agreement", found.agreement, ran.agreement),
        ("job", found.job, ran.job),
        ("run", found.run, item.entry.subject),
        ("inputs", dict(found.inputs), {name: asset for name, asset in ran.assets.items() if name != "code"}),
        ("code", found.code, ran.assets.get("code", "")),
        ("host", _ran(found), host),
        ("parameters", dict(found.parameters), dict(ran.parameters)),
        ("outputs", dict(found.outputs), dict(ran.outputs)),
        ("entry", (found.entry_index, found.entry_hash), (item.index, entry_hash(item.leaf))),
        ("time", found.time, item.entry.time),
        ("devices", found.devices and found.devices.as_json(), item.entry.body.get("devices")),
    ]
    for name, seen, expected in said:
        if seen != expected:
            raise wrong(item, f"its receipt has another {name}", str(expected), str(seen))


def _ran(receipt: Receipt) -> dict[str, object]:
    host = receipt.host
    return {"profile": host.profile, "imitates": host.imitates, "simulated": host.simulated, "machine": host.machine}
