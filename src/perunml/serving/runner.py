"""The runner of a service: ``python -m perunml.serving.runner``, started by the agent as `host.runner` is for trainings.

Binds the configured address first, because the endpoint goes into the release; gets the keys; unseals the model into
memory; serves until the lease is lost (the process ends at once), the agent ends it, or the agreed time is over.
"""

from __future__ import annotations

import shutil
import signal
import socket
import threading
from collections.abc import Mapping
from pathlib import Path

from perunml.agreements.jobs import LANGUAGE, WITH_CODE
from perunml.api.runs import QuotaAnswer, QuotaRequest
from perunml.api.service import ServiceCertificate
from perunml.host import gpus
from perunml.host.clock import boottime
from perunml.host.codes import DELIVERY_MISMATCH
from perunml.host.contract import CODE, entry_path
from perunml.host.fetch import Fetched
from perunml.host.limits import make_cgroup
from perunml.host.memory import SLACK, available_memory
from perunml.host.runner import Run, Settings, run_main
from perunml.host.sandbox import job_user
from perunml.ledger.devices import Devices
from perunml.sealing.views.files import unpack
from perunml.serving.codes import SERVICE_ADDRESS
from perunml.serving.confined import ConfinedEngine, ConfinedProcess
from perunml.serving.confined_language import ConfinedLanguage
from perunml.serving.gateway import Gateway, Watch, listen
from perunml.serving.handlers import handler_for
from perunml.serving.metrics import Metrics, MetricsServer
from perunml.serving.quota import Quota
from perunml.serving.service import Service, Terms
from perunml.serving.traces import Traces
from perunml.wire.dsse import Envelope
from perunml.wire.errors import refuse
from perunml.wire.identity import PublicKey

BEAT = 0.2
"""Seconds between looks at the session's certificate and at the engine's process."""
PAGE = 4096
MOUNTS = {"model": "model", "code": "program"}
"""Where a service's inputs lie in the runner's memory; `code` there is this package's own, which the engine's process runs."""


