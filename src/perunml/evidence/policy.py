"""What evidence is judged by: the baseline that the parties agreed on, and what enrolment recorded of the machine."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from perunml.evidence.bundle import BANK_SIZES, read_bank
from perunml.wire.codes import MALFORMED
from perunml.wire.digests import digest_of
from perunml.wire.dsse import API_VERSION
from perunml.wire.errors import refuse

MAX_PATH = 4096
"""Bytes of a path (Linux PATH_MAX)."""
STRONG_BANKS = ("sha256", "sha384", "sha512")
"""Banks whose values count."""
_FILE_DIGEST = re.compile(r"sha256:[0-9a-f]{64}|sha384:[0-9a-f]{96}|sha512:[0-9a-f]{128}")


@dataclass(frozen=True)
class Baseline:
    """The agreed state of a machine. DSSE kind ``Baseline``.

    pcrs   bank -> index -> the one value allowed; strong banks only
    files  path -> digests allowed (``sha256:…``, ``sha384:…``, ``sha512:…``); a file not here may not be loaded
    """

    pcrs: Mapping[str, Mapping[int, bytes]]
    files: Mapping[str, frozenset[str]]

    def as_json(self) -> dict[str, Any]:
        return {
            "pcrs": {bank: {str(i): v.hex() for i, v in values.items()} for bank, values in self.pcrs.items()},
            "files": {path: sorted(digests) for path, digests in self.files.items()},
        }

    @cached_property
    def digest(self) -> str:
        """``sha256:`` of the document's payload: what an agreement names."""
        return digest_of({"apiVersion": API_VERSION, "kind": "Baseline", **self.as_json()})

    @cached_property
    def allowed(self) -> Mapping[bytes, frozenset[bytes]]:
        """By path as the kernel writes it: ``algorithm:\\0`` followed by the raw digest, as in a d-ng field."""
        return {path.encode(): frozenset(_raw(text) for text in digests) for path, digests in self.files.items()}

    @classmethod
    def from_json(cls, data: Any) -> Baseline:
        """From `as_json`'s object, or a document's payload with its apiVersion and kind. Raises `UsageError`
        (malformed)."""
        if isinstance(data, dict) and data.get("kind") == "Baseline" and data.get("apiVersion") == API_VERSION:
            data = {k: v for k, v in data.items() if k not in ("kind", "apiVersion")}
        if not isinstance(data, dict) or set(data) != {"pcrs", "files"}:
            raise refuse(MALFORMED, "a baseline has `pcrs` and `files`")
        pcrs, files = data["pcrs"], data["files"]
        if not isinstance(pcrs, dict) or not set(pcrs) <= set(STRONG_BANKS):
            raise refuse(MALFORMED, "a baseline's PCRs are of strong banks", expected=", ".join(STRONG_BANKS))
        if not isinstance(files, dict):
            raise refuse(MALFORMED, "a baseline's files are an object by path")
        for path, digests in files.items():
            _check_file(path, digests)
        return cls(
            {bank: read_bank(values, BANK_SIZES[bank], _unhex) for bank, values in pcrs.items()},
            {path: frozenset(digests) for path, digests in files.items()},
        )


@dataclass(frozen=True, slots=True)
class Policy:
    """What a host must prove. What it leaves out is refused, never "not checked".

    profile             ``measured``, ``tee``, ``gpu-cc`` or ``simulated``
    imitates            for ``simulated``: whose checks are run; empty means ``measured`` with a baseline, else ``tee``
    baseline            needed for ``measured``, real or imitated
    allow_simulated     the agreement literally says ``simulated``
    allow_unsafe_clock  a TPM that lost power without a shutdown may take part before its clock is safe again
    denied_firmware     TPM firmware versions refused
    """

    profile: str
    imitates: str
    baseline: Baseline | None
    allow_simulated: bool
    allow_unsafe_clock: bool = False
    denied_firmware: frozenset[int] = field(default=frozenset())


@dataclass(frozen=True, slots=True)
class Machine:
    """What enrolment recorded.

    id          ``ek:sha256:…`` or ``simulated:sha256:…``
    simulated   its EK leads to a simulated root, or it has none
    ak          TPM2B_PUBLIC of the attestation key that the TPM activated; empty for a bare key
    key         text of a simulated machine's key; empty for a TPM
    last_clock  (resetCount, restartCount, clock in ms) of its newest accepted quote
    ek          TPM2B_PUBLIC of the EK; needed only where the attestation key is the EK's child
    """

    id: str
    simulated: bool
    ak: bytes = b""
    key: str = ""
    last_clock: tuple[int, int, int] | None = None
    ek: bytes = b""


def _check_file(path: str, digests: Any) -> None:
    if not path or "\0" in path or len(path.encode()) > MAX_PATH:
        raise refuse(MALFORMED, f"a path has 1 to {MAX_PATH} bytes and no NUL", seen=path)
    if not isinstance(digests, list) or not digests:
        raise refuse(MALFORMED, "a file has a list of allowed digests", seen=path)
    if not all(isinstance(text, str) and _FILE_DIGEST.fullmatch(text) for text in digests):
        raise refuse(MALFORMED, "not a file's digest", expected="sha256:<hex> (or sha384, sha512)", seen=path)
    if sorted(set(digests)) != digests:
        raise refuse(MALFORMED, "a file's digests are sorted, each once", seen=path)


def _unhex(text: str) -> bytes:
    raw = bytes.fromhex(text)
    if raw.hex() != text:
        raise ValueError("not lower-case hex")
    return raw


def _raw(text: str) -> bytes:
    algorithm, _, value = text.partition(":")
    return algorithm.encode() + b":\0" + bytes.fromhex(value)
