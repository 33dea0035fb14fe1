"""Leases: for how long a session may hold what was released to it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from perunml.manager.auth import lease_over
from perunml.manager.context import Services
from perunml.manager.http import outside
from perunml.manager.store.connection import Connection
from perunml.manager.writer import Transaction
from perunml.wire.canonical import canonical
from perunml.wire.rules import Reason

_LEASE = "SELECT * FROM leases WHERE lease = :lease"
_END = "UPDATE leases SET active = 0 WHERE lease = :lease"
_RUN_ENDED = "UPDATE runs SET state = :state, reasons = :reasons, ended = :ended, endpoint = '' WHERE run = :run"
_DUE = "SELECT lease FROM leases WHERE active = 1 AND ((boot = :boot AND steady <= :steady) OR (boot <> :boot AND wall <= :wall))"


@dataclass(frozen=True, slots=True)
class Lease:
    """A lease as stored. `steady` and `wall` are its end by two clocks; `clock` and `log` what was known of the machine when
    `nonce` was given out; `grants` names the released assets' digests."""

    lease: str
    run: str
    machine: str
    role: str
    agreement: str
    session_key: str
    session_hpke: str
    active: bool
    steady: float
    wall: float
    boot: str
    seconds: int
    nonce: bytes
    clock: str
    log: int
    asked: str
    answer: bytes
    started: int
    grants: Mapping[str, str]
    verdict: Mapping[str, Any]

    @property
    def granted(self) -> frozenset[str]:
        """Digests of the assets released."""
        return frozenset(self.grants.values())


def load(connection: Connection, lease: str) -> Lease:
    """Raises `AgreementRefusal` (not_entitled)."""
    row = connection.run(_LEASE, {"lease": lease}).first()
    if row is None:
        raise outside()
    return read(row)


def read(row: Any) -> Lease:
    values = row._asdict()
    values["active"] = bool(values["active"])
    values["grants"] = json.loads(values["grants"])
    values["verdict"] = json.loads(values["verdict"])
    return Lease(**values)


def left(services: Services, lease: Lease) -> float:
    """Seconds that the lease still runs; none when it was ended."""
    return services.clock.left(lease.steady, lease.wall, lease.boot) if lease.active else 0.0


def alive(services: Services, connection: Connection, lease: str) -> Lease:
    """Raises `SuspendedError` (lease_ended)."""
    found = load(connection, lease)
    if left(services, found) <= 0:
        raise lease_over()
    return found


def of_run(services: Services, connection: Connection, lease: str, run: str) -> Lease:
    """The caller's lease, if it is this run's and holds. Raises `AgreementRefusal` (not_entitled), `SuspendedError`."""
    found = alive(services, connection, lease)
    if found.run != run:
        raise outside()
    return found


def end(
    transaction: Transaction,
    lease: Lease,
    state: str,
    reasons: tuple[Reason, ...],
    now: int,
    *,
    withheld: bool = False,
) -> None:
    """The lease is over and its run is in `state`; the ledger says so, and whether its keys were `withheld` to the end."""
    told = [reason.as_json() for reason in reasons]
    connection = transaction.connection
    connection.run(_END, {"lease": lease.lease})
    values = {"state": state, "reasons": canonical(told).decode(), "ended": now, "run": lease.run}
    connection.run(_RUN_ENDED, values)
    body: dict[str, Any] = {"run": lease.run, "machine": lease.machine, "state": state, "reasons": told}
    if withheld:
        body["withheld"] = True
    transaction.journal.append("lease-end", now, lease.agreement, lease.lease, body)


def due(services: Services, connection: Connection) -> list[str]:
    """Leases whose time is over and which were not ended yet."""
    steady, wall = services.clock.deadline(0)
    values = {"boot": services.clock.boot, "steady": steady, "wall": wall}
    return [row[0] for row in connection.run(_DUE, values)]
