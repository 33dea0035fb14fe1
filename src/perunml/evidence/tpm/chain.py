"""From a TPM's certificate up to a root that is known: by signature, then by every rule along the path.

Certificates come from the host, revocation lists from the host or the manager's operator; nothing is ever fetched by an
address inside one. RFC 5280, 6, as far as TPM vendors' chains use it; what it says beyond is refused where critical.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from cryptography.hazmat.primitives.asymmetric import ec, rsa

from perunml.evidence.codes import EK_CERTIFICATE, EK_CHAIN, EK_EXPIRED, EK_REVOKED, REVOCATION_UNKNOWN, WEAK_SCHEME
from perunml.evidence.tpm.certificate import (
    BASIC_CONSTRAINTS,
    EXTENDED_KEY_USAGE,
    KEY_CERT_SIGN,
    KEY_USAGE,
    SIGNATURES,
    SUBJECT_ALTERNATIVE_NAME,
    Certificate,
    parse_certificate,
    verify_signed,
)
from perunml.evidence.tpm.crl import MAX_CRLS, MAX_GIVEN, RevocationList, parse_crl, revocation
from perunml.evidence.tpm.names import readable, same_name
from perunml.evidence.tpm.roots import KNOWN_ROOTS, SIMULATED, UNKNOWN, Root
from perunml.wire.errors import refuse
from perunml.wire.rules import Reason

MAX_CHAIN = 8
"""Certificates between leaf and root; vendors have up to four."""
MIN_RSA = 2048
MIN_ECC = 256
MIN_HASH = 32
"""Bytes: SHA-256."""
ANY_USAGE = "2.5.29.37.0"
NAME_CONSTRAINTS = "2.5.29.30"
_KNOWN_EXTENSIONS = {
    BASIC_CONSTRAINTS,
    KEY_USAGE,
    EXTENDED_KEY_USAGE,
    SUBJECT_ALTERNATIVE_NAME,
    "2.5.29.14",  # subject key identifier
    "2.5.29.35",  # authority key identifier
    "2.5.29.32",  # certificate policies: told, and nothing is demanded of them
}


@dataclass(frozen=True, slots=True)
class Trust:
    """What chains may end at, and what is known of revocations.

    vendor       roots that the operator added, DER or PEM
    simulated    roots that stand for no vendor
    known        fingerprint -> root: certificates that a host may send
    revocations  revocation lists (DER) that the operator gave
    demand       whether each certificate below the root needs a list in force
    """

    vendor: tuple[bytes, ...] = ()
    simulated: tuple[bytes, ...] = ()
    known: Mapping[str, Root] = field(default_factory=lambda: KNOWN_ROOTS)
    revocations: tuple[bytes, ...] = ()
    demand: bool = False


@dataclass(frozen=True, slots=True)
class Path:
    """From the leaf to a root, both included."""

    certificates: tuple[Certificate, ...]
    root: Root


def find_path(leaf: Certificate, chain: Sequence[bytes], trust: Trust) -> Path | None:
    """The path from `leaf` to a root; roots that stand for no vendor are tried first, for they give the least. Raises
    `EvidenceRefusal`: ek_chain (too long a chain), non_canonical."""
    if len(chain) > MAX_CHAIN:
        raise refuse(EK_CHAIN, "the chain is too long", expected=f"at most {MAX_CHAIN}", seen=str(len(chain)))
    others = [parse_certificate(other) for other in chain]
    roots = [(root, Root("simulated", root.name, SIMULATED)) for root in map(parse_certificate, trust.simulated)]
    for root in map(parse_certificate, trust.vendor):
        roots.append((root, trust.known.get(root.fingerprint, Root(root.name, root.name, UNKNOWN))))
    roots += [(other, trust.known[other.fingerprint]) for other in others if other.fingerprint in trust.known]
    tried: list[Certificate] = []  # each once: certificates that issue one another must not cost factorial time

    def climb(path: tuple[Certificate, ...]) -> Path | None:
        for certificate, root in roots:
            if _issued(path[-1], certificate):
                return Path((*path, certificate), root)
        for other in others:
            if other not in tried and _issued(path[-1], other):
                tried.append(other)
                if found := climb((*path, other)):
                    return found
        return None

    return climb((leaf,))


def path_reasons(
    path: Path | None, leaf: Certificate, usage: str, trust: Trust, lists: Sequence[bytes], now: int
) -> Iterator[Reason]:
    """Every reason why the path proves nothing; `usage` is the extended key usage that issuers which are limited to some
    must be allowed, `lists` the host's revocation lists. Raises `EvidenceRefusal` (non_canonical)."""
    if path is None:
        yield Reason(EK_CHAIN, "the certificate does not lead to a known root", seen=readable(leaf.issuer))
        return
    given = _lists([*lists, *trust.revocations])
    last = len(path.certificates) - 1
    for depth, certificate in enumerate(path.certificates):
        if not certificate.not_before <= now <= certificate.not_after:
            yield Reason(
                EK_EXPIRED,
                f"not valid at this time: {certificate.name}",
                expected=f"{_time(certificate.not_before)} to {_time(certificate.not_after)}",
                seen=_time(now),
            )
        yield from _certificate_reasons(certificate, depth, last, usage)
        # the root is known by its bytes: nobody can revoke it but those who keep the list of roots
        if depth < last:
            found = revocation(certificate, path.certificates[depth + 1], given, now)
            if found == "revoked":
                yield Reason(EK_REVOKED, f"revoked by its issuer: {certificate.name}")
            elif found == "unknown" and trust.demand:
                yield Reason(REVOCATION_UNKNOWN, f"no revocation list in force: {certificate.name}")


