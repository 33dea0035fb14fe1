"""One run, in a process of its own: it alone holds the run's keys, and its end is theirs.

The agent starts it as ``python -m perunml.host.runner`` with `Settings` as JSON on stdin, a socket for evidence and a pipe
for events. `Run` is what trainings and services share: the session, its lease, private memory, inputs. When the lease is lost
the process ends at once, from whatever it was doing: namespaces, memory mounts and the sandbox end with it.
"""

from __future__ import annotations

import os
import shutil
import signal
import socket
import sys
import traceback
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from types import FrameType
from typing import NoReturn

from perunml.api.base import Message
from perunml.api.pin import Pin
from perunml.api.runs import CheckpointKey, KeyDelivery
from perunml.host import checkpoints, job, outputs
from perunml.host.channel import EvidenceSource
from perunml.host.codes import (
    CODE_FAILED,
    DELIVERY_MISMATCH,
    GPU_OUT_OF_MEMORY,
    INTERNAL,
    KILLED,
    NOT_FINITE,
    OUT_OF_MEMORY,
    OUT_OF_TIME,
)
from perunml.host.fetch import Fetched, check_input, fetch_input, fetch_inputs
from perunml.host.lease import LeaseKeeper
from perunml.host.memory import PrivateMemory, die_with_parent, guard_process
from perunml.host.progress import Report
from perunml.host.protocol import ManagerLink
from perunml.host.sandbox import job_user
from perunml.host.session import Session
from perunml.ledger.devices import Devices
from perunml.wire.errors import PerunError, refuse
from perunml.wire.rules import Reason

EXIT_DONE, EXIT_FAILED, EXIT_REFUSED, EXIT_LOST = 0, 1, 3, 4
"""Finished; ended with an error class that the manager knows; no keys were released; the lease was lost."""
_NOT_AGREED = "output_not_agreed"
"""The manager's word for an output that the newest version does not declare."""
_CLASSES = {
    rule.code: rule for rule in (CODE_FAILED, OUT_OF_MEMORY, GPU_OUT_OF_MEMORY, NOT_FINITE, OUT_OF_TIME, INTERNAL)
}


class Stopped(Exception):
    """The agent is being stopped (SIGTERM)."""


class Settings(Message):
    """What the agent tells a runner. `key` is the machine's TLS key (PEM): it opens challenge and release, which want
    evidence too."""

    run: str
    agreement: str
    machine: str
    simulated: bool
    pin: Pin
    certificate: str
    key: str
    folder: str
    agent_pid: int
    evidence_fd: int
    events_fd: int
    listen: str = ""  # services: HOST:PORT to listen on
    metrics: str = ""  # services: HOST:PORT for the operator's numbers
    traces: str = ""  # services: the collector of spans
    unpack_at_most: int = -1  # bytes of an input that is unpacked into memory; -1: as memory allows

    def __repr__(self) -> str:
        return f"<Settings of run {self.run}>"


class Run:
    """A run that has its keys. Made by `begin`; `on_lost` is called when the lease is lost, right before the process ends."""

    def __init__(
        self, settings: Settings, report: Report, memory: PrivateMemory, session: Session, delivery: KeyDelivery
    ) -> None:
        self.settings = settings
        self.report = report
        self.memory = memory
        self.session = session
        self.delivery = delivery
        self.folder = Path(settings.folder)
        self.on_lost: Callable[[], None] = lambda: None
        self.keeper = LeaseKeeper(session, self._lost, lambda seconds: report("renewed", lease_seconds=seconds))

    def link(self) -> ManagerLink:
        """The connection under the lease's certificate, as long as there is a lease."""
        return self.session.link

    def fetch(self) -> dict[str, Fetched]:
        """All inputs' ciphertext, here and verified."""
        names = list(self.delivery.inputs)
        self.report("fetching", inputs=names)
        found = fetch_inputs(self.delivery, self.link, self.folder / "sealed")
        self.report("fetched", inputs={name: item.input.asset for name, item in found.items()},
                    bytes=sum(item.manifest.total_sealed for item in found.values()))  # fmt: skip
        return found

    def finish(
        self, sent: dict[str, str], *, error: str = "", reasons: tuple[Reason, ...] = (), devices: Devices | None = None
    ) -> None:  # fmt: skip
        """Tell the manager how it ended; the lease is over afterwards."""
        self.keeper.stop()
        answer = self.session.finish(sent, error=error, reasons=reasons, devices=devices)
        if error:
            self.report.reasons("failed", reasons, error=error, entry=answer.entry)
        else:
            self.report("finished", outputs=sent, entry=answer.entry)

    def _lost(self, reasons: tuple[Reason, ...]) -> NoReturn:
        try:
            self.report.reasons("lease_lost", reasons)
            self.on_lost()
            self.session.close()
        finally:
            # Not sys.exit: nothing may run on, in no thread. Bubblewrap and all in it die with this process.
            os._exit(EXIT_LOST)


def begin(settings: Settings, report: Report, *, endpoint: str = "") -> Run:
    """Prepare the process, ask for the keys, start the lease's keeper. Raises what the manager or this machine refuses."""
    guard_process()
    # Before any key exists, and while there is one thread.
    memory = PrivateMemory.enter(swap_allowed=settings.simulated)
    evidence = EvidenceSource(socket.socket(fileno=settings.evidence_fd))
    session = Session(settings.pin, settings.run, settings.machine, evidence)
    with ManagerLink(settings.pin, (settings.certificate, settings.key.encode())) as machine_link:
        delivery = session.release(machine_link, agreement=settings.agreement, endpoint=endpoint)
    report("released", agreement=delivery.agreement, lease=session.lease_id, lease_seconds=session.lease_seconds,
           inputs={name: item.asset for name, item in delivery.inputs.items()}, simulated=delivery.simulated)  # fmt: skip
    run = Run(settings, report, memory, session, delivery)
    run.keeper.start()
    return run


