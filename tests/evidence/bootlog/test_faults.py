"""Each single fault in a boot, or in the log of one (E1 to E21), is refused with its code, and nothing else is."""

from __future__ import annotations

import hashlib
from dataclasses import replace

import pytest

from evidence.judging import BINDING, NOW, codes, judged
from perunml.evidence.baseline import Until
from perunml.evidence.bootlog.appraise import MAX_REASONS
from perunml.evidence.bootlog.variables import IMAGE_SECURITY, SHIM_LOCK
from perunml.evidence.rules import BootRules
from perunml.testing.bootfaults import BOOT_FAULTS, GOOD, started, told
from perunml.testing.bootlog import APPLICATION, AUTHORITY, IPL, OWNER, Boot, MadeEvent, MadeLog, certificate, variable
from perunml.testing.faults import Fault, broken
from perunml.testing.forge import ForgedTpm, Quoting

E_GROUP = {f"E{number}" for number in range(1, 22)}


def test_the_table_covers_the_group() -> None:
    """Every number of group E."""
    assert {fault.number for fault in BOOT_FAULTS} == E_GROUP


@pytest.mark.parametrize("fault", BOOT_FAULTS, ids=str)
def test_a_single_fault_of_a_boot_is_refused_with_its_code(fault: Fault) -> None:
    """The fault's code is among the reasons, and the same machine without the fault is accepted."""
    tpm = ForgedTpm(**dict(fault.tpm))
    baseline = tpm.boot_baseline()
    assert codes(judged(tpm, tpm.bundle(BINDING), baseline)) == []
    found = judged(tpm, broken(fault, tpm, BINDING), baseline)
    assert fault.code in codes(found)


TOLD = [f for f in BOOT_FAULTS if f.number in ("E1", "E6", "E7", "E8", "E10", "E11", "E12", "E20")]


@pytest.mark.parametrize("fault", TOLD, ids=str)
def test_a_log_that_is_sent_without_need_must_be_right_too(fault: Fault) -> None:
    """With every PCR's exact value agreed no log is needed; one that does not parse or replay is refused all the same."""
    tpm = ForgedTpm(**dict(fault.tpm))
    baseline = tpm.baseline()
    found = judged(tpm, broken(fault, tpm, BINDING), baseline)
    assert fault.code in codes(found)
    assert codes(judged(tpm, tpm.bundle(BINDING, Quoting(event_log=b"")), baseline)) == []


@pytest.mark.parametrize("banks", [("sha256",), ("sha384",), ("sha1", "sha256"), ("sha256", "sha384")])
def test_an_honest_boot_is_accepted(banks: tuple[str, ...]) -> None:
    """By its events, in each bank."""
    tpm = ForgedTpm(banks=banks)
    found = judged(tpm, tpm.bundle(BINDING), tpm.boot_baseline())
    assert codes(found) == []
    told_boot = found.appraisal.claims["boot"]
    assert isinstance(told_boot, dict)
    assert told_boot["secure_boot"] is True
    assert told_boot["cmdline"] == [GOOD.cmdline]
    assert set(told_boot["proven"]) >= set(range(10))


def test_an_event_that_extends_nothing_may_be_there_and_counts_for_nothing() -> None:
    """E2: firmware tells of more than it measures."""
    tpm = ForgedTpm()
    bundle = told(lambda log: log.no_action(b"SP800-155 Event\0", index=0xFFFF_FFFF))(tpm, BINDING)
    assert codes(judged(tpm, bundle, tpm.boot_baseline())) == []


def grub(log: MadeLog) -> None:
    log.grub("set root=hd0")
    log.grub("linux /vmlinuz " + GOOD.cmdline)
    log.grub("/vmlinuz " + GOOD.cmdline, "kernel_cmdline: ")


def named(data: bytes) -> str:
    return "sha256:" + hashlib.sha256(data).hexdigest()


def test_a_boot_by_grub_is_accepted_with_its_commands_listed() -> None:
    """A command is admitted by its digest, the kernel's line by its words."""
    tpm = ForgedTpm()
    baseline = tpm.boot_baseline()
    tpm.boot_into(grub)
    assert codes(judged(tpm, tpm.bundle(BINDING), baseline)) == ["boot_event"]
    assert baseline.boot is not None
    listed = replace(baseline, boot=replace(baseline.boot, loaded=baseline.boot.loaded | {named(b"set root=hd0")}))
    assert codes(judged(tpm, tpm.bundle(BINDING), listed)) == []


def test_e17_a_line_in_an_open_pcr_is_no_command_line() -> None:
    """E17: where PCR 8 is left open, what GRUB measured there says nothing for the kernel."""
    tpm = ForgedTpm()
    rules = BootRules(cmdline=frozenset(["ima_policy=tcb"]), open=frozenset({4, 5, 6, 7, 3, 8, 9, 11}))
    baseline = replace(tpm.boot_baseline(), boot=rules)
    tpm.boot_into(grub)
    assert codes(judged(tpm, tpm.bundle(BINDING), baseline)) == ["kernel_cmdline"]


