"""A machine takes a running manager's root key over: it proves itself, and what it gets is sealed under its own custody at once.

The folder then holds ``root.json``, ``device/`` and ``joined.json``: no manager yet. `backup.restore` makes it one, of the backup of the manager
that handed the key over.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, cast

from perunml.api.handover import (
    HandoverAnswer,
    HandoverChallenge,
    HandoverGiven,
    HandoverRequest,
    handover_activation,
    handover_binding,
    handover_info,
)
from perunml.api.trust import ManagerTpm, Origin, RootCustody
from perunml.ledger.checkpoint import open_checkpoint
from perunml.manager import counter
from perunml.manager.codes import FOLDER_IN_USE, STATE_DAMAGED
from perunml.manager.config import sync_folder, write_file
from perunml.manager.custody import Custody
from perunml.manager.device import Device, make_attester
from perunml.manager.keys import Keys
from perunml.wire.canonical import canonical, load_json
from perunml.wire.codes import UNSEAL_FAILED
from perunml.wire.errors import PerunError, refuse
from perunml.wire.hpke import HpkePrivateKey
from perunml.wire.identity import PublicKey, SigningKey

if TYPE_CHECKING:
    from perunml.attesters.base import Attester
    from perunml.attesters.composite import EnrolsByTpm
    from perunml.attesters.simulated import SimulatedAttester

FORMAT = "perunml/joined-v1"
JOINED = "joined.json"
"""There where a folder holds a root key and waits for the store that goes with it."""


class Manager(Protocol):
    """The manager that has the root key, over a connection that only it can be at the other end of."""

    @property
    def identity(self) -> str:
        """Text of its identity key, as its evidence proved it."""
        ...

    def begin(self, request: HandoverRequest) -> HandoverChallenge:
        """Raises what it refuses with."""
        ...

    def answer(self, handover: str, answer: HandoverAnswer) -> HandoverGiven:
        """Raises what it refuses with."""
        ...


@dataclass(frozen=True, slots=True)
class Joined:
    """What ``joined.json`` says: whose root key it is, what proves the machine here, and the record of its counter, or empty."""

    identity: str
    device: Device
    counter: str = ""

    def encode(self) -> bytes:
        return canonical(
            {"format": FORMAT, "identity": self.identity, "device": self.device.as_json(), "counter": self.counter}
        )

    @classmethod
    def load(cls, folder: Path) -> Joined | None:
        """None where the folder holds no root key that waits. Raises `IntegrityError` (state_damaged)."""
        path = folder / JOINED
        if not path.is_file():
            return None
        try:
            found: Any = load_json(path.read_bytes())
            if found.pop("format") != FORMAT or set(found) != {"identity", "device", "counter"}:
                raise ValueError
            return cls(PublicKey(found["identity"]).text, Device.from_json(found["device"]), str(found["counter"]))
        except (PerunError, ValueError, KeyError, TypeError, AttributeError):
            raise refuse(STATE_DAMAGED, f"{JOINED} is not what `perunml manager join` writes", seen=str(path)) from None


def join(
    folder: Path,
    manager: Manager,
    custody: Custody,
    device: Device,
    origin: Sequence[Origin],
    *,
    count_in_tpm: bool = False,
    attester: Attester | None = None,
) -> str:
    """Get the root key of `manager`, which was examined and whose key came by `origin` (itself last), into the new `folder`; its identity's text.
    `custody` keeps it here, `device` makes the evidence (`attester`, for tests, in its place). With `count_in_tpm` a counter of the device's TPM will tell
    an old copy of the folder.

    Raises `UsageError` (folder_in_use), what the manager refuses with, `IntegrityError` (unseal_failed: not what was asked for), and what custody and
    device refuse. What failed leaves a folder that is nobody's."""
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    if any(folder.iterdir()):
        raise refuse(FOLDER_IN_USE, "the folder is not empty", expected="a new folder", seen=str(folder))
    attester = attester or make_attester(device, folder / "device", SigningKey.generate())
    key, kept = HpkePrivateKey.generate(), custody.kept
    told = RootCustody(kind=kept.kind, pcrs=list(kept.pcrs))
    challenge = manager.begin(_request(device, attester))
    bound = handover_binding(
        nonce=challenge.nonce,
        manager=manager.identity,
        hpke=key.public.text,
        custody=told,
        machine=attester.machine,
    )
    message = HandoverAnswer(
        hpke=key.public.text,
        custody=told,
        activation=_activation(attester, challenge, manager.identity),
        evidence=attester.collect(bound).as_json(),
    )
    given = manager.answer(challenge.handover, message)
    root = key.open(given.sealed, handover_info(manager.identity, challenge.nonce, given.agreements))
    keys = Keys(root, replace(kept, origin=tuple(origin)))
    if keys.identity.public.text != manager.identity:
        raise refuse(
            UNSEAL_FAILED,
            "the key that came is not the manager's",
            expected=manager.identity,
            seen=keys.identity.public.text,
        )
    seen = open_checkpoint(given.checkpoint, keys.identity.public)
    record = counter.make(device, seen.size, seen.root.hex()).sealed(keys) if count_in_tpm else ""
    write_file(folder / "root.json", custody.seal(root, origin, counted=count_in_tpm), 0o600)
    write_file(folder / JOINED, Joined(manager.identity, device, record).encode(), 0o600)  # last: what has it is whole
    sync_folder(folder)
    return manager.identity


def _request(device: Device, attester: Attester) -> HandoverRequest:
    if device.kind == "tpm":
        return HandoverRequest(tpm=ManagerTpm.model_validate(cast("EnrolsByTpm", attester).enrolment()))
    if device.kind == "simulated":
        return HandoverRequest(key=cast("SimulatedAttester", attester).enrolment()["key"])
    return HandoverRequest()


def _activation(attester: Attester, challenge: HandoverChallenge, manager: str) -> str:
    if not challenge.credential:
        return ""
    secret = cast("EnrolsByTpm", attester).activate(challenge.credential, challenge.encrypted_secret)
    return handover_activation(secret, manager, challenge.nonce)
