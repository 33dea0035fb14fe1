"""Revocation lists (RFC 5280, 5): read, verified by the issuer's key, asked. They are given, never fetched."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

from perunml.evidence.codes import NON_CANONICAL
from perunml.evidence.pem import REVOCATIONS, unarmoured
from perunml.evidence.tpm.certificate import (
    CRL_SIGN,
    SIGNATURES,
    Certificate,
    read_algorithm,
    read_extensions,
    verify_signed,
)
from perunml.evidence.tpm.der import GENERALIZED_TIME, INTEGER, SEQUENCE, UTC_TIME, Der, magnitude
from perunml.evidence.tpm.names import attributes, same_name
from perunml.wire.errors import refuse

MAX_CRL = 1024 * 1024
"""Bytes; 20,000 entries or more. TPM vendors' lists have some tens."""
MAX_GIVEN = 256 * 1024
"""Bytes of all lists that a host sends: read in a twentieth of a second. The operator's own may be larger."""
MAX_CRLS = 16
"""Lists given for one chain: one per issuer, and as many to spare."""
NARROWING = frozenset({"2.5.29.27", "2.5.29.28"})
"""deltaCRLIndicator, issuingDistributionPoint: they narrow a list also where its issuer forgot to call them critical."""
STRONG = 32
"""Bytes of a hash that may vouch for a list being the newest."""


@dataclass(frozen=True, slots=True)
class RevocationList:
    """One list. `serials` are magnitudes (`der`); times in seconds since 1970, `next_update` 0 where it has none; `partial`:
    an extension narrows what it tells (one that is critical, or one of those that must be)."""

    tbs: bytes
    algorithm: str
    signature: bytes
    issuer: bytes
    this_update: int
    next_update: int
    serials: frozenset[bytes]
    partial: bool

    def by(self, issuer: Certificate) -> bool:
        """Whether this issuer signed it and may sign lists."""
        return (
            same_name(self.issuer, issuer.subject)
            and (issuer.usage is None or bool(issuer.usage & CRL_SIGN))
            and verify_signed(self.algorithm, self.signature, self.tbs, issuer.key())
        )

    def complete(self, now: int) -> bool:
        """Whether it is in force, and nothing in it narrows what it tells (to some certificates, or to changes)."""
        return (
            self.this_update <= now <= self.next_update
            and not self.partial
            and SIGNATURES[self.algorithm][1].digest_size >= STRONG
        )


@lru_cache(maxsize=256)
def parse_crl(data: bytes) -> RevocationList:
    """The list, in DER or in one PEM block. Raises `EvidenceRefusal` (non_canonical)."""
    if len(data) > MAX_CRL:
        raise refuse(NON_CANONICAL, "a revocation list is too large", expected=f"{MAX_CRL}", seen=f"{len(data)}")
    what = "a revocation list"
    outer = Der(unarmoured(data, REVOCATIONS), what)
    parts = outer.within(SEQUENCE)
    outer.end()
    tbs = parts.next(SEQUENCE)
    algorithm = parts.next(SEQUENCE).raw
    signature = parts.bits()
    parts.end()
    reader = Der(tbs.body, what)
    version = reader.optional(INTEGER)
    if version is not None and version.body != b"\1":
        raise reader.bad("an unknown version")
    if reader.next(SEQUENCE).raw != algorithm:
        raise reader.bad("two signature algorithms")
    issuer = reader.next(SEQUENCE).raw
    list(attributes(issuer))  # read once here, so that nothing raises later
    this_update = reader.time()
    next_update = reader.time() if reader.optional_is(UTC_TIME) or reader.optional_is(GENERALIZED_TIME) else 0
    revoked = reader.optional(SEQUENCE)
    wrapped = reader.optional(0xA0)
    reader.end()
    extensions, critical = read_extensions(wrapped.body, what) if wrapped is not None else ({}, ())
    serials = set()
    if revoked is not None:
        entries = Der(revoked.body, what)
        while entries.left:
            entry = Der(entries.next(SEQUENCE).body, what)
            serials.add(magnitude(entry.next(INTEGER).body))
            # when and why is told by the rest; "removed from the list" is only for lists of changes, which do not count
    return RevocationList(
        tbs.raw,
        read_algorithm(algorithm, what),
        signature,
        issuer,
        this_update,
        next_update,
        frozenset(serials),
        bool(critical) or not NARROWING.isdisjoint(extensions),
    )


def revocation(certificate: Certificate, issuer: Certificate, lists: Sequence[RevocationList], now: int) -> str:
    """``revoked``, ``good`` by a list in force, or ``unknown``. A list that is out of date still revokes: what was
    revoked stays so."""
    signed = [one for one in lists if one.by(issuer)]
    if any(magnitude(certificate.serial) in one.serials for one in signed):
        return "revoked"
    return "good" if any(one.complete(now) for one in signed) else "unknown"
