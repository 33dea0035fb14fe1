"""The TPM's key that only this machine's TEE can use, in the state in which it was made: one of the binders against a relayed TPM
(docs/spec/tee.md, "Binders"; judged by `evidence.tpm.binder`).

Its secret is made up inside of the TEE and is kept there; the TPM gets it through a salted, encrypted session, so whoever listens
at its bus has nothing to use the key with, and neither has another machine's TEE.
"""

from __future__ import annotations

import hashlib
import struct
from dataclasses import dataclass, field

from perunml.attesters.bound import STORAGE_ROOT
from perunml.attesters.esys import open_tpm
from perunml.attesters.tpm import AK_HANDLE
from perunml.evidence.tpm.algorithms import CURVE_IDS, ECC, ECDSA, HASH_IDS, NULL
from perunml.evidence.tpm.binder import BANK, LABEL, PCRS
from perunml.evidence.tpm.keys import FIXED_PARENT, FIXED_TPM, NO_DA, SENSITIVE_DATA_ORIGIN, SIGN

SECRET_SIZE = 32
_AREA = struct.pack(
    ">HHIHHHHHHHH",
    ECC, HASH_IDS["sha256"], FIXED_TPM | FIXED_PARENT | SENSITIVE_DATA_ORIGIN | NO_DA | SIGN, 0, NULL, ECDSA, HASH_IDS["sha256"],
    CURVE_IDS["p256"], NULL, 0, 0,
)  # fmt: skip
TEMPLATE = len(_AREA).to_bytes(2) + _AREA
"""P-256, ECDSA with SHA-256, not restricted; without userWithAuth, nothing but its policy opens it."""


@dataclass(frozen=True, slots=True)
class BinderKey:
    """private, public     TPM2B_PRIVATE, TPM2B_PUBLIC
    certify, signature  what the attestation key certified of it: for the enrolment
    secret              what its user must know; in the TEE's memory alone
    """

    private: bytes
    public: bytes
    certify: bytes
    signature: bytes
    secret: bytes = field(repr=False)

    def enrolment(self) -> dict[str, bytes]:
        """What an enrolment sends of it."""
        return {"binder_public": self.public, "binder_certify": self.certify, "binder_signature": self.signature}


def new_binder(tcti: str, secret: bytes, ak: int = AK_HANDLE) -> BinderKey:
    """A key of the TPM at `tcti`, for who knows `secret` (32 bytes) and while PCRs 0 to 7 are what they are now; certified by the
    attestation key at `ak`, which enrolment made. Raises `Unreachable` (tpm_unavailable)."""
    if len(secret) != SECRET_SIZE:
        raise ValueError(f"the secret has {SECRET_SIZE} bytes")
    with open_tpm(tcti) as tpm:
        private, public, certify, signature = tpm.new_binder(STORAGE_ROOT, TEMPLATE, secret, {BANK: PCRS}, ak)
    return BinderKey(private, public, certify, signature, secret)


def sign_binding(tcti: str, key: BinderKey, binding: bytes) -> bytes:
    """TPMT_SIGNATURE over a binding (48 bytes). Raises `WrongState` in another state or with another secret, `WrongTpm`,
    `Unreachable` (tpm_unavailable)."""
    digest = hashlib.sha256(LABEL + binding).digest()
    with open_tpm(tcti) as tpm:
        return tpm.binder_sign(STORAGE_ROOT, key.private, key.public, key.secret, {BANK: PCRS}, digest)
