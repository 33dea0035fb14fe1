"""A machine that runs jobs by the protocol alone: real session, real evidence, real sealing; its job is a function."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from cli.kit import Party
from perunml.api.pin import Pin
from perunml.api.runs import KeyDelivery
from perunml.attesters.simulated import SimulatedAttester
from perunml.client.home import Home
from perunml.evidence.binding import binding
from perunml.host.channel import EvidenceRequest
from perunml.host.enrol import membership
from perunml.host.outputs import Found, seal, send
from perunml.host.protocol import ManagerLink
from perunml.host.session import Session

Job = Callable[[KeyDelivery], Mapping[str, bytes]]


class Evidence:
    """What the agent does for its runner: completes the binding and asks the attester."""

    def __init__(self, pin: Pin, attester: SimulatedAttester) -> None:
        self.pin, self.attester = pin, attester

    def collect(self, request: EvidenceRequest) -> dict[str, Any]:
        fields = {name: getattr(request, name) for name in type(request).model_fields}
        return self.attester.collect(binding(manager=self.pin.identity, host=self.attester.machine, **fields)).as_json()

    def accepted(self) -> None:
        pass

    def forget(self) -> None:
        pass

    def lease(self, deadline: float) -> None:
        pass


class Machine:
    """Enrolled by its operator's command line."""

    def __init__(self, operator: Party, folder: Path) -> None:
        self.folder = folder
        done = operator.ok("host", "enrol", "--folder", folder, "--name", "test", "--simulated-machine")
        self.name: str = done["machine"]
        self.attester = SimulatedAttester(folder)
        self.pin = Home(operator.home).pin()

    def work(self) -> list[str]:
        """Runs offered."""
        with self._link() as link:
            return [item.run for item in link.work().items]

    def take(self, run: str, agreement: str, job: Job | None = None, *, error: str = "", finish: bool = True) -> None:
        """Take a run, do the job on what was delivered, hand in what it returns. Raises what the manager refuses."""
        session = Session(self.pin, run, self.name, Evidence(self.pin, self.attester))
        try:
            with self._link() as link:
                delivery = session.release(link, agreement=agreement)
            outputs = job(delivery) if job is not None else {}
            digests = {name: self._hand_in(session, delivery, name, data) for name, data in outputs.items()}
            if finish:
                session.finish(digests, error=error)
        finally:
            session.close()

    def _hand_in(self, session: Session, delivery: KeyDelivery, name: str, data: bytes) -> str:
        key = delivery.outputs[name]
        found = Found(name, f"{name}.{key.format}", data)
        envelope, store = seal(found, key, session.signer, self.folder / "out" / delivery.run / name)
        with store:
            return send(delivery.run, name, envelope, store, session.signer, lambda: session.link)

    def _link(self) -> ManagerLink:
        member = membership(self.pin, self.name, self.folder)
        return ManagerLink(self.pin, (member.certificate, member.key))
