"""The endorsement key's template: is it one of the TCG's, and which machine does the key name?

TCG EK Credential Profile for TPM Family 2.0, level 0, version 2.5, annexes B.3 (low range) and B.4 (high range).
"""

from __future__ import annotations

from functools import lru_cache

from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from perunml.evidence.codes import EK_TEMPLATE
from perunml.evidence.tpm.algorithms import AES, CFB
from perunml.evidence.tpm.keys import (
    ADMIN_WITH_POLICY,
    DECRYPT,
    FIXED_PARENT,
    FIXED_TPM,
    RESTRICTED,
    SENSITIVE_DATA_ORIGIN,
    USER_WITH_AUTH,
)
from perunml.evidence.tpm.public import PublicArea, parse_public
from perunml.wire.digests import digest
from perunml.wire.errors import refuse

POLICY_A_SHA256 = bytes.fromhex("837197674484b3f81a90cc8d46a5d724fd52d76e06520b64f2a1da1b331469aa")
"""PolicySecret(TPM_RH_ENDORSEMENT)."""
POLICY_B = {
    "sha256": bytes.fromhex("ca3d0a99a2b93906f7a3342414efcfb3a385d44cd1fd459089d19b5071c0b7a0"),
    "sha384": bytes.fromhex(
        "b26e7d28d11a50bc53d882bcf5fd3a1a074148bb35d3b4e4cb1c0ad9bde419cacb47ba09699646150f9fc000f3f80e12"
    ),
    "sha512": bytes.fromhex(
        "b8221ca69e8550a4914de3faa6a18c072cc01208073a928d5d66d59ef79e49a4"
        "29c41a6b269571d57edb25fbdb1838425608b413cd616a5f6db5b6071af99bea"
    ),
}
"""PolicyOR(policy A, PolicyAuthorizeNV(the TPM's policy index for this hash))."""
_LOW = FIXED_TPM | FIXED_PARENT | SENSITIVE_DATA_ORIGIN | ADMIN_WITH_POLICY | RESTRICTED | DECRYPT
_HIGH = _LOW | USER_WITH_AUTH
_L = (_LOW, POLICY_A_SHA256)
STANDARD: dict[tuple[str, str, int], dict[tuple[int, bytes], str]] = {
    # (key, name hash, AES bits): (attributes, policy): the template's name
    ("rsa2048", "sha256", 128): {_L: "L-1", (_HIGH, POLICY_B["sha256"]): "H-1"},
    ("p256", "sha256", 128): {_L: "L-2", (_HIGH, POLICY_B["sha256"]): "H-2"},
    ("p384", "sha384", 256): {(_HIGH, POLICY_B["sha384"]): "H-3"},
    ("p521", "sha512", 256): {(_HIGH, POLICY_B["sha512"]): "H-4"},
    ("rsa3072", "sha384", 256): {(_HIGH, POLICY_B["sha384"]): "H-6"},
    ("rsa4096", "sha384", 256): {(_HIGH, POLICY_B["sha384"]): "H-7"},
}
"""H-5 is SM2's, which is not read."""


def check_ek_template(ek_public: bytes) -> PublicArea:
    """The EK in a TPM2B_PUBLIC. Raises `EvidenceRefusal` (ek_template) unless it is of a standard template, so that its
    credentials open only with the endorsement hierarchy's own policy; weak_scheme, non_canonical."""
    public = parse_public(ek_public)
    key = public.curve or f"rsa{public.bits}"
    bits = public.symmetric[1] if public.symmetric else 0
    if public.symmetric != (AES, bits, CFB) or public.scheme is not None:
        raise refuse(EK_TEMPLATE, "the EK's parameters are not of a standard template", seen=key)
    if (public.attributes, public.policy) not in STANDARD.get((key, public.name_hash, bits), {}):
        raise refuse(
            EK_TEMPLATE,
            "the EK's attributes or policy are not of a standard template",
            expected="TCG EK Credential Profile L-1, L-2, H-1 to H-4, H-6 or H-7",
            seen=f"{key}, {public.name_hash}, AES-{bits}, attributes {public.attributes:08x}, policy {public.policy.hex()}",
        )
    return public


@lru_cache(maxsize=1024)
def ek_machine(ek_public: PublicArea) -> str:
    """``ek:sha256:…``: the machine's name, of the EK's SubjectPublicKeyInfo in DER."""
    spki = ek_public.key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    return "ek:" + digest(spki)
