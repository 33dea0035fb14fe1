"""Reports of TDX and SEV-SNP through configfs, from a kernel that a test hands in."""

from __future__ import annotations

import base64
import errno
import struct
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from attesters.devices import GramineTree
from attesters.kernel import ARK, ASK, CCEL, CHAIN, VCEK, VLEK, Kernel, der, snp_report, table, tdx_quote
from perunml.attesters.gramine import Gramine
from perunml.attesters.snp_table import certificates
from perunml.attesters.tee import TeeAttester
from perunml.attesters.tree import Files
from perunml.attesters.tsm import TsmReports
from perunml.evidence.binding import tee_report_data
from perunml.evidence.bundle import Bundle
from perunml.evidence.parts import SnpPart, TdxPart
from perunml.wire.errors import EvidenceRefusal, PerunError, Unreachable, UsageError

BINDING = bytes(range(48))


def attester(kernel: Kernel) -> TeeAttester:
    return TeeAttester(TsmReports(kernel, pause=lambda seconds: None))


def refused(kernel: Kernel) -> PerunError:
    """What collecting raises; whatever it is, no request is left in the kernel."""
    with pytest.raises(PerunError) as caught:
        attester(kernel).collect(BINDING)
    assert kernel.entries == {}
    return caught.value


def test_a_trust_domain_quotes_the_binding_and_sends_its_logs(tmp_path: Path) -> None:
    """Report data: the binding, then zeros; beside it the CCEL log and the kernel's command line."""
    kernel = Kernel(tmp_path, "tdx_guest")
    for path, data in ((CCEL, b"events"), ("proc/cmdline", b"ro quiet\n")):
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_bytes(data)
    made = attester(kernel)
    bundle = made.collect(BINDING)
    assert bundle == Bundle((TdxPart(tdx_quote(BINDING + bytes(16)), b"events", "ro quiet"),))
    assert Bundle.from_json(bundle.as_json()) == bundle
    assert (made.kind, made.machine, made.enrolment()) == ("tdx", "", {"tee": True})
    made.accepted(bundle)
    made.forget()
    assert kernel.entries == {}


def test_a_trust_domain_without_a_log_sends_none(tmp_path: Path) -> None:
    """Whether it is needed is for the judge to say."""
    assert attester(Kernel(tmp_path, "tdx_guest")).collect(BINDING).parts[0] == TdxPart(tdx_quote(BINDING + bytes(16)))


def test_a_log_that_is_there_and_too_long_or_unreadable_is_refused(tmp_path: Path) -> None:
    """Missing is not the same as not readable."""
    (tmp_path / CCEL).mkdir(parents=True)
    assert refused(Kernel(tmp_path, "tdx_guest")).code == "event_log_unreadable"


def test_an_snp_guest_reports_with_the_hypervisors_certificates(tmp_path: Path) -> None:
    """The leaf first, whatever the table's order."""
    part = attester(Kernel(tmp_path, "sev_guest", snp_report, CHAIN)).collect(BINDING).parts[0]
    assert part == SnpPart(snp_report(BINDING + bytes(16)), (der("vcek"), der("ask"), der("ark")))


@pytest.mark.parametrize("aux", [None, b"", bytes(4096), bytes(24)])
def test_an_snp_guest_whose_hypervisor_hands_out_nothing_still_reports(tmp_path: Path, aux: bytes | None) -> None:
    """A manager has the certificates from its collateral."""
    part = attester(Kernel(tmp_path, "sev_guest", snp_report, aux)).collect(BINDING).parts[0]
    assert part == SnpPart(snp_report(BINDING + bytes(16)))


def test_a_guest_below_an_svsm_asks_at_the_level_that_it_may(tmp_path: Path) -> None:
    """The kernel tells the floor; that write counts too. What the judge says of VMPL 2 is another matter."""
    kernel = Kernel(tmp_path, "sev_guest", snp_report, CHAIN, floor=2)
    assert attester(kernel).collect(BINDING).parts
    kernel.floor = 0
    assert attester(kernel).collect(BINDING).parts


