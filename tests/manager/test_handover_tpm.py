"""The root key goes from one TPM's keeping to another's (real software TPMs), from the newest store alone, and says where it came from."""

from __future__ import annotations

import json
import shutil
import sqlite3
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from manager.joining import Led, joined
from manager.road import push, seal
from manager.test_handover import many, refusals
from manager.test_witnesses import refusal
from manager.world import World, code_of
from perunml import operators
from perunml.api.assets import DocumentView, PushDocument
from perunml.api.handover import HandoverAnswer, HandoverChallenge
from perunml.api.pin import Pin
from perunml.attesters.esys import open_tpm
from perunml.client.profile import ManagerProfile
from perunml.client.trust import Given, Trusted, examine
from perunml.evidence.baseline import Baseline
from perunml.evidence.tpm.chain import Trust
from perunml.manager import counter, setup
from perunml.manager.backup import backup, restore
from perunml.manager.config import Config
from perunml.manager.custody_tpm import TpmCustody
from perunml.manager.device import Device
from perunml.manager.server import Server
from perunml.manager.store import facts
from perunml.testing.forge import default_ca
from perunml.testing.machine import SimulatedMachine
from perunml.wire.dsse import signed

__all__ = ["many"]
pytestmark = pytest.mark.swtpm


@dataclass
class Ground:
    """Two machines, each booted with the files of its version of the manager."""

    old: SimulatedMachine
    new: SimulatedMachine
    files: dict[str, Path]

    def reboot(self) -> None:
        self.old.reboot([self.files["old"]])
        self.new.reboot([self.files["new"]])

    @property
    def given(self) -> Given:
        return Given(Trust(simulated=tuple(machine.roots[1].read_bytes() for machine in (self.old, self.new))))


@pytest.fixture(scope="module")
def machines(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ground]:
    if shutil.which("swtpm") is None or shutil.which("swtpm_setup") is None:
        pytest.skip("no software TPM (Debian: swtpm swtpm-tools); runs where make test does")
    folder = tmp_path_factory.mktemp("tpms")
    files = {name: folder / f"perunml-{name}" for name in ("old", "new")}
    for name, path in files.items():
        path.write_text(f"the {name} manager")
    with SimulatedMachine(folder / "one") as old, SimulatedMachine(folder / "two") as new:
        yield Ground(old, new, files)


@pytest.fixture
def ground(machines: Ground) -> Iterator[Ground]:
    machines.reboot()
    yield machines
    for machine in (machines.old, machines.new):
        with open_tpm(machine.tcti) as tpm:
            for index in range(counter.FIRST_INDEX, counter.FIRST_INDEX + 4):
                if tpm.has(index):
                    tpm.drop_counter(index)


def device(machine: SimulatedMachine) -> Device:
    chain = (str(machine.roots[0]),)
    return Device(
        "tpm", machine.tcti, str(machine.ima_log), str(machine.event_log), str(machine.cmdline), chain
    )  # the local CA's issuer stands between


def says(machine: SimulatedMachine) -> dict[str, Any]:
    return {"profile": "simulated", "imitates": "measured", "baseline": machine.baseline().digest}


class TpmWorld(World):
    """A manager whose root key a TPM keeps; `machine` is where it runs now."""

    def __init__(self, folder: Path, ground: Ground, *, count: bool = True) -> None:
        self.ground, self.machine = ground, ground.old
        super().__init__(folder)
        self.stop()
        ek = folder / "ek.der"
        ek.write_bytes(default_ca().root)
        self.folder, self.port = folder / "tpm", 0
        setup.init(
            self.folder, TpmCustody(ground.old.tcti), url="https://127.0.0.1:1", device=device(ground.old),
            simulated_ek_roots=[ek, ground.old.roots[1], ground.new.roots[1]], count_in_tpm=count,
        )  # fmt: skip
        self.started = True
        self.start()

    def start(self) -> None:
        if not getattr(self, "started", False):
            return super().start()
        own = device(self.machine)
        self.server = Server(self.folder, TpmCustody(self.machine.tcti), port=self.port, device=own)
        _, self.port = self.server.start()
        return None

    def examined(self, *machines: SimulatedMachine, **more: Any) -> Trusted:
        """The manager, judged by what these machines are."""
        asked = {"any_of": [says(machine) for machine in machines]}
        document = {"apiVersion": "perunml/v1", "kind": "ManagerProfile", "profile": asked, **more}
        profile = ManagerProfile.load(json.dumps(document).encode(), baselines=[one.baseline() for one in machines])
        return examine(self.url, profile, given=self.ground.given)

    @property
    def pin(self) -> Pin:  # type: ignore[override] # asked once, while it runs where it was made
        self._pin: Pin = getattr(self, "_pin", None) or self.examined(self.ground.old).pin
        return self._pin


