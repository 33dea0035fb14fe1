"""The whole road in small: parties, sealed assets, an agreement in force, hosts that hold sessions."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import quote

from manager.world import Host, World
from perunml.agreements.approvals import approval
from perunml.agreements.document import agreement_envelope, agreement_from_json
from perunml.agreements.schema import Agreement
from perunml.api.agreements import AgreementView, ApproveAgreement, ProposeAgreement, SuspendAsset, SuspensionView
from perunml.api.assets import AssetView, DocumentView, PushAsset, PushDocument
from perunml.api.runs import (
    ApproveOutput,
    FinishAnswer,
    KeyDelivery,
    OutputDelivery,
    OutputView,
    RegisterOutput,
    RunRequest,
    RunView,
)
from perunml.attesters.simulated import SimulatedAttester
from perunml.client import buckets
from perunml.client.connection import Connection
from perunml.evidence.binding import binding
from perunml.host.session import Session
from perunml.sealing.keys import WrappedKeys, new_data_key, wrap_key
from perunml.sealing.manifest import Manifest, open_manifest
from perunml.sealing.store import FolderStore
from perunml.sealing.writer import seal_files
from perunml.testing.forge import ForgedTpm
from perunml.wire.dsse import Envelope, signed
from perunml.wire.hpke import HpkePrivateKey, HpkePublicKey
from perunml.wire.identity import SigningKey

PARTIES = ("hospital", "startup", "cloud", "clinic")
PARAMETERS = {"epochs": 2}


class Evidence:
    """Where a session gets its evidence: an attester on this very machine. `spoil` breaks a bundle's JSON."""

    def __init__(self, attester: Any, manager: str) -> None:
        self.attester = attester
        self.manager = manager
        self.last: Any = None
        self.changes: dict[str, Any] = {}
        self.spoil: Any = None

    def collect(self, request: Any) -> dict[str, Any]:
        parts = {
            "purpose": request.purpose,
            "nonce": request.nonce,
            "role": request.role,
            "session_hpke": request.session_hpke,
            "session_tls": request.session_tls,
            "manager": self.manager,
            "agreement": request.agreement,
            "run": request.run,
            "host": self.attester.machine,
            "payload": request.payload,
            **self.changes,
        }
        self.last = self.attester.collect(binding(**parts))
        made: dict[str, Any] = self.last.as_json()
        if self.spoil is not None:
            self.spoil(made)
        return made

    def accepted(self) -> None:
        self.attester.accepted(self.last)

    def forget(self) -> None:
        self.attester.forget()

    def lease(self, deadline: float) -> None:
        """No process to kill here."""


@dataclass
class Sealed:
    envelope: Envelope
    manifest: Manifest
    key: bytearray
    folder: Path

    @property
    def digest(self) -> str:
        return self.envelope.digest


def seal(folder: Path, owner: SigningKey, name: str, kind: str, files: Mapping[str, bytes], **options: Any) -> Sealed:
    folder.mkdir(parents=True)
    key = bytearray(options.pop("data_key", None) or new_data_key())
    with FolderStore(folder) as store:
        envelope = seal_files(dict(files), store, name=name, kind=kind, owner=owner, data_key=key, **options)
    return Sealed(envelope, open_manifest(envelope, [owner.public]), key, folder)


def push_message(sealed: Sealed, intake: str) -> PushAsset:
    wrap = wrap_key(sealed.key, sealed.manifest, HpkePublicKey(intake))
    return PushAsset(manifest=sealed.envelope, keys=WrappedKeys(sealed.digest, (wrap,)).as_json())


def upload(sealed: Sealed, put: Any) -> None:
    """Send every blob with `put(blob, offset, part)`."""
    with FolderStore(sealed.folder) as store:
        for blob in sealed.manifest.all_blobs:
            part = bytearray(sealed.manifest.sealed_size(blob))
            store.read(blob.id, 0, memoryview(part))
            put(blob.id, 0, bytes(part))


def push(connection: Connection, sealed: Sealed, store: str = "") -> AssetView:
    message = push_message(sealed, connection.pin.intake).model_copy(update={"store": store})
    connection.call("POST", "/v1/assets", AssetView, message)
    if store:
        with FolderStore(sealed.folder) as folder:
            buckets.upload(connection, sealed.digest, sealed.manifest, folder, False, None)
        return connection.call("GET", f"/v1/assets/{sealed.digest}", AssetView)

    def put(blob: str, offset: int, part: bytes) -> None:
        connection.raw("PUT", f"/v1/assets/{sealed.digest}/blobs/{blob}?offset={offset}", part)

    upload(sealed, put)
    return connection.call("GET", f"/v1/assets/{sealed.digest}", AssetView)


