"""NVIDIA's reference manifests, by name, and OCSP answers about devices' and manifests' signers.

The services' own documentation: docs.nvidia.com/attestation (RIM service, API version 1); RFC 6960 for OCSP.
"""

from __future__ import annotations

import base64
import binascii
import re
import secrets
from collections.abc import Sequence
from dataclasses import dataclass

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509 import ocsp

from perunml.client.collateral.web import Web, strange
from perunml.evidence import pem
from perunml.evidence.codes import NON_CANONICAL
from perunml.evidence.nvidia.dice import read_leaf
from perunml.evidence.nvidia.fields import SWITCH_GPUS, gpu_fields, switch_fields
from perunml.evidence.nvidia.parse import parse_report
from perunml.evidence.nvidia.rim import read_rim
from perunml.evidence.x509 import read_certificate
from perunml.wire.canonical import load_json
from perunml.wire.codes import MALFORMED
from perunml.wire.errors import PerunError, refuse

MAX_NONCE = 32
"""Octets of a nonce (RFC 8954, 2.1)."""
REQUEST_TYPE = "application/ocsp-request"
MAX_DEVICES = 64
MAX_EVIDENCE = 4 * 1024 * 1024
SWITCH_BOARD = "5612_0002_890"
"""How the manifests of the third generation's NVSwitch are named; its report does not tell."""
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")


@dataclass(frozen=True, slots=True)
class Device:
    """What is asked about for one device: its certificates, the leaf first, and the names of its manifests, if it reported."""

    chain: tuple[x509.Certificate, ...]
    rims: tuple[str, ...] = ()


def read_devices(data: bytes) -> list[Device]:
    """Of a chain in PEM (or DER), the leaf first; or of NVIDIA's JSON of several devices with their reports. Raises
    `EvidenceRefusal` (non_canonical), `UsageError` (malformed)."""
    if data.lstrip()[:1] not in (b"[", b"{"):
        return [Device(_certificates(data))]
    value = load_json(data, limit=MAX_EVIDENCE)
    listed = value.get("evidences", [value]) if isinstance(value, dict) else value
    if not isinstance(listed, list) or not 1 <= len(listed) <= MAX_DEVICES:
        raise refuse(NON_CANONICAL, "not a list of devices' evidence")
    return [_device(each) for each in listed]


def read_name(text: str) -> str:
    """A manifest's name, as ``NV_GPU_DRIVER_GH100_550.90.07``. Raises `UsageError` (malformed)."""
    if not _NAME.fullmatch(text):
        raise refuse(MALFORMED, "not the name of a manifest", expected="as NV_GPU_DRIVER_GH100_550.90.07", seen=text)
    return text


def fetch_rim(name: str, web: Web) -> bytes:
    """A manifest (XML). Raises `Unreachable` (vendor_answer), `UsageError` (extra_missing)."""
    url = f"{web.services.rim.rstrip('/')}/v1/rim/{read_name(name)}"
    body = web.get(url).body
    try:
        value = load_json(body, limit=len(body))
        if not isinstance(value, dict) or value.get("id") != name:
            raise ValueError
        found = base64.b64decode(value["rim"], validate=True)
        read_rim(found)
    except (PerunError, KeyError, ValueError, TypeError) as exc:
        if isinstance(exc, PerunError) and exc.code == "extra_missing":
            raise
        why = exc.reasons[0].message if isinstance(exc, PerunError) else "another answer"
        raise strange(url, why, f"JSON with the manifest {name}") from None
    return found


def pairs(chain: Sequence[x509.Certificate], first: int) -> list[tuple[x509.Certificate, x509.Certificate]]:
    """(certificate, issuer) of those from the `first` on that somebody else issued."""
    return [(one, issuer) for one, issuer in zip(chain[first:], chain[first + 1 :], strict=False) if one != issuer]


def fetch_ocsp(certificate: x509.Certificate, issuer: x509.Certificate, web: Web) -> bytes:
    """An answer about a certificate, to a nonce of ours where the responder gives it back. What it says, and whose it is, is
    judged with the evidence. Raises `Unreachable` (vendor_answer)."""
    url, nonce = web.services.ocsp, secrets.token_bytes(MAX_NONCE)
    builder = ocsp.OCSPRequestBuilder().add_certificate(certificate, issuer, hashes.SHA384())
    request = builder.add_extension(x509.OCSPNonce(nonce), critical=False).build()
    body = web.post(url, request.public_bytes(Encoding.DER), REQUEST_TYPE).body
    about = f"an answer about {certificate.subject.rfc4514_string()}"
    try:
        answer = ocsp.load_der_ocsp_response(body)
        if answer.response_status is not ocsp.OCSPResponseStatus.SUCCESSFUL:
            raise strange(url, answer.response_status.name, about)
        if answer.serial_number != certificate.serial_number:
            raise strange(url, "an answer about another certificate", about)
        given = [each.value.nonce for each in answer.extensions if isinstance(each.value, x509.OCSPNonce)]
    except (ValueError, x509.DuplicateExtension):
        raise strange(url, "something else", about) from None
    # a responder need not repeat it (RFC 6960, 4.4.1): the answer's date then says how old it is, as in judging
    if given not in ([], [nonce]):
        raise strange(url, "another nonce", about)
    return body


def _device(value: object) -> Device:
    """Of NVIDIA's JSON form."""
    try:
        if not isinstance(value, dict):
            raise TypeError
        chain, evidence = (base64.b64decode(value[name], validate=True) for name in ("certificate", "evidence"))
    except (KeyError, TypeError, ValueError, binascii.Error):
        raise refuse(NON_CANONICAL, "a device's evidence is not of its form") from None
    certificates = _certificates(chain)
    if len(certificates) < 2:
        raise refuse(NON_CANONICAL, "a device's chain has one certificate")
    fields = parse_report(evidence).fields
    if SWITCH_GPUS in fields:
        vbios = switch_fields(fields).vbios.replace(".", "")
        return Device(certificates, (read_name(f"NV_SWITCH_BIOS_{SWITCH_BOARD}_{vbios}"),))
    found = gpu_fields(fields)
    product = found.chip or read_leaf(certificates[0], certificates[1]).chip.replace("_", "")
    driver = f"NV_GPU_DRIVER_{product}_{found.driver}"
    return Device(
        certificates, (read_name(driver), read_name(f"NV_GPU_VBIOS_{found.board}_{found.vbios.replace('.', '')}"))
    )


def _certificates(data: bytes) -> tuple[x509.Certificate, ...]:
    return tuple(read_certificate(der, "a device's certificate") for der in pem.split(data))