def run_main(work: Callable[[Run], None], *, prepare: Callable[[Settings], str] = lambda settings: "") -> NoReturn:
    """The main function of a runner: settings from stdin, `prepare` (which may bind a port and gives the endpoint to tell), then
    `begin`, then `work`, which ends with `Run.finish`. What `work` raises ends the run as ``internal`` with its reasons."""
    settings = Settings.decode(sys.stdin.buffer.read())
    report = Report(os.fdopen(settings.events_fd, "wb"), settings.run)
    try:
        die_with_parent(settings.agent_pid)
        run = begin(settings, report, endpoint=prepare(settings))
    except PerunError as exc:
        report.reasons("refused", exc.reasons)
        _end(EXIT_REFUSED)
    except Exception as exc:
        report.reasons("refused", [_unexpected(exc)])
        _end(EXIT_REFUSED)
    try:
        work(run)
    except PerunError as exc:
        _fail(run, exc.reasons)
    except Exception as exc:
        _fail(run, (_unexpected(exc),))
    finally:
        shutil.rmtree(run.folder / "sealed", ignore_errors=True)
        run.session.close()
    _end(EXIT_DONE)


def train(run: Run) -> None:
    """A training, from delivery to receipt."""
    if run.delivery.kind != "train":
        raise refuse(DELIVERY_MISMATCH, "not a training", seen=run.delivery.kind)
    signal.signal(signal.SIGTERM, _stop)
    try:
        ended = _trained(run)
    except Stopped:
        if run.delivery.checkpoints is not None:
            # Another host goes on from the last checkpoint, once the lease is over: the run has not ended.
            run.report(
                "left", message="the agent was stopped; the run waits for another host where it has resumes left"
            )
            return
        run.finish({}, error="killed", reasons=(Reason(KILLED, "the agent was stopped by its operator"),))
        return
    signal.signal(signal.SIGTERM, signal.SIG_IGN)  # what is being sealed and sent is worth the moment
    found, error, reasons = outputs.logs(ended.log, run.delivery.outputs), ended.error, tuple[Reason, ...]()
    if error:
        rule = _CLASSES[error]
        reasons = (Reason(rule, rule.meaning),)
    else:
        try:
            found = outputs.collect(ended.out, run.delivery.outputs) + found
        except PerunError as exc:
            reasons = exc.reasons
            error = NOT_FINITE.code if any(each.code == NOT_FINITE.code for each in reasons) else "output_refused"
    sent = {}
    for number, each in enumerate(found):
        try:
            sent[each.name] = _send(run, number, each)
        except PerunError as exc:
            if exc.code != _NOT_AGREED or run.delivery.outputs[each.name].format != outputs.LOG:
                raise
            # An owner narrowed it away while the job ran: the log stays, and what else the run made is none the worse.
            run.report.reasons("left_out", exc.reasons, output=each.name)
    run.memory.remove(["out"])
    run.finish(sent, error=error, reasons=reasons, devices=ended.devices)


def _send(run: Run, number: int, found: outputs.Found) -> str:
    """Seal one output and send it; its digest."""
    run.report("sealing", output=found.name)
    folder = run.folder / "outputs" / str(number)
    envelope, store = outputs.seal(found, run.delivery.outputs[found.name], run.session.signer, folder)
    asset = outputs.send(run.session.run, found.name, envelope, store, run.session.signer, run.link)
    run.report("sealed", output=found.name, asset=asset)
    return asset


def _trained(run: Run) -> job.Ended:
    """The job, with its checkpoints kept where the agreement allows some."""
    fetched, terms = run.fetch(), run.delivery.checkpoints
    folder: Path | None = None
    kept: AbstractContextManager[None] = nullcontext()
    if terms is not None:
        folder = checkpoints.prepare(terms, run.memory, job_user(), _last_checkpoint(run, terms))
        kept = checkpoints.keep(terms, run.session, run.memory, run.folder / "checkpoint", run.report)
    return job.train(
        run.delivery, fetched, run.memory, run.report, swap_allowed=run.delivery.simulated, checkpoints=folder, during=kept,
        unpack_at_most=None if run.settings.unpack_at_most < 0 else run.settings.unpack_at_most,
    )  # fmt: skip


def _last_checkpoint(run: Run, terms: CheckpointKey) -> Fetched | None:
    if terms.last is None:
        return None
    manifest = check_input("the checkpoint", terms.last)
    if manifest.asset_id != terms.asset_id:
        raise refuse(DELIVERY_MISMATCH, "the checkpoint is another run's")
    run.report("resuming", number=manifest.version)
    return fetch_input("the checkpoint", terms.last, manifest, run.link, run.folder / "sealed" / "checkpoint")


def _stop(number: int, frame: FrameType | None) -> NoReturn:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    raise Stopped


def _fail(run: Run, reasons: tuple[Reason, ...]) -> NoReturn:
    try:
        run.finish({}, error="internal", reasons=reasons)
    except PerunError as exc:
        run.report.reasons("failed", (*reasons, *exc.reasons), error="internal")
    _end(EXIT_FAILED)


def _unexpected(exc: Exception) -> Reason:
    # The type and the place alone: an exception's text may quote what was being read.
    frame = traceback.extract_tb(exc.__traceback__)[-1]
    return Reason(
        INTERNAL,
        "the host's software failed",
        seen=f"{type(exc).__name__} at {Path(frame.filename).name}:{frame.lineno}",
    )


def _end(status: int) -> NoReturn:
    # Daemon threads may still hold keys in their frames; the process is what ends them.
    os._exit(status)


if __name__ == "__main__":
    run_main(train)
