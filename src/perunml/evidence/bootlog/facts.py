"""What a boot log says, as far as its digests cover it.

No digest covers an event's type, and its data only where the digest is theirs. So an event is read as something only when
its digest is that thing's hash, and its register and its place (before or after the register's separator) are where such a
thing is measured. What is not recognised stays an event that a policy can name by its digest alone.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from enum import Enum

from perunml.evidence.bootlog.parse import BootLog, Event
from perunml.evidence.bootlog.replay import explained, replay
from perunml.evidence.bootlog.variables import (
    GLOBAL,
    IMAGE_SECURITY,
    SHIM_LOCK,
    Variable,
    authority,
    read_variable,
    signatures,
)
from perunml.evidence.fields import MAX_CMDLINE
from perunml.evidence.rules import STRONG_BANKS
from perunml.wire.rules import Reason

APPLICATIONS, SECURE_BOOT, LOADER_TEXT, LOADER_FILES, STUB, OVERRIDES, MOK = 4, 7, 8, 9, 11, 12, 14
"""Where is what: EFI images; Secure Boot; GRUB's commands; files that GRUB, and options and initrd that the kernel's stub read; a unified
kernel image's sections; a command line given to its stub; shim's machine owner's lists."""
_SEPARATOR = bytes(4)
_ACTIONS = frozenset(
    b"Calling EFI Application from Boot Option|Returning from EFI Application from Boot Option|Exit Boot Services Invocation|"
    b"Exit Boot Services Returned with Failure|Exit Boot Services Returned with Success".split(b"|")
)
_SECURITY = {
    "SecureBoot": GLOBAL, "PK": GLOBAL, "KEK": GLOBAL, "db": IMAGE_SECURITY, "dbx": IMAGE_SECURITY, "dbt": IMAGE_SECURITY,
    "dbr": IMAGE_SECURITY, "SetupMode": GLOBAL, "AuditMode": GLOBAL, "DeployedMode": GLOBAL,
}  # fmt: skip
_MEASURED = frozenset({"PK", "KEK", "db", "dbx"})
"""Lists of Secure Boot that firmware measures also where they are empty."""
_SHIM_SETTINGS = {
    "SbatLevel": re.compile(rb"sbat,1,[0-9]{10}(\n[a-z0-9._-]{1,32},[0-9]{1,5}){0,32}\n?\0?"),
    "MokListTrusted": re.compile(rb"[\0\1]"),
}
"""What shim measures beside authorities, and its form: a revocation level (shim's SBAT.md), and whether the owner's keys are for the
kernel too."""
_NAME = re.compile("[A-Za-z0-9_]{1,32}")
"""Of the variable that vouched: firmware's db, shim's own."""
_SECTION = re.compile(r"\.[a-z0-9_]{1,7}")
"""A section's name in a PE image has 8 bytes (Microsoft, PE Format, section table)."""
_PREFIXES = (b"grub_cmd: ", b"kernel_cmdline: ", b"module_cmdline: ", b"grub_cmd ", b"grub_kernel_cmdline ", b"")
"""What versions of GRUB write before the text that they measure."""
_LINUX = frozenset({"linux", "linuxefi", "linux16"})


class Sort(Enum):
    """What an event was recognised as."""

    SEPARATOR = "separator"
    ACTION = "action"
    VARIABLE = "variable"
    AUTHORITY = "authority"
    SETTING = "setting"
    COMMAND = "command"
    CMDLINE = "cmdline"
    SECTION_NAME = "section_name"
    SECTION = "section"
    OTHER = "other"


@dataclass(frozen=True, slots=True)
class Fact:
    """One extended event: what it is, its digest in the bank that was read, and, where that covers a text, the text (a
    variable's or a section's name, an authority's digest, a command line)."""

    event: Event
    sort: Sort
    digest: str
    text: str = ""


