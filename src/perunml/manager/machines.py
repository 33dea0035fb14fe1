"""Machines as enrolled: which runs they may take, and what their evidence is judged against."""

from __future__ import annotations

import json
from collections.abc import Collection
from dataclasses import dataclass, replace
from typing import Any

from sqlalchemy import insert

from perunml.agreements import flows
from perunml.agreements.profiles import AnyOf, AnyProfile, alternatives
from perunml.agreements.schema import Agreement
from perunml.evidence.policy import Machine
from perunml.evidence.types import Appraisal
from perunml.manager.codes import TPM_CLEARED
from perunml.manager.http import outside
from perunml.manager.library import Library
from perunml.manager.store import tables as t
from perunml.manager.store.connection import Connection, Statement
from perunml.release.hosts import machines_of
from perunml.wire.canonical import canonical
from perunml.wire.errors import refuse

_MACHINE = "SELECT * FROM machines WHERE id = :machine"
_VOID = "SELECT id, void FROM machines WHERE void LIKE :before"
_SET_VOID = "UPDATE machines SET void = :void WHERE id = :id"
_LOG = "SELECT start, data FROM logs WHERE machine = :machine AND boot = :boot ORDER BY start"
_PIECES = (
    "SELECT start, data FROM logs WHERE machine = :machine AND boot = :boot AND start >= :start AND start < :size "
    "ORDER BY start"
)
_ADD_LOG = Statement(insert(t.logs))
_DROP_LOGS = "DELETE FROM logs WHERE machine = :machine AND boot <> :boot"
_SET = (
    "UPDATE machines SET clock = :clock, boot = :boot, log_size = :size, boot_line = :line, boot_agreement = :agreement, "
    "boot_shared = :shared WHERE id = :machine"
)
INHERITED = "after "
"""Before the digest of a version that follows one which the machine's clearing made void."""
Clock = tuple[int, int, int]


@dataclass(frozen=True, slots=True)
class StoredMachine:
    """A machine's row. `clock` is canonical [reset, restart, milliseconds] of its newest accepted quote, or empty."""

    id: str
    simulated: bool
    name: str
    operator: str
    ek: bytes
    ak: bytes
    key: str
    tls_key: str
    enrolments: int
    clock: str
    boot: str
    log_size: int
    boot_line: str
    boot_agreement: str
    boot_shared: bool
    tpm: str
    instance: str
    void: str
    binder: bytes

    def enrolled(self, clock: Clock | None) -> Machine:
        """As evidence is judged against it."""
        return Machine(self.id, self.simulated, self.ak, self.key, clock, self.ek, self.binder, json.loads(self.tpm))

    def approved_under(self, agreement: str) -> bool:
        """Whether the agreement (its digest) was not approved before the machine's TPM was cleared (K18)."""
        return self.void == "[]" or not {agreement, INHERITED + agreement} & set(json.loads(self.void))


def settle_void(connection: Connection, before: str, after: Agreement, approved: Collection[str]) -> None:
    """The version `after` is in force after `before`, of which machines were cleared since it was approved (K18): each stays out until
    the owners of all that may reach it have approved the new version themselves, whoever else sufficed for it to come into force."""
    for row in connection.run(_VOID, {"before": f"%{before}%"}).all():
        void, mark = set(json.loads(row[1])), INHERITED + after.digest
        roles = {name for name, role in after.hosts.items() if _names(role, row[0])}
        reached = {job for job, found in after.jobs.items() if found.hosts in roles}
        owners = {owner for job in reached for owner in flows.owners(after, job)}
        settled = void - {mark} if owners <= set(approved) else void | {mark}
        if settled != void:
            connection.run(_SET_VOID, {"void": canonical(sorted(settled)).decode(), "id": row[0]})


def load(connection: Connection, machine: str) -> StoredMachine:
    """Raises `AgreementRefusal` (not_entitled)."""
    row = connection.run(_MACHINE, {"machine": machine}).first()
    if row is None:
        raise outside()
    values: dict[str, Any] = row._asdict()
    values["simulated"], values["boot_shared"] = bool(values["simulated"]), bool(values["boot_shared"])
    return StoredMachine(**values)


def check_approved(machine: StoredMachine, agreement: str) -> None:
    """Raises `EvidenceRefusal` (tpm_cleared): owners approved the agreement (its digest) for the TPM as it was before."""
    if not machine.approved_under(agreement):
        raise refuse(
            TPM_CLEARED,
            "the machine's TPM was cleared, or has another attestation key, since this agreement was proposed",
            expected="a version of the agreement that is approved anew",
            seen=agreement,
            command="perunml agreement propose",
        )


