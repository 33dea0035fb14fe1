"""The end of a run: its outputs become visible, its receipt is signed, its lease is over."""

from __future__ import annotations

from perunml.agreements.schema import Agreement
from perunml.api.refusal import MAX_REASONS
from perunml.api.runs import ERRORS, FinishAnswer, FinishRequest
from perunml.ledger.devices import Devices
from perunml.ledger.receipts import Ran, Receipt, sign_receipt
from perunml.manager.codes import OUTPUT_INCOMPLETE
from perunml.manager.context import Services
from perunml.manager.http import encode
from perunml.manager.leases import Lease
from perunml.manager.state import StoredRun
from perunml.manager.store.connection import Connection
from perunml.manager.writer import Transaction
from perunml.wire.canonical import canonical
from perunml.wire.codes import MALFORMED
from perunml.wire.errors import refuse
from perunml.wire.rules import Reason

_OUTPUTS = (
    "SELECT o.output, o.asset, a.complete FROM outputs o JOIN assets a ON a.digest = o.asset WHERE o.run = :run "
    "AND o.session_key = :session"
)
_REGISTER = "UPDATE outputs SET registered = 1 WHERE run = :run AND session_key = :session"
_DROP = "DELETE FROM outputs WHERE run = :run AND session_key <> :session"
_DROP_ONE = "DELETE FROM outputs WHERE run = :run AND output = :output"
_END_LEASE = "UPDATE leases SET active = 0, asked = :asked, answer = :answer WHERE lease = :lease"
_END_RUN = "UPDATE runs SET state = :state, reasons = :reasons, receipt = :receipt, ended = :ended WHERE run = :run"


def check_form(request: FinishRequest) -> None:
    """Raises `UsageError` (malformed)."""
    if request.error and request.error not in ERRORS:
        raise refuse(MALFORMED, "not a class of errors", expected=", ".join(ERRORS), seen=request.error)
    if len(request.reasons) > MAX_REASONS or (request.reasons and not request.error):
        raise refuse(MALFORMED, "reasons belong to a failure", expected=f"at most {MAX_REASONS}")
    if request.devices is not None:
        Devices.from_json(request.devices)


def record(
    services: Services,
    transaction: Transaction,
    lease: Lease,
    run: StoredRun,
    request: FinishRequest,
    asked: str,
    now: int,
) -> FinishAnswer:
    """Register outputs, sign the receipt, end the lease. Raises `IntegrityError` (output_incomplete): the lease goes on."""
    now = transaction.journal.at(now)
    connection = transaction.connection
    logs = _logs(services.library.held(connection, run.agreement).agreement, run.job)
    left = _check_outputs(connection, lease, run, request, logs)
    state = "failed" if request.error else "finished"
    # A host's reasons go through the reader of reasons, which keeps known fields only, bounded and printable.
    reasons = [Reason.from_json(reason).as_json() for reason in request.reasons]
    told: dict[str, object] = {
        "job": run.job,
        "lease": lease.lease,
        "machine": lease.machine,
        "error": request.error,
        "outputs": dict(request.outputs),
        "reasons": reasons,
    }
    if request.devices is not None:
        told["devices"] = request.devices
    entry, entry_hash = transaction.journal.append(state, now, run.agreement, run.run, told)
    inputs = {name: asset for name, asset in lease.grants.items() if name != "code"}
    receipt = sign_receipt(
        Receipt(
            manager=services.keys.identity.public.text,
            agreement=run.agreement,
            job=run.job,
            run=run.run,
            inputs=inputs,
            code=lease.grants.get("code", ""),
            host=Ran(
                lease.machine, lease.verdict["profile"], lease.verdict["imitates"], bool(lease.verdict["simulated"])
            ),
            parameters=run.parameters,
            outputs=dict(request.outputs),
            entry_index=entry,
            entry_hash=entry_hash,
            time=now,
            sentences=tuple(lease.verdict["sentences"]),
            devices=None if request.devices is None else Devices.from_json(request.devices),
        ),
        services.keys.identity,
    )
    answer = FinishAnswer(receipt=receipt, entry=entry)
    # What an earlier session of a resumed run left behind was never named in a finish, and goes.
    mine = {"run": run.run, "session": lease.session_key}
    connection.run(_DROP, mine)
    for name in left:
        connection.run(_DROP_ONE, {"run": run.run, "output": name})
    connection.run(_REGISTER, mine)
    connection.run(_END_LEASE, {"asked": asked, "answer": encode(answer), "lease": lease.lease})
    values = {
        "state": state,
        "reasons": canonical(_told(request, reasons)).decode(),
        "receipt": receipt.encode(),
        "ended": now,
        "run": run.run,
    }
    connection.run(_END_RUN, values)
    return answer


def _told(request: FinishRequest, reasons: list[dict[str, object]]) -> list[dict[str, object]]:
    if not request.error or reasons:
        return reasons
    return [{"code": request.error, "kind": "job", "message": f"the job ended: {request.error}", "expected": "",
             "seen": request.error, "mend": "", "command": ""}]  # fmt: skip


def _logs(agreement: Agreement, job: str) -> frozenset[str]:
    """Outputs that a failed run has too."""
    training = agreement.training(job)
    return frozenset(name for name, output in (training.outputs if training else {}).items() if output.level == "full")


def _check_outputs(
    connection: Connection, lease: Lease, run: StoredRun, request: FinishRequest, logs: frozenset[str]
) -> list[str]:
    """Registered outputs that a failed run leaves behind. Raises `IntegrityError` (output_incomplete), `UsageError` (malformed)."""
    rows = connection.run(_OUTPUTS, {"run": run.run, "session": lease.session_key}).all()
    registered = {row[0]: (row[1], bool(row[2])) for row in rows}
    if request.error and not set(request.outputs) <= logs:
        raise refuse(MALFORMED, "a run that failed has no outputs but its log, where the agreement says so")
    left = [name for name in registered if name not in request.outputs] if request.error else []
    for name in {*registered, *request.outputs} - set(left):
        asset, complete = registered.get(name, ("", False))
        if not complete or request.outputs.get(name) != asset:
            raise refuse(
                OUTPUT_INCOMPLETE, f"the output {name} is not registered with all its bytes as it is named here",
                expected=asset or "a registered output", seen=request.outputs.get(name, "not named"),
            )  # fmt: skip
    return left
