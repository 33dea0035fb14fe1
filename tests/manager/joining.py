"""Machines that ask a manager for its root key, honest ones and others."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from manager.road import Road
from manager.world import PASSPHRASE, World
from perunml.agreements.document import agreement_from_json
from perunml.api.handover import HandoverAnswer, HandoverChallenge, HandoverGiven, HandoverRequest
from perunml.attesters.simulated import SimulatedAttester
from perunml.client.handover import Taker
from perunml.manager.backup import backup, restore
from perunml.manager.custody import Custody, Passphrase
from perunml.manager.device import Device
from perunml.manager.join import join
from perunml.wire.identity import SigningKey


@dataclass
class Asker:
    """A `Taker` that keeps what went over, and changes it: `answered` gets the challenge and the message."""

    taker: Taker
    answered: Callable[[HandoverChallenge, HandoverAnswer], HandoverAnswer] = lambda _, message: message
    sent: list[tuple[str, HandoverAnswer]] = field(default_factory=list)
    challenge: HandoverChallenge | None = None

    @property
    def identity(self) -> str:
        return self.taker.identity

    def begin(self, request: HandoverRequest) -> HandoverChallenge:
        self.challenge = self.taker.begin(request)
        return self.challenge

    def answer(self, handover: str, answer: HandoverAnswer) -> HandoverGiven:
        assert self.challenge is not None
        made = self.answered(self.challenge, answer)
        self.sent.append((handover, made))
        return self.taker.answer(handover, made)


def machine() -> SimulatedAttester:
    """A machine of its own, simulated."""
    return SimulatedAttester.of(SigningKey.generate())


def joined(
    world: World,
    folder: Path,
    attester: Any = None,
    *,
    custody: Custody | None = None,
    device: Device | None = None,
    answered: Any = None,
    **more: Any,
) -> Asker:
    """Ask the world's manager for its root key, into `folder`."""
    with Taker(world.pin) as taker:
        asker = Asker(taker, answered) if answered else Asker(taker)
        keeper = custody or Passphrase(PASSPHRASE)
        join(folder, asker, keeper, device or Device(), more.pop("origin", ()), attester=attester or machine(), **more)
    return asker


def move(world: World, folder: Path, copy: Path, **start: Any) -> None:
    """The manager ends; the folder that was joined goes on from its backup, in its place."""
    world.stop()
    backup(world.folder, copy)
    restore(copy, folder)
    shutil.rmtree(world.folder)
    world.folder = folder
    if not start.get("later"):
        world.start()


class Led(Road):
    """A road whose agreement says `led` of its manager."""

    led: dict[str, Any]

    def __init__(self, world: World, folder: Path, led: dict[str, Any] | None = None, **more: Any) -> None:
        self.led = led or {"profile": "simulated"}
        super().__init__(world, folder, **more)

    def document(self) -> dict[str, Any]:
        made = super().document()
        made["manager"]["profile"] = self.led
        return made

    def next(self, led: dict[str, Any], *, propose: bool = False) -> None:
        """The next version, which says `led`; in force, or only proposed."""
        self.led, before = led, self.agreement
        document = self.document()
        version = before.metadata.version + 1
        document["metadata"] = {"name": before.name, "version": version, "predecessor": before.digest}
        made = agreement_from_json(document)
        if propose:
            self.propose(made)
        else:
            self.in_force(made)
            self.agreement = made

    def other(self, name: str, led: dict[str, Any]) -> None:
        """An agreement of its own beside this one, in force."""
        before, self.led = self.led, led
        document = self.document()
        self.led = before
        document["metadata"] = {"name": name}
        self.in_force(agreement_from_json(document))


def only(attester: Any) -> dict[str, Any]:
    """A profile that one simulated machine meets."""
    return {"profile": "simulated", "imitates": "tee", "machines": [attester.machine]}
