"""Boot logs, broken: one fault each, by the number it has among the refusals (group E), with the code that must answer.

Either what is told is not what was measured (`_told`, `_raw`), or the machine really booted something else (`_booted`).
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import replace

from perunml.evidence.bootlog.parse import EV_NO_ACTION, MAX_EVENTS
from perunml.evidence.bootlog.variables import IMAGE_SECURITY
from perunml.evidence.bundle import Bundle
from perunml.testing.bootlog import (
    ACTION,
    APPLICATION,
    AUTHORITY,
    EVENT_TAG,
    IPL,
    OWNER,
    SEPARATOR,
    VARIABLE,
    X509,
    Boot,
    MadeEvent,
    MadeLog,
    boot,
    certificate,
    signature_list,
    u32,
    variable,
)
from perunml.testing.faults import Break, Fault, flip
from perunml.testing.forge import ForgedTpm, Quoting

Change = Callable[[MadeLog], object]
GOOD = Boot()


def told(change: Change) -> Break:
    """The quote is of the agreed boot; the log that comes with it was changed."""

    def make(tpm: ForgedTpm, binding: bytes) -> Bundle:
        log = copy.deepcopy(tpm.boot_log)
        change(log)
        return tpm.bundle(binding, Quoting(event_log=log.encoded))

    return make


def raw(change: Callable[[bytes, int], bytes]) -> Break:
    """The same, of the log's bytes; `change` is given how long its header is."""

    def make(tpm: ForgedTpm, binding: bytes) -> Bundle:
        log = tpm.boot_log
        return tpm.bundle(binding, Quoting(event_log=change(log.encoded, len(log.spec_id()))))

    return make


def booted(change: Change, tell: Change = lambda log: None) -> Break:
    """The machine was booted into something else, and then tells a log changed by `tell`, as far as that helps."""

    def make(tpm: ForgedTpm, binding: bytes) -> Bundle:
        tpm.boot_into(change)
        return told(tell)(tpm, binding)

    return make


def started(cmdline: str, tell: str | None = None) -> Break:
    """The machine was booted with another kernel command line, and tells that one or another text."""

    def make(tpm: ForgedTpm, binding: bytes) -> Bundle:
        tpm.boots = replace(tpm.boots, cmdline=cmdline)
        tpm.boot_into(lambda log: None)
        return tpm.bundle(binding, Quoting(cmdline=tell))

    return make


def instead(what: Boot) -> Change:
    """The log of another boot altogether."""

    def change(log: MadeLog) -> None:
        log.events = boot(what, log.banks, locality=0).events

    return change


def _first(log: MadeLog, kind: int, index: int | None = None) -> MadeEvent:
    return next(e for e in log.events if e.type == kind and index in (None, e.index))


def _bent(log: MadeLog) -> None:
    event = _first(log, APPLICATION)
    event.digests = {bank: flip(value, 3) for bank, value in event.digests.items()}


def _retyped(kind: int, *, of: int = APPLICATION) -> Change:
    def change(log: MadeLog) -> None:
        _first(log, of).type = kind

    return change


def _evil_as_action(log: MadeLog) -> None:
    log.application(b"evil").type = ACTION
    log.events[-1].data = b"Calling EFI Application from Boot Option"


def _off(log: MadeLog) -> None:
    """Turned off in the firmware's setup; the keys stay enrolled."""
    event = _first(log, VARIABLE)
    log.events[log.events.index(event)] = MadeLog(log.banks).add(7, VARIABLE, variable("SecureBoot", b"\0"))


def _secure_in_words(log: MadeLog) -> None:
    """The variable's text says on, its digest is that of off."""
    _first(log, VARIABLE).data = variable("SecureBoot", b"\x01")


def _spoofed(log: MadeLog) -> None:
    """Off, and after the separator an operating system extends PCR 7 with what would have meant on."""
    instead(replace(GOOD, secure=False))(log)
    certificates = signature_list(X509, GOOD.certificate)
    for name, data in {"SecureBoot": b"\x01", "PK": certificates}.items():
        log.add(7, VARIABLE, variable(name, data))


def _separator(index: int, count: int) -> Change:
    def change(log: MadeLog) -> None:
        found = next(e for e in log.events if e.type == SEPARATOR and e.index == index)
        at = log.events.index(found)
        log.events[at : at + 1] = [found] * count

    return change


def _late_locality(log: MadeLog) -> None:
    log.locality(0)


def _early_locality(log: MadeLog) -> None:
    log.locality(3)
    log.events.insert(0, log.events.pop())


