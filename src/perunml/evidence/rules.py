"""The rules that a baseline may hold besides exact values: what boot log, IMA log and TPM must show, and what is excused.

Each is a frozen value with a JSON form of which every member is optional and a default is never written: one spelling per
meaning. A default demands or excuses nothing, so what the parties do not write stays refused.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Set
from dataclasses import dataclass, fields
from typing import Any, Self

from perunml.wire.codes import MALFORMED
from perunml.wire.errors import refuse

STRONG_BANKS = ("sha256", "sha384", "sha512")
"""Banks whose values count."""
MAX_PATH = 4096
"""Bytes of a path (Linux PATH_MAX)."""
_SURELY_SHORT = MAX_PATH // 4
"""Characters that are no more than MAX_PATH bytes in UTF-8."""
MAX_ITEMS = 4096
"""Members of one list of rules; a dbx has some hundreds."""
MAX_WORD = 1024
"""Characters of one word of a command line."""
_DIGEST = re.compile(r"sha256:[0-9a-f]{64}|sha384:[0-9a-f]{96}|sha512:[0-9a-f]{128}")
_FIRMWARE = re.compile(r"[0-9a-f]{16}")


@dataclass(frozen=True, slots=True)
class _Rules:
    """Reads and writes the JSON form by the fields' defaults: a bool, a set of digests, texts or numbers."""

    def as_json(self) -> dict[str, Any]:
        return {
            f.name: sorted(value) if isinstance(value, frozenset) else value
            for f in fields(self)
            if (value := getattr(self, f.name)) != f.default
        }

    @classmethod
    def from_json(cls, data: Any) -> Self:
        """Raises `UsageError` (malformed) for unknown members, wrong types, unsorted or repeated items."""
        members(data, f"`{cls.__name__}`", set(), {f.name for f in fields(cls)})
        read: dict[str, Any] = {}
        for name, value in data.items():
            read[name] = _flag(name, value) if cls._default(name) is False else _items(name, value, cls._form(name))
        return cls(**read)

    @classmethod
    def _default(cls, name: str) -> Any:
        return next(f.default for f in fields(cls) if f.name == name)

    @classmethod
    def _form(cls, name: str) -> Form:
        return _FORMS[name]


@dataclass(frozen=True, slots=True)
class BootRules(_Rules):
    """What the boot log must show. Of PCRs 0 to 9 and 11 to 14, each that is neither among the baseline's exact values nor
    `open` is judged event by event: one that none of these lists admits is refused.

    secure_boot   Secure Boot must have been on, and not in setup mode (PCR 7)
    authorities   ``sha256:`` of the certificates (DER) or image hashes that may have vouched for an image (PCR 7)
    dbx           ``sha256:`` hashes, and of certificates (DER), that the revocation list must hold at least (PCR 7)
    mok           ``sha256:`` of what the machine owner's list may hold (PCR 14)
    applications  Authenticode digests of the EFI images that may have been started (PCR 4)
    loaded        digests of other events that may be there: kernel, initrd, sections of a unified kernel image, firmware's own
    cmdline       words that every measured kernel command line must hold, each (PCRs 8, 9, 11, 12)
    no_cmdline    words that none may hold: a whole word, or ``name=`` for any value
    open          PCRs that the parties leave open: neither their values nor their events are judged
    """

    secure_boot: bool = False
    authorities: frozenset[str] = frozenset()
    dbx: frozenset[str] = frozenset()
    mok: frozenset[str] = frozenset()
    applications: frozenset[str] = frozenset()
    loaded: frozenset[str] = frozenset()
    cmdline: frozenset[str] = frozenset()
    no_cmdline: frozenset[str] = frozenset()
    open: frozenset[int] = frozenset()


@dataclass(frozen=True, slots=True)
class ImaRules(_Rules):
    """What the IMA log must show besides listed files, and what is excused in it.

    require     paths that must have been measured inside the proven prefix, with a digest that is listed
    policies    digests of IMA policies (text as loaded, or as the kernel shows the rules in force); one must be shown, inside
                the proven prefix, and no other may be. The kernel's own lines tell of loading; a policy's file, measured, only
                of having been read
    keys        ``sha256:`` of the SubjectPublicKeyInfo (DER) of keys whose file signatures stand for a listed digest, at
                any path, after the log shows the key entering the keyring .ima
    keyrings    ``sha256:`` of what may enter a keyring (a certificate in DER, as measured in an ima-buf line)
    violations  paths at which a violation is excused. No digest covers a violation's line, so which path it was is the
                host's word
    reload      a policy may be loaded again while the machine runs; it must be one of `policies`
    kexec       a second boot_aggregate, of the same PCRs, may follow; the command line of kexec is listed as a file,
                ``kexec-cmdline``
    """

    require: frozenset[str] = frozenset()
    policies: frozenset[str] = frozenset()
    keys: frozenset[str] = frozenset()
    keyrings: frozenset[str] = frozenset()
    violations: frozenset[str] = frozenset()
    reload: bool = False
    kexec: bool = False


