"""Azure's confidential VMs: the HCL report of NV index 0x01400001. The paravisor keeps a virtual TPM; its TEE's report covers
runtime data (JSON) that name the TPM's attestation key.

Azure, "Azure Confidential VMs guest attestation design", structure of the attestation report: a header of 32 bytes, the hardware's
report in 1,184, then sizes, the hash's kind and the runtime data. Numbers are little-endian. What follows the size that the header
tells is the NV index's rest, and zero. Newer paravisors (OpenHCL, openhcl_attestation_protocol, igvm_attest) write their data's version 2,
with an extension before the runtime data. Nothing but the runtime data is covered by the TEE: what else the blob says only helps to
read it.

What the TEE measured is the paravisor alone; the system above it is measured by the virtual TPM.
"""

from __future__ import annotations

import hashlib
import hmac
import json
from dataclasses import dataclass
from struct import Struct
from typing import Any

from perunml.evidence.clouds.codes import AK_NOT_VOUCHED
from perunml.evidence.codes import NON_CANONICAL
from perunml.wire.canonical import Json
from perunml.wire.encoding import unb64
from perunml.wire.errors import PerunError, refuse

_HEADER = Struct("<4sIIII12s")
_RUNTIME = Struct("<IIIII")
_SIGNATURE = b"HCLA"
VERSIONS = (1, 2)
_EXTENSIONS = {1: 0, 2: 4}
"""Bytes between the data's sizes and the runtime data, by the data's version: what the paravisor asks of its host."""
HARDWARE = 1184
"""Bytes for the hardware's report; a TD report has 1,024 of them."""
TD_REPORT = 1024
KINDS = {2: "snp", 4: "tdx"}
_HASHES = {1: "sha256", 2: "sha384", 3: "sha512"}
MAX_RUNTIME = 16 * 1024
"""Bytes of the runtime data; a thousand is usual."""
MAX_SETTINGS = 32
"""Of a virtual machine's settings that claims show; OpenHCL writes a dozen."""
MAX_SETTING = 128
"""Characters of one: a UUID, a certificate's thumbprint."""
AK = "HCLAkPub"
REPORT_DATA = 64


@dataclass(frozen=True, slots=True)
class Hcl:
    """What the blob holds, nothing of it believed.

    kind     ``snp`` or ``tdx``
    report   the hardware's report: SNP's attestation report, or a TD report (which only a quote over it proves)
    runtime  the runtime data's bytes, as the TEE's report data are their hash
    """

    kind: str
    report: bytes
    runtime: bytes
    hash: str

    @property
    def report_data(self) -> bytes:
        """The 64 bytes that the TEE must have reported: the hash of the runtime data, then zeros."""
        return hashlib.new(self.hash, self.runtime).digest().ljust(REPORT_DATA, b"\0")


def parse_hcl(data: bytes) -> Hcl:
    """Raises `EvidenceRefusal` (non_canonical)."""
    data = bytes(data)
    start = _HEADER.size + HARDWARE
    if len(data) < start + _RUNTIME.size:
        raise _bad(f"it is cut off: {len(data)} bytes")
    signature, version, size, _request, _status, _reserved = _HEADER.unpack_from(data)
    if signature != _SIGNATURE or version not in VERSIONS:
        raise _bad("its header is another", seen=f"{signature!r} version {version}")
    length, version, kind, hash_kind, runtime = _RUNTIME.unpack_from(data, start)
    if version not in _EXTENSIONS or kind not in KINDS or hash_kind not in _HASHES:
        raise _bad("the data's version, the TEE or the hash is not known", seen=f"{version}, {kind}, {hash_kind}")
    begin = start + _RUNTIME.size + _EXTENSIONS[version]
    end = begin + runtime
    if runtime > MAX_RUNTIME or end > len(data):
        raise _bad(f"the runtime data are cut off or too long: {runtime} bytes")
    if length != end - start or size != end:
        raise _bad("its sizes do not fit together", seen=f"{size}, {length}, {runtime}")
    if any(data[end:]):
        raise _bad("something follows it")
    report = data[_HEADER.size : start]
    if KINDS[kind] == "tdx":
        if any(report[TD_REPORT:]):
            raise _bad("something follows the TD report")
        report = report[:TD_REPORT]
    return Hcl(KINDS[kind], report, data[begin:end], _HASHES[hash_kind])


