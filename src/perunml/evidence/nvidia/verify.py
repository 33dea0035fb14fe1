"""Is it authentic: was this report made by a device of NVIDIA's, for this nonce, by the firmware that its certificate names?

Whether the device is one that a party wants (measurements, versions, mode, count) is for `appraise`. What OCSP says is part of
authenticity as far as it says no; whether an answer is missing or too old is told, and judged by the profile's rules.
"""

from __future__ import annotations

import hmac
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import TypeVar

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from perunml.evidence.codes import BINDING_MISMATCH
from perunml.evidence.endorsements import Endorsements
from perunml.evidence.nvidia.codes import FIRMWARE_MISMATCH
from perunml.evidence.nvidia.dice import Dice, read_leaf
from perunml.evidence.nvidia.fields import PDI_SIZE, GpuFields, SwitchFields, gpu_fields, switch_fields
from perunml.evidence.nvidia.ocsp import REVOKED, Answer, newest_answer
from perunml.evidence.nvidia.parse import NONCE_SIZE, SIGNATURE_SIZE, Spdm, parse_report
from perunml.evidence.nvidia.roots import DEVICE_ROOTS
from perunml.evidence.parts import GpuPart
from perunml.evidence.tee.codes import CERTIFICATE_CHAIN, CERTIFICATE_REVOKED, REPORT_SIGNATURE, WRONG_TEE
from perunml.evidence.types import Verified, mint_verified
from perunml.evidence.x509 import chain_reasons, extension, key_of, on_p384, read_certificate, trusted_by
from perunml.wire.digests import digest
from perunml.wire.errors import PerunError, error
from perunml.wire.rules import Reason

T = TypeVar("T")

CHAIN_SIZE = 5
"""Firmware's key, the device's identity, the provisioner, the product line, the root."""
IDENTITY = 1
"""Where the certificate of the device's own identity stands: it stays over boots and firmware."""
ARCHITECTURES = {"GH1": "hopper", "GB1": "blackwell", "GB2": "blackwell", "LS10": "ls10"}
"""By the beginning of the product's name in the leaf certificate, an underscore left out; others are not known here."""
SWITCHES = frozenset({"ls10"})
_PDI = re.compile(rf"[0-9A-F]{{2}}([0-9A-F]{{{2 * PDI_SIZE}}})")
"""serialNumber of the identity certificate's subject: a byte, then the permanent identifier that switches list."""


@dataclass(frozen=True, slots=True)
class GpuReport:
    """What a device proved.

    device        ``gpu`` or ``switch``
    architecture  ``hopper``, ``blackwell``, ``ls10``, or empty where the product is not known
    product       as its certificate says (``GH100``); `chip` as its report does, or empty
    platform      ``gpu:sha256:…`` over the SubjectPublicKeyInfo of its identity certificate: one for each device
    driver        version, empty for a switch
    vbios         version of its firmware, upper case
    board         project, its SKU and the chip's, empty for a switch
    mode          see `fields`; empty for a switch
    pdi           permanent identifier; empty where the certificate holds none
    peers         those of the devices it says it is wired to
    locked        of a switch: its configuration is locked; True for a GPU
    measurements  index from 0, as manifests count -> digest
    skipped       indices that are not compared
    named         the report names the firmware that its certificate was issued for; True for a switch, whose reports never do
    development   DICE flags of development that are set; None where the certificate has no flags
    revocation    for each certificate between leaf and root what OCSP says, None where nothing does; the device's first
    simulated     it leads to a development root
    expires       seconds since 1970 at which the first of its certificates expires
    """

    device: str
    architecture: str
    product: str
    chip: str
    platform: str
    driver: str
    vbios: str
    board: str
    mode: str
    pdi: bytes
    peers: frozenset[bytes]
    locked: bool
    measurements: Mapping[int, bytes]
    skipped: frozenset[int]
    named: bool
    development: tuple[str, ...] | None
    revocation: tuple[Answer | None, ...]
    simulated: bool
    expires: int


def verify_gpu(part: GpuPart, endorsements: Endorsements, *, nonce: bytes, now: int) -> Verified[GpuReport]:
    """The report of one device, authentic at `now` (seconds since 1970) and made for `nonce` (32 bytes).

    Raises `EvidenceRefusal` with every reason that can be known: non_canonical, binding_mismatch, certificate_chain,
    certificate_expired, certificate_revoked, report_signature, firmware_mismatch, wrong_tee.
    """
    reasons: list[Reason] = []
    spdm = _attempt(reasons, lambda: parse_report(part.report))
    chain = _attempt(reasons, lambda: _chain(part.chain))
    fields = _attempt(reasons, lambda: _fields(part.device, spdm)) if spdm is not None else None
    if spdm is not None and (len(nonce) != NONCE_SIZE or not hmac.compare_digest(spdm.nonce, nonce)):
        seen = spdm.nonce.hex()
        reasons.append(Reason(BINDING_MISMATCH, "the device signs another nonce", expected=nonce.hex(), seen=seen))
    if chain is None:
        raise error(reasons)
    trusted = trusted_by(chain[-1], DEVICE_ROOTS, endorsements.simulated_roots)
    if trusted is None:
        seen = chain[-1].subject.rfc4514_string()
        reasons.append(Reason(CERTIFICATE_CHAIN, "the device's chain ends in no root that is known", seen=seen))
    reasons += signer_reasons(chain, "the device's chain", now)
    if spdm is not None and not _signed(spdm, chain[0]):
        reasons.append(Reason(REPORT_SIGNATURE, "the report's signature does not verify under the device's key"))
    dice = _attempt(reasons, lambda: read_leaf(chain[0], chain[1]))
    if dice is not None and isinstance(fields, GpuFields) and fields.fwid not in (b"", dice.fwid):
        seen = fields.fwid.hex()
        reasons.append(Reason(FIRMWARE_MISMATCH, "another firmware reports", expected=dice.fwid.hex(), seen=seen))
    answers = revocation(chain, endorsements.collateral.ocsp, now)
    reasons += revoked_reasons(answers, "the device's chain")
    if dice is not None:
        reasons += _kind_reasons(part.device, dice)
    if reasons:
        raise error(reasons)
    assert spdm is not None
    assert fields is not None
    assert dice is not None
    return mint_verified(_report(part.device, spdm, fields, dice, chain, answers, bool(trusted)))


