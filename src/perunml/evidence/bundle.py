"""What travels from a machine to whoever judges it: a bundle of parts, bounded, and nothing in it believed yet."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from perunml.evidence.binding import BINDING_SIZE, MAX_BINDINGS
from perunml.evidence.fields import MAX_EVENT_LOG, blob, cmdline, members, text
from perunml.evidence.parts import MAX_KEY, READERS, GpuPart, TeePart
from perunml.wire.codes import MALFORMED
from perunml.wire.encoding import b64, unb64
from perunml.wire.errors import refuse

VERSION = 1
MAX_PARTS = 24
"""A TPM, a TEE, 16 GPUs and 4 NVSwitches of the largest node, and two to spare."""
MAX_ATTEST = 4096
"""Bytes of a TPMS_ATTEST: a quote of two banks has about 150."""
MAX_SIGNATURE = 2048
"""Bytes of a TPMT_SIGNATURE: RSA-4096 has 518."""
MAX_LOG = 24 * 1024 * 1024
"""Bytes of an IMA log: 100,000 lines have about 15 MB."""
BANK_SIZES = {"sha1": 20, "sha256": 32, "sha384": 48, "sha512": 64}
"""Banks that can be told, and the size of their values in bytes; which are trusted is for the appraisal to say."""
MAX_PCR = 23
_TPM_MEMBERS = {
    "kind",
    "attest",
    "signature",
    "pcrs",
    "ima_log",
    "ima_offset",
    "event_log",
    "others",
    "cmdline",
    "ak",
    "binder",
}


@dataclass(frozen=True, slots=True)
class TpmPart:
    """A quote, the PCR values it digests, and the logs that explain them.

    attest      TPMS_ATTEST (TPM 2.0 part 2, 10.12.8), without a length before it
    signature   TPMT_SIGNATURE
    pcrs        bank -> index -> value
    ima_log     the kernel's binary_runtime_measurements from byte `ima_offset` on
    ima_offset  bytes of this boot's log that were accepted before
    event_log   the firmware's boot log, or empty
    others      bindings of the other exchanges that the same quote serves, sorted
    cmdline     what the machine says its kernel's command line was; believed where a measured event is its digest
    ak          TPM2B_PUBLIC of the attestation key, where a TEE vouches for it; empty where enrolment recorded it
    binder      TPMT_SIGNATURE over the binding by the machine's binder key (`tpm.binder`), or empty
    """

    attest: bytes
    signature: bytes
    pcrs: Mapping[str, Mapping[int, bytes]]
    ima_log: bytes = b""
    ima_offset: int = 0
    event_log: bytes = b""
    others: tuple[bytes, ...] = ()
    cmdline: str = ""
    ak: bytes = b""
    binder: bytes = b""

    def as_json(self) -> dict[str, Any]:
        return {
            "kind": "tpm",
            "attest": b64(self.attest),
            "signature": b64(self.signature),
            "pcrs": {bank: {str(i): b64(v) for i, v in values.items()} for bank, values in self.pcrs.items()},
            "ima_log": b64(self.ima_log),
            "ima_offset": self.ima_offset,
            "event_log": b64(self.event_log),
            "others": [b64(other) for other in self.others],
            "cmdline": self.cmdline,
            "ak": b64(self.ak),
            "binder": b64(self.binder),
        }


@dataclass(frozen=True, slots=True)
class SimulatedPart:
    """A bare key's signature over ``b"perunml/simulated" || binding``: it proves nothing but that the same key holder
    is asked."""

    key: str
    binding: bytes
    signature: bytes

    def as_json(self) -> dict[str, Any]:
        return {"kind": "simulated", "key": self.key, "binding": b64(self.binding), "signature": b64(self.signature)}


Part = TpmPart | SimulatedPart | TeePart | GpuPart


@dataclass(frozen=True, slots=True)
class Bundle:
    """All that one machine sends for one binding."""

    parts: tuple[Part, ...]

    def as_json(self) -> dict[str, Any]:
        return {"version": VERSION, "parts": [part.as_json() for part in self.parts]}

    @classmethod
    def from_json(cls, data: Any) -> Bundle:
        """Raises `UsageError` (malformed) for unknown, missing or oversized members."""
        members(data, {"version", "parts"})
        if data["version"] != VERSION or isinstance(data["version"], bool):
            raise refuse(MALFORMED, "evidence of another version", expected=str(VERSION), seen=str(data["version"]))
        parts = data["parts"]
        if not isinstance(parts, list) or not 1 <= len(parts) <= MAX_PARTS:
            raise refuse(MALFORMED, f"evidence has 1 to {MAX_PARTS} parts")
        return cls(tuple(_part(part) for part in parts))


def _part(data: Any) -> Part:
    kind = data.get("kind") if isinstance(data, dict) else None
    if kind == "tpm":
        members(data, _TPM_MEMBERS)
        offset = data["ima_offset"]
        if isinstance(offset, bool) or not isinstance(offset, int) or not 0 <= offset <= MAX_LOG:
            raise refuse(MALFORMED, "ima_offset is a count of bytes", seen=str(offset))
        return TpmPart(
            blob(data, "attest", MAX_ATTEST),
            blob(data, "signature", MAX_SIGNATURE),
            _pcrs(data["pcrs"]),
            blob(data, "ima_log", MAX_LOG),
            offset,
            blob(data, "event_log", MAX_EVENT_LOG),
            _others(data["others"]),
            cmdline(data["cmdline"]),
            blob(data, "ak", MAX_SIGNATURE),
            blob(data, "binder", MAX_SIGNATURE),
        )
    if kind == "simulated":
        members(data, {"kind", "key", "binding", "signature"})
        return SimulatedPart(text(data, "key", MAX_KEY), blob(data, "binding", 64), blob(data, "signature", 128))
    if isinstance(kind, str) and kind in READERS:
        return READERS[kind](data)
    known = ", ".join(("tpm", "simulated", *READERS))
    raise refuse(MALFORMED, "a part of the evidence is of no known kind", expected=known, seen=str(kind)[:MAX_KEY])


def _others(data: Any) -> tuple[bytes, ...]:
    if not isinstance(data, list) or len(data) >= MAX_BINDINGS:
        raise refuse(MALFORMED, f"others is a list of fewer than {MAX_BINDINGS} bindings")
    found = tuple(unb64(text) if isinstance(text, str) and len(text) <= 64 else b"" for text in data)
    if any(len(other) != BINDING_SIZE for other in found):
        raise refuse(MALFORMED, f"a binding has {BINDING_SIZE} bytes")
    return found


def _pcrs(data: Any) -> dict[str, dict[int, bytes]]:
    if not isinstance(data, dict) or not set(data) <= set(BANK_SIZES):
        raise refuse(MALFORMED, "pcrs is an object by bank", expected=", ".join(BANK_SIZES))
    return {bank: read_bank(values, BANK_SIZES[bank], unb64) for bank, values in data.items()}


def read_bank(values: Any, size: int, decode: Any) -> dict[int, bytes]:
    """One bank's values by index; shared with the baseline's document, which writes them in hex (`decode`)."""
    if not isinstance(values, dict):
        raise refuse(MALFORMED, "a PCR bank is an object by index")
    found: dict[int, bytes] = {}
    for key, value in values.items():
        # str(int(key)) == key: one spelling per index, so none comes twice
        if not (key.isascii() and key.isdigit() and len(key) <= 2 and str(int(key)) == key and int(key) <= MAX_PCR):
            raise refuse(MALFORMED, "not a PCR index", expected=f"0 to {MAX_PCR}", seen=key)
        if not isinstance(value, str):
            raise refuse(MALFORMED, "a PCR value is a text")
        try:
            raw: bytes = decode(value)
        except ValueError:
            raise refuse(MALFORMED, f"PCR {key}: not a value", seen=value) from None
        if len(raw) != size:
            raise refuse(MALFORMED, f"PCR {key}: value of a wrong length", expected=f"{size}", seen=f"{len(raw)}")
        found[int(key)] = raw
    return found