def _last_dropped(log: MadeLog) -> None:
    log.events.pop()


def _sha1_only(log: MadeLog) -> None:
    log.agile = False
    for event in log.events:
        event.digests = {"sha1": event.digests["sha1"]}


def _header(change: Callable[[bytes], bytes]) -> Break:
    return raw(lambda log, size: change(log[:size]) + log[size:])


def _setup_mode(log: MadeLog) -> None:
    event = next(e for e in log.events if e.index == 7 and "PK".encode("utf-16le") in e.data and e.type == VARIABLE)
    made = MadeLog(log.banks).add(7, VARIABLE, variable("PK", b""))
    log.events[log.events.index(event)] = made


def _mok(log: MadeLog) -> None:
    log.add(14, IPL, b"MokList\0", hashed=b"a key of the operator's own")


def _override(log: MadeLog) -> None:
    """What systemd-stub measures of a command line that was given to it beside its own section."""
    text = (GOOD.cmdline + " ima_appraise=off").encode("utf-16le") + bytes(2)
    log.add(12, IPL, text)


def _untold(index: int) -> Change:
    def change(log: MadeLog) -> None:
        log.events = [event for event in log.events if event.index != index]

    return change


def _prompt(log: MadeLog) -> None:
    """At GRUB's prompt: the agreed line as a command that starts nothing, then another kernel line by another command."""
    log.grub("/vmlinuz " + GOOD.cmdline)
    log.grub("chainloader /vmlinuz.efi root=/dev/vda ima=off")


def _relabelled(log: MadeLog) -> None:
    """A real command is shown as the kernel's line, for the prefix is covered by no digest."""
    log.grub("echo " + GOOD.cmdline, "kernel_cmdline: ")


def _bad_line(log: MadeLog) -> None:
    log.grub("linux /vmlinuz root=/dev/vda ima=off")
    log.grub("/vmlinuz root=/dev/vda ima=off", "kernel_cmdline: ")


def _garbled(log: MadeLog) -> None:
    """The text of each of GRUB's events is replaced by the agreed one; the digests stay."""
    for event in log.events:
        if event.index == 8:
            event.data = b"kernel_cmdline: /vmlinuz " + GOOD.cmdline.encode() + b"\0"


def _other_section(log: MadeLog) -> None:
    log.section(".cmdline", b"root=/dev/vda ima=off")


def _named_as_linux(log: MadeLog) -> None:
    """A section's name is changed in the text, not in its digest."""
    for event in log.events[-2:]:
        event.data = ".linux".encode("utf-16le") + bytes(2)


def _other_authority(log: MadeLog) -> None:
    log.add(7, AUTHORITY, variable("db", OWNER.bytes_le + certificate(b"the operator's own"), IMAGE_SECURITY))


def _nest(log: MadeLog) -> None:
    log.add(13, EVENT_TAG, b"".join(u32(1) + u32(8 * level) for level in reversed(range(60_000))))


def _tiny(log: bytes, size: int) -> bytes:
    event = MadeLog(("sha256",)).add(0, SEPARATOR, b"").encoded(True)
    return log[:size] + event * (MAX_EVENTS + 1)


