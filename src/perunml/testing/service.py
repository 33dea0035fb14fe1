"""A manager's key, a service's session and clients, all real; only the manager's server is not there. For tests and bench."""

from __future__ import annotations

import datetime as dt
import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from perunml.api.pin import Pin, spki_digest
from perunml.api.runs import QuotaAnswer, RunView
from perunml.api.service import SealedRequest, ServiceCertificate, frame_request, sealed_info
from perunml.host.clock import boottime
from perunml.serving.engines import Engine
from perunml.serving.gateway import Gateway, listen
from perunml.serving.handlers import handler_for
from perunml.serving.inner import Handler
from perunml.serving.quota import Quota
from perunml.serving.service import Service, Terms
from perunml.serving.tensors import from_nested, to_nested
from perunml.wire.digests import digest
from perunml.wire.dsse import Envelope
from perunml.wire.hpke import HpkePrivateKey
from perunml.wire.identity import SigningKey
from perunml.wire.timestamps import format_time

AGREEMENT, MODEL, RUN = digest(b"agreement"), digest(b"model"), "ab" * 16


@dataclass
class Client:
    """A party's identity, as `perunml.client.infer` wants it."""

    name: str
    signing: SigningKey = field(default_factory=SigningKey.generate)


@dataclass
class World:
    """One session of a service, and who may certify, quota and ask it."""

    engine: Engine
    handler: Handler | None = None  # what the engine's requests mean (default: the Open Inference Protocol)
    manager: SigningKey = field(default_factory=SigningKey.generate)
    signer: SigningKey = field(default_factory=SigningKey.generate)
    hpke: HpkePrivateKey = field(default_factory=HpkePrivateKey.generate)
    clinic: Client = field(default_factory=lambda: Client("clinic"))
    granted: int = 10**6
    ends: float = field(default_factory=lambda: boottime() + 600)
    skipped: float = 0.0  # seconds that the service's clock was put forward
    endpoint: str = ""

    def certificate(self, **changes: Any) -> Envelope:
        """Signed by the manager (or by `signer` in `changes`), valid from now for a minute."""
        now = int(time.time())
        signer = changes.pop("signer", self.manager)
        body: dict[str, Any] = {
            "manager": self.manager.public.text,
            "agreement": AGREEMENT,
            "job": "serve",
            "run": RUN,
            "model": MODEL,
            "engine": "torch-export",
            "machine": "simulated:sha256:" + "0" * 64,
            "profile": "simulated",
            "imitates": "tee",
            "simulated": True,
            "verdict": digest(b"verdict"),
            "hpke": self.hpke.public.text,
            "session_key": self.signer.public.text,
            "not_before": format_time(now),
            "not_after": format_time(now + 60),
        }
        return ServiceCertificate(**(body | changes)).envelope(signer)

    def service(self, **changes: Any) -> Service:
        """A service of this session; `changes` are the certificate's."""
        terms = Terms(
            self.manager.public, AGREEMENT, RUN, MODEL, {"clinic": (self.clinic.signing.public.text,), "empty": ()}
        )
        return Service(
            terms,
            hpke=self.hpke,
            signer=self.signer,
            certificate=self.certificate(**changes),
            handler=self.handler or handler_for(self.engine, {}, "serve"),
            quota=Quota(self.draw, clock=self.clock),
            deadline=lambda: self.ends,
            clock=self.clock,
        )

    def clock(self) -> float:
        return boottime() + self.skipped

    def draw(self, wanted: int) -> QuotaAnswer:
        granted = min(wanted, self.granted)
        self.granted -= granted
        return QuotaAnswer(granted=granted, retry_seconds=60)

    @contextmanager
    def gateway(self, service: Service | None = None) -> Iterator[Gateway]:
        """A running gateway on loopback; `endpoint` says where."""
        sock, self.endpoint = listen("127.0.0.1:0")
        gateway = Gateway(service or self.service(), sock).start()
        try:
            yield gateway
        finally:
            gateway.stop()

    def run(self, **changes: Any) -> RunView:
        """The run as the manager shows it."""
        body: dict[str, Any] = {
            "run": RUN,
            "agreement": AGREEMENT,
            "job": "serve",
            "state": "running",
            "requested_by": "cloud",
            "parameters": {},
            "host": "simulated:sha256:" + "0" * 64,
            "simulated": True,
            "reasons": [],
            "outputs": [],
            "receipt": None,
            "endpoint": self.endpoint,
            "lease_until": "",
        }
        return RunView(**(body | changes))

    def request(self, named: Envelope, inputs: dict[str, Any], /, **changes: Any) -> Asked:
        """A request for predictions as the clinic (or `signer` in `changes`) signs it."""
        signer = changes.pop("signer", self.clinic.signing)
        content = oip_body(self.engine, inputs)
        body: dict[str, Any] = {
            "manager": self.manager.public.text,
            "agreement": AGREEMENT,
            "run": RUN,
            "certificate": named.digest,
            "party": "clinic",
            "id": "01" * 16,
            "secret": bytes(range(32)),
            "time": format_time(int(time.time())),
            "method": "POST",
            "path": "/v2/models/serve/infer",
            "headers": {"content-type": "application/json"},
            "body": digest(content),
            "size": len(content),
            "pad": False,
        }
        return Asked(SealedRequest(**(body | changes)).envelope(signer), content)

    def call(self, plaintext: bytes, **info: str) -> bytes:
        """`plaintext` sealed to this session."""
        whole = sealed_info(self.manager.public.text, AGREEMENT, RUN) | info
        return self.hpke.public.seal(plaintext, whole)