@pytest.fixture
def road(ground: Ground, tmp_path: Path) -> Iterator[Led]:
    """Its agreement admits both versions of the manager; both baselines are there."""
    world = TpmWorld(tmp_path, ground)
    made = Led(world, tmp_path / "road")
    push_baseline(made, ground.old.baseline())
    push_baseline(made, ground.new.baseline())
    made.next({"any_of": [says(ground.old), says(ground.new)]})
    yield made
    world.close()


def push_baseline(road: Led, baseline: Baseline) -> None:
    envelope = signed("Baseline", baseline.as_json(), road.keys["cloud"])
    road.party["cloud"].call("POST", "/v1/documents", DocumentView, PushDocument(document=envelope))


def ask(road: Led, folder: Path, **more: Any) -> Any:
    """The new machine asks, having examined the manager."""
    world = road.world
    assert isinstance(world, TpmWorld)
    found = world.examined(world.machine)
    own = world.ground.new
    return joined(
        world, folder, make(own), custody=TpmCustody(own.tcti), device=device(own),
        origin=(*found.custody.origin, found.origin), **more,
    )  # fmt: skip


def make(machine: SimulatedMachine) -> Any:
    from perunml.attesters.tpm import TpmAttester

    chain = [machine.roots[0]]
    return TpmAttester(
        machine.tcti, machine.folder / "state", machine.ima_log, machine.event_log, chain, machine.cmdline
    )


def values(world: World) -> counter.Record:
    server = world.server
    assert server is not None
    with server.services.database.read() as connection:
        found = counter.record_of(server.services, connection)
    assert found is not None
    return found


def test_the_new_version_takes_over(road: Led, ground: Ground, tmp_path: Path) -> None:
    """From TPM to TPM: evidence, activation, seal, store, counter; the manager before hands on no more, its old copies enter nothing, and a newcomer is
    told where the key came from."""
    world = road.world
    assert isinstance(world, TpmWorld)
    identity, new = world.pin.identity, tmp_path / "new"
    world.stop()
    old = Path(shutil.copytree(world.folder, tmp_path / "old"))
    world.start()
    road.submit()
    ask(road, new, count_in_tpm=True)
    assert values(world).handed
    stray = seal(tmp_path / "stray", road.keys["hospital"], "stray", "dataset", {"a": b"1"})
    for _ in range(2):
        assert code_of(lambda: ask(road, tmp_path / "again")) == "rollback_detected"
        assert code_of(lambda: push(road.party["hospital"], stray)) == "rollback_detected"
        assert code_of(road.submit) == "rollback_detected"
        shutil.rmtree(tmp_path / "again")
        world.restart()
    world.stop()
    backup(world.folder, tmp_path / "copy")
    restore(tmp_path / "copy", new)
    assert Config.load(new).device == device(ground.new)
    before, world.folder = world.folder, old
    world.start()
    assert world.server is not None
    assert world.server.services.rollback.seen
    assert code_of(lambda: ask(road, tmp_path / "from-old")) == "rollback_detected"
    world.stop()
    shutil.rmtree(before)
    world.folder, world.machine = new, ground.new
    world.start()
    assert world.server is not None
    assert world.server.services.keys.identity.public.text == identity
    assert not world.server.services.rollback.seen
    assert not values(world).handed
    road.started()
    # who asks now
    found = world.examined(ground.old, ground.new)
    assert found.pin.identity == identity
    assert found.pin.machine != world.pin.machine
    assert [one.judged_by for one in found.custody.origin] == [ground.old.baseline().digest]
    assert code_of(lambda: world.examined(ground.new)) == "custody_origin"
    assert world.examined(ground.new, origins=says(ground.old)).pin.identity == identity


