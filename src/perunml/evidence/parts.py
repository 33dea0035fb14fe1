"""The parts of a bundle that TEEs, GPUs and clouds' vTPMs send: their signed bytes, and the certificates that come with them.

Only sizes are judged here; what the bytes say is for each kind's own reader.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from perunml.evidence.fields import MAX_EVENT_LOG, blob, cmdline, members, text
from perunml.wire.codes import MALFORMED
from perunml.wire.encoding import b64, unb64
from perunml.wire.errors import refuse

MAX_QUOTE = 32 * 1024
"""Bytes of an Intel quote: with its certificate chain some 5,000, padded by some drivers to 8,000."""
MAX_REPORT = 32 * 1024
"""Bytes of an SNP report (1,184), an HCL report (some 3,000) or a GPU's SPDM exchange (some 4,000)."""
MAX_CERTIFICATES = 8
"""AMD sends three, NVIDIA five."""
MAX_CERTIFICATE = 8 * 1024
"""Bytes."""
MAX_KEY = 100
"""Characters of a public key's text."""


@dataclass(frozen=True, slots=True)
class SgxPart:
    """An Intel DCAP quote of an SGX enclave."""

    quote: bytes

    def as_json(self) -> dict[str, Any]:
        return {"kind": "sgx", "quote": b64(self.quote)}


@dataclass(frozen=True, slots=True)
class TdxPart:
    """An Intel DCAP quote of a trust domain.

    event_log  the log of what extended the RTMRs (CCEL), or empty
    cmdline    what the machine says its kernel's command line was; believed where a measured event is its digest
    key        text of a key that lives in this TEE alone, where a TPM's PCR is to show it too; or empty
    """

    quote: bytes
    event_log: bytes = b""
    cmdline: str = ""
    key: str = ""

    def as_json(self) -> dict[str, Any]:
        log = {"event_log": b64(self.event_log), "cmdline": self.cmdline}
        return {"kind": "tdx", "quote": b64(self.quote), **log, "key": self.key}


@dataclass(frozen=True, slots=True)
class SnpPart:
    """An AMD SEV-SNP attestation report, and the certificates (DER) that the hypervisor hands out with it, if any."""

    report: bytes
    certificates: tuple[bytes, ...] = ()
    key: str = ""

    def as_json(self) -> dict[str, Any]:
        return {
            "kind": "snp",
            "report": b64(self.report),
            "certificates": list(map(b64, self.certificates)),
            "key": self.key,
        }


@dataclass(frozen=True, slots=True)
class HclPart:
    """Azure's HCL report: a TEE's report over runtime data that name the vTPM's attestation key. The TEE's own report is bound
    to that key, not to the exchange; the vTPM's quote is.

    report        the HCL blob of NV index 0x01400001
    certificates  AMD's for the SNP report inside (DER)
    quote         Intel's quote over the TD report inside, where it is one; else empty
    """

    report: bytes
    certificates: tuple[bytes, ...] = ()
    quote: bytes = b""

    def as_json(self) -> dict[str, Any]:
        return {
            "kind": "hcl",
            "report": b64(self.report),
            "certificates": list(map(b64, self.certificates)),
            "quote": b64(self.quote),
        }


@dataclass(frozen=True, slots=True)
class GpuPart:
    """An NVIDIA device's attestation report.

    device  ``gpu`` or ``switch``
    report  the SPDM GET_MEASUREMENTS request and its signed response
    chain   the device's certificates (DER), the leaf first
    """

    device: str
    report: bytes
    chain: tuple[bytes, ...]

    def as_json(self) -> dict[str, Any]:
        return {"kind": "gpu", "device": self.device, "report": b64(self.report), "chain": list(map(b64, self.chain))}


TeePart = SgxPart | TdxPart | SnpPart | HclPart


def _sgx(data: dict[str, Any]) -> SgxPart:
    members(data, {"kind", "quote"})
    return SgxPart(blob(data, "quote", MAX_QUOTE))


def _tdx(data: dict[str, Any]) -> TdxPart:
    members(data, {"kind", "quote", "event_log", "cmdline", "key"})
    log = blob(data, "event_log", MAX_EVENT_LOG)
    return TdxPart(blob(data, "quote", MAX_QUOTE), log, cmdline(data["cmdline"]), text(data, "key", MAX_KEY))


def _snp(data: dict[str, Any]) -> SnpPart:
    members(data, {"kind", "report", "certificates", "key"})
    return SnpPart(blob(data, "report", MAX_REPORT), _certificates(data, "certificates"), text(data, "key", MAX_KEY))


def _hcl(data: dict[str, Any]) -> HclPart:
    members(data, {"kind", "report", "certificates", "quote"})
    return HclPart(
        blob(data, "report", MAX_REPORT), _certificates(data, "certificates"), blob(data, "quote", MAX_QUOTE)
    )


def _gpu(data: dict[str, Any]) -> GpuPart:
    members(data, {"kind", "device", "report", "chain"})
    if data["device"] not in ("gpu", "switch"):
        raise refuse(MALFORMED, "a device is a gpu or a switch", seen=str(data["device"])[:MAX_KEY])
    return GpuPart(data["device"], blob(data, "report", MAX_REPORT), _certificates(data, "chain"))


READERS: dict[str, Callable[[dict[str, Any]], TeePart | GpuPart]] = {
    "sgx": _sgx,
    "tdx": _tdx,
    "snp": _snp,
    "hcl": _hcl,
    "gpu": _gpu,
}
"""By a part's `kind`; each raises `UsageError` (malformed)."""


def _certificates(data: dict[str, Any], name: str) -> tuple[bytes, ...]:
    listed = data[name]
    if not isinstance(listed, list) or len(listed) > MAX_CERTIFICATES:
        raise refuse(MALFORMED, f"{name} is a list of at most {MAX_CERTIFICATES} certificates")
    if any(not isinstance(item, str) or len(item) > MAX_CERTIFICATE * 4 // 3 for item in listed):
        raise refuse(MALFORMED, f"a certificate is base64url of at most {MAX_CERTIFICATE} bytes")
    return tuple(map(unb64, listed))