def test_e18_the_running_systems_measurements_need_pcr_11_open() -> None:
    """E18: systemd extends PCR 11 as it goes, which no firmware's log tells: refused, unless the parties leave it open."""
    tpm = ForgedTpm()
    tpm.extend(11, b"enter-initrd")
    found = judged(tpm, tpm.bundle(BINDING), tpm.boot_baseline())
    assert codes(found) == ["event_log_mismatch"]
    assert codes(judged(tpm, tpm.bundle(BINDING), tpm.boot_baseline(open=frozenset({11})))) == []


def test_a_machine_whose_pcr_0_its_log_does_not_give_needs_it_open() -> None:
    """As one real server's (decision 0013): the profile decides, and the exact value is held all the same."""
    tpm = ForgedTpm()
    honest = tpm.boot_baseline()
    bundle = told(lambda log: log.events.pop(0))(tpm, BINDING)
    assert codes(judged(tpm, bundle, honest)) == ["event_log_mismatch"]
    opened = tpm.boot_baseline(open=frozenset({0}))
    assert codes(judged(tpm, bundle, opened)) == []
    tpm.boot_into(lambda log: setattr(log.events[0], "digests", {"sha256": b"\1" * 32}))
    assert codes(judged(tpm, tpm.bundle(BINDING), opened)) == ["pcr_mismatch"]


def test_what_vouched_before_the_separator_is_judged_like_the_rest() -> None:
    """Some firmware starts signed drivers before PCR 7's separator; an authority is agreed or refused there too."""

    def early(data: bytes) -> None:
        tpm.boot_into(lambda log: log.events.insert(6, _authority(log, data)))

    tpm = ForgedTpm()
    early(GOOD.certificate)
    assert codes(judged(tpm, tpm.bundle(BINDING), tpm.boot_baseline())) == []
    early(certificate(b"another"))
    assert codes(judged(tpm, tpm.bundle(BINDING), tpm.boot_baseline())) == ["boot_event"]


def _authority(log: MadeLog, data: bytes) -> MadeEvent:
    return MadeLog(log.banks).add(7, AUTHORITY, variable("db", OWNER.bytes_le + data, IMAGE_SECURITY))


def test_q9_digests_of_a_bank_whose_pcrs_are_not_quoted_prove_nothing() -> None:
    """A quote of PCR 10 in one bank and of all in another: the first bank's digests in the log are anybody's."""
    tpm = ForgedTpm(banks=("sha256", "sha384"))
    baseline = tpm.boot_baseline()
    assert baseline.boot is not None
    pcrs = {"sha384": {i: tpm.pcrs["sha384"][i] for i in range(3)}}
    in_sha256 = replace(baseline, pcrs=pcrs)
    tpm.boot_into(lambda log: log.application(b"evil"))

    log = tpm.boot_log
    log.events[-1].digests["sha256"] = next(e for e in log.events if e.type == APPLICATION).digests["sha256"]
    bundle = tpm.bundle(BINDING, Quoting(banks=[("sha256", [10]), ("sha384", range(15))]))
    assert "boot_event" in codes(judged(tpm, bundle, in_sha256))


def test_shims_settings_are_told_and_admitted() -> None:
    """SbatLevel, a revocation level, is no authority."""
    tpm = ForgedTpm()
    tpm.boot_into(lambda log: log.add(7, AUTHORITY, variable("SbatLevel", b"sbat,1,2021030218\n", SHIM_LOCK)))
    assert codes(judged(tpm, tpm.bundle(BINDING), tpm.boot_baseline())) == []
    tpm.boot_into(lambda log: log.add(14, IPL, b"MokList\0", hashed=b"the distributor's"))
    assert codes(judged(tpm, tpm.bundle(BINDING), tpm.boot_baseline())) == ["boot_event"]
    mok = tpm.boot_baseline(mok=frozenset([named(b"the distributor's")]))
    assert codes(judged(tpm, tpm.bundle(BINDING), mok)) == []


def test_rules_that_demand_nothing_admit_nothing() -> None:
    """An empty set of rules leaves no PCR unjudged: what a baseline leaves out is refused."""
    tpm = ForgedTpm()
    baseline = replace(tpm.boot_baseline(), boot=BootRules())
    assert set(codes(judged(tpm, tpm.bundle(BINDING), baseline))) == {"boot_event"}