class Serving:
    """One service's run, from a bound port to its end."""

    def __init__(self) -> None:
        self._socket: socket.socket | None = None
        self._numbers: socket.socket | None = None
        self._numbers_at = ""
        self._traces: Traces | None = None
        self._endpoint = ""
        self._ended = threading.Event()

    def prepare(self, settings: Settings) -> str:
        """Bind `settings.listen`; the endpoint to tell the manager."""
        self._socket, self._endpoint = _bound(settings.listen)
        if settings.metrics:
            self._numbers, self._numbers_at = _bound(settings.metrics)
        if settings.traces:
            self._traces = Traces(settings.traces)
        signal.signal(signal.SIGTERM, lambda number, frame: self._ended.set())
        return self._endpoint

    def serve(self, run: Run) -> None:
        """From delivery to the end."""
        names = {"model", "code"} if run.delivery.job.get("engine") in WITH_CODE else {"model"}
        if run.delivery.kind != "serve" or set(run.delivery.inputs) != names:
            raise refuse(DELIVERY_MISMATCH, "not a service with one model", seen=run.delivery.kind)
        with gpus.claim() as claim:
            if claim.taken:
                run.report("warning", message="another run has this machine's GPUs: the service sees none")
            self._answer(run, self._engine(run, claim.nodes), claim.devices)

    def _answer(self, run: Run, engine: ConfinedEngine | ConfinedLanguage, devices: Devices | None) -> None:
        assert self._socket is not None
        metrics = Metrics(lambda: run.session.deadline - boottime())
        engine.on_start = metrics.started
        engine.start()
        # Not before: loading a model may take longer than a lease, and then there is a newer one.
        certificate = run.session.service_certificate
        if certificate is None:
            raise refuse(DELIVERY_MISMATCH, "the manager gave the service no certificate")
        service = Service(
            Terms(
                manager=PublicKey(run.settings.pin.identity),
                agreement=run.delivery.agreement,
                run=run.delivery.run,
                model=run.delivery.inputs["model"].asset,
                clients={party: tuple(keys) for party, keys in run.delivery.clients.items()},
            ),
            hpke=run.session.hpke,
            signer=run.session.signer,
            certificate=certificate,
            issued=_sent(run),
            handler=handler_for(engine, run.delivery.job, ServiceCertificate.unverified(certificate).job),
            quota=Quota(lambda wanted: _draw(run, wanted), clock=boottime),
            deadline=lambda: run.session.deadline,
            clock=boottime,
        )
        watchers = (metrics.seen, *([self._traces.seen] if self._traces else []))
        gateway = Gateway(service, self._socket, watch=Watch(watchers, metrics.begun))
        run.on_lost = service.close
        gateway.start()
        numbers = MetricsServer(metrics, self._numbers).start() if self._numbers else None
        run.report("serving", endpoint=self._endpoint, metrics=self._numbers_at, simulated=run.delivery.simulated)
        try:
            self._tend(run, service, engine, certificate)
        finally:
            gateway.stop()
            engine.close()
            if numbers:
                numbers.stop()
            if self._traces:
                self._traces.stop()
        run.finish({}, devices=devices)

    def _tend(self, run: Run, service: Service, engine: ConfinedProcess, known: Envelope) -> None:
        end = boottime() + run.delivery.wall_seconds if run.delivery.wall_seconds else float("inf")
        while not self._ended.wait(BEAT) and boottime() < end:
            newest = run.session.service_certificate
            if newest is not None and newest is not known:
                service.certify(newest, issued=_sent(run))
                known = newest
            engine.tend()

    def _engine(self, run: Run, devices: Mapping[str, Path]) -> ConfinedEngine | ConfinedLanguage:
        """The model, unsealed into memory, and the engine that the agreement names, not started yet."""
        fetched = run.fetch()
        folders = {name: _unpacked(run, MOUNTS[name], found) for name, found in fetched.items()}
        engine = run.delivery.job.get("engine")
        if not isinstance(engine, str):
            raise refuse(DELIVERY_MISMATCH, "the job names no engine")
        kind = ConfinedLanguage if engine in LANGUAGE else ConfinedEngine
        return kind(
            engine,
            folders["model"],
            run.memory,
            program=(folders["code"], _entry(run.delivery.entry)) if "code" in folders else None,
            devices=devices,
            cgroup=lambda: make_cgroup(run.delivery.run, available_memory()),
            swap_allowed=run.delivery.simulated,
        )


def _bound(address: str) -> tuple[socket.socket, str]:
    try:
        return listen(address)
    except (OSError, ValueError):
        raise refuse(SERVICE_ADDRESS, "the address for services cannot be bound", seen=address) from None


def _unpacked(run: Run, name: str, fetched: Fetched) -> Path:
    """An input in a memory mount of its own that the engine's user can read; its ciphertext is gone."""
    user = job_user()
    space = SLACK + sum(-(-size // PAGE) * PAGE + PAGE for size in fetched.reader.files.values())
    folder: Path = run.memory.add(name, space, owner=user)
    unpack(fetched.reader, folder)
    run.memory.freeze(name, user)
    fetched.reader.close()
    shutil.rmtree(fetched.folder, ignore_errors=True)
    return folder


def _entry(name: str) -> str:
    """The architecture's file below its folder. Raises `IntegrityError` (delivery_mismatch)."""
    return entry_path(name).removeprefix(f"{CODE}/")


def _sent(run: Run) -> float:
    """When the request was sent that the newest certificate answered, by CLOCK_BOOTTIME."""
    return run.session.deadline - run.session.lease_seconds


def _draw(run: Run, wanted: int) -> QuotaAnswer:
    return run.link().quota(run.delivery.run, QuotaRequest(wanted=wanted))


if __name__ == "__main__":
    serving = Serving()
    run_main(serving.serve, prepare=serving.prepare)
