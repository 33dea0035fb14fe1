"""Makes a credential in software: a secret that only the TPM which holds both the EK and the named key can open.

TPM 2.0 Library part 1, 24 (credential protection), annexes B.10.4 (RSA) and C.6.1 (ECC), 11.4.10 (KDFa, KDFe). As wire
where it seals to a key, this takes its randomness from the operating system: the seed is new each time.
"""

from __future__ import annotations

import hashlib
import hmac
import secrets

from cryptography.hazmat.decrepit.ciphers.modes import CFB
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms

from perunml.evidence.tpm.algorithms import CRYPTOGRAPHY, CURVE_WIDTHS, DIGEST
from perunml.evidence.tpm.public import PublicArea
from perunml.evidence.tpm.template import check_ek_template

MAX_SECRET = 32
"""Bytes: a credential is at most a digest of the EK's name hash (part 3, 12.6), and every EK's is SHA-256 or longer."""


def make_credential(ek_public: bytes, ak_name: bytes, secret: bytes) -> tuple[bytes, bytes]:
    """(TPM2B_ID_OBJECT, TPM2B_ENCRYPTED_SECRET) for TPM2_ActivateCredential, which gives `secret` back.

    `ek_public` is a TPM2B_PUBLIC of a standard template (else `EvidenceRefusal`), `ak_name` the key's name, `secret` 1 to
    32 bytes.
    """
    if not 1 <= len(secret) <= MAX_SECRET:
        raise ValueError(f"a credential's secret has 1 to {MAX_SECRET} bytes")
    ek = check_ek_template(ek_public)
    seed, encrypted = _share_seed(ek)
    assert ek.symmetric is not None  # a standard template has AES
    key = kdfa(ek.name_hash, seed, b"STORAGE", ak_name, b"", ek.symmetric[1])
    encryptor = Cipher(algorithms.AES(key), CFB(bytes(16))).encryptor()
    identity = encryptor.update(_sized(secret)) + encryptor.finalize()
    digest_size = len(DIGEST[ek.name_hash](b"").digest())
    mac_key = kdfa(ek.name_hash, seed, b"INTEGRITY", b"", b"", digest_size * 8)
    mac = hmac.new(mac_key, identity + ak_name, ek.name_hash).digest()
    return _sized(_sized(mac) + identity), _sized(encrypted)


def _share_seed(ek: PublicArea) -> tuple[bytes, bytes]:
    key = ek.key()
    if isinstance(key, rsa.RSAPublicKey):
        seed = secrets.token_bytes(DIGEST[ek.name_hash](b"").digest_size)
        algorithm = CRYPTOGRAPHY[ek.name_hash]
        oaep = padding.OAEP(padding.MGF1(algorithm), algorithm, label=b"IDENTITY\0")
        return seed, key.encrypt(seed, oaep)
    width = CURVE_WIDTHS[ek.curve]
    ephemeral = ec.generate_private_key(key.curve)
    shared = ephemeral.exchange(ec.ECDH(), key)
    own = ephemeral.public_key().public_numbers()
    x, y = own.x.to_bytes(width), own.y.to_bytes(width)
    seed = kdfe(ek.name_hash, shared, b"IDENTITY", x, ek.unique[0])
    return seed, _sized(x) + _sized(y)


def kdfa(hash_name: str, key: bytes, label: bytes, context_u: bytes, context_v: bytes, bits: int) -> bytes:
    """KDFa: SP 800-108 in counter mode with HMAC; `bits` is a multiple of 8."""
    found = b""
    counter = 0
    while len(found) * 8 < bits:
        counter += 1
        message = counter.to_bytes(4) + label + b"\0" + context_u + context_v + bits.to_bytes(4)
        found += hmac.new(key, message, hash_name).digest()
    return found[: bits // 8]


def kdfe(hash_name: str, z: bytes, use: bytes, party_u: bytes, party_v: bytes) -> bytes:
    """KDFe: SP 800-56A's one-step derivation, for one digest's length."""
    return hashlib.new(hash_name, (1).to_bytes(4) + z + use + b"\0" + party_u + party_v).digest()


def _sized(data: bytes) -> bytes:
    return len(data).to_bytes(2) + data