def test_each_exchange_has_a_report_of_its_own(tmp_path: Path) -> None:
    """A TEE's report binds one exchange; several are several reports."""
    kernel = Kernel(tmp_path, "tdx_guest")
    bindings = [bytes([n]) * 48 for n in range(3)]
    found = attester(kernel).collect_many(bindings)
    assert {own: part.quote for own, b in found.items() for part in b.parts if isinstance(part, TdxPart)} == {
        own: tdx_quote(own + bytes(16)) for own in bindings
    }
    assert kernel.made == 1 + 3


def test_a_tee_that_shows_its_key_in_a_tpm_reports_both(tmp_path: Path) -> None:
    """The binder by PCR: report data over binding and key, and the key beside it."""
    source = TsmReports(Kernel(tmp_path, "tdx_guest"))
    (part,) = TeeAttester(source, "hpke:key").collect(BINDING).parts
    assert part == TdxPart(tdx_quote(tee_report_data(BINDING, "hpke:key")), key="hpke:key")
    with pytest.raises(ValueError, match="enclave"):
        TeeAttester(Gramine(GramineTree(tmp_path)), "hpke:key")


@pytest.mark.parametrize("times", [1, 2])
def test_another_writer_who_races_us_is_noticed_and_the_report_made_anew(tmp_path: Path, times: int) -> None:
    """`generation` counted one write too many: the report could be over his data."""
    kernel = Kernel(tmp_path, "tdx_guest")
    made = attester(kernel)
    kernel.disturb = times
    assert made.collect(BINDING).parts[0] == TdxPart(tdx_quote(BINDING + bytes(16)))


def test_another_writer_who_never_stops_is_refused(tmp_path: Path) -> None:
    """Bounded: three times."""
    kernel = Kernel(tmp_path, "tdx_guest")
    kernel.disturb = 1000
    error = refused(kernel)
    assert (error.code, type(error)) == ("tee_busy", Unreachable)
    assert kernel.disturb == 1000 - 3


def test_a_write_that_the_kernel_lost_is_noticed(tmp_path: Path) -> None:
    """configfs tells nobody that a binary file's last write failed; without it, nothing may be reported."""
    kernel = Kernel(tmp_path, "tdx_guest")
    made = attester(kernel)
    kernel.lost = 1
    with pytest.raises(Unreachable, match="tee_refused"):
        made.collect(BINDING)
    assert made.collect(BINDING).parts


@pytest.mark.parametrize("number", [errno.EBUSY, errno.EINTR, errno.EAGAIN])
def test_a_busy_quoting_service_is_asked_again(tmp_path: Path, number: int) -> None:
    """Twice; the third time it answers, or it is refused as busy."""
    kernel = Kernel(tmp_path, "tdx_guest")
    made = attester(kernel)
    kernel.fail, kernel.failures = number, 2
    assert made.collect(BINDING).parts
    kernel.failures = 3
    assert refused(kernel).code == "tee_busy"


def test_a_quoting_service_that_fails_is_told_with_its_error(tmp_path: Path) -> None:
    """EIO: no service behind the hypervisor; once, no second asking."""
    kernel = Kernel(tmp_path, "tdx_guest")
    kernel.fail, kernel.failures = errno.EIO, 1
    error = refused(kernel)
    assert error.code == "tee_refused"
    assert "Input/output error" in str(error)
    assert error.reasons[0].command == "perunml host doctor"


def test_no_provider_no_folder_or_no_right_is_refused(tmp_path: Path) -> None:
    """ENXIO with the module alone, ENOENT without it."""
    with pytest.raises(Unreachable, match="tee_unavailable") as caught:
        TsmReports(Kernel(tmp_path))
    assert caught.value.reasons[0].seen == "ENOENT"
    kernel = Kernel(tmp_path, "tdx_guest")
    kernel.provider = ""
    with pytest.raises(Unreachable, match="tee_unavailable") as caught:
        TsmReports(kernel)
    assert caught.value.reasons[0].seen == "ENXIO"


def test_another_tee_than_was_meant_is_refused(tmp_path: Path) -> None:
    """`--attester tdx` on an AMD machine, or a provider that nobody knows."""
    with pytest.raises(UsageError, match="tee_other"):
        TsmReports(Kernel(tmp_path, "sev_guest"), "tdx")
    assert TsmReports(Kernel(tmp_path, "sev_guest"), "snp").kind == "snp"
    with pytest.raises(EvidenceRefusal, match="odd_answer"):
        TsmReports(Kernel(tmp_path, "arm_cca_guest"))


