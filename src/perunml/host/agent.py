"""The agent: asks its manager for work, gives each run a process of its own, vouches for the machine, ends what must end.

The agent alone opens the TPM, and holds no run's key, ever: a restarted agent has nothing to recover and nothing to hide. It ends
what an earlier one left in its folder (whose runs the kernel killed with it) and asks for work again.
"""

from __future__ import annotations

import fcntl
import os
import re
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from perunml.api.pin import Pin
from perunml.api.runs import Work, WorkItem
from perunml.attesters.base import Attester
from perunml.evidence.binding import binding
from perunml.evidence.bundle import Bundle
from perunml.host.channel import EvidenceRequest
from perunml.host.codes import AGENT_BUSY, DELIVERY_MISMATCH, HOST_UNFIT, NOT_ENROLLED
from perunml.host.enrol import FILE, Membership, enrol, membership
from perunml.host.gather import Gatherer
from perunml.host.process import RunnerProcess, clean_leftovers
from perunml.host.progress import Event, Listener
from perunml.host.protocol import ManagerLink
from perunml.host.runner import Settings
from perunml.host.sandbox import check_bubblewrap
from perunml.wire.errors import LimitReached, PerunError, Unreachable, refuse
from perunml.wire.identity import Signer

POLL = 1.0
"""Seconds between questions for work."""
BACK_OFF = 5.0
"""Seconds before a run that ended here is taken again, should the manager offer it still."""
SLOTS = 4
"""Most runs at once; memory and processors are the jobs' to share."""
RUNNERS = {"train": "perunml.host.runner", "serve": "perunml.serving.runner"}
"""By module name: this room does not see `serving`, which stands on it."""


