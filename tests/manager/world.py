"""A manager on loopback with real TLS, and people and machines who talk to it with real keys."""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.asymmetric import ed25519
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from perunml.api.enrolment import EnrolAnswer, Enrolled, EnrolRequest, EnrolSimulated, EnrolTpm
from perunml.api.pin import Pin
from perunml.attesters.simulated import SimulatedAttester
from perunml.client.connection import Connection
from perunml.client.profile import ManagerProfile
from perunml.client.trust import trust
from perunml.host.protocol import ManagerLink
from perunml.manager import setup
from perunml.manager.clock import Clock
from perunml.manager.server import Server
from perunml.testing.forge import ForgedTpm, default_ca
from perunml.wire.errors import PerunError
from perunml.wire.identity import SigningKey

PASSPHRASE = b"a passphrase for tests"
PROFILE = ManagerProfile.load(b"apiVersion: perunml/v1\nkind: ManagerProfile\nprofile: {profile: simulated}\n")


@functools.cache
def cached_keys(folder: Path) -> Any:
    """scrypt takes a third of a second; a test that restarts its manager opens its root key once."""
    return setup.unlock(folder, PASSPHRASE)


def code_of(call: Callable[[], Any]) -> str:
    """The code with which a call is refused; "" when it is not."""
    try:
        call()
    except PerunError as exc:
        return exc.code
    return ""


def tls_pem(key: SigningKey) -> bytes:
    private = ed25519.Ed25519PrivateKey.from_private_bytes(key.secret())
    return private.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


@dataclass
class Host:
    """An enrolled machine: its attester, and its link with the enrolment's certificate."""

    attester: Any
    enrolled: Enrolled
    tls: SigningKey
    link: ManagerLink

    @property
    def machine(self) -> str:
        return self.enrolled.machine


class World:
    """One manager in a folder; `restart` stops and starts it on the same port."""

    def __init__(self, folder: Path, clock: Clock | None = None) -> None:
        self.folder = folder / "manager"
        root = folder / "root.der"
        root.write_bytes(default_ca().root)
        setup.init(self.folder, PASSPHRASE, url="https://127.0.0.1:1", simulated_ek_roots=[root])
        self.clock = clock
        self._closing: list[Callable[[], None]] = []
        self.parties: list[Connection] = []
        self.server: Server | None = None
        self.port = 0
        self.start()

    def start(self) -> None:
        self.server = Server(self.folder, cached_keys(self.folder), port=self.port, clock=self.clock)
        _, self.port = self.server.start()

    def stop(self) -> None:
        if self.server is not None:
            self.server.stop()
            self.server = None

    def restart(self) -> None:
        self.stop()
        self.start()

    def close(self) -> None:
        for step in self._closing:
            step()
        self.stop()

    @property
    def url(self) -> str:
        return f"https://127.0.0.1:{self.port}"

    @functools.cached_property
    def pin(self) -> Pin:
        return trust(self.url, PROFILE)

    def party(self, key: SigningKey | None = None, *, admitted: bool = True) -> Connection:
        """A party's connection; its key is admitted unless told otherwise."""
        key = key or SigningKey.generate()
        if admitted:
            setup.admit(self.folder, [key.public.text])
        made = Connection(self.pin, key)
        self._closing.append(made.close)
        self.parties.append(made)
        return made

    def link(self, certificate: str, key: SigningKey) -> ManagerLink:
        made = ManagerLink(self.pin, (certificate, tls_pem(key)))
        self._closing.append(made.close)
        return made

    def anonymous(self) -> ManagerLink:
        made = ManagerLink(self.pin)
        self._closing.append(made.close)
        return made

    def enrol(self, operator: SigningKey, name: str = "gpu-1", attester: Any = None, **changes: Any) -> Host:
        """Enrol a forged TPM (default) or a `SimulatedAttester`; the operator's key is admitted. `changes` are the message's."""
        setup.admit(self.folder, [operator.public.text])
        attester = attester or ForgedTpm()
        tls = SigningKey.generate()
        link = self.anonymous()
        request = EnrolRequest(machine=enrol_message(attester, name, tls).model_copy(update=changes))
        challenge = link.enrol(request, operator)
        if isinstance(attester, SimulatedAttester):
            answer = attester.answer(challenge.nonce)
        else:
            answer = attester.activate(challenge.credential, challenge.encrypted_secret)
        enrolled = link.answer_enrolment(challenge.enrolment, EnrolAnswer(answer=answer), operator)
        return Host(attester, enrolled, tls, self.link(enrolled.certificate, tls))


def enrol_message(attester: Any, name: str, tls: SigningKey) -> EnrolTpm | EnrolSimulated:
    if isinstance(attester, SimulatedAttester):
        return EnrolSimulated(kind="simulated", name=name, tls_key=tls.public.text, **attester.enrolment())
    return EnrolTpm(kind="tpm", name=name, tls_key=tls.public.text, **attester.enrolment())


@dataclass
class Threads:
    """Runs calls at once and gathers what came of each."""

    results: list[Any] = field(default_factory=list)

    def run(self, calls: list[Callable[[], Any]]) -> list[Any]:
        self.results = [None] * len(calls)
        gate = threading.Barrier(len(calls))

        def one(index: int, call: Callable[[], Any]) -> None:
            gate.wait()
            try:
                self.results[index] = call()
            except PerunError as exc:
                self.results[index] = exc

        threads = [threading.Thread(target=one, args=(i, call)) for i, call in enumerate(calls)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        return self.results
