"""From an image's files to a baseline: PCRs 4, 7, 8, 9, 11 to 14, and the digest of each file that IMA may show.

What the firmware measures of itself (PCRs 0 to 3, 5 and 6) is the machine's, not the image's: it comes from a boot log of a machine
that the parties trust, or they leave a PCR open and say so.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from perunml.client.baselines.build import Built, Rules, Sources, build_baseline
from perunml.client.baselines.listing import Progress
from perunml.client.codes import GOLDEN_OPEN
from perunml.client.golden.kernel import builtin_keys
from perunml.client.golden.pe import Image, odd, parse_pe
from perunml.client.golden.secureboot import SecureBootKeys
from perunml.client.golden.verity import BLOCK, root_hash
from perunml.evidence.baseline import Baseline
from perunml.evidence.rules import BootRules, ImaRules
from perunml.wire.errors import refuse

UKI, ROOT = "uki.efi", "root.img"
MAX_UKI = 256 * 1024 * 1024
FIRMWARE = (0, 1, 2, 3, 5, 6)
"""PCRs that no image decides."""
BANK = "sha256"
STUB = re.compile(rb"#### LoaderInfo: systemd-stub (\d+)")
MEASURED = (".linux", ".osrel", ".cmdline", ".initrd", ".splash", ".dtb")
"""Sections that systemd's stub 252 to 254 measures into PCR 11, in this order, where they are there (systemd, src/fundamental/tpm-pcr.h)."""
STUBS = range(252, 255)
POLICY = "/etc/ima/ima-policy"
LOADED_POLICY = "/sysroot" + POLICY
"""The policy's path when the initrd loads it."""
CALLING = b"Calling EFI Application from Boot Option"
"""TCG PC Client Platform Firmware Profile, 10.4.4: EV_EFI_ACTION in PCR 4."""
SEPARATOR = bytes(4)


@dataclass(frozen=True, slots=True)
class Golden:
    """`pcrs` are those computed, by index (SHA-256); `left_open` those that the baseline does not judge."""

    baseline: Baseline
    pcrs: dict[int, bytes]
    cmdline: str
    roothash: str
    files: int
    left_open: tuple[int, ...]
    notes: tuple[str, ...]


def compute(
    image: Path,
    keys: SecureBootKeys | None,
    *,
    event_log: bytes | None = None,
    open_pcrs: Iterable[int] = (),
    older: Baseline | None = None,
    until: int | None = None,
    progress: Progress = lambda done, total: None,
) -> Golden:
    """The golden values of an image (a folder with uki.efi and root.img, as images/build.sh makes it) on machines with these
    Secure Boot `keys` (None: Secure Boot is off, and PCR 7 must be left open). The firmware's PCRs are those of `event_log`, less
    `open_pcrs`. With `older`, that state stays allowed up to `until` (seconds since 1970).

    Raises `UsageError` (image_odd, golden_open, baseline_source), `EvidenceRefusal` for a boot log that is not one.
    """
    try:
        with (image / UKI).open("rb") as file:
            uki = parse_pe(file.read(MAX_UKI))
    except OSError as exc:
        raise odd("the image has no unified kernel image", expected=UKI, seen=f"{image}: {exc.strerror}") from None
    left_open = tuple(sorted(set(open_pcrs)))
    missing = [index for index in FIRMWARE if event_log is None and index not in left_open]
    if keys is None and 7 not in left_open:
        missing.append(7)
    if missing:
        told = ", ".join(map(str, missing))
        raise refuse(GOLDEN_OPEN, f"no file of the image tells PCR {told}", expected="--event-log of a machine, --keys, or --open-pcr")  # fmt: skip
    line = cmdline(uki)
    found = _root(image, line, progress)
    pcrs = {index: value for index, value in _pcrs(uki, line, keys).items() if index not in left_open}
    rules = Rules(
        boot=BootRules(
            secure_boot=keys is not None, cmdline=frozenset({f"roothash={found}"}), open=frozenset(left_open)
        ),
        ima=ImaRules(require=frozenset({LOADED_POLICY}), keyrings=frozenset(_keyrings(uki, keys))),
    )
    built = _files(image, rules, event_log, left_open, pcrs, older, until, progress)
    return Golden(built.baseline, pcrs, line, found, len(built.baseline.files), left_open, built.notes)


