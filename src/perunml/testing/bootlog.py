"""Makes TCG event logs, event by event, as firmware, loaders and a UKI's stub write them: for tests, the forge and the
simulated machine. What a fault needs to say wrongly (types, digests, header) can be given."""

from __future__ import annotations

import hashlib
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from perunml.evidence.bootlog.parse import EV_NO_ACTION
from perunml.evidence.bootlog.variables import GLOBAL, IMAGE_SECURITY
from perunml.evidence.rules import BootRules
from perunml.evidence.tpm.algorithms import HASH_IDS

SEPARATOR, ACTION, EVENT_TAG, CRTM_VERSION, IPL = 0x04, 0x80000007, 0x06, 0x08, 0x0D
VARIABLE, BOOT_VARIABLE, APPLICATION, AUTHORITY, BLOB = 0x80000001, 0x80000002, 0x80000003, 0x800000E0, 0x80000008
"""EV_… numbers."""
X509 = uuid.UUID("a5c059a1-94e4-4aa7-87b5-ab155c2bf072")
SHA256 = uuid.UUID("c1c41626-504c-4092-aca9-41f936934328")
OWNER = uuid.UUID("77fa9abd-0359-4d32-bd60-28f4e78f784b")


def u32(value: int) -> bytes:
    return value.to_bytes(4, "little")


def variable(name: str, data: bytes, guid: uuid.UUID = GLOBAL) -> bytes:
    """UEFI_VARIABLE_DATA."""
    head = guid.bytes_le + len(name).to_bytes(8, "little") + len(data).to_bytes(8, "little")
    return head + name.encode("utf-16le") + data


def signature_list(kind: uuid.UUID, *items: bytes) -> bytes:
    """EFI_SIGNATURE_LIST of signatures of one size, or nothing."""
    if not items:
        return b""
    size = 16 + len(items[0])
    body = b"".join(OWNER.bytes_le + item for item in items)
    return kind.bytes_le + u32(28 + len(body)) + u32(0) + u32(size) + body


def certificate(of: bytes) -> bytes:
    """What looks like a certificate in DER, as far as a boot log's reader looks."""
    body = of.ljust(256, b"\0")
    return b"\x30\x82" + len(body).to_bytes(2) + body


@dataclass(slots=True)
class MadeEvent:
    index: int
    type: int
    digests: dict[str, bytes]
    data: bytes

    def encoded(self, agile: bool) -> bytes:
        head = u32(self.index) + u32(self.type)
        if not agile:
            return head + self.digests["sha1"] + u32(len(self.data)) + self.data
        digests = b"".join(HASH_IDS[name].to_bytes(2, "little") + value for name, value in self.digests.items())
        return head + u32(len(self.digests)) + digests + u32(len(self.data)) + self.data


@dataclass(slots=True)
class MadeLog:
    """A log that grows. `banks` are its digests; `agile` False makes one of SHA-1 alone; `header` replaces the first event."""

    banks: tuple[str, ...] = ("sha256",)
    agile: bool = True
    header: bytes | None = None
    events: list[MadeEvent] = field(default_factory=list)

    def add(self, index: int, kind: int, data: bytes = b"", *, hashed: bytes | None = None) -> MadeEvent:
        """An event whose digests are of `hashed`, by default of its data."""
        source = data if hashed is None else hashed
        return self.put(index, kind, {bank: hashlib.new(bank, source).digest() for bank in self.banks}, data)

    def put(self, index: int, kind: int, digests: Mapping[str, bytes], data: bytes = b"") -> MadeEvent:
        made = MadeEvent(index, kind, dict(digests), data)
        self.events.append(made)
        return made

    def no_action(self, data: bytes, index: int = 0) -> MadeEvent:
        return self.put(index, EV_NO_ACTION, {bank: bytes(hashlib.new(bank).digest_size) for bank in self.banks}, data)

    def locality(self, value: int) -> MadeEvent:
        return self.no_action(b"StartupLocality\0" + bytes([value]))

    def separators(self, pcrs: Sequence[int]) -> None:
        for index in pcrs:
            self.add(index, SEPARATOR, bytes(4))

    def action(self, index: int, text: str) -> MadeEvent:
        return self.add(index, ACTION, text.encode())

    def application(self, image: bytes) -> MadeEvent:
        """An EFI image that was started. Its Authenticode digest is imitated by the digest of `image` as it is."""
        return self.add(4, APPLICATION, bytes(32), hashed=image)

    def section(self, name: str, content: bytes) -> None:
        """What a UKI's stub measures of one section: name, then content."""
        label = name.encode("utf-16le") + bytes(2)
        self.add(11, IPL, label, hashed=name.encode() + b"\0")
        self.add(11, IPL, label, hashed=content)

    def grub(self, command: str, prefix: str = "grub_cmd: ") -> MadeEvent:
        return self.add(8, IPL, (prefix + command).encode() + b"\0", hashed=command.encode())

    def load_options(self, text: str) -> MadeEvent:
        """What the kernel's EFI stub measures of its command line."""
        tag = u32(0x8F3B22ED) + u32(26) + b"LOADED_IMAGE::LoadOptions\0"
        return self.add(9, EVENT_TAG, tag, hashed=text.encode("utf-16le") + bytes(2))

    def initrd(self, content: bytes) -> MadeEvent:
        return self.add(9, EVENT_TAG, u32(0x8F3B22EC) + u32(13) + b"Linux initrd\0", hashed=content)

    @property
    def encoded(self) -> bytes:
        header = self.spec_id() if self.header is None else self.header
        return header + b"".join(event.encoded(self.agile) for event in self.events)

    def spec_id(self) -> bytes:
        """The first event: TCG_EfiSpecIDEvent, or nothing for SHA-1 alone."""
        if not self.agile:
            return b""
        algorithms = b"".join(
            HASH_IDS[bank].to_bytes(2, "little") + hashlib.new(bank).digest_size.to_bytes(2, "little")
            for bank in self.banks
        )
        data = b"Spec ID Event03\0" + u32(0) + bytes([0, 2, 0, 2]) + u32(len(self.banks)) + algorithms + b"\0"
        return MadeEvent(0, EV_NO_ACTION, {"sha1": bytes(20)}, data).encoded(False)