@dataclass(frozen=True, slots=True)
class Asked:
    """A signed request and its body."""

    envelope: Envelope
    body: bytes

    @property
    def digest(self) -> str:
        return self.envelope.digest

    def encode(self) -> bytes:
        return frame_request(self.envelope, self.body, pad=False)


def oip_body(engine: Engine, inputs: dict[str, Any]) -> bytes:
    """An Open Inference Protocol request, well formed or not, of what is given by name."""
    types = {form.name: form.datatype for form in engine.forms().inputs}
    rows = []
    for name, value in inputs.items():
        shape, level = [], value
        while isinstance(level, list):
            shape.append(len(level))
            level = level[0] if level else None
        rows.append({"name": name, "datatype": types.get(name, "FP32"), "shape": shape, "data": value})
    return json.dumps({"inputs": rows}).encode()


def predict(engine: Engine, inputs: dict[str, Any]) -> dict[str, Any]:
    """What an engine gives for nested lists of numbers by name, as nested lists."""
    types = {form.name: form.datatype for form in engine.forms().inputs}
    tensors = [from_nested(name, types.get(name, "FP32"), value) for name, value in inputs.items()]
    return {tensor.name: to_nested(tensor) for tensor in engine.infer(tensors)}


def pin_of(manager: SigningKey) -> Pin:
    """A pin with `manager` as identity; its TLS key is nobody's."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "manager")])
    start = dt.datetime(2026, 1, 1, tzinfo=dt.UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(start)
        .not_valid_after(start + dt.timedelta(days=3650))
        .sign(key, hashes.SHA256())
        .public_bytes(serialization.Encoding.PEM)
        .decode()
    )
    return Pin(
        url="https://127.0.0.1:1",
        identity=manager.public.text,
        intake=HpkePrivateKey.generate().public.text,
        tls=spki_digest(certificate),
        certificate=certificate,
        host_ca=digest(b"ca"),
        profile="simulated",
        simulated=True,
        machine="simulated:sha256:" + "0" * 64,
        pinned="2026-11-22T00:00:00Z",
    )


def load(model: Path) -> Engine:
    from perunml.serving.engines import load_engine

    return load_engine("torch-export", model)