def check_report_data(hcl: Hcl, reported: bytes) -> None:
    """The TEE reported this blob's runtime data: `reported` is the report data of its verified report. Raises `EvidenceRefusal`
    (ak_not_vouched)."""
    wanted = hcl.report_data
    if not hmac.compare_digest(wanted, reported):
        what = "the TEE's report covers other runtime data"
        raise refuse(AK_NOT_VOUCHED, what, expected=wanted.hex(), seen=reported.hex())


def vouched_key(hcl: Hcl) -> tuple[int, int]:
    """(modulus, exponent) of the attestation key that the runtime data name. Raises `EvidenceRefusal`: non_canonical,
    ak_not_vouched (none, or two)."""
    keys = runtime_claims(hcl).get("keys")
    named = [key for key in keys if isinstance(key, dict) and key.get("kid") == AK] if isinstance(keys, list) else []
    if len(named) != 1 or named[0].get("kty") != "RSA":
        raise refuse(
            AK_NOT_VOUCHED, "the runtime data do not name one attestation key", expected=AK, seen=str(len(named))
        )
    try:
        modulus, exponent = (int.from_bytes(unb64(named[0][part])) for part in ("n", "e"))
    except (KeyError, PerunError):
        raise _bad("the attestation key is not a JWK") from None
    return modulus, exponent


def runtime_claims(hcl: Hcl) -> dict[str, Any]:
    """The runtime data. Raises `EvidenceRefusal` (non_canonical)."""
    try:
        found = json.loads(hcl.runtime, object_pairs_hook=_once)
    except (ValueError, RecursionError):
        found = None
    if not isinstance(found, dict):
        raise _bad("the runtime data are no JSON object")
    return found


def cloud_claims(hcl: Hcl) -> dict[str, Json]:
    """Which cloud it is, and how its paravisor was told to set the virtual machine up: the host told it, so it is shown and not
    judged. Plain members alone. Raises `EvidenceRefusal` (non_canonical)."""
    told = runtime_claims(hcl).get("vm-configuration")
    items = list(told.items())[:MAX_SETTINGS] if isinstance(told, dict) else []
    shown = {name: value for name, value in items if _plain(name) and (isinstance(value, bool) or _plain(value))}
    return {"provider": "azure", "vm": shown}


def _plain(value: object) -> bool:
    return isinstance(value, str) and len(value) <= MAX_SETTING and value.isascii() and value.isprintable()


def check_ak(hcl: Hcl, modulus: int, exponent: int) -> None:
    """The TPM's attestation key is the one that the TEE vouches for. Raises `EvidenceRefusal` (ak_not_vouched, non_canonical)."""
    if vouched_key(hcl) != (modulus, exponent):
        raise refuse(
            AK_NOT_VOUCHED, "the TEE vouches for another attestation key than the one that quotes", expected=AK
        )


def td_body(hcl: Hcl) -> bytes:
    """The part of a TD report (TDREPORT_STRUCT: REPORTMACSTRUCT of 256 bytes, TEE_TCB_INFO of 239 and 17 reserved, TDINFO) that a
    quote has as well, TDINFO's first 400 bytes: attributes, XFAM, MRTD, MRCONFIGID, MROWNER, MROWNERCONFIG, RTMRs."""
    return hcl.report[512 : 512 + 400]


def td_report_data(hcl: Hcl) -> bytes:
    """The report data of a TD report: REPORTMACSTRUCT's, at 128."""
    return hcl.report[128 : 128 + REPORT_DATA]


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a member comes twice")
    return found


def _bad(why: str, seen: str = "") -> PerunError:
    return refuse(NON_CANONICAL, f"the HCL report is not of its form: {why}", seen=seen)