def _lists(lists: Sequence[bytes]) -> list[RevocationList]:
    # the operator's folder may hold as many lists as there are vendors
    return [parse_crl(bytes(one)) for one in lists]


def check_lists(lists: Sequence[bytes]) -> None:
    """Raises `EvidenceRefusal` (ek_chain) for more lists than a host can need, or larger ones."""
    size = sum(map(len, lists))
    if len(lists) > MAX_CRLS or size > MAX_GIVEN:
        raise refuse(
            EK_CHAIN,
            "too many revocation lists, or too large ones",
            expected=f"at most {MAX_CRLS} of {MAX_GIVEN} bytes together",
            seen=f"{len(lists)} of {size} bytes",
        )


def _issued(certificate: Certificate, issuer: Certificate) -> bool:
    return (
        certificate != issuer
        and same_name(certificate.issuer, issuer.subject)
        and verify_signed(certificate.algorithm, certificate.signature, certificate.tbs, issuer.key())
    )


def _certificate_reasons(certificate: Certificate, depth: int, last: int, usage: str) -> Iterator[Reason]:
    name = certificate.name
    # the root's own signature proves nothing: it is known by its bytes
    if depth < last and SIGNATURES[certificate.algorithm][1].digest_size < MIN_HASH:
        yield Reason(WEAK_SCHEME, f"a weak hash signs {name}", expected="SHA-256 or stronger")
    for oid in certificate.critical:
        if oid not in _KNOWN_EXTENSIONS:
            yield Reason(EK_CERTIFICATE, f"unknown critical extension: {name}", seen=oid)
    key = certificate.key()
    least = MIN_RSA if isinstance(key, rsa.RSAPublicKey) else MIN_ECC
    if isinstance(key, rsa.RSAPublicKey | ec.EllipticCurvePublicKey) and key.key_size < least:
        yield Reason(WEAK_SCHEME, f"a small key: {name}", expected=f"{least} bits", seen=f"{key.key_size} bits")
    if depth == 0:
        return
    if NAME_CONSTRAINTS not in certificate.critical and NAME_CONSTRAINTS in dict(certificate.extensions):
        # it must be critical (RFC 5280, 4.2.1.10) and would be refused above: its issuer's slip does not widen it
        yield Reason(EK_CERTIFICATE, f"limited to names, which are not looked at: {name}", seen=NAME_CONSTRAINTS)
    if not certificate.ca:
        yield Reason(EK_CHAIN, f"not a CA: {name}")
    elif certificate.path_length is not None and depth - 1 > certificate.path_length:
        yield Reason(EK_CHAIN, f"may not issue so long a chain: {name}", expected=str(certificate.path_length))
    if certificate.usage is not None and not certificate.usage & KEY_CERT_SIGN:
        yield Reason(EK_CHAIN, f"may not sign certificates: {name}")
    if certificate.usages and usage not in certificate.usages and ANY_USAGE not in certificate.usages:
        yield Reason(
            EK_CHAIN, f"may not issue for this use: {name}", expected=usage, seen=", ".join(certificate.usages)
        )


def _time(seconds: int) -> str:
    return dt.datetime.fromtimestamp(seconds, dt.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