def signer_reasons(chain: Sequence[x509.Certificate], what: str, now: int) -> tuple[Reason, ...]:
    """`chain_reasons`, and that the first certificate says that its key is for signatures: NVIDIA's do."""
    found = chain_reasons(chain, what, now)
    if extension(chain[0], x509.KeyUsage) is None:
        seen = chain[0].subject.rfc4514_string()
        found = (*found, Reason(CERTIFICATE_CHAIN, f"{what}, certificate 0: it does not say what it is for", seen=seen))
    return found


def revocation(
    chain: Sequence[x509.Certificate], responses: Sequence[bytes], now: int, first: int = 1
) -> tuple[Answer | None, ...]:
    """The newest OCSP answer about each certificate from the `first` on, the root left out (nobody answers for a root, and
    NVIDIA has no answer about a device's leaf, which the device issued itself)."""
    pairs = zip(chain[first:], chain[first + 1 :], strict=False)
    return tuple(newest_answer(subject, issuer, responses, now) for subject, issuer in pairs)


def revoked_reasons(answers: Sequence[Answer | None], what: str) -> tuple[Reason, ...]:
    """certificate_revoked for each answer that says so, also of a certificate on hold."""
    return tuple(
        Reason(
            CERTIFICATE_REVOKED, f"{what} has a certificate that is revoked", seen=f"{a.subject}: {a.why or a.status}"
        )
        for a in answers
        if a is not None and a.status == REVOKED
    )


def _attempt(reasons: list[Reason], read: Callable[[], T]) -> T | None:
    """What `read` gives, or None when it refuses; its reasons are kept."""
    try:
        return read()
    except PerunError as exc:
        reasons += exc.reasons
        return None


def _chain(listed: Sequence[bytes]) -> tuple[x509.Certificate, ...]:
    if len(listed) != CHAIN_SIZE:
        why = "the device's chain is of another length"
        raise error([Reason(CERTIFICATE_CHAIN, why, expected=str(CHAIN_SIZE), seen=str(len(listed)))])
    return tuple(read_certificate(der, f"certificate {i} of the device's chain") for i, der in enumerate(listed))


def _fields(device: str, spdm: Spdm) -> GpuFields | SwitchFields:
    return gpu_fields(spdm.fields) if device == "gpu" else switch_fields(spdm.fields)


def _signed(spdm: Spdm, leaf: x509.Certificate) -> bool:
    key, half = key_of(leaf), SIGNATURE_SIZE // 2
    if not on_p384(key):
        return False
    assert isinstance(key, ec.EllipticCurvePublicKey)
    signature = encode_dss_signature(int.from_bytes(spdm.signature[:half]), int.from_bytes(spdm.signature[half:]))
    try:
        key.verify(signature, spdm.signed, ec.ECDSA(hashes.SHA384()))
    except InvalidSignature:
        return False
    return True


def _kind_reasons(device: str, dice: Dice) -> tuple[Reason, ...]:
    """A switch's report is no GPU's, and the other way round."""
    if (_architecture(dice) in SWITCHES) != (device == "switch"):
        return (Reason(WRONG_TEE, "the device is of another kind than its report is sent as", device, dice.chip),)
    return ()


def _architecture(dice: Dice) -> str:
    product = dice.chip.replace("_", "")
    return next((name for start, name in ARCHITECTURES.items() if product.startswith(start)), "")


def _report(
    device: str,
    spdm: Spdm,
    fields: GpuFields | SwitchFields,
    dice: Dice,
    chain: Sequence[x509.Certificate],
    answers: tuple[Answer | None, ...],
    simulated: bool,
) -> GpuReport:
    identity = chain[IDENTITY]
    spki = identity.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    serials = [str(a.value) for a in identity.subject.get_attributes_for_oid(x509.NameOID.SERIAL_NUMBER)]
    pdi = _PDI.fullmatch(serials[0]) if len(serials) == 1 else None
    return GpuReport(
        device=device,
        architecture=_architecture(dice),
        product=dice.chip.replace("_", ""),
        chip=fields.chip if isinstance(fields, GpuFields) else "",
        platform=f"gpu:{digest(spki)}",
        driver=fields.driver if isinstance(fields, GpuFields) else "",
        vbios=fields.vbios,
        board=fields.board if isinstance(fields, GpuFields) else "",
        mode=fields.mode if isinstance(fields, GpuFields) else "",
        pdi=bytes.fromhex(pdi[1]) if pdi else b"",
        peers=fields.switches if isinstance(fields, GpuFields) else fields.gpus,
        locked=fields.locked if isinstance(fields, SwitchFields) else True,
        measurements=MappingProxyType({index - 1: value for index, value in spdm.measurements.items()}),
        skipped=fields.skipped if isinstance(fields, GpuFields) else frozenset(),
        named=not isinstance(fields, GpuFields) or fields.fwid != b"",
        development=dice.flags,
        revocation=answers,
        simulated=simulated,
        expires=min(int(certificate.not_valid_after_utc.timestamp()) for certificate in chain),
    )