def test_i5_a_machine_that_loaded_something_else(road: Led, ground: Ground, tmp_path: Path) -> None:
    """I5: the parties read in the ledger what it was; the same machine without it gets the key, as its operator asks from Python."""
    evil = tmp_path / "evil"
    evil.write_text("evil")
    ground.new.measure(evil)
    assert code_of(lambda: ask(road, tmp_path / "a")) == "handover_refused"
    assert "not_in_policy" in {reason["code"] for reason in refusals(road)[0]["reasons"]}
    ground.new.reboot([ground.files["new"]])
    own, profile, baseline = ground.new, tmp_path / "profile.json", tmp_path / "baseline.json"
    document = {"apiVersion": "perunml/v1", "kind": "ManagerProfile", "profile": says(ground.old)}
    profile.write_text(json.dumps(document))
    body = {"apiVersion": "perunml/v1", "kind": "Baseline", **ground.old.baseline().as_json()}
    baseline.write_text(json.dumps(body))
    identity = operators.join_manager(
        road.world.url, tmp_path / "b", None, profile=profile, baselines=[baseline], custody="tpm", attester="tpm",
        tcti=own.tcti, files={"ima_log": own.ima_log, "event_log": own.event_log, "cmdline": own.cmdline},
        ek_chain=[own.roots[0]], given={"simulated_ek_roots": [ground.old.roots[1]]}, count_in_tpm=True,
    )  # fmt: skip
    assert identity == road.world.pin.identity
    _, kept = TpmCustody(own.tcti).open((tmp_path / "b" / "root.json").read_bytes())
    assert (kept.counted, [one.custody for one in kept.origin]) == (True, ["tpm"])


def test_k1_a_key_that_is_not_the_tpms(road: Led, tmp_path: Path) -> None:
    """K1: who does not open the credential has shown somebody else's endorsement key."""

    def otherwise(challenge: HandoverChallenge, message: HandoverAnswer) -> HandoverAnswer:
        return message.model_copy(update={"activation": "sha256:" + "0" * 64})

    def not_at_all(challenge: HandoverChallenge, message: HandoverAnswer) -> HandoverAnswer:
        return message.model_copy(update={"activation": ""})

    for number, change in enumerate((otherwise, not_at_all)):
        assert code_of(lambda n=number, c=change: ask(road, tmp_path / str(n), answered=c)) == "handover_refused"
    assert {reason["code"] for told in refusals(road) for reason in told["reasons"]} == {"enrolment_failed"}


def test_s1_an_old_store_under_the_newest_record(road: Led, tmp_path: Path) -> None:
    """S1: the record of the counter, copied into an old copy, is of a ledger that this one is not; edited, it is nobody's; taken out, it is missed."""
    world = road.world
    world.stop()
    old = Path(shutil.copytree(world.folder, tmp_path / "old"))
    world.start()
    road.submit()
    world.restart()
    world.stop()
    newest = fact(world.folder)
    edited = json.loads(fact(old))
    edited["value"] = json.loads(newest)["value"]
    kept, world.folder = world.folder, old
    for text, why in ((newest, "not the one that was counted"), (json.dumps(edited), "was altered")):
        set_fact(old, text)
        world.start()
        assert world.server is not None
        assert why in world.server.services.rollback.seen
        exc = refusal(lambda: ask(road, tmp_path / "x"))
        assert exc.code == "rollback_detected"
        world.stop()
    set_fact(old, "")
    world.start()
    assert world.server is not None
    assert "record is gone" in world.server.services.rollback.seen
    world.stop()
    world.folder = kept
    world.start()
    ask(road, tmp_path / "z")


def fact(folder: Path) -> str:
    with sqlite3.connect(folder / "manager.sqlite") as connection:
        (text,) = connection.execute("SELECT value FROM facts WHERE name = ?", (facts.COUNTER,)).fetchone()
    connection.close()
    return str(text)


def set_fact(folder: Path, text: str) -> None:
    with sqlite3.connect(folder / "manager.sqlite") as connection:
        connection.execute("DELETE FROM facts WHERE name IN ('counter', 'rollback')")
        if text:
            connection.execute("INSERT INTO facts (name, value) VALUES ('counter', ?)", (text,))
    connection.close()


def test_it_counts_when_an_agreement_comes_into_force(road: Led, ground: Ground) -> None:
    """A copy from before would not know of it."""
    before = values(road.world)
    road.next({"any_of": [says(ground.new), says(ground.old)]})
    after = values(road.world)
    assert (after.value, after.size > before.size) == (before.value + 1, True)


def test_a_counter_that_does_not_count_with_the_store(road: Led, ground: Ground, tmp_path: Path) -> None:
    """Gone, or made anew: what the TPM says then is not what the store says."""
    with open_tpm(ground.old.tcti) as tpm:
        tpm.drop_counter(values(road.world).index)
        tpm.new_counter(values(road.world).index)
        tpm.count(values(road.world).index)
    assert code_of(lambda: ask(road, tmp_path / "new")) == "handover_closed"
