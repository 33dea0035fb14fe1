"""`check_nvidia`: reports of GPUs and NVSwitches in files, judged without a manager and, if need be, without a profile.

Without rules everything is judged that needs none: form, nonce, chain to NVIDIA's root, signature, firmware's digest, development
flags, revocation as far as an answer says so, and the measurements where a manifest of the version is given. What is missing is
told as claims. With rules, the same appraisal runs as in a manager.
"""

from __future__ import annotations

import binascii
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from perunml.evidence import pem
from perunml.evidence.codes import NON_CANONICAL
from perunml.evidence.endorsements import Collateral, Endorsements
from perunml.evidence.nvidia.appraise import appraise_gpus, gpu_claims
from perunml.evidence.nvidia.compare import compare
from perunml.evidence.nvidia.fields import SWITCH_GPUS
from perunml.evidence.nvidia.parse import parse_report
from perunml.evidence.nvidia.rim import read_rim
from perunml.evidence.nvidia.roots import RIM_ROOTS
from perunml.evidence.nvidia.rules import GpuRules
from perunml.evidence.nvidia.verify import GpuReport, signer_reasons, verify_gpu
from perunml.evidence.offline.findings import Checked, Findings
from perunml.evidence.parts import MAX_CERTIFICATE, MAX_CERTIFICATES, MAX_REPORT, GpuPart
from perunml.evidence.tee.codes import CERTIFICATE_CHAIN, DEBUG_ENABLED
from perunml.evidence.types import Verified
from perunml.evidence.x509 import trusted_by
from perunml.wire.canonical import load_json
from perunml.wire.errors import PerunError, refuse
from perunml.wire.rules import Reason

MAX_DEVICES = 32
"""Devices of one file: 16 GPUs and 16 switches."""
MAX_FILE = 4 * 1024 * 1024
"""Bytes of a file of evidence; that of a node of eight GPUs has 100,000."""
_MEMBERS = {"certificate", "evidence"}
"""Of a device in NVIDIA's JSON form of evidence, base64 both; there are others, which say nothing that is not in these."""


@dataclass(frozen=True, slots=True)
class NvidiaFiles:
    """What an auditor holds of one machine's devices.

    reports          files of reports: the bytes, hex, or NVIDIA's JSON form (a list of devices, with their certificates)
    chain            the certificates of one report that is not JSON: PEM, DER one behind the other, or the JSON form
    nonce            what the devices must sign, 32 bytes
    rims             reference manifests (XML), all that there are
    ocsp             OCSP responses (DER)
    simulated_roots  development roots (DER) that are believed
    """

    reports: Sequence[bytes]
    chain: bytes | None
    nonce: bytes
    rims: Sequence[bytes] = ()
    ocsp: Sequence[bytes] = ()
    simulated_roots: Sequence[bytes] = ()


def check_nvidia(files: NvidiaFiles, *, now: int, rules: Sequence[GpuRules] = ()) -> Checked:
    """Judge devices at `now` (seconds since 1970), under the first of the `rules` that they meet. Never raises for bad evidence;
    raises `UsageError` (extra_missing) where manifests cannot be read at all."""
    found = Findings()
    parts = [part for data in files.reports for part in found.attempt(_parts, data, files.chain) or ()]
    known = Endorsements(Collateral(rims=tuple(files.rims), ocsp=tuple(files.ocsp)), tuple(files.simulated_roots))
    tried = [found.attempt(verify_gpu, part, known, nonce=files.nonce, now=now) for part in parts]
    gpus = [gpu for gpu in tried if gpu is not None]
    claims: dict[str, Any] = gpu_claims(gpus, endorsements=known, now=now)
    claims["manifests"] = [_manifest(data, known, now) for data in files.rims]
    if rules:
        if not found.reasons:
            judged = sorted((appraise_gpus(gpus, one, endorsements=known, now=now) for one in rules), key=len)
            found.add(judged[0])
    else:
        found.add(_without_rules(gpus, known, now))
    return found.checked(claims)


