"""Attacks with what a host hands to a domain's firmware (ACPI tables, configuration): measured into RTMR 0 beside Secure Boot's
variables, and told in the log as if it were one of them. No digest covers which PCR an event was meant for, nor its type."""

from __future__ import annotations

import hashlib
import uuid
from dataclasses import replace

import pytest

from perunml.evidence.bootlog.rtmr import judge_rtmrs
from perunml.evidence.bootlog.variables import GLOBAL, IMAGE_SECURITY, SHIM_LOCK
from perunml.evidence.rules import BootRules
from perunml.testing.bootlog import OWNER, VARIABLE, Boot, MadeLog, boot, signature_list, variable
from perunml.testing.ccel import BANK, as_ccel, ccel_rules, rtmrs

CODE = b"SSDT" + bytes(range(256)) * 2
"""A table with code for the guest's kernel to interpret."""
NOBODY = uuid.UUID(int=0x55)
SBAT = b"sbat,1,2023012900\nshim,2\ngrub,3\ngrub.debian,4\n"
RTMR0 = 1
"""As the log numbers it."""


def domain() -> MadeLog:
    return as_ccel(boot(None, (BANK,), locality=0))


def codes(log: MadeLog, rules: BootRules | None = None) -> list[str]:
    found = judge_rtmrs(
        log.encoded, Boot().cmdline, rtmrs(log), rules or ccel_rules(), exact=frozenset(), open_=frozenset()
    )
    return [reason.code for reasons in found.reasons.values() for reason in reasons]


def early(log: MadeLog, data: bytes) -> None:
    """Measured before Secure Boot's variables."""
    log.add(RTMR0, VARIABLE, data)
    log.events.insert(1, log.events.pop())


@pytest.mark.parametrize("name", ["SbatLevel", "MokListTrusted"])
def test_a_table_is_told_as_a_setting_of_shims(name: str) -> None:
    """A setting is admitted whatever its value is: code of the host's is no value of one."""
    log = domain()
    log.add(RTMR0, VARIABLE, variable(name, CODE, SHIM_LOCK))
    assert codes(log) == ["boot_event"]


@pytest.mark.parametrize(
    "value",
    [CODE, SBAT + b"\0" * 64, b"sbat,1,20230129000\n", SBAT + b"SSDT\n", b"sbat,1," + b"1" * 10 + b"\na,1" * 99, b""],
)
def test_a_table_is_nearly_a_revocation_level(value: bytes) -> None:
    """The level is lines of a name and a number, and some of them."""
    log = domain()
    log.add(RTMR0, VARIABLE, variable("SbatLevel", value, SHIM_LOCK))
    assert codes(log) == ["boot_event"]


def test_shims_own_settings_are_admitted() -> None:
    """ACCEPT: as shim measures them."""
    for value in (SBAT, b"sbat,1,2021030218\n", b"sbat,1,2021030218", SBAT + b"\0"):
        log = domain()
        log.add(RTMR0, VARIABLE, variable("SbatLevel", value, SHIM_LOCK))
        log.add(RTMR0, VARIABLE, variable("MokListTrusted", b"\1", SHIM_LOCK))
        assert codes(log) == []


@pytest.mark.parametrize(
    "data",
    [
        variable("dbt", CODE, IMAGE_SECURITY), variable("dbr", signature_list(NOBODY, CODE), IMAGE_SECURITY),
        variable("AuditMode", CODE), variable("SetupMode", CODE), variable("DeployedMode", b"\1"),
        variable("db", CODE, IMAGE_SECURITY), variable("SecureBoot", CODE), variable("PK", CODE),
        variable("dbx", signature_list(NOBODY, CODE), IMAGE_SECURITY), variable("SecureBoot", b"\1"),
    ],
)  # fmt: skip
def test_a_table_is_told_as_a_variable_of_the_policy(data: bytes) -> None:
    """Before the policy's own: one that firmware does not measure, one of another form, or one more of those that it does."""
    log = domain()
    early(log, data)
    assert codes(log)


def test_a_table_stands_in_the_name_of_what_vouched() -> None:
    """The agreed authority's certificate behind a name of 128 characters that are the host's to choose."""
    code = ("SSDT" * 32).encode("ascii").decode("utf-16-le")
    for name, good in (("db", True), ("MokListRT", True), (code, False), ("d b", False), ("", False)):
        log = domain()
        log.add(RTMR0, VARIABLE, variable(name, OWNER.bytes_le + Boot().certificate, IMAGE_SECURITY))
        assert codes(log) == ([] if good else ["boot_event"])


def test_a_file_is_told_as_the_name_of_a_section() -> None:
    """A file that the boot loader reads, of text that begins with a dot: no section of an image has that name."""
    text = ".\n/bin/sh -c 'whatever the host likes'\n"
    for name, good in ((".linux", True), (text, False), (".longername", False)):
        log = domain()
        log.add(3, VARIABLE, name.encode("utf-16-le"), hashed=name.encode() + b"\0")
        assert codes(log) == ([] if good else ["boot_event"])


def test_without_a_demand_for_secure_boot_no_variable_is_admitted() -> None:
    """ACCEPT and refuse by digests alone, where the profile does not look at Secure Boot."""
    assert "boot_event" in codes(domain(), replace(ccel_rules(), secure_boot=False))
    assert GLOBAL != IMAGE_SECURITY


def test_a_command_or_a_file_is_told_as_the_kernels_line() -> None:
    """The machine tells one line, and it is believed where it is measured: in the kernel's options, which are wide characters, not
    in any text that the boot loader ran or read and whose own data the log garbles."""
    text = f"set whatever={Boot().cmdline}"
    for hashed in (text.encode(), text.encode() + b"\0"):
        log = domain()
        log.add(3, VARIABLE, b"garbled", hashed=hashed)
        found = judge_rtmrs(log.encoded, text, rtmrs(log), ccel_rules(), exact=frozenset(), open_=frozenset())
        refused = [
            reason.seen for reasons in found.reasons.values() for reason in reasons if reason.code == "boot_event"
        ]
        assert any(seen.startswith(f"{BANK}:{hashlib.new(BANK, hashed).hexdigest()}") for seen in refused)


@pytest.mark.parametrize(
    ("name", "guid"), [("PK", GLOBAL), ("KEK", GLOBAL), ("db", IMAGE_SECURITY), ("SecureBoot", GLOBAL)]
)
def test_a_table_takes_the_place_of_a_variable_that_is_not_measured(name: str, guid: uuid.UUID) -> None:
    """Firmware that leaves one of them out leaves room for one; what stands there has its form or is refused."""
    log = domain()
    written = name.encode("utf-16-le")
    log.events = [event for event in log.events if not (event.index == RTMR0 and event.data[32:].startswith(written))]
    assert "boot_event" not in codes(log)
    early(log, variable(name, CODE, guid))
    assert "boot_event" in codes(log)