@dataclass(frozen=True, slots=True)
class TpmRules(_Rules):
    """What is asked of the TPM itself.

    unsafe_clock     a TPM that lost power without a shutdown may take part before its clock is safe again
    denied_firmware  firmware versions refused, 16 hex digits as in a quote
    discrete         a chip of its own: no firmware, virtual or software TPM
    """

    unsafe_clock: bool = False
    denied_firmware: frozenset[str] = frozenset()
    discrete: bool = False


def members(data: Any, what: str, needed: Set[str], optional: Set[str] = frozenset()) -> None:
    """Raises `UsageError` (malformed) unless `data` is an object of the `needed` members and, perhaps, `optional` ones."""
    if not isinstance(data, dict) or not needed <= set(data) <= needed | optional:
        seen = ", ".join(sorted(str(k) for k in data)) if isinstance(data, dict) else type(data).__name__
        expected = ", ".join([*sorted(needed), *(f"[{name}]" for name in sorted(optional))])
        raise refuse(MALFORMED, f"{what} has other members", expected=expected, seen=seen)


def read_files(data: Any) -> dict[str, frozenset[str]]:
    """Path -> digests allowed, each list sorted. Raises `UsageError` (malformed)."""
    if not isinstance(data, dict):
        raise refuse(MALFORMED, "a baseline's files are an object by path")
    for path, digests in data.items():
        # 200,000 times, so the usual file, one digest under a path that is not long, is looked at in few steps
        if (
            type(digests) is list
            and len(digests) == 1
            and type(digests[0]) is str
            and _DIGEST.fullmatch(digests[0])
            and 0 < len(path) <= _SURELY_SHORT
            and "\0" not in path
        ):
            continue
        if not is_path(path):
            raise refuse(MALFORMED, f"a path has 1 to {MAX_PATH} bytes and no NUL", seen=str(path))
        if not isinstance(digests, list) or not digests:
            raise refuse(MALFORMED, "a file has a list of allowed digests", seen=path)
        if not all(is_digest(text) for text in digests):
            raise refuse(MALFORMED, "not a file's digest", expected="sha256:<hex> (or sha384, sha512)", seen=path)
        if sorted(set(digests)) != digests:
            raise refuse(MALFORMED, "a file's digests are sorted, each once", seen=path)
    return {path: frozenset(digests) for path, digests in data.items()}


def is_digest(text: Any) -> bool:
    return isinstance(text, str) and _DIGEST.fullmatch(text) is not None


def is_path(text: Any) -> bool:
    return isinstance(text, str) and text != "" and "\0" not in text and len(text.encode()) <= MAX_PATH


def unhex(text: str) -> bytes:
    """Lower-case hex. Raises `ValueError`."""
    raw = bytes.fromhex(text)
    if raw.hex() != text:
        raise ValueError("not lower-case hex")
    return raw


def _is_word(text: Any) -> bool:
    return (
        isinstance(text, str)
        and 0 < len(text) <= MAX_WORD
        and text.isascii()
        and text.isprintable()
        and " " not in text
    )


def _is_pcr(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= 14 and value != 10


def _is_firmware(text: Any) -> bool:
    return isinstance(text, str) and _FIRMWARE.fullmatch(text) is not None


Form = tuple[Any, str]
_DIGESTS: Form = (is_digest, "digests, sha256:<hex>")
_PATHS: Form = (is_path, "paths")
_WORDS: Form = (_is_word, "printable words without blanks")
_FORMS: Mapping[str, Form] = {
    "authorities": _DIGESTS,
    "dbx": _DIGESTS,
    "mok": _DIGESTS,
    "applications": _DIGESTS,
    "loaded": _DIGESTS,
    "cmdline": _WORDS,
    "no_cmdline": _WORDS,
    "open": (_is_pcr, "PCRs 0 to 9 or 11 to 14"),
    "require": _PATHS,
    "policies": _DIGESTS,
    "keys": _DIGESTS,
    "keyrings": _DIGESTS,
    "violations": _PATHS,
    "denied_firmware": (_is_firmware, "16 hex digits"),
}


def _flag(name: str, value: Any) -> bool:
    if value is not True:
        raise refuse(MALFORMED, f"`{name}` is true or left out", seen=str(value))
    return True


def _items(name: str, value: Any, form: Form) -> frozenset[Any]:
    good, what = form
    if not isinstance(value, list) or not 0 < len(value) <= MAX_ITEMS or not all(good(item) for item in value):
        raise refuse(MALFORMED, f"`{name}` is a list of 1 to {MAX_ITEMS} {what}")
    if sorted(set(value)) != value:
        raise refuse(MALFORMED, f"`{name}` is sorted, each item once")
    return frozenset(value)