class Agent:
    """A machine's agent. `services_listen` (HOST:PORT, port 0 allowed) lets it take services too, which tell their numbers at `metrics_listen` and their spans to the collector `traces_to`. `operator` lets it renew its
    machine's certificate. An input of more than `unpack_at_most` bytes is mounted, not unpacked (-1: as memory allows). `on_event` gets `progress` events, from several threads."""

    def __init__(
        self, folder: Path, pin: Pin, attester: Attester, *, services_listen: str = "", metrics_listen: str = "", traces_to: str = "", operator: Signer | None = None,
        name: str = "host", on_event: Listener = lambda event: None, poll: float = POLL, slots: int = SLOTS,
        unpack_at_most: int = -1,
    ) -> None:  # fmt: skip
        self._folder = folder
        self._pin = pin
        self._attester = attester
        self._gatherer = Gatherer(attester)
        self._listen, self._metrics, self._traces = services_listen, metrics_listen, traces_to
        self._operator = operator
        self._name = name
        self._on_event = on_event
        self._poll = poll
        self._slots = slots
        self._unpack_at_most = unpack_at_most
        self._stop = threading.Event()
        self._running: dict[str, RunnerProcess] = {}
        self._not_before: dict[str, float] = {}
        self._simulated = True
        self._reachable = True

    def stop(self) -> None:
        """End `run_forever` from another thread or a signal handler; its runs have a moment to say so, then are killed."""
        self._stop.set()

    def run_forever(self) -> None:
        """Work until `stop`. Raises `UsageError` (agent_busy, host_unfit, not_enrolled). All runs die with the calling thread."""
        if os.geteuid() != 0:
            raise refuse(
                HOST_UNFIT,
                "the agent makes mounts and users for jobs and so runs as root",
                command="sudo perunml host run",
            )
        check_bubblewrap()
        with self._locked():
            for run in clean_leftovers(self._folder / "runs"):
                self._tell({"event": "cleaned", "run": run})
            member = self._membership()
            self._tell({"event": "ready", "machine": member.machine})
            try:
                while not self._stop.is_set():
                    member = self._membership()
                    with ManagerLink(self._pin, (member.certificate, member.key)) as link:
                        self._work(link, member)
            finally:
                enders = [threading.Thread(target=each.end) for each in self._running.values()]
                for ender in enders:
                    ender.start()
                for ender in enders:
                    ender.join()
                self._running.clear()

    def _work(self, link: ManagerLink, member: Membership) -> None:
        """Take work until the certificate is to be renewed, or was: an operator may bring a new one while the agent runs."""
        kept = self._kept()
        while (
            not self._stop.is_set() and not (self._operator and time.time() > member.renew_at) and kept == self._kept()
        ):
            self._reap()
            for item in self._ask(link).items:
                if self._wanted(item):
                    self._start(item, member)
            self._stop.wait(self._poll)

    def _ask(self, link: ManagerLink) -> Work:
        try:
            work = link.work()
        except PerunError as exc:
            # Runs live by their leases, not by this certificate: refused work ends the agent only when nothing runs.
            if not isinstance(exc, Unreachable) and not self._running:
                raise
            if self._reachable:
                self._tell({"event": "unreachable", "reasons": [reason.as_json() for reason in exc.reasons]})
            self._reachable = False
            return Work(items=[])
        if not self._reachable:
            self._tell({"event": "reachable"})
        self._reachable = True
        return work

    def _wanted(self, item: WorkItem) -> bool:
        return (
            item.run not in self._running
            and len(self._running) < self._slots
            and time.monotonic() >= self._not_before.get(item.run, 0.0)
            and item.kind in RUNNERS
            and (item.kind != "serve" or bool(self._listen))
            and re.fullmatch("[0-9a-f]{32}", item.run) is not None
        )

    def _start(self, item: WorkItem, member: Membership) -> None:
        self._tell({"event": "taken", "run": item.run, "agreement": item.agreement, "job": item.job, "kind": item.kind})
        serves = item.kind == "serve"
        settings = Settings(
            run=item.run, agreement=item.agreement, machine=member.machine, simulated=member.simulated, pin=self._pin,
            certificate=member.certificate, key=member.key.decode(), folder=str((self._folder / "runs" / item.run).absolute()),
            agent_pid=os.getpid(), evidence_fd=-1, events_fd=-1, unpack_at_most=self._unpack_at_most,
            listen=self._listen if serves else "", metrics=self._metrics if serves else "", traces=self._traces if serves else "",
        )  # fmt: skip

        def collect(request: EvidenceRequest) -> Bundle:
            return self._collect(request, item, member.machine)

        forget = getattr(self._attester, "forget", lambda: None)
        try:
            self._running[item.run] = RunnerProcess(
                RUNNERS[item.kind], settings, collect, self._attester.accepted, forget, self._tell
            )
        except LimitReached as exc:  # it stays queued, for this agent once it has room, or for another
            self._not_before[item.run] = time.monotonic() + BACK_OFF
            self._tell(
                {"event": "not_started", "run": item.run, "reasons": [reason.as_json() for reason in exc.reasons]}
            )

    def _collect(self, request: EvidenceRequest, item: WorkItem, machine: str) -> Bundle:
        # A runner names the parts; manager and machine are ours, and the agreement is the one it was started for.
        if request.agreement != item.agreement:
            raise refuse(DELIVERY_MISMATCH, "a runner asked for evidence under another agreement")
        return self._gatherer.collect(
            binding(
                purpose=request.purpose, nonce=request.nonce, role=request.role, session_hpke=request.session_hpke,
                session_tls=request.session_tls, manager=self._pin.identity, agreement=request.agreement, run=request.run,
                host=machine, payload=request.payload,
            ),
            patient=request.purpose == "renew",
        )  # fmt: skip

    def _reap(self) -> None:
        for run, process in list(self._running.items()):
            if process.over():
                process.wait()
                del self._running[run]
                self._not_before[run] = time.monotonic() + BACK_OFF
        now = time.monotonic()
        self._not_before = {run: until for run, until in self._not_before.items() if until > now}

    def _kept(self) -> tuple[int, int]:
        found = (self._folder / FILE).stat()
        return found.st_ino, found.st_mtime_ns

    def _membership(self) -> Membership:
        try:
            member = membership(self._pin, self._attester.machine, self._folder)
            if self._operator is None or time.time() <= member.renew_at:
                self._simulated = member.simulated
                return member
        except PerunError as exc:
            if self._operator is None or exc.code != NOT_ENROLLED.code:
                raise
        assert self._operator is not None
        enrolled = enrol(self._pin, self._operator, self._attester, self._folder, self._name)  # type: ignore[arg-type]  # both attesters enrol
        self._tell({"event": "enrolled", "machine": enrolled.machine, "expires": enrolled.expires})
        member = membership(self._pin, self._attester.machine, self._folder)
        self._simulated = member.simulated
        return member

    @contextmanager
    def _locked(self) -> Iterator[None]:
        self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        with open(self._folder / "agent.lock", "w") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise refuse(AGENT_BUSY, "another agent works in this folder", seen=str(self._folder)) from None
            yield

    def _tell(self, event: Event) -> None:
        self._on_event({**event, "simulated": True} if self._simulated else event)