@dataclass
class Road:
    """A world with an agreement in force, and its hosts. Built once for many tests; each test submits its own runs."""

    world: World
    folder: Path
    limits: dict[str, Any] = field(default_factory=dict)
    lease: str = "30s"
    held: dict[str, Any] | None = None
    store: str = ""

    def __post_init__(self) -> None:
        self.keys = {name: SigningKey.generate() for name in PARTIES}
        self.receiving = {name: HpkePrivateKey.generate() for name in PARTIES}
        self.party = {name: self.world.party(key) for name, key in self.keys.items()}
        self.tpm = ForgedTpm()
        self.trainer: Host = self.world.enrol(self.keys["cloud"], "trainer", self.tpm)
        simulated = SimulatedAttester(self.folder / "server-machine")
        self.server: Host = self.world.enrol(self.keys["cloud"], "server", simulated)
        self.scans = seal(self.folder / "scans", self.keys["hospital"], "scans", "dataset", {"a.csv": b"1,2\n" * 100})
        self.unet = seal(self.folder / "unet", self.keys["startup"], "unet", "code", {"train.py": b"print('x')"})
        assert push(self.party["hospital"], self.scans, self.store).complete
        assert push(self.party["startup"], self.unet, self.store).complete
        self.push_baseline(self.tpm)
        self.agreement = agreement_from_json(self.document())
        self.in_force(self.agreement)

    def push_baseline(self, tpm: ForgedTpm) -> None:
        """The state in which a machine booted, signed by the cloud."""
        baseline = signed("Baseline", tpm.baseline().as_json(), self.keys["cloud"])
        found = self.party["cloud"].call("POST", "/v1/documents", DocumentView, PushDocument(document=baseline))
        assert found.digest == tpm.baseline().digest

    def document(self) -> dict[str, Any]:
        return {
            "apiVersion": "perunml/v1",
            "kind": "Agreement",
            "metadata": {"name": "scans-2027"},
            "manager": {"key": self.world.pin.identity, "profile": {"profile": "simulated"}},
            "witnesses": {"waived_because_simulated": True},
            "parties": {
                name: {"keys": {"main": self.keys[name].public.text}, "receive": self.receiving[name].public.text}
                for name in PARTIES
            },
            "assets": {
                "scans": {"kind": "dataset", "owner": "hospital", "digest": self.scans.digest},
                "unet": {"kind": "code", "owner": "startup", "digest": self.unet.digest, "entry": "train.py"},
            },
            "hosts": {
                "trainer": {
                    "profile": "simulated",
                    "imitates": "measured",
                    "baseline": self.tpm.baseline().digest,
                    "machines": [self.trainer.machine],
                },
                "inference": {"profile": "simulated", "imitates": "tee"},
            },
            "jobs": {
                "train": {
                    "code": "unet",
                    "inputs": {"scans": "/in/scans"},
                    "hosts": "trainer",
                    "operator": "cloud",
                    "parameters": {"epochs": {"max": 5}, "seed": {"value": 7}},
                    "limits": {"runs": 1000, "until": "2099-01-01T00:00:00Z", "wall": "1h", **self.limits},
                    "lease": self.lease,
                    "outputs": {
                        "model": {
                            "to": "startup",
                            "format": "pt2",
                            "max_size": "1MiB",
                            "use": ["serve"],
                            **({"release": self.held} if self.held else {}),
                        }
                    },
                },
                "serve": {
                    "model": "train.outputs.model",
                    "engine": "torch-export",
                    "hosts": "inference",
                    "operator": "cloud",
                    "clients": ["clinic"],
                    "limits": {"requests": "10/day", "until": "2099-01-01T00:00:00Z"},
                    "lease": self.lease,
                },
            },
        }

    # Agreements

    def propose(self, agreement: Agreement, by: str = "startup") -> AgreementView:
        envelope = agreement_envelope(agreement)
        key = self.keys[by]
        envelope = envelope.with_signature(key.public, key.sign(envelope.signing_bytes()))
        return self.party[by].call("POST", "/v1/agreements", AgreementView, ProposeAgreement(agreement=envelope))

    def approve(self, agreement: Agreement, by: str, expires: int | None = None) -> AgreementView:
        body = approval(agreement, by, agreement.ends if expires is None else expires)
        message = ApproveAgreement(approval=signed("Approval", body, self.keys[by]))
        path = f"/v1/agreements/{quote(agreement.digest)}/approvals"
        return self.party[by].call("POST", path, AgreementView, message)

    def in_force(self, agreement: Agreement) -> AgreementView:
        """Every party approves; of a later version some may suffice."""
        self.propose(agreement)
        views = [self.approve(agreement, name) for name in PARTIES]
        first = agreement.metadata.predecessor is None
        assert [view.state for view in views][:3].count("in_force") == 0 or not first
        assert views[-1].state == "in_force"
        return views[-1]

    def suspend(self, asset: str, by: str, *, lift: bool = False) -> SuspensionView:
        named = self.agreement.assets[asset]
        state = self.party[by].call("GET", f"/v1/suspensions?subject={named.digest}", SuspensionView)
        body = {
            "manager": self.world.pin.identity,
            "subject": named.digest,
            "party": by,
            "action": "lift" if lift else "suspend",
            "previous": state.digest,
        }
        message = SuspendAsset(change=signed("Suspension", body, self.keys[by]))
        return self.party[by].call("POST", "/v1/suspensions", SuspensionView, message)

    # Runs

    def submit(self, job: str = "train", by: str = "startup", **changes: Any) -> RunView:
        body = {
            "manager": self.world.pin.identity,
            "agreement": self.agreement.digest,
            "job": job,
            "parameters": dict(PARAMETERS) if job == "train" else {},
            "assets": {},
            "id": os.urandom(16).hex(),
            **changes,
        }
        request = RunRequest(request=signed("RunRequest", body, self.keys[by]))
        return self.party[by].call("POST", "/v1/runs", RunView, request)

    def run(self, run: str, by: str = "startup") -> RunView:
        return self.party[by].call("GET", f"/v1/runs/{run}", RunView)

    def session(self, run: str, host: Host | None = None) -> Session:
        host = host or self.trainer
        made = Session(self.world.pin, run, host.machine, Evidence(host.attester, self.world.pin.identity))
        self.world._closing.append(made.close)
        return made

    def release(self, run: str, host: Host | None = None, endpoint: str = "") -> tuple[Session, KeyDelivery]:
        host = host or self.trainer
        session = self.session(run, host)
        return session, session.release(host.link, agreement=self.agreement.digest, endpoint=endpoint)

    def started(self) -> tuple[str, Session, KeyDelivery]:
        """A training that runs."""
        run = self.submit().run
        return run, *self.release(run)

    def output(
        self, session: Session, delivery: KeyDelivery, content: bytes = b"weights", name: str = "model"
    ) -> Sealed:
        """Seal, register and send one output."""
        folder = self.folder / os.urandom(8).hex()
        grant = delivery.outputs[name]
        sealed = seal(
            folder, session.signer, name, "output", {"model.pt2": content}, data_key=grant.key, asset_id=grant.asset_id
        )
        session.link.register_output(session.run, RegisterOutput(name=name, manifest=sealed.envelope))

        def put(blob: str, offset: int, part: bytes) -> None:
            session.link.write_blob(sealed.digest, blob, offset, part)

        upload(sealed, put)
        return sealed

    def trained(self, content: bytes = b"weights") -> tuple[str, Sealed, FinishAnswer]:
        """A finished training."""
        run, session, delivery = self.started()
        sealed = self.output(session, delivery, content)
        return run, sealed, session.finish({"model": sealed.digest})

    def delivery(self, asset: str, by: str = "startup") -> OutputDelivery:
        return self.party[by].call("GET", f"/v1/outputs/{asset}/delivery", OutputDelivery)

    def approve_output(self, run: str, asset: str, by: str, output: str = "model") -> OutputView:
        body = {
            "manager": self.world.pin.identity,
            "agreement": self.agreement.digest,
            "run": run,
            "output": output,
            "asset": asset,
            "party": by,
        }
        message = ApproveOutput(approval=signed("OutputApproval", body, self.keys[by]))
        return self.party[by].call("POST", f"/v1/outputs/{asset}/approvals", OutputView, message)
