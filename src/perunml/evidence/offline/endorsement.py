"""An EK certificate in a file: does it lead to a root, whose TPM is it, and is the attestation key that TPM's?"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from perunml.evidence.codes import UNKNOWN_AK
from perunml.evidence.offline.findings import Findings
from perunml.evidence.offline.keys import standard_publics
from perunml.evidence.pem import split
from perunml.evidence.tpm.attest import Attest
from perunml.evidence.tpm.certificate import Certificate, parse_certificate, verify_signed
from perunml.evidence.tpm.chain import MAX_CHAIN, Trust
from perunml.evidence.tpm.ek import verify_ek_certificate
from perunml.evidence.tpm.keys import AttestationKey, qualified_names
from perunml.evidence.tpm.names import readable, same_name
from perunml.evidence.tpm.public import parse_public
from perunml.evidence.tpm.roots import KNOWN_ROOTS
from perunml.wire.errors import PerunError
from perunml.wire.rules import printable
from perunml.wire.timestamps import format_time

LAST_TIME = 253_402_300_799
"""9999-12-31T23:59:59Z, which certificates without an end name (RFC 5280, 4.1.2.5)."""


def check_endorsement(
    found: Findings,
    certificate: bytes,
    authorities: Sequence[bytes],
    possible: Sequence[AttestationKey],
    attest: Attest | None,
    now: int,
) -> dict[str, Any] | None:
    """Judge an EK certificate at `now`: its chain to the self-signed ones and to known vendors' roots among `authorities`,
    and whether the quote's signer, one of the `possible` attestation keys, is a key of that TPM's endorsement hierarchy.

    The signer's name tells the EK only where the key is the EK's child; a primary key of the hierarchy names none. The
    claim `names_ek` says which it is.
    """
    leaf = found.attempt(parse_certificate, certificate)
    if leaf is None:
        return None
    chain, roots = _path(leaf, _readable(authorities))
    trust = Trust(vendor=tuple(root.raw for root in roots))
    identity = found.attempt(verify_ek_certificate, leaf.raw, [other.raw for other in chain], trust=trust, now=now)
    names_ek = _check_signer(found, leaf, possible, attest) if attest is not None and possible else False
    told = {"machine": identity.machine, **identity.claims()} if identity is not None else {"machine": None}
    return {
        **told,
        "issuer": printable(readable(leaf.issuer), 200),
        "not_before": format_time(max(0, min(leaf.not_before, LAST_TIME))),
        "not_after": format_time(max(0, min(leaf.not_after, LAST_TIME))),
        "names_ek": names_ek,
    }


def _check_signer(found: Findings, leaf: Certificate, possible: Sequence[AttestationKey], attest: Attest) -> bool:
    """Whether the quote's signer is named as the child of this EK; refused when it is not even under its hierarchy."""
    names = [qualified_names(ak, parse_public(public)) for public in standard_publics(leaf.key()) for ak in possible]
    if attest.qualified_signer in {child for _, child in names}:
        return True
    if attest.qualified_signer not in {qualified_names(ak, None)[0] for ak in possible}:
        found.refuse(
            UNKNOWN_AK,
            "the quote's signer is no key of the certified EK's hierarchy",
            expected="the attestation key as the EK's child, or as a primary key of the endorsement hierarchy",
            seen=attest.qualified_signer.hex(),
        )
    return False


def _readable(authorities: Sequence[bytes]) -> list[Certificate]:
    """What can be read; the rest can vouch for nothing."""
    made = []
    for data in authorities:
        try:
            made += [parse_certificate(one) for one in split(data)]
        except PerunError:
            continue
    return made


def _path(leaf: Certificate, given: Sequence[Certificate]) -> tuple[list[Certificate], list[Certificate]]:
    """Of a folder that may hold every vendor's certificates, those that can be on the leaf's path: what stands between, and
    the roots. By names; signatures are looked at afterwards."""
    chain: list[Certificate] = []
    roots: list[Certificate] = []
    wanted = [leaf.issuer]
    while wanted:
        issuer = wanted.pop()
        for one in given:
            if one in chain or one in roots or not same_name(issuer, one.subject):
                continue
            if one.fingerprint in KNOWN_ROOTS or _self_signed(one):
                roots.append(one)
            elif len(chain) < MAX_CHAIN:
                chain.append(one)
                wanted.append(one.issuer)
    return chain, roots


def _self_signed(one: Certificate) -> bool:
    return same_name(one.issuer, one.subject) and verify_signed(one.algorithm, one.signature, one.tbs, one.key())
