"""SEV-SNP reports through /dev/sev-guest, from a driver that a test hands in."""

from __future__ import annotations

import errno
from pathlib import Path

import pytest

from attesters.kernel import CHAIN, SevDriver, der, snp_report
from perunml.attesters.sev_guest import SNP_GET_EXT_REPORT, SNP_GET_REPORT, SevGuest
from perunml.attesters.tee import TeeAttester
from perunml.evidence.parts import SnpPart
from perunml.wire.errors import EvidenceRefusal, PerunError, Unreachable

BINDING = bytes(range(48))


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A machine with the device."""
    (tmp_path / "dev").mkdir()
    (tmp_path / "dev" / "sev-guest").touch()
    return tmp_path


def attester(root: Path, driver: SevDriver) -> TeeAttester:
    return TeeAttester(SevGuest(root, driver, lambda seconds: None))


def test_a_report_comes_with_the_hypervisors_certificates(root: Path) -> None:
    """One extended request; addresses and lengths as the driver wants them."""
    driver = SevDriver()
    (part,) = attester(root, driver).collect(BINDING).parts
    assert part == SnpPart(snp_report(BINDING + bytes(16)), (der("vcek"), der("ask"), der("ark")))
    assert driver.calls == [SNP_GET_EXT_REPORT]
    assert attester(root, driver).kind == "snp"


@pytest.mark.parametrize("handed", [None, b"", CHAIN.ljust(20000, b"\0")])
def test_a_hypervisor_without_a_table_or_with_one_too_large_still_has_reports(root: Path, handed: bytes | None) -> None:
    """The certificates are a convenience."""
    (part,) = attester(root, SevDriver(certificates=handed)).collect(BINDING).parts
    assert part == SnpPart(snp_report(BINDING + bytes(16)))


def test_a_kernel_without_the_extended_request_is_asked_plainly(root: Path) -> None:
    """ENOTTY, then the plain one."""
    driver = SevDriver()
    driver.errors = [errno.ENOTTY]
    (part,) = attester(root, driver).collect(BINDING).parts
    assert part == SnpPart(snp_report(BINDING + bytes(16)))
    assert driver.calls == [SNP_GET_EXT_REPORT, SNP_GET_REPORT]


def test_a_busy_firmware_is_asked_again_and_at_last_refused(root: Path) -> None:
    """EAGAIN and EBUSY thrice."""
    driver = SevDriver()
    made = attester(root, driver)
    driver.errors = [errno.EAGAIN, errno.EBUSY]
    assert made.collect(BINDING).parts
    driver.errors = [errno.EAGAIN, errno.EINTR, errno.EBUSY]
    with pytest.raises(Unreachable, match="tee_busy"):
        made.collect(BINDING)


def test_a_firmware_that_refuses_is_told_with_its_error(root: Path) -> None:
    """Both numbers of it."""
    driver = SevDriver()
    driver.errors = [errno.EIO, errno.EIO]
    with pytest.raises(Unreachable, match="Input/output error, firmware 0x0, hypervisor 0") as caught:
        attester(root, driver).collect(BINDING)
    assert caught.value.code == "tee_refused"


@pytest.mark.parametrize("sign", [lambda data: b"", lambda data: bytes(5000), lambda data: snp_report(bytes(64))])
def test_an_answer_that_is_no_report_of_ours_is_refused(root: Path, sign: object) -> None:
    """Empty, longer than the answer, over other data; and a status other than success."""
    driver = SevDriver()
    driver.sign = sign  # type: ignore[assignment]  # lambdas of the table above
    with pytest.raises(EvidenceRefusal, match="odd_answer"):
        attester(root, driver).collect(BINDING)
    driver = SevDriver()
    driver.status = 0x16
    with pytest.raises(EvidenceRefusal, match="odd_answer"):
        attester(root, driver).collect(BINDING)


def test_a_machine_without_the_device_is_refused(tmp_path: Path) -> None:
    """Before anything is asked."""
    with pytest.raises(PerunError, match="tee_unavailable"):
        SevGuest(tmp_path, SevDriver())
