"""Enrolment against the real manager, and the certificate an agent keeps."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from host.road import Road
from perunml.attesters.simulated import SimulatedAttester
from perunml.host.agent import Agent
from perunml.host.enrol import FILE, enrol, membership
from perunml.host.protocol import ManagerLink
from perunml.testing.forge import ForgedTpm
from perunml.wire.errors import PerunError, UsageError
from perunml.wire.identity import SigningKey


@pytest.fixture(scope="module")
def road(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Road]:
    """One manager for all: nothing here stops it."""
    made = Road(tmp_path_factory.mktemp("road"))
    yield made
    made.close()


def test_tpm_and_simulated_machines_enrol(road: Road, tmp_path: Path) -> None:
    """A TPM under a simulated root and a bare key get certificates, and both are called simulated; work is empty."""
    for attester in (ForgedTpm(), SimulatedAttester(tmp_path / "state")):
        folder = tmp_path / attester.machine[:4]
        enrolled = enrol(road.pin, road.cloud.identity.signing, attester, folder, f"host-{attester.machine[:2]}")
        member = membership(road.pin, attester.machine, folder)
        assert (enrolled.machine, enrolled.simulated) == (attester.machine, True)
        assert (folder / FILE).stat().st_mode & 0o777 == 0o600
        assert b"PRIVATE" not in repr(member).encode()
        assert int(time.time()) < member.renew_at < member.expires
        with ManagerLink(road.pin, (member.certificate, member.key)) as link:
            assert link.work().items == []


def test_stranger_cannot_enrol_and_nothing_is_kept(road: Road, tmp_path: Path) -> None:
    """An operator whose key the manager does not know is refused."""
    with pytest.raises(PerunError):
        enrol(road.pin, SigningKey.generate(), ForgedTpm(), tmp_path / "x", "gpu-2")
    assert not (tmp_path / "x" / FILE).exists()


def test_wrong_activation_is_refused(road: Road, tmp_path: Path) -> None:
    """K5: a TPM that cannot open the credential gets no certificate."""

    class Other(ForgedTpm):
        def activate(self, credential: bytes, encrypted_secret: bytes) -> bytes:
            return b"x" * 32

    with pytest.raises(PerunError):
        enrol(road.pin, road.cloud.identity.signing, Other(), tmp_path / "x", "gpu-2")
    assert not (tmp_path / "x" / FILE).exists()


def test_agent_without_certificate_does_not_start(road: Road, tmp_path: Path) -> None:
    """It says which command to run."""
    with pytest.raises(UsageError) as caught:
        Agent(tmp_path / "none", road.pin, road.tpm).run_forever()
    assert caught.value.code in ("not_enrolled", "host_unfit")


def test_certificate_of_another_machine_or_manager_or_time_is_not_used(road: Road) -> None:
    """What does not fit is not enrolled: a copied folder, another pin, a certificate that is over."""
    road.enrol()
    other = road.pin.model_copy(update={"identity": SigningKey.generate().public.text})
    late = membership(road.pin, road.tpm.machine, road.agent_folder).expires + 1
    for pin, machine, now in (
        (road.pin, "ek:sha256:" + "0" * 64, None),
        (other, road.tpm.machine, None),
        (road.pin, road.tpm.machine, late),
    ):
        with pytest.raises(UsageError) as caught:
            membership(pin, machine, road.agent_folder, now)
        assert caught.value.code == "not_enrolled"
