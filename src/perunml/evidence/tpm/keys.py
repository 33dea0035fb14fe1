"""The attestation key: what it must be, and the qualified names under which a quote may name it."""

from __future__ import annotations

from dataclasses import dataclass

from perunml.evidence.codes import AK_ATTRIBUTES, WEAK_SCHEME
from perunml.evidence.tpm.algorithms import DIGEST, ECC, ECDSA, HASH_IDS, RSA, RSAPSS, RSASSA, SIGNING_CURVES
from perunml.evidence.tpm.public import PublicArea, parse_public
from perunml.wire.errors import PerunError, error
from perunml.wire.rules import Reason

FIXED_TPM, FIXED_PARENT, SENSITIVE_DATA_ORIGIN = 1 << 1, 1 << 4, 1 << 5
USER_WITH_AUTH, ADMIN_WITH_POLICY, NO_DA = 1 << 6, 1 << 7, 1 << 10
RESTRICTED, DECRYPT, SIGN = 1 << 16, 1 << 17, 1 << 18
"""TPMA_OBJECT (TPM 2.0 Library part 2, 8.3.2)."""
RH_ENDORSEMENT = 0x4000000B

_MUST = {
    FIXED_TPM: "fixedTPM",
    FIXED_PARENT: "fixedParent",
    SENSITIVE_DATA_ORIGIN: "sensitiveDataOrigin",
    RESTRICTED: "restricted",
    SIGN: "sign",
}
_SCHEMES = {RSA: (RSASSA, RSAPSS), ECC: (ECDSA,)}


@dataclass(frozen=True, slots=True)
class AttestationKey:
    """A key that only a TPM can hold and that signs nothing but what the TPM itself made; made by `check_ak`."""

    name: bytes
    public: PublicArea


def check_ak(ak_public: bytes) -> AttestationKey:
    """The attestation key in a TPM2B_PUBLIC. Raises `EvidenceRefusal`: ak_attributes, a reason for each wrong flag;
    weak_scheme; non_canonical. That it lives in a certain TPM is proven by its answer to `make_credential`."""
    public = parse_public(ak_public)
    reasons = [
        Reason(AK_ATTRIBUTES, f"the attestation key is not {name}", expected=name)
        for bit, name in _MUST.items()
        if not public.attributes & bit
    ]
    if public.attributes & DECRYPT:
        reasons.append(Reason(AK_ATTRIBUTES, "the attestation key may decrypt", expected="not decrypt"))
    if public.scheme is None or public.scheme[0] not in _SCHEMES[public.kind]:
        seen = "none" if public.scheme is None else f"{public.scheme[0]:04x}"
        reasons.append(Reason(WEAK_SCHEME, "the attestation key has no accepted scheme of its own", seen=seen))
    if public.curve and public.curve not in SIGNING_CURVES:
        reasons.append(Reason(WEAK_SCHEME, "curve is not accepted", expected="P-256 or P-384", seen=public.curve))
    if public.symmetric is not None:
        reasons.append(Reason(AK_ATTRIBUTES, "a signing key has no symmetric parameters"))
    try:
        public.key()
    except PerunError as exc:
        reasons.extend(exc.reasons)
    if reasons:
        raise error(reasons)
    return AttestationKey(public.name, public)


def qualified_names(ak: AttestationKey, ek: PublicArea | None) -> tuple[bytes, ...]:
    """The names by which a quote may call its signer (part 1, 16.3): as a primary key under the endorsement seed, or as
    the EK's child. A key elsewhere in the TPM is not under the EK's hierarchy."""
    hierarchy = RH_ENDORSEMENT.to_bytes(4)
    primary = _qualified(hierarchy, ak.public.name_hash, ak.name)
    if ek is None:
        return (primary,)
    parent = _qualified(hierarchy, ek.name_hash, ek.name)
    return primary, _qualified(parent, ak.public.name_hash, ak.name)


def _qualified(parent: bytes, hash_name: str, name: bytes) -> bytes:
    return HASH_IDS[hash_name].to_bytes(2) + bytes(DIGEST[hash_name](parent + name).digest())
