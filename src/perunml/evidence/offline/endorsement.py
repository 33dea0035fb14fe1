"""An EK certificate in a file: does it lead to the auditor's roots, and is the attestation key its TPM's?"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm

from perunml.evidence.codes import EK_CERTIFICATE, EK_TEMPLATE, NON_CANONICAL, UNKNOWN_AK
from perunml.evidence.offline.findings import Findings
from perunml.evidence.offline.keys import standard_publics
from perunml.evidence.tpm.attest import Attest
from perunml.evidence.tpm.ek import MAX_CERTIFICATE, verify_ek
from perunml.evidence.tpm.keys import AttestationKey, qualified_names
from perunml.evidence.tpm.public import parse_public
from perunml.wire.errors import refuse
from perunml.wire.rules import printable


def check_endorsement(
    found: Findings,
    certificate: bytes,
    authorities: Sequence[bytes],
    possible: Sequence[AttestationKey],
    attest: Attest | None,
    now: int,
) -> dict[str, Any] | None:
    """Judge an EK certificate at `now`: its chain to the self-signed ones among `authorities`, and whether the quote's
    signer, one of the `possible` attestation keys, is a key of that TPM's endorsement hierarchy.

    The signer's name tells the EK only where the key is the EK's child; a primary key of the hierarchy names none. The
    claim `names_ek` says which it is.
    """
    leaf = found.attempt(_load, certificate)
    if leaf is None:
        return None
    try:
        publics = standard_publics(leaf.public_key())
    except (ValueError, UnsupportedAlgorithm):
        found.refuse(EK_CERTIFICATE, "the EK certificate's key cannot be read")
        return None
    if not publics:
        found.refuse(EK_TEMPLATE, "no standard template has an EK with a key of this kind")
        return None
    chosen, names_ek = publics[0], False
    if attest is not None and possible:
        children = {_child_name(ak, public): public for public in publics for ak in possible}
        primaries = {qualified_names(ak, None)[0] for ak in possible}
        names_ek = attest.qualified_signer in children
        chosen = children.get(attest.qualified_signer, chosen)
        if not names_ek and attest.qualified_signer not in primaries:
            found.refuse(
                UNKNOWN_AK,
                "the quote's signer is no key of the certified EK's hierarchy",
                expected="the attestation key as the EK's child, or as a primary key of the endorsement hierarchy",
                seen=attest.qualified_signer.hex(),
            )
    roots, others = _sorted(authorities)
    identity = found.attempt(verify_ek, certificate, others, chosen, vendor_roots=roots, simulated_roots=[], now=now)
    return {
        "machine": identity.machine if identity is not None else None,
        "issuer": printable(leaf.issuer.rfc4514_string(), 200),
        "not_before": f"{leaf.not_valid_before_utc:%Y-%m-%dT%H:%M:%SZ}",
        "not_after": f"{leaf.not_valid_after_utc:%Y-%m-%dT%H:%M:%SZ}",
        "names_ek": names_ek,
    }


def _child_name(ak: AttestationKey, ek: bytes) -> bytes:
    return qualified_names(ak, parse_public(ek))[1]


def _sorted(authorities: Sequence[bytes]) -> tuple[list[bytes], list[bytes]]:
    """Roots and the rest. A root is self-signed; what cannot be read can vouch for nothing."""
    roots: list[bytes] = []
    others: list[bytes] = []
    for data in authorities:
        try:
            made = _load(data)
            is_root = made.issuer == made.subject
            if is_root:
                made.verify_directly_issued_by(made)
        except (ValueError, TypeError, InvalidSignature, UnsupportedAlgorithm):
            continue
        except Exception:  # noqa: S112 - the library has more, and the bytes may be anybody's
            continue
        (roots if is_root else others).append(data)
    return roots, others


def _load(data: bytes) -> x509.Certificate:
    if len(data) > MAX_CERTIFICATE:
        raise refuse(NON_CANONICAL, "a certificate is too large", expected=f"at most {MAX_CERTIFICATE} bytes")
    try:
        pem = data.lstrip().startswith(b"-----BEGIN")
        made = x509.load_pem_x509_certificate(data) if pem else x509.load_der_x509_certificate(data)
        _ = (made.subject, made.issuer, made.not_valid_before_utc, made.not_valid_after_utc)
        _ = made.issuer.rfc4514_string()
    except Exception:  # the library has many, some of no common class, and the bytes are the attacker's
        raise refuse(NON_CANONICAL, "not an X.509 certificate that can be read") from None
    return made