def check_rim(data: bytes, *, now: int, simulated_roots: Sequence[bytes] = ()) -> Checked:
    """Judge a reference manifest alone: its form, its signature, and whether its signers' chain is NVIDIA's and in force."""
    found = Findings()
    rim = found.attempt(read_rim, data)
    if rim is None:
        return found.checked({"manifest": None})
    what = f"the signer of the manifest {rim.version}"
    found.add(signer_reasons(rim.chain, what, now))
    if trusted_by(rim.chain[-1], RIM_ROOTS, simulated_roots) is None:
        seen = rim.chain[-1].subject.rfc4514_string()
        found.refuse(CERTIFICATE_CHAIN, f"{what} has no root that is known", seen=seen)
    about = {"version": rim.version, "product": rim.product, "edition": rim.edition, "measurements": len(rim.golden)}
    return found.checked({"manifest": about})


def _without_rules(gpus: Sequence[Verified[GpuReport]], known: Endorsements, now: int) -> list[Reason]:
    """What no profile can make good: a development flag, a manifest at hand that does not fit."""
    found = []
    for gpu in gpus:
        if gpu.value.development:
            seen = ", ".join(gpu.value.development)
            found.append(Reason(DEBUG_ENABLED, "its certificate has flags of development", seen=seen))
        found += compare(gpu.value, known, now).reasons
    return found


def _manifest(data: bytes, known: Endorsements, now: int) -> dict[str, Any]:
    checked = check_rim(data, now=now, simulated_roots=known.simulated_roots)
    about = checked.claims["manifest"] or {}
    return {**about, "usable": ", ".join(sorted({reason.code for reason in checked.reasons})) or "yes"}


def _parts(data: bytes, chain: bytes | None) -> list[GpuPart]:
    """The devices of one file. Raises `EvidenceRefusal` (non_canonical)."""
    if len(data) > MAX_FILE:
        raise _bad(f"a file of more than {MAX_FILE} bytes")
    if data.lstrip()[:1] in (b"[", b"{"):
        return [_part(_base64(item["evidence"]), _base64(item["certificate"])) for item in _devices(data)]
    if chain is None:
        raise _bad("a report without its certificates")
    if chain.lstrip()[:1] in (b"[", b"{"):
        devices = _devices(chain)
        if len(devices) != 1:
            raise _bad("the certificates of several devices for one report")
        chain = _base64(devices[0]["certificate"])
    return [_part(_unhex(data), chain)]


def _part(report: bytes, chain: bytes) -> GpuPart:
    """A GPU or a switch by what its report holds: what its certificate says decides, in `verify_gpu`."""
    try:
        device = "switch" if SWITCH_GPUS in parse_report(report).fields else "gpu"
    except PerunError:
        device = "gpu"  # refused again, with its reason, where it is verified
    return GpuPart(device, report, _certificates(chain))


def _devices(data: bytes) -> list[dict[str, str]]:
    try:
        found = load_json(data, limit=MAX_FILE)
    except PerunError:
        raise _bad("JSON that cannot be read") from None
    listed = found if isinstance(found, list) else [found]
    whole = all(isinstance(item, dict) and set(item) >= _MEMBERS for item in listed)
    if not 1 <= len(listed) <= MAX_DEVICES or not whole:
        raise _bad(f"JSON that is no list of 1 to {MAX_DEVICES} devices")
    if not all(isinstance(item[name], str) for item in listed for name in _MEMBERS):
        raise _bad("a device whose evidence or certificate is no text")
    return listed


def _certificates(data: bytes) -> tuple[bytes, ...]:
    if pem.is_pem(data):
        found = pem.blocks(data, pem.CERTIFICATE)
    else:
        found = []
        while data:
            # a certificate's own length: SEQUENCE, two bytes of it
            size = 4 + int.from_bytes(data[2:4]) if data[:2] == b"\x30\x82" else 0
            if not 4 < size <= min(len(data), MAX_CERTIFICATE) or len(found) == MAX_CERTIFICATES:
                raise _bad("certificates that are neither PEM nor DER one behind the other")
            found.append(data[:size])
            data = data[size:]
    if len(found) > MAX_CERTIFICATES:
        raise _bad(f"more than {MAX_CERTIFICATES} certificates")
    return tuple(found)


def _unhex(data: bytes) -> bytes:
    """The bytes as they are, or what they spell in hex."""
    try:
        return bytes.fromhex(data.decode("ascii")) if len(data) <= 2 * MAX_REPORT + 2 else data
    except ValueError:
        return data


def _base64(text: str) -> bytes:
    try:
        return binascii.a2b_base64(text, strict_mode=True)
    except ValueError:
        raise _bad("base64 that cannot be read") from None


def _bad(why: str) -> PerunError:
    return refuse(NON_CANONICAL, f"the file is not of its form: {why}")
