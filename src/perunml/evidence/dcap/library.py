"""dcap-qvl, called and translated: what it verifies, what it says of a failure, and what is kept of an answer.

An answer is a function of quote, collateral, root and time. Quotes of one TEE, one after the other, differ in report data and RTMRs
alone, which dcap-qvl does not judge. So once it has verified one, the next is the attestation key's signature and nothing
else, until something that the answer rests on ends.
"""

from __future__ import annotations

import hashlib
import json
from collections import OrderedDict
from dataclasses import dataclass
from functools import lru_cache
from threading import Lock
from typing import Any

import dcap_qvl
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature

from perunml.evidence.codes import NON_CANONICAL
from perunml.evidence.dcap.codes import (
    QE_IDENTITY,
    QUOTE_REFUSED,
    QUOTE_UNSUPPORTED,
    SEPT_VE,
    SERVICE_TD,
    TCB_LEVEL_MISSING,
)
from perunml.evidence.dcap.collateral import DcapCollateral
from perunml.evidence.dcap.parse import POINT, RawQuote
from perunml.evidence.dcap.pck import PckChain
from perunml.evidence.tee.codes import (
    CERTIFICATE_CHAIN,
    CERTIFICATE_EXPIRED,
    CERTIFICATE_REVOKED,
    COLLATERAL_EXPIRED,
    COLLATERAL_INVALID,
    COLLATERAL_MISSING,
    CONFIGURATION_MISMATCH,
    DEBUG_ENABLED,
    REPORT_SIGNATURE,
    TCB_STATUS,
)
from perunml.wire.errors import refuse
from perunml.wire.rules import Rule

KEPT = 1024
"""Answers that are kept, some kilobytes each: one for each TEE that runs."""
_FAILURES: tuple[tuple[str, Rule], ...] = (
    # What dcap-qvl 0.7 says, in the order in which its words are looked for, and what it means to us. First what the collateral
    # is at fault for, so that the words on certificates below speak of the quote's.
    ("in quote_collateral", COLLATERAL_INVALID),
    ("Failed to decode TcbInfo", COLLATERAL_INVALID),
    ("Failed to decode QeIdentity", COLLATERAL_INVALID),
    ("TCB Info", COLLATERAL_INVALID),
    ("QE Identity expired", COLLATERAL_EXPIRED),
    ("QE Identity issue date is in", COLLATERAL_EXPIRED),
    ("for QE Identity", COLLATERAL_INVALID),
    ("parse QE Identity", COLLATERAL_INVALID),
    ("in QE Identity", COLLATERAL_INVALID),
    ("TCBInfo expired", COLLATERAL_EXPIRED),
    ("TCBInfo issue date", COLLATERAL_EXPIRED),
    ("CrlExpired", COLLATERAL_EXPIRED),
    ("CRL", COLLATERAL_INVALID),
    ("Crl", COLLATERAL_INVALID),
    ("tdxModule", COLLATERAL_INVALID),
    ("Invalid key length", COLLATERAL_INVALID),
    ("TCB info in the collateral", COLLATERAL_MISSING),
    ("Fmspc mismatch", COLLATERAL_MISSING),
    ("certificate chain", CERTIFICATE_CHAIN),
    ("Certificate chain", CERTIFICATE_CHAIN),
    ("PCK cert", CERTIFICATE_CHAIN),
    ("CertRevoked", CERTIFICATE_REVOKED),
    ("CertExpired", CERTIFICATE_EXPIRED),
    ("CertNotValidYet", CERTIFICATE_EXPIRED),
    ("UnknownIssuer", CERTIFICATE_CHAIN),
    ("Intel extension", CERTIFICATE_CHAIN),
    ("Debug mode", DEBUG_ENABLED),
    ("SEPT_VE_DISABLE", SEPT_VE),
    ("service TD", SERVICE_TD),
    ("TD migration is enabled", CONFIGURATION_MISMATCH),
    ("TD profiling is enabled", CONFIGURATION_MISMATCH),
    ("SERVTD_EXT is enabled", SERVICE_TD),
    ("Reserved bits in TD attributes", CONFIGURATION_MISMATCH),
    ("PKS is enabled", CONFIGURATION_MISMATCH),
    ("KL is enabled", CONFIGURATION_MISMATCH),
    ("TDX module", TCB_LEVEL_MISSING),
    ("TEE_TCB_SVN2", TCB_LEVEL_MISSING),
    ("No matching TCB level", TCB_LEVEL_MISSING),
    ("TCB status is invalid", TCB_STATUS),
    ("QE vendor", QUOTE_UNSUPPORTED),
    ("attestation key type", QUOTE_UNSUPPORTED),
    ("Certification data type", QUOTE_UNSUPPORTED),
    ("qe_report", QE_IDENTITY),
    ("QE ", QE_IDENTITY),
    ("report signature is invalid", REPORT_SIGNATURE),
    ("Failed to decode quote", NON_CANONICAL),
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class _Answer:
    """dcap-qvl's claims of a quote, the attestation key that it was found to be certified by, and from when until when
    everything that this rests on holds."""

    claims: dict[str, Any]
    key: ec.EllipticCurvePublicKey
    since: int
    until: int


_answers: OrderedDict[bytes, _Answer] = OrderedDict()
_lock = Lock()


def library_claims(
    raw: RawQuote, pck: PckChain, found: DcapCollateral, root: bytes | None, now: int
) -> tuple[dict[str, Any], bool]:
    """What dcap-qvl says of the quote after it verified everything under `root` (DER; None: Intel's), and whether it read this very
    quote: where it did not, it read one of the same TEE, and this one's signature is the same key's.

    Raises `EvidenceRefusal` with what its failure means."""
    name = hashlib.sha256(b"".join((raw.constant, raw.certified, found.digest, root or b""))).digest()
    with _lock:
        answer = _answers.get(name)
    if answer is not None and answer.since <= now <= answer.until:
        _check_signature(raw, answer.key)
        return answer.claims, False
    try:
        made = _verifier(root).verify_with_policy(raw.quote, found.library, now, dcap_qvl.QuotePolicy.claims_only(now))
        claims: dict[str, Any] = json.loads(made.to_json())
    except ValueError as exc:
        said = " ".join(str(exc).split()).removeprefix("Verification failed: ")
        rule = next((rule for words, rule in _FAILURES if words in said), QUOTE_REFUSED)
        raise refuse(rule, "the quote does not verify", seen=said[:300]) from None
    until = min(
        found.until, *(each.until for each in pck.certificates), claims["earliest_expiration_date"],
        claims["qe_iden_earliest_expiration_date"],
    )  # fmt: skip
    point = ec.EllipticCurvePublicKey.from_encoded_point(ec.SECP256R1(), b"\x04" + raw.certified[:POINT])
    with _lock:
        _answers[name] = _Answer(claims, point, now, until)
        while len(_answers) > KEPT:
            _answers.popitem(last=False)
    return claims, True


def forget() -> None:
    """Keep no answer: for measuring."""
    with _lock:
        _answers.clear()


def _check_signature(raw: RawQuote, key: ec.EllipticCurvePublicKey) -> None:
    r, s = (int.from_bytes(raw.signature[at : at + 32]) for at in (0, 32))
    try:
        key.verify(encode_dss_signature(r, s), raw.signed, ec.ECDSA(hashes.SHA256()))
    except InvalidSignature:
        raise refuse(REPORT_SIGNATURE, "the quote's signature does not verify under its attestation key") from None


@lru_cache(maxsize=16)
def _verifier(root: bytes | None) -> Any:
    return dcap_qvl.QuoteVerifier(root)
