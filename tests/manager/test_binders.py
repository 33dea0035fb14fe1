"""A host's own binders, from `host enrol --binder` to the keys, through a real manager: a software TPM, a forged chip behind a fake
kernel's device."""

from __future__ import annotations

import shutil
from collections.abc import Iterator

import pytest

from attesters.kernel import SevDriver
from attesters.machines import ground, write
from manager.test_tees import AMD, RULES, TeeRoad, TeeWorld, refused
from manager.world import Host
from perunml import operators
from perunml.api.assets import DocumentView, PushDocument
from perunml.api.enrolment import EnrolAnswer
from perunml.host.enrol import enrol_request
from perunml.manager import setup
from perunml.testing.machine import SimulatedMachine
from perunml.testing.snp import ForgedChip
from perunml.wire.dsse import signed
from perunml.wire.identity import SigningKey

pytestmark = pytest.mark.swtpm


@pytest.fixture(scope="module")
def machine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SimulatedMachine]:
    if shutil.which("swtpm") is None or shutil.which("swtpm_setup") is None:
        pytest.skip("no software TPM (Debian: swtpm swtpm-tools); runs where make test does")
    with SimulatedMachine(tmp_path_factory.mktemp("bound") / "machine") as made:
        yield made


@pytest.fixture(scope="module")
def road(tmp_path_factory: pytest.TempPathFactory, machine: SimulatedMachine) -> Iterator[TeeRoad]:
    folder = tmp_path_factory.mktemp("binders")
    world = TeeWorld(folder, machine.roots)
    yield TeeRoad(world, folder)
    world.close()


@pytest.mark.parametrize("binder", ["tpm-key", "pcr"])
def test_a_bound_host_gets_its_keys_and_renews(
    road: TeeRoad, machine: SimulatedMachine, tmp_path_factory: pytest.TempPathFactory, binder: str
) -> None:
    """Enrolment records the binder key; release and renewal are judged with it; another chip beside the TPM is refused."""
    folder = tmp_path_factory.mktemp(binder)
    (folder / "python3").write_text("python3")
    machine.reboot([folder / "python3"])  # a boot serves one agreement
    agent, cloud = folder / "agent", road.keys["cloud"]
    if binder == "pcr":
        operators.measure_key(agent, tcti=machine.tcti)

    def attester(chip: ForgedChip, tree: str) -> operators.Machine:
        def report(data: bytes) -> bytes:
            return chip.report(data, host_data=b"\x5a" * 32)

        return operators.machine(
            agent, tcti=machine.tcti, attester=["tpm", "snp"], binder=binder, ima_log=machine.ima_log,
            event_log=machine.event_log, cmdline=machine.cmdline,
            ground=ground(write(folder / tree, dev__sev_dash_guest=""), ioctl=SevDriver(report, None)),
        )  # fmt: skip

    chips = [ForgedChip(AMD, chip_id=bytes([number]) * 64) for number in (60, 61)]
    world = road.world
    assert isinstance(world, TeeWorld)
    world.keep_certificates([one for chip in chips for one in chip.chain])
    own = attester(chips[0], "own")
    setup.admit(world.folder, [cloud.public.text])
    tls, link = SigningKey.generate(), world.anonymous()
    challenge = link.enrol(enrol_request(own, "bound", tls.public.text), cloud)
    answer = EnrolAnswer(answer=own.activate(challenge.credential, challenge.encrypted_secret))  # type: ignore[union-attr]
    enrolled = link.answer_enrolment(challenge.enrolment, answer, cloud)
    host = Host(own, enrolled, tls, world.link(enrolled.certificate, tls))

    baseline = machine.baseline()
    road.party["cloud"].call(
        "POST", "/v1/documents", DocumentView, PushDocument(document=signed("Baseline", baseline.as_json(), cloud))
    )
    road.agree(
        {
            "all_of": [
                {"profile": "simulated", "imitates": "tee", "snp": RULES},
                {"profile": "simulated", "imitates": "measured", "baseline": baseline.digest},
            ],
            "binder": binder,
            "machines": [host.machine],
        },
        f"bound-by-{binder}",
    )
    session, delivery = road.release(road.submit().run, host)
    assert delivery.inputs["scans"].key == bytes(road.scans.key)
    session.renew()
    session.renew()
    # what an operator could stage on its own machine: the same TPM beside another TEE that knows neither secret nor key
    (agent / "binder.json").unlink(missing_ok=True)
    (agent / "tee-key.txt").unlink(missing_ok=True)
    plain = operators.machine(
        agent, tcti=machine.tcti, attester=["tpm", "snp"], ima_log=machine.ima_log, event_log=machine.event_log,
        cmdline=machine.cmdline,
        ground=ground(write(folder / "other", dev__sev_dash_guest=""),
                      ioctl=SevDriver(lambda data: chips[1].report(data, host_data=b"\x5a" * 32), None)),
    )  # fmt: skip
    assert refused(road, Host(plain, enrolled, tls, host.link)) == ["binder_mismatch"]
