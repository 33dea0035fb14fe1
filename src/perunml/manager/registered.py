"""Registered outputs, and who may have them today: read by whoever hands out, shows or derives from one."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from typing import Any

from perunml.api.runs import OutputView
from perunml.manager import rights, state
from perunml.manager.context import Services
from perunml.manager.http import outside
from perunml.manager.library import Held
from perunml.manager.store.connection import Connection
from perunml.manager.store.envelopes import stored
from perunml.release.decide import decide_output
from perunml.release.types import OutputRelease, Refusal, RegisteredOutput
from perunml.wire.errors import PerunError

_OUTPUTS = "SELECT * FROM outputs WHERE asset = :asset AND registered = 1 ORDER BY rowid"
_OF_RUN = "SELECT * FROM outputs WHERE run = :run AND registered = 1 ORDER BY output"
_NEWEST = (
    "SELECT o.* FROM outputs o JOIN runs r ON r.run = o.run WHERE o.line = :line AND o.job = :job AND o.output = :output "
    "AND o.registered = 1 ORDER BY r.ended DESC, r.rowid DESC LIMIT 1"
)
APPROVALS = "SELECT envelope FROM output_approvals WHERE asset = :asset ORDER BY rowid"


@dataclass(frozen=True, slots=True)
class StoredOutput:
    """A registered output."""

    run: str
    output: str
    asset: str
    agreement: str
    line: str
    job: str
    session_key: str
    registered: int

    @property
    def registered_output(self) -> RegisteredOutput:
        return RegisteredOutput(self.run, self.job, self.output, self.asset)


def find(services: Services, connection: Connection, asset: str, key: str) -> tuple[StoredOutput, rights.Seen]:
    """The registered output with this manifest's digest that an agreement of the key's has, and that agreement. Several may have it, each with its
    own word about which manager made it (`recovery.managers`) and its own key: nobody is shown another's. Raises `AgreementRefusal`
    (not_entitled)."""
    for row in connection.run(_OUTPUTS, {"asset": asset}).all():
        output = _read(row)
        with contextlib.suppress(PerunError):
            ruling = ruled_by(services, connection, output).agreement.digest
            return output, rights.agreement(services, connection, ruling, key)
    raise outside()


def newest_output(connection: Connection, line: str, job: str, output: str) -> StoredOutput | None:
    """The output of the newest finished run."""
    row = connection.run(_NEWEST, {"line": line, "job": job, "output": output}).first()
    return _read(row) if row else None


def views(services: Services, connection: Connection, run: str) -> list[OutputView]:
    """A finished run's outputs, and who may pull them now."""
    rows = connection.run(_OF_RUN, {"run": run}).all()
    return [view(services, connection, _read(row)) for row in rows]


def released_to(services: Services, connection: Connection, asset: str, key: str) -> bool:
    """Whether the output may be pulled by the key's party now."""
    for row in connection.run(_OUTPUTS, {"asset": asset}).all():
        output = _read(row)
        party = ruled_by(services, connection, output).agreement.party_of(key)
        if party is not None and isinstance(decide(services, connection, output, party), OutputRelease):
            return True
    return False


def ruled_by(services: Services, connection: Connection, output: StoredOutput) -> Held:
    """The version that says today who gets the output: the newest in force, or the run's own when none is (which a decision
    then refuses)."""
    return state.newest(services, connection, output.line, output.agreement)


def decide(services: Services, connection: Connection, output: StoredOutput, party: str) -> OutputRelease | Refusal:
    held = ruled_by(services, connection, output)
    now = services.witnessed.floor(held.agreement, services.clock.now())
    rows = connection.run(APPROVALS, {"asset": output.asset}).all()
    return decide_output(
        held.agreement,
        state=state.state_of(services, connection, held, now, output.job),
        output=output.registered_output,
        recipient=party,
        approvals=[stored(row[0]) for row in rows],
        now=now,
    )


def view(services: Services, connection: Connection, output: StoredOutput) -> OutputView:
    agreement = ruled_by(services, connection, output).agreement
    job = agreement.training(output.job)
    declared = job.outputs.get(output.output) if job else None
    to = list(declared.to) if declared else []
    return OutputView(
        name=output.output,
        asset=output.asset,
        agreement=agreement.digest,
        to=to,
        released_to=[p for p in to if isinstance(decide(services, connection, output, p), OutputRelease)],
    )


def _read(row: Any) -> StoredOutput:
    return StoredOutput(**row._asdict())