def test_quotes_dashes_and_order_of_words_are_the_kernels() -> None:
    """E16: an honest line in another spelling of the same meaning is accepted."""
    tpm = ForgedTpm()
    line = 'lockdown="confidentiality" console=ttyS0 console=tty0 "ima-policy=tcb" root=/dev/vda -- init=/x'
    bundle = started(line)(tpm, BINDING)
    rules = ForgedTpm(boots=replace(GOOD, cmdline=line)).boot_baseline().boot
    assert rules is not None
    honest = replace(tpm.boot_baseline(), boot=replace(rules, cmdline=frozenset(GOOD.cmdline.split())))
    assert codes(judged(tpm, bundle, honest)) == []


def test_a_boot_that_was_agreed_without_secure_boot_is_accepted_with_pcr_7_exact() -> None:
    """Secure Boot is the parties' choice; its state is not: PCR 7 is then given by its value."""
    tpm = ForgedTpm(boots=Boot(secure=False))
    baseline = tpm.boot_baseline(dbx=frozenset())
    assert codes(judged(tpm, tpm.bundle(BINDING), baseline)) != []
    pcrs = {"sha256": {i: tpm.pcrs["sha256"][i] for i in (0, 1, 2, 7)}}
    assert codes(judged(tpm, tpm.bundle(BINDING), replace(baseline, pcrs=pcrs))) == []


def test_e12_reasons_and_claims_of_ten_thousand_lines_are_bounded() -> None:
    """E12: a log within its bounds does not fill the ledger."""
    tpm = ForgedTpm()
    tpm.boot_into(lambda log: [log.grub(f"/vmlinuz {number}") for number in range(10_000)])
    found = judged(tpm, tpm.bundle(BINDING), tpm.boot_baseline())
    assert set(codes(found)) == {"kernel_cmdline"}
    assert len(codes(found)) == MAX_REASONS + 1
    told_boot = found.appraisal.claims["boot"]
    assert isinstance(told_boot, dict)
    assert len(told_boot["cmdline"]) == 4


def test_e16_words_beyond_what_the_kernel_reads_do_not_count() -> None:
    """E16: the kernel cuts a long line off, and the word that was demanded with it."""
    tpm = ForgedTpm()
    line = "root=/dev/vda lockdown=confidentiality " + "x" * 2048 + " ima_policy=tcb"
    assert codes(judged(tpm, started(line)(tpm, BINDING), tpm.boot_baseline())) == ["kernel_cmdline"]


def test_e16_other_characters_than_printable_ones_are_refused() -> None:
    """E16: what some reader takes for a blank, and the kernel does not."""
    tpm = ForgedTpm()
    line = "root=/dev/vda lockdown=confidentiality a=b\x1cima_policy=tcb"
    assert codes(judged(tpm, started(line)(tpm, BINDING), tpm.boot_baseline())) == ["kernel_cmdline"]


def test_i31_an_update_from_exact_values_to_rules_has_a_window() -> None:
    """I31: up to its end a machine of the older state is accepted by its values, one of the newer by its events; then only
    the newer."""
    tpm = ForgedTpm()
    older = tpm.baseline()
    tpm.boots = replace(GOOD, image=b"the next image", kernel=b"the next kernel")
    tpm.boot_into(lambda log: None)
    newer = replace(tpm.boot_baseline(), until=(Until(NOW + 1, older.pcrs, older.files),))
    over = replace(newer, until=(Until(NOW, older.pcrs, older.files),))
    assert codes(judged(tpm, tpm.bundle(BINDING), newer)) == []
    assert codes(judged(tpm, tpm.bundle(BINDING), over)) == []
    tpm.boots = GOOD
    tpm.boot_into(lambda log: None)
    found = codes(judged(tpm, tpm.bundle(BINDING), newer))
    assert set(found) == {"boot_event"}  # PCR 11: the older state gives no value of it, so its image must be listed too
    assert newer.boot is not None
    listed = frozenset(named(content) for content in GOOD.sections().values())
    both = replace(newer, boot=replace(newer.boot, loaded=newer.boot.loaded | listed))
    assert codes(judged(tpm, tpm.bundle(BINDING), both)) == []
    assert codes(judged(tpm, tpm.bundle(BINDING), replace(both, until=over.until))) == ["boot_event"]
    tpm.boot_into(lambda log: log.application(b"evil"))
    assert codes(judged(tpm, tpm.bundle(BINDING), both))


@pytest.mark.parametrize("told_line", ["\ud800", "caf\u00e9", "x" * 5000], ids=["surrogate", "accent", "long"])
def test_e16_an_odd_text_told_as_the_command_line_is_nobodys(told_line: str) -> None:
    """E16: whatever the machine tells, nothing but a coded reason comes out."""
    tpm = ForgedTpm()
    found = judged(tpm, tpm.bundle(BINDING, Quoting(cmdline=told_line)), tpm.boot_baseline())
    assert set(codes(found)) == {"boot_event", "kernel_cmdline"}