NO_CMDLINE = "root=/dev/vda lockdown=confidentiality"
BOOT_FAULTS: tuple[Fault, ...] = (
    Fault("E1", "digest_changed", "event_log_mismatch", told(_bent)),
    Fault("E1", "event_doubled", "event_log_mismatch", told(lambda log: log.events.append(_first(log, APPLICATION)))),
    Fault("E2", "type_to_no_action", "event_log_mismatch", told(_retyped(EV_NO_ACTION))),
    Fault("E2", "evil_image_shown_as_an_action", "boot_event", booted(_evil_as_action)),
    Fault(
        "E2",
        "evil_image_shown_as_a_separator",
        "boot_event",
        booted(lambda log: log.application(b"evil"), lambda log: setattr(log.events[-1], "type", SEPARATOR)),
    ),
    Fault("E2", "made_up_event_appended", "event_log_mismatch", told(lambda log: log.application(GOOD.image))),
    Fault(
        "E3",
        "secure_boot_in_words",
        "secure_boot_off",
        booted(_off, _secure_in_words),
    ),
    Fault("E4", "variables_after_the_separator", "secure_boot_off", booted(_spoofed)),
    *(
        Fault("E5", f"separator_of_pcr_{pcr}_{name}", "boot_separator", booted(_separator(pcr, count)))
        for pcr in (4, 7)
        for name, count in (("missing", 0), ("doubled", 2))
    ),
    Fault("E6", "locality_forged", "event_log_mismatch", told(_early_locality)),
    Fault("E6", "locality_late", "non_canonical", told(_late_locality)),
    Fault("E7", "cut_inside_an_event", "non_canonical", raw(lambda log, _: log[:-7])),
    Fault("E8", "last_event_missing", "event_log_mismatch", told(_last_dropped)),
    Fault("E9", "sha1_only", "event_log_mismatch", told(_sha1_only), (("banks", ("sha1", "sha256")),)),
    Fault("E10", "unknown_digest", "non_canonical", _header(lambda h: h.replace(b"\x0b\0\x20\0", b"\x99\0\x20\0"))),
    Fault("E10", "digest_of_20_bytes", "non_canonical", _header(lambda h: h.replace(b"\x0b\0\x20\0", b"\x0b\0\x14\0"))),
    Fault(
        "E11",
        "event_of_2_gib",
        "non_canonical",
        raw(lambda log, size: log[: size + 44] + u32(2**31) + log[size + 48 :]),
    ),
    Fault("E12", "too_many_events", "non_canonical", raw(_tiny)),
    Fault("E13", "secure_boot_off", "secure_boot_off", booted(instead(replace(GOOD, secure=False)))),
    Fault("E13", "secure_boot_off_with_keys", "secure_boot_off", booted(_off)),
    Fault("E13", "setup_mode", "secure_boot_off", booted(_setup_mode)),
    Fault("E14", "dbx_empty", "dbx_outdated", booted(instead(replace(GOOD, dbx=())))),
    Fault("E15", "key_in_moklist", "boot_event", booted(_mok)),
    Fault("E16", "ima_policy_missing", "kernel_cmdline", started(NO_CMDLINE)),
    Fault("E16", "ima_off", "kernel_cmdline", started(GOOD.cmdline + " ima=off")),
    Fault("E16", "ima_off_in_quotes", "kernel_cmdline", started(GOOD.cmdline + ' "ima=off"')),
    Fault("E16", "ima_appraise_with_a_dash", "kernel_cmdline", started(GOOD.cmdline + " ima-appraise=off")),
    Fault("E16", "init", "kernel_cmdline", started(GOOD.cmdline + " init=/bin/sh")),
    Fault("E16", "lockdown_again", "kernel_cmdline", started(GOOD.cmdline + " lockdown=none")),
    Fault("E16", "ima_policy_for_init", "kernel_cmdline", started(NO_CMDLINE + " -- ima_policy=tcb")),
    Fault("E16", "told_the_agreed_one", "boot_event", started(GOOD.cmdline + " ima=off", GOOD.cmdline)),
    Fault("E16", "not_told", "kernel_cmdline", lambda tpm, binding: tpm.bundle(binding, Quoting(cmdline=""))),
    Fault("E17", "a_line_at_grubs_prompt", "boot_event", booted(_prompt)),
    Fault("E17", "a_command_shown_as_the_line", "boot_event", booted(_relabelled)),
    Fault("E17", "another_line_by_grub", "kernel_cmdline", booted(_bad_line)),
    Fault("E17", "grubs_texts_replaced", "boot_event", booted(_bad_line, _garbled)),
    Fault("E17", "another_section", "boot_event", booted(_other_section)),
    Fault("E17", "a_sections_name_replaced", "boot_event", booted(_other_section, _named_as_linux)),
    Fault("E17", "an_override_for_the_stub", "kernel_cmdline", booted(_override)),
    Fault("E18", "the_override_left_out", "event_log_mismatch", booted(_override, _untold(12))),
    Fault("E18", "moklist_left_out", "event_log_mismatch", booted(_mok, _untold(14))),
    Fault("E18", "pcr_4_left_out", "event_log_mismatch", told(_untold(4))),
    Fault("E19", "another_application", "boot_event", booted(lambda log: log.application(b"evil"))),
    Fault("E19", "another_authority", "boot_event", booted(_other_authority)),
    Fault("E20", "another_header", "non_canonical", _header(lambda h: h.replace(b"Event03", b"Event04"))),
    Fault("E20", "no_header", "non_canonical", raw(lambda log, size: log[size:])),
    Fault("E21", "a_nest_of_tags", "boot_event", booted(_nest)),
    Fault(
        "E21", "no_log_at_all", "event_log_missing", lambda tpm, binding: tpm.bundle(binding, Quoting(event_log=b""))
    ),
)
"""The last is of no number of its own: what is missing is refused."""
