"""Real boots, judged by rules that parties would record from them: each honest one is accepted, and no other one by its rules."""

from __future__ import annotations

import base64
import json
from dataclasses import replace

import pytest

from evidence.vectors import FOLDER, needs_vectors
from perunml.evidence.bootlog import record
from perunml.evidence.bootlog.appraise import appraise_boot
from perunml.evidence.bootlog.claims import boot_claims
from perunml.evidence.bootlog.cmdline import kernel_words
from perunml.evidence.bootlog.facts import BootFacts, Sort, read_boot_log
from perunml.evidence.bootlog.parse import parse_boot_log
from perunml.evidence.rules import BootRules

pytestmark = needs_vectors

VM = FOLDER / "measured-vm"
MACHINES = FOLDER / "tpm-quote" / "immune-gmbh__guard-oss"
VMS = ("A61", "B61-ima-ng", "C61-nobody", "D61-violation", "F61-policy", "H612-3banks", "M612-uki", "N612-uki-secureboot",
       "R612-verity")  # fmt: skip
PHYSICAL = ("dl160-fwupd-report", "good-1", "ludmilla", "r340")
OPEN = {
    "dl160-fwupd-report": {0},  # its log does not give its PCR 0 (decision 0013)
    "good-1": {9, 11, 12, 13, 14},  # its quote ends with PCR 8
}


def facts_of(name: str) -> BootFacts:
    if name in PHYSICAL:
        told = json.loads((MACHINES / f"{name}.json").read_text())["pcrs"]
        values = {int(index): base64.b64decode(value) for index, value in told.items() if index != "10"}
        return read_boot_log(parse_boot_log((MACHINES / f"{name}.eventlog").read_bytes()), {"sha256": values})
    told = json.loads((VM / name / "expected.json").read_text())["pcrs_sha256"]
    values = {int(index): bytes.fromhex(value) for index, value in told.items() if index != "10"}
    line = (VM / name / "cmdline").read_text().removesuffix("\n")
    log = parse_boot_log((VM / name / "bios_measurements.bin").read_bytes())
    return read_boot_log(log, {"sha256": values}, cmdline=line)


def recorded(facts: BootFacts, left_open: set[int]) -> tuple[BootRules, dict[str, dict[int, bytes]]]:
    """Rules and exact values, as a trusted machine shows them, and every word of its command line."""
    rules, exact = record.recorded(facts)
    words = frozenset(word for text in facts.texts(Sort.CMDLINE)[-1:] for word in kernel_words(text))
    values = {i: value for i, value in facts.values["sha256"].items() if i in exact}
    return replace(rules, cmdline=words, open=frozenset(left_open)), {"sha256": values}


FACTS = {name: facts_of(name) for name in (*VMS, *PHYSICAL)} if FOLDER.is_dir() else {}


@pytest.mark.parametrize("name", [*VMS, *PHYSICAL])
def test_an_honest_boot_is_accepted_by_what_was_recorded_of_it(name: str) -> None:
    """GRUB behind shim, a UKI with and without Secure Boot, a kernel started by the firmware, Windows."""
    facts = FACTS[name]
    rules, exact = recorded(facts, OPEN.get(name, set()))
    assert [reason.message for reason in appraise_boot(facts, rules, exact)] == []


DISTINCT = ("A61", "H612-3banks", "M612-uki", "N612-uki-secureboot", "R612-verity", *PHYSICAL)


@pytest.mark.parametrize("name", DISTINCT)
def test_no_other_machine_is_accepted_by_a_machines_rules(name: str) -> None:
    """The same rules, beside every other machine's log."""
    rules, exact = recorded(FACTS[name], OPEN.get(name, set()))
    for other in DISTINCT:
        if other != name:
            values = {i: FACTS[other].values["sha256"][i] for i in exact["sha256"]}
            assert appraise_boot(FACTS[other], rules, exact) or values != exact["sha256"], other


@pytest.mark.parametrize("name", ["ludmilla", "dl160-fwupd-report", "M612-uki", "A61"])
def test_e16_a_word_that_a_real_line_lacks_or_holds_is_seen(name: str) -> None:
    """E16: on GRUB's text, and on what the kernel's stub measured."""
    facts = FACTS[name]
    rules, exact = recorded(facts, OPEN.get(name, set()))
    assert rules.cmdline
    word = sorted(rules.cmdline)[0]
    for changed in (
        replace(rules, cmdline=rules.cmdline | {"lockdown=confidentiality"}),
        replace(rules, cmdline=frozenset(), no_cmdline=frozenset({word})),
    ):
        assert {reason.code for reason in appraise_boot(facts, changed, exact)} == {"kernel_cmdline"}


def test_e13_and_e14_on_real_machines() -> None:
    """Secure Boot off on a laptop with keys enrolled; a revocation list that lacks an entry."""
    ludmilla, server = FACTS["ludmilla"], FACTS["r340"]
    assert (ludmilla.secure_boot, server.secure_boot) == (False, True)
    rules, exact = recorded(ludmilla, set())
    demanded = replace(rules, secure_boot=True)
    assert "secure_boot_off" in {reason.code for reason in appraise_boot(ludmilla, demanded, exact)}
    rules, exact = recorded(server, set())
    newer = replace(rules, dbx=rules.dbx | {"sha256:" + "ab" * 32})
    assert [reason.code for reason in appraise_boot(server, newer, exact)] == ["dbx_outdated"]
    assert len(rules.dbx) > 200


def test_claims_tell_what_loaders_read_with_the_logs_own_words() -> None:
    """GRUB's files and the stub's initrd, by digest; the words beside them are told, not proven."""
    told = boot_claims(FACTS["ludmilla"])["loaded"]
    assert isinstance(told, list)
    by_name = {item["told"]: item for item in told if isinstance(item, dict)}
    assert by_name["/initrd.img-5.13.0-30-generic"]["pcr"] == 9
    assert by_name["MokList"]["pcr"] == 14
    (initrd,) = [item for item in boot_claims(FACTS["A61"])["loaded"] if item["told"] == "Linux initrd"]  # type: ignore[union-attr,index,call-overload]  # JSON
    assert str(initrd["digest"]).startswith("sha256:")  # type: ignore[index,call-overload]  # JSON