def naming(library: Library, connection: Connection, machine: str) -> list[str]:
    """The agreements, by digest, in whatever state, that name this machine."""
    digests = [str(row[0]) for row in connection.run("SELECT digest FROM agreements").all()]
    return [
        digest
        for digest in digests
        if any(_names(role, machine) for role in library.held(connection, digest).agreement.hosts.values())
    ]


def _names(role: AnyProfile | AnyOf, machine: str) -> bool:
    return any(
        machine in named.split("+")
        for profile in alternatives(role)
        for listed in machines_of(profile)
        for named in listed
    )


def may_take(machine: StoredMachine, agreement: Agreement, job_name: str) -> bool:
    """Whether the machine may ask for a run of the job: its operator's, and named by the role where that names any (a
    simulated one only by a simulated role). What it proves, and all the rest, is for `decide`."""
    job = agreement.jobs.get(job_name)
    if job is None or agreement.party_of(machine.operator) != job.operator:
        return False
    return any(_may_be(machine, profile) for profile in alternatives(agreement.hosts[job.hosts]))


def _may_be(machine: StoredMachine, profile: AnyProfile) -> bool:
    named = {identity for listed in machines_of(profile) for one in listed for identity in one.split("+")}
    if named:
        return machine.id in named
    return profile.profile == "simulated" or not machine.simulated


def boot_of(machine: StoredMachine, appraisal: Appraisal) -> str:
    """What names this boot of the machine. Where the TEE's hardware tells none, its enrolment stands for one: the agent enrols
    anew when its domain or enclave was started anew."""
    return f"{appraisal.boot}:{machine.enrolments}" if appraisal.boot in ("tdx", "sgx") else appraisal.boot


def read_clock(text: str) -> Clock | None:
    if not text:
        return None
    reset, restart, clock = json.loads(text)
    return reset, restart, int(clock)


def write_clock(clock: Clock | None) -> str:
    # Milliseconds may pass 2^53; as text they never lose a digit.
    return json.dumps([clock[0], clock[1], str(clock[2])]) if clock else ""


def log_of(connection: Connection, machine: StoredMachine) -> bytes:
    """The log kept of the machine's newest boot."""
    rows = connection.run(_LOG, {"machine": machine.id, "boot": machine.boot})
    return b"".join(bytes(row[1]) for row in rows)


def keeps(connection: Connection, machine: StoredMachine, boot: str, start: int, log: bytes) -> bool:
    """Whether the kept log of the boot, from byte `start` (where a piece begins) on, is what `log` begins with: then what is
    found of the one is found of the other. `machine` is its row as it was before `log` was kept."""
    size = machine.log_size if boot == machine.boot else 0
    rows = connection.run(_PIECES, {"machine": machine.id, "boot": boot, "start": start, "size": size})
    kept = b"".join(bytes(row[1]) for row in rows)
    return start + len(kept) == size and log.startswith(kept)


def remember(
    connection: Connection,
    machine: StoredMachine,
    *,
    boot: str,
    clock: Clock | None,
    start: int,
    log: bytes,
    line: str,
    agreement: str,
    shared: bool,
) -> StoredMachine:
    """Keep what accepted evidence proved, of the log what follows its first `start` bytes: never an older clock or boot,
    never a shorter log."""
    known = read_clock(machine.clock)
    if known and clock and clock[:2] < known[:2]:
        return machine  # quoted before a boot that is known by now
    newest = max(known, clock) if known and clock else clock or known
    size = machine.log_size if boot == machine.boot else 0
    if start > size:
        raise ValueError("what is new of a log goes on from what is kept of it")
    if start + len(log) > size:
        _ADD_LOG.run(connection, machine=machine.id, boot=boot, start=size, data=log[size - start :])
    if boot != machine.boot:
        connection.run(_DROP_LOGS, {"machine": machine.id, "boot": boot})
    made = replace(
        machine,
        clock=write_clock(newest),
        boot=boot,
        log_size=max(size, start + len(log)),
        boot_line=line,
        boot_agreement=agreement,
        boot_shared=shared,
    )
    values = {
        "clock": made.clock,
        "boot": boot,
        "size": made.log_size,
        "line": line,
        "agreement": agreement,
        "shared": int(shared),
        "machine": machine.id,
    }
    connection.run(_SET, values)
    return made