def cmdline(uki: Image) -> str:
    """The command line that an image carries, without what the stub strips. Raises `UsageError` (image_odd)."""
    data = _section(uki, ".cmdline")
    try:
        return data.rstrip(b"\0").decode("ascii")
    except UnicodeDecodeError:
        raise odd("the command line is not ASCII") from None


def _root(image: Path, line: str, progress: Progress) -> str:
    """The root hash, once root.img has the one that the command line names."""
    words = dict(word.partition("=")[::2] for word in line.split())
    named, blocks = words.get("roothash", ""), words.get("perunml.blocks", "")
    if not re.fullmatch("[0-9a-f]{64}", named) or not re.fullmatch("[1-9][0-9]{0,9}", blocks):
        raise odd("the command line names no root", expected="roothash= and perunml.blocks=", seen=line)
    root = image / ROOT
    if not root.is_file() or root.stat().st_size < int(blocks) * BLOCK:
        raise odd("the image's root is not there, or shorter than the command line says", seen=str(root))
    found = root_hash(root, int(blocks), progress)
    if found != named:
        raise odd("the root image is not the one that the command line names", expected=named, seen=found)
    return found


def _files(
    image: Path,
    rules: Rules,
    event_log: bytes | None,
    left_open: tuple[int, ...],
    pcrs: dict[int, bytes],
    older: Baseline | None,
    until: int | None,
    progress: Progress,
) -> Built:
    sources = Sources(
        image=image / ROOT,
        event_log=event_log,
        pcrs={BANK: [index for index in FIRMWARE if index not in left_open]} if event_log is not None else {},
        values={BANK: pcrs},
    )
    built = build_baseline(sources, rules, older=older, until=until, progress=progress)
    listed = built.baseline.files
    if POLICY not in listed:
        raise odd("the root has no IMA policy", expected=POLICY)
    files = dict(sorted({**listed, LOADED_POLICY: listed[POLICY]}.items()))
    return replace(built, baseline=Baseline.from_json(replace(built.baseline, files=files).as_json()))


def _pcrs(uki: Image, line: str, keys: SecureBootKeys | None) -> dict[int, bytes]:
    separator = _sha256(SEPARATOR)
    found = {
        4: _extended((_sha256(CALLING), separator, uki.authenticode)),
        8: bytes(32),
        # the kernel's own EFI stub: load options as UTF-16 with a final zero, then the initrd
        9: _extended((_sha256((line + "\0").encode("utf-16-le")), _sha256(_section(uki, ".initrd")))),
        11: _extended(_sections(uki)),
        # what systemd's stub would have taken from beside the image: none of it is there
        12: bytes(32),
        13: bytes(32),
        14: bytes(32),
    }
    if keys is not None:
        found[7] = _extended(keys.digests())
    return dict(sorted(found.items()))


def _sections(uki: Image) -> Iterator[bytes]:
    stub = STUB.search(uki.section(".sdmagic") or b"")
    if stub is None or int(stub[1]) not in STUBS:
        seen = stub[0].decode() if stub else "no stub of systemd"
        raise odd("what this stub measures is not known", expected=f"systemd-stub {STUBS[0]} to {STUBS[-1]}", seen=seen)
    for name in MEASURED:
        if (data := uki.section(name)) is not None:
            yield _sha256(name.encode() + b"\0")
            yield _sha256(data)


def _keyrings(uki: Image, keys: SecureBootKeys | None) -> Iterator[str]:
    """What may enter a keyring: the kernel's own certificates, and the firmware's db (keyring .platform)."""
    yield from builtin_keys(_section(uki, ".linux"))
    for certificate in keys.db if keys is not None else ():
        yield "sha256:" + hashlib.sha256(certificate).hexdigest()


def _section(uki: Image, name: str) -> bytes:
    data = uki.section(name)
    if data is None:
        raise odd(f"the unified kernel image has no section {name}")
    return data


def _extended(digests: Iterable[bytes]) -> bytes:
    """A PCR after these, from zero."""
    value = bytes(32)
    for digest in digests:
        value = _sha256(value + digest)
    return value


def _sha256(data: bytes) -> bytes:
    return hashlib.sha256(data).digest()