@dataclass(frozen=True, slots=True)
class BootFacts:
    """A boot log read in `bank`. `proven` are the registers whose quoted values it explains, `mismatches` says
    why others of PCRs 0 to 9 are not; a fact about a register that is not proven is told only. `variables` hold Secure Boot's, as measured before PCR 7's separator."""

    bank: str
    log: BootLog
    proven: frozenset[int]
    mismatches: Mapping[int, tuple[Reason, ...]]
    values: Mapping[str, Mapping[int, bytes]]
    facts: tuple[Fact, ...]
    variables: Mapping[str, bytes]

    def of(self, register: int) -> tuple[Fact, ...]:
        return tuple(fact for fact in self.facts if fact.event.register == register)

    def texts(self, sort: Sort) -> tuple[str, ...]:
        """Of all events of a sort, in order."""
        return tuple(fact.text for fact in self.facts if fact.sort is sort)

    @property
    def secure_boot(self) -> bool | None:
        """Whether Secure Boot was on: SecureBoot is 1 and a platform key enrolled. None: not measured."""
        value = self.variables.get("SecureBoot")
        return None if value is None else value == b"\x01" and bool(self.variables.get("PK"))

    def signatures(self, name: str) -> tuple[str, ...] | None:
        """Digests in PK, KEK, db or dbx. None: not measured, or not of its form."""
        value = self.variables.get(name)
        return None if value is None else signatures(value)


def read_boot_log(log: BootLog, pcrs: Mapping[str, Mapping[int, bytes]], *, cmdline: str = "") -> BootFacts:
    """The facts of `log` beside the quoted `pcrs` (none: only told). `cmdline` is what the machine says its kernel's command line
    was; it is believed where an event is its digest. Raises `EvidenceRefusal` as `explained`."""
    proven, mismatches = explained(log, pcrs) if pcrs else (frozenset[int](), dict[int, tuple[Reason, ...]]())
    strong = [bank for bank in STRONG_BANKS if bank in log.banks and (bank in pcrs or not pcrs)]
    # the bank of which most is quoted: only digests of a bank whose own value of the register is quoted are proven
    bank = max(strong, key=lambda name: len(pcrs.get(name, ()))) if strong else log.banks[0]
    proven &= frozenset(pcrs.get(bank, ()))
    facts, variables = _Reader(bank, cmdline).read(log)
    return BootFacts(bank, log, proven, mismatches, replay(log), facts, variables)


def read_facts(
    log: BootLog, bank: str, cmdline: str, places: Callable[[Event], tuple[int, ...]]
) -> tuple[tuple[Fact, ...], dict[str, bytes]]:
    """The facts and Secure Boot's variables of a log whose registers are not PCRs: `places` says which PCRs an event may have been
    meant for, in the order in which it is tried as one of each. A fact's event has the PCR as its register."""
    return _Reader(bank, cmdline, places).read(log)


def _own_register(event: Event) -> tuple[int, ...]:
    return (event.register,)