@dataclass(frozen=True, slots=True)
class Boot:
    """What a machine boots: the parts of `boot`'s log. `dbx` are SHA-256 hashes; `uki` sections by name, in order."""

    secure: bool = True
    certificate: bytes = certificate(b"vouches for the image")
    dbx: tuple[bytes, ...] = (hashlib.sha256(b"a revoked image").digest(),)
    image: bytes = b"a unified kernel image"
    cmdline: str = "root=/dev/vda ima_policy=tcb lockdown=confidentiality"
    initrd: bytes = b"an initrd"
    kernel: bytes = b"a kernel"

    def sections(self) -> dict[str, bytes]:
        return {".linux": self.kernel, ".cmdline": self.cmdline.encode(), ".initrd": self.initrd}


def boot(what: Boot | None = None, banks: Sequence[str] = ("sha256",), *, locality: int = 3) -> MadeLog:
    """The log of a machine that boots a signed UKI, in the order in which OVMF and systemd-stub write it."""
    what = what or Boot()
    log = MadeLog(tuple(banks))
    if locality:
        log.locality(locality)
    log.add(0, CRTM_VERSION, "1.0".encode("utf-16le") + bytes(2))
    log.add(0, BLOB, bytes(16), hashed=b"firmware")
    certificates = signature_list(X509, what.certificate) if what.secure else b""
    log.add(7, VARIABLE, variable("SecureBoot", bytes([what.secure])))
    log.add(7, VARIABLE, variable("PK", certificates))
    log.add(7, VARIABLE, variable("KEK", certificates))
    log.add(7, VARIABLE, variable("db", certificates, IMAGE_SECURITY))
    log.add(7, VARIABLE, variable("dbx", signature_list(SHA256, *what.dbx), IMAGE_SECURITY))
    log.separators([7])
    log.add(1, BOOT_VARIABLE, variable("BootOrder", bytes(2)), hashed=bytes(2))
    log.action(4, "Calling EFI Application from Boot Option")
    log.separators(range(7))
    if what.secure:
        log.add(7, AUTHORITY, variable("db", OWNER.bytes_le + what.certificate, IMAGE_SECURITY))
    log.application(what.image)
    for name, content in what.sections().items():
        log.section(name, content)
    log.load_options(what.cmdline)
    log.initrd(what.initrd)
    log.action(5, "Exit Boot Services Invocation")
    log.action(5, "Exit Boot Services Returned with Success")
    return log


def boot_rules(what: Boot, bank: str = "sha256") -> BootRules:
    """What parties would demand of this boot, besides the exact PCRs 0 to 2."""

    def named(data: bytes) -> str:
        return f"{bank}:{hashlib.new(bank, data).hexdigest()}"

    return BootRules(
        secure_boot=what.secure,
        authorities=frozenset([f"sha256:{hashlib.sha256(what.certificate).hexdigest()}"])
        if what.secure
        else frozenset(),
        dbx=frozenset("sha256:" + value.hex() for value in what.dbx),
        applications=frozenset([named(what.image)]),
        loaded=frozenset(named(content) for content in (*what.sections().values(), what.initrd)),
        cmdline=frozenset(what.cmdline.split()),
        no_cmdline=frozenset(["ima=off", "init=", "ima_appraise="]),
    )
