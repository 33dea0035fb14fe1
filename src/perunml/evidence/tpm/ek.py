"""The endorsement key: is its certificate a vendor's, whose TPM is it, which machine does it name?

TCG EK Credential Profile for TPM Family 2.0, level 0, version 2.5. What such a certificate proves, and what not, is told
in docs/threat-model.md.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from perunml.evidence.codes import EK_CERTIFICATE, EK_MISMATCH
from perunml.evidence.tpm.certificate import KEY_AGREEMENT, KEY_ENCIPHERMENT, Certificate, parse_certificate
from perunml.evidence.tpm.chain import Path, Trust, check_lists, find_path, path_reasons
from perunml.evidence.tpm.names import manufacturer
from perunml.evidence.tpm.public import PublicArea
from perunml.evidence.tpm.roots import MIXED, SIMULATED, UNKNOWN, WITHOUT_EXTENDED_USAGE
from perunml.evidence.tpm.template import check_ek_template, ek_machine
from perunml.wire.digests import digest
from perunml.wire.errors import error
from perunml.wire.rules import Reason

EK_USAGE = "2.23.133.8.1"
"""tcg-kp-EKCertificate."""


@dataclass(frozen=True, slots=True)
class EkIdentity:
    """Who the machine is.

    machine       ``ek:sha256:`` of the EK's SubjectPublicKeyInfo (DER)
    vendor        whose TPM it is by the root that its chain ends at
    kind          ``discrete``, ``firmware``, ``virtual``, ``simulated`` or ``unknown`` (`roots`)
    root          SHA-256 of that root's certificate, in hex
    manufacturer  as the certificate names it, with model and firmware version at the time of making; empty where it
                  does not
    """

    machine: str
    vendor: str
    kind: str
    root: str
    manufacturer: str = ""
    model: str = ""
    version: str = ""

    @property
    def simulated(self) -> bool:
        """Whether the chain ends at a root that stands for no vendor."""
        return self.kind == SIMULATED

    def claims(self) -> dict[str, str]:
        """For people and receipts: what is told of the TPM, where it is."""
        told = {
            "vendor": self.vendor,
            "kind": self.kind,
            "root": self.root,
            "manufacturer": self.manufacturer,
            "model": self.model,
            "version": self.version,
        }
        return {name: text for name, text in told.items() if text}


def verify_ek(
    certificate: bytes,
    chain: Sequence[bytes],
    ek_public: bytes,
    *,
    vendor_roots: Sequence[bytes] = (),
    simulated_roots: Sequence[bytes] = (),
    now: int,
    trust: Trust | None = None,
    revocations: Sequence[bytes] = (),
) -> EkIdentity:
    """The machine whose EK (a TPM2B_PUBLIC) this is. Certificates are DER or PEM, `revocations` lists in DER that came
    with them, `now` is in seconds since 1970; `trust` stands for both kinds of roots.

    Raises `EvidenceRefusal` with every reason found: ek_certificate, ek_chain, ek_expired, ek_revoked,
    ek_revocation_unknown, ek_mismatch, ek_template, weak_scheme, non_canonical.
    """
    public = check_ek_template(ek_public)
    trust = trust or Trust(tuple(vendor_roots), tuple(simulated_roots))
    found = verify_ek_certificate(certificate, chain, trust=trust, now=now, revocations=revocations, public=public)
    return replace(found, machine=ek_machine(public))


def verify_ek_certificate(
    certificate: bytes,
    chain: Sequence[bytes],
    *,
    trust: Trust,
    now: int,
    revocations: Sequence[bytes] = (),
    public: PublicArea | None = None,
) -> EkIdentity:
    """As `verify_ek`, for who has the certificate alone: without the EK itself nothing is said of its template."""
    check_lists(revocations)
    leaf = parse_certificate(certificate)
    path = find_path(leaf, chain, trust)
    root = path.certificates[-1].fingerprint if path is not None else ""
    reasons = [*_leaf_reasons(leaf, public, root), *path_reasons(path, leaf, EK_USAGE, trust, revocations, now)]
    if reasons:
        raise error(reasons)
    assert path is not None  # else there is a reason
    return _identity(leaf, path)


def _identity(leaf: Certificate, path: Path) -> EkIdentity:
    maker, kind = manufacturer(leaf.tpm.manufacturer)
    if path.root.kind != MIXED:
        kind = path.root.kind
    root = path.certificates[-1].fingerprint
    machine = "ek:" + digest(leaf.spki)
    return EkIdentity(machine, path.root.vendor, kind or UNKNOWN, root, maker, leaf.tpm.model, leaf.tpm.version)


def _leaf_reasons(leaf: Certificate, public: PublicArea | None, root: str) -> Iterator[Reason]:
    key = leaf.key()
    if key is None:
        yield Reason(EK_CERTIFICATE, "the EK certificate's key is not RSA or ECC")
    elif public is not None and key.public_numbers() != public.key().public_numbers():
        yield Reason(EK_MISMATCH, "the EK certificate is for another key")
    # Without any extended key usage, it must at least name a TPM, or be of a CA that leaves it out (docs/decisions/0017).
    excused = bool(leaf.tpm.manufacturer and leaf.tpm.model) or root in WITHOUT_EXTENDED_USAGE
    if EK_USAGE not in leaf.usages and (leaf.usages or leaf.usage is None or not excused):
        yield Reason(
            EK_CERTIFICATE, "not certified for use as an EK", expected=EK_USAGE, seen=", ".join(leaf.usages) or "none"
        )
    if leaf.usage is not None and not leaf.usage & (KEY_ENCIPHERMENT | KEY_AGREEMENT):
        # a cloud certifies its attestation keys with the EKs' extended usage: what signs is no EK
        yield Reason(EK_CERTIFICATE, "certified for a signing key, not for an EK")
    if leaf.ca:
        yield Reason(EK_CERTIFICATE, "the EK certificate is a CA's")