def test_t16_a_report_that_is_empty_too_long_or_over_other_data_is_refused(tmp_path: Path) -> None:
    """T16: a clear word on the host, instead of a manager's refusal later."""
    for sign in (lambda data: b"", lambda data: data * 1000, lambda data: tdx_quote(bytes(64))):
        assert refused(Kernel(tmp_path, "tdx_guest", sign)).code == "odd_answer"
    with pytest.raises(ValueError, match="48 bytes"):
        attester(Kernel(tmp_path, "tdx_guest")).collect(b"short")


def test_a_table_is_read_in_either_order_of_bytes_and_in_pem() -> None:
    """Hosts differ; a VLEK's chain too, and what pads a slot is cut off."""
    entries = [(VLEK, der("vlek") + bytes(20)), (ASK, der("asvk")), (ARK, der("ark"))]
    wanted = (der("vlek"), der("asvk"), der("ark"))
    assert certificates(table(entries)) == certificates(table(entries, little=True)) == wanted
    text = b"".join(
        b"-----BEGIN CERTIFICATE-----\n" + base64.b64encode(der(name)) + b"\n-----END CERTIFICATE-----\n"
        for name in ("ask", "ark")
    )
    assert certificates(table([(ASK, text), (VCEK, der("vcek"))])) == (der("vcek"), der("ask"), der("ark"))


@pytest.mark.parametrize(
    "odd",
    [
        CHAIN[:71],
        b"\x01" * 48,
        b"\x01" * 16 + struct.pack("<II", 48, 5000) + bytes(24),
        table([(VCEK, der("vcek"))])[:-1],
        table([(VCEK, der("vcek")), (VCEK, der("vcek"))]),
        table([(VCEK, b"no certificate")]),
        table([(VCEK, b"")]),
        table([(VCEK, der("long", 9000))]),
        table([(VCEK, b"-----BEGIN CERTIFICATE-----\nno base 64")]),
        (b"\x01" * 16 + bytes(8)) * 65,
    ],
)
def test_an_odd_table_is_refused(odd: bytes) -> None:
    """Cut short, pointing outside, twice the same, no certificate, no end."""
    with pytest.raises(EvidenceRefusal, match="odd_answer"):
        certificates(odd)


@settings(max_examples=60)
@given(st.binary(max_size=400) | st.binary(max_size=200).map(lambda noise: CHAIN[:100] + noise))
def test_any_bytes_are_a_table_or_refused(data: bytes) -> None:
    """Total: certificates, or `odd_answer`."""
    found: tuple[bytes, ...] = ()
    with suppress(EvidenceRefusal):
        found = certificates(data)
    assert all(each in data for each in found)


def test_a_request_that_cannot_be_taken_back_is_told(tmp_path: Path) -> None:
    """It would stay in the kernel's memory; another refusal is not hidden by it."""
    kernel = Kernel(tmp_path, "tdx_guest")
    made = attester(kernel)

    def rmdir(path: str) -> None:
        raise OSError(errno.EBUSY, "Device or resource busy", path)

    kernel.rmdir = rmdir  # type: ignore[method-assign]  # as where somebody holds it open
    with pytest.raises(Unreachable, match="tee_refused: no report: Device or resource busy"):
        made.collect(BINDING)
    kernel.fail, kernel.failures = errno.EIO, 1
    with pytest.raises(Unreachable, match="Input/output error"):
        made.collect(BINDING)


def test_real_files_are_neither_made_nor_cut(tmp_path: Path) -> None:
    """The tree that attesters use by default."""
    files = Files(tmp_path)
    with pytest.raises(FileNotFoundError):
        files.write("/inblob", b"x")
    (tmp_path / "inblob").write_bytes(b"before")
    files.write("/inblob", b"after")
    assert files.read("/inblob", 6) == b"aftere"
    with pytest.raises(OSError, match="too large"):
        files.read("/inblob", 5)
    files.mkdir("/made")
    assert files.exists("/made")
    files.rmdir("/made")
    assert not files.exists("/made")
