"""A key that a TPM made itself and works with only while chosen PCRs are what they were when it was made.

It is an HMAC key under the storage root: its blob may lie anywhere, and its HMAC of a text is a secret that only this TPM
in this state tells. Made by the TPM, never given to it: a secret that was merely sealed to a state could have been chosen
by whoever sealed it, in any state at all (TPM 2.0 Library part 1, 19.7.8; part 2, 8.3.3.5).
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass

from perunml.attesters.esys import WrongTpm, open_tpm
from perunml.evidence.tpm.algorithms import AES, CFB, CURVE_IDS, ECC, HASH_IDS, NULL
from perunml.evidence.tpm.keys import (
    ADMIN_WITH_POLICY,
    DECRYPT,
    FIXED_PARENT,
    FIXED_TPM,
    NO_DA,
    RESTRICTED,
    SENSITIVE_DATA_ORIGIN,
    SIGN,
    USER_WITH_AUTH,
)

BANK = "sha256"
_KEYED_HASH, _HMAC = 0x0008, 0x0005  # TPM_ALG_ID
_OWN = FIXED_TPM | FIXED_PARENT | SENSITIVE_DATA_ORIGIN | NO_DA
_DIGEST = 32


def _sized(data: bytes) -> bytes:
    return len(data).to_bytes(2) + data


STORAGE_ROOT = _sized(
    struct.pack(">HHIH", ECC, HASH_IDS["sha256"], _OWN | USER_WITH_AUTH | RESTRICTED | DECRYPT, 0)
    + struct.pack(">HHHHHH", AES, 128, CFB, NULL, CURVE_IDS["p256"], NULL)
    + _sized(bytes(32))
    + _sized(bytes(32))
)
"""TCG TPM v2.0 Provisioning Guidance, 7.5.1: the ECC storage root's template."""
_HEAD = struct.pack(">HHI", _KEYED_HASH, HASH_IDS["sha256"], _OWN | ADMIN_WITH_POLICY | SIGN)
_SCHEME = struct.pack(">HH", _HMAC, HASH_IDS["sha256"])
TEMPLATE = _sized(_HEAD + _sized(b"") + _SCHEME + _sized(b""))
"""Without userWithAuth, nothing but the policy opens it; with sensitiveDataOrigin, nobody but the TPM chose it."""


@dataclass(frozen=True, slots=True)
class BoundKey:
    """private, public  TPM2B_PRIVATE, TPM2B_PUBLIC
    parent           the name of the storage root above it: which TPM, until it is cleared
    pcrs             indices of the SHA-256 bank that its policy names
    """

    private: bytes
    public: bytes
    parent: bytes
    pcrs: tuple[int, ...]


def new_key(tcti: str, pcrs: Sequence[int]) -> BoundKey:
    """A key of the TPM at `tcti`, bound to these PCRs as they are now. Raises `Unreachable` (tpm_unavailable)."""
    with open_tpm(tcti) as tpm:
        private, public, parent = tpm.new_bound_key(STORAGE_ROOT, TEMPLATE, {BANK: pcrs})
    return BoundKey(private, public, parent, tuple(pcrs))


def secret(tcti: str, key: BoundKey, text: bytes) -> bytes:
    """The 32 bytes that the key makes of `text` (at most 1 KiB). Raises `WrongState` when the PCRs are others, `WrongTpm` when
    the key is another TPM's or no key of `new_key`'s form, `Unreachable` (tpm_unavailable)."""
    _check_form(key.public)
    with open_tpm(tcti) as tpm:
        return tpm.bound_hmac(STORAGE_ROOT, key.parent, key.private, key.public, {BANK: key.pcrs}, text)


def _check_form(public: bytes) -> None:
    """All but policy and name are the template's: another key might open without its policy, or be of somebody's choice.
    That its policy is the PCRs' is what the TPM says when it accepts the session."""
    start = 2 + len(_HEAD) + 2
    policy, unique = public[start : start + _DIGEST], public[-_DIGEST:]
    if public != _sized(_HEAD + _sized(policy) + _SCHEME + _sized(unique)) or len(policy) + len(unique) != 2 * _DIGEST:
        raise WrongTpm
