"""File signatures in an IMA log: by an agreed key that the log shows entering the kernel's keyring.

A signature is a `signature_v2_hdr` (Linux, security/integrity/integrity.h): type, version, hash algorithm, the last four
bytes of the key's identifier, length, signature; big-endian. Version 2 signs the file's digest, version 3 the hash of type,
algorithm and digest (`ima_file_id`).
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Set
from functools import lru_cache
from struct import Struct

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.hazmat.primitives.asymmetric.types import PublicKeyTypes
from cryptography.hazmat.primitives.asymmetric.utils import Prehashed
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_der_public_key

DIGSIG = 0x03
"""The type of a signature of a file's digest (enum evm_ima_xattr_type); that of an fs-verity digest proves no file."""
MIN_RSA = 2048
_UNREADABLE = (
    ValueError,
    UnsupportedAlgorithm,
    x509.InvalidVersion,
    x509.DuplicateExtension,
    x509.UnsupportedGeneralNameType,
)
_HEAD = Struct(">BBB4sH")
_HASHES: Mapping[int, tuple[bytes, hashes.HashAlgorithm]] = {
    4: (b"sha256", hashes.SHA256()),
    5: (b"sha384", hashes.SHA384()),
    6: (b"sha512", hashes.SHA512()),
}
"""enum hash_algo (include/uapi/linux/hash_info.h), the strong ones."""


def key_in(certificate: bytes, agreed: Set[str]) -> tuple[bytes, bytes] | None:
    """SubjectPublicKeyInfo (DER) and key identifier of a certificate as measured, when the key is agreed (``sha256:…``)."""
    try:
        read = x509.load_der_x509_certificate(certificate)
        found = read.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
        identifier = read.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value.digest
    except x509.ExtensionNotFound:
        identifier = b""
    except _UNREADABLE:
        return None
    return (found, identifier) if f"sha256:{hashlib.sha256(found).hexdigest()}" in agreed else None


def verified_by(signature: bytes, digest: bytes, keys: Mapping[bytes, bytes]) -> bytes | None:
    """The key, one of `keys`, whose signature of the file's `digest` (as in a d-ng field) it is; None: of none of them."""
    if len(signature) < _HEAD.size:
        return None
    kind, version, algorithm, key_id, size = _HEAD.unpack_from(signature)
    raw = signature[_HEAD.size :]
    if kind != DIGSIG or algorithm not in _HASHES or len(raw) != size:
        return None
    name, hash_ = _HASHES[algorithm]
    measured, _, value = digest.partition(b":\0")
    if measured != name:
        return None
    if version == 3:
        value = hashlib.new(name.decode(), bytes([kind, algorithm]) + value).digest()
    elif version != 2:
        return None
    for key, identifier in keys.items():
        # the certificate's identifier finds the key, or the one that signers compute; what proves is the signature
        if key_id in (identifier[-4:], _identifier(key)[-4:]) and _verifies(key, raw, value, hash_):
            return key
    return None


@lru_cache(maxsize=64)
def _identifier(key: bytes) -> bytes:
    """RFC 5280, 4.2.1.2, method 1: SHA-1 of the key's bits. It only finds the key, the signature proves it."""
    return x509.SubjectKeyIdentifier.from_public_key(_load(key)).digest  # type: ignore[arg-type]  # any key


@lru_cache(maxsize=64)
def _load(key: bytes) -> PublicKeyTypes:
    return load_der_public_key(key)


def _verifies(key: bytes, signature: bytes, value: bytes, hash_: hashes.HashAlgorithm) -> bool:
    public = _load(key)
    try:
        if isinstance(public, rsa.RSAPublicKey) and public.key_size >= MIN_RSA:
            public.verify(signature, value, padding.PKCS1v15(), Prehashed(hash_))
            return True
        if isinstance(public, ec.EllipticCurvePublicKey) and public.key_size >= 256:
            public.verify(signature, value, ec.ECDSA(Prehashed(hash_)))
            return True
    except InvalidSignature:
        return False
    return False