class _Reader:
    """One pass over the events; what came before in a register decides what the next may be."""

    def __init__(self, bank: str, cmdline: str, places: Callable[[Event], tuple[int, ...]] = _own_register) -> None:
        self._bank = bank
        self._places = places
        self._hash: Callable[[bytes], bytes] = lambda data: hashlib.new(bank, data).digest()
        self._after: set[int] = set()  # registers whose separator came
        self._section = ""
        self._variables: dict[str, bytes] = {}
        self._separator = self._hash(_SEPARATOR)
        # the stub's options are in wide characters; plain ones are a section's content, and else any file's or command's
        self._options, self._cmdlines = dict[bytes, str](), dict[bytes, str]()
        if cmdline.isascii() and 0 < len(cmdline) <= MAX_CMDLINE:  # another would be refused by its characters
            wide = cmdline.encode("utf-16-le")
            self._options = {self._hash(form): cmdline for form in (wide + b"\0\0", wide)}
            plain = {self._hash(form): cmdline for form in (cmdline.encode(), cmdline.encode() + b"\0")}
            self._cmdlines = self._options | plain

    def read(self, log: BootLog) -> tuple[tuple[Fact, ...], dict[str, bytes]]:
        facts = []
        for event in log.events:
            if event.extended:
                digest = event.digests[self._bank]
                event, sort, text = self._placed(event, digest)
                facts.append(Fact(event, sort, f"{self._bank}:{digest.hex()}", text))
        return tuple(facts), self._variables

    def _placed(self, event: Event, digest: bytes) -> tuple[Event, Sort, str]:
        """What the event is in the first of its places where it is anything; a section's content is one in the stub's."""
        places = self._places(event)
        if self._section and STUB in places:
            places = (STUB,)
        for register in places:
            placed = event if register == event.register else replace(event, register=register)
            sort, text = self._sort(placed, digest)
            if sort is not Sort.OTHER:
                return placed, sort, text
        first = places[0]
        return event if first == event.register else replace(event, register=first), Sort.OTHER, ""

    def _sort(self, event: Event, digest: bytes) -> tuple[Sort, str]:
        if digest == self._separator and event.register <= SECURE_BOOT:
            self._after.add(event.register)
            return Sort.SEPARATOR, ""
        if event.data in _ACTIONS and digest == self._hash(event.data):
            return Sort.ACTION, event.data.decode()
        if event.register == SECURE_BOOT:
            return self._security(event, digest)
        if event.register == LOADER_TEXT:
            return self._command(event, digest)
        if event.register == STUB:
            return self._stub(event, digest)
        if event.register in (LOADER_FILES, OVERRIDES) and (
            text := self._options.get(digest) or self._wide(event, digest)
        ):
            return Sort.CMDLINE, text
        return Sort.OTHER, ""

    def _security(self, event: Event, digest: bytes) -> tuple[Sort, str]:
        variable = read_variable(event.data) if digest == self._hash(event.data) else None
        if variable is None:
            return Sort.OTHER, ""
        if SECURE_BOOT not in self._after:
            if _SECURITY.get(variable.name) != variable.vendor or not self._policy(event, variable):
                return Sort.OTHER, ""
            if variable.name not in self._variables:
                self._variables[variable.name] = variable.data
                return Sort.VARIABLE, variable.name
            # some firmware starts drivers before the separator, and tells what vouched for them there
        if variable.vendor == SHIM_LOCK and (form := _SHIM_SETTINGS.get(variable.name)):
            # its value is admitted whatever it is, so it must be one: a register may hold tables of the host's that look alike
            return (Sort.SETTING, variable.name) if form.fullmatch(variable.data) else (Sort.OTHER, "")
        return (Sort.AUTHORITY, authority(variable)) if _NAME.fullmatch(variable.name) else (Sort.OTHER, "")

    def _policy(self, event: Event, variable: Variable) -> bool:
        """Whether a variable may be one of Secure Boot's policy. In a register that stands for PCR 7 alone any is; in one that
        holds what a host brings as well, those that firmware always measures (one more would be a second), in their form."""
        if self._places(event) == (SECURE_BOOT,):
            return True
        if variable.name == "SecureBoot":
            return variable.data in (b"\0", b"\1")
        return variable.name in _MEASURED and signatures(variable.data) is not None

    def _command(self, event: Event, digest: bytes) -> tuple[Sort, str]:
        """A text that GRUB measured. Its prefix is not covered, so the text alone says whether a kernel was given it."""
        data = event.data.removesuffix(b"\0")
        for prefix in _PREFIXES:
            if data.startswith(prefix) and digest in (
                self._hash(data[len(prefix) :]),
                self._hash(data[len(prefix) :] + b"\0"),
            ):
                text = data[len(prefix) :].decode("utf-8", "backslashreplace")
                first, _, rest = text.partition(" ")
                if first in _LINUX and len(rest) <= MAX_CMDLINE:
                    return Sort.CMDLINE, rest
                if first.startswith(("/", "(")) and len(text) <= MAX_CMDLINE:
                    return Sort.CMDLINE, text
                return Sort.COMMAND, text
        return Sort.OTHER, ""

    def _stub(self, event: Event, digest: bytes) -> tuple[Sort, str]:
        """systemd-stub measures each section's name, then its content."""
        if name := self._section:
            self._section = ""
            if name == ".cmdline" and (text := self._cmdlines.get(digest)):
                return Sort.CMDLINE, text
            return Sort.SECTION, name
        for encoding in ("utf-16-le", "ascii"):
            try:
                name = event.data.decode(encoding).removesuffix("\0")
                if _SECTION.fullmatch(name) and digest == self._hash(name.encode("ascii") + b"\0"):
                    self._section = name
                    return Sort.SECTION_NAME, name
            except UnicodeError:
                continue
        return Sort.OTHER, ""

    def _wide(self, event: Event, digest: bytes) -> str:
        """A command line that is its event's own data, in the loader's wide characters."""
        if digest != self._hash(event.data) or len(event.data) > 2 * MAX_CMDLINE + 2:
            return ""
        try:
            text = event.data.decode("utf-16-le").removesuffix("\0")
        except UnicodeDecodeError:
            return ""
        return text if text.isascii() and text.isprintable() else ""
