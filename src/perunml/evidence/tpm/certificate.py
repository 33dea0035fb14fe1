"""Parses X.509 certificates (RFC 5280) of TPMs and their issuers: total, bounded, frozen.

A reader of our own, because vendors' certificates are odd in ways for which libraries refuse them whole; each oddity that
is let pass is named below and in docs/decisions/0017, everything else is refused. Nothing is fetched: addresses inside
certificates are not even read.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import lru_cache

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.hazmat.primitives.serialization import load_der_public_key

from perunml.evidence.codes import NON_CANONICAL
from perunml.evidence.pem import CERTIFICATE, unarmoured
from perunml.evidence.tpm.der import BIT_STRING, BOOLEAN, INTEGER, NULL, OCTET_STRING, SEQUENCE, Der, is_longer
from perunml.evidence.tpm.names import MANUFACTURER, MODEL, VERSION, attributes, readable
from perunml.wire.errors import refuse

MAX_CERTIFICATE = 16 * 1024
"""Bytes; the largest known have 2.5 KiB, and NV indices that hold one up to 4 KiB."""
MAX_EXTENSIONS = 32
MAX_USAGES = 32
BASIC_CONSTRAINTS, KEY_USAGE, EXTENDED_KEY_USAGE = "2.5.29.19", "2.5.29.15", "2.5.29.37"
SUBJECT_ALTERNATIVE_NAME = "2.5.29.17"
DIGITAL_SIGNATURE, KEY_ENCIPHERMENT, KEY_AGREEMENT, KEY_CERT_SIGN, CRL_SIGN = 1 << 7, 1 << 5, 1 << 3, 1 << 2, 1 << 1
"""Bits of the first byte of a key usage (RFC 5280, 4.2.1.3)."""
SIGNATURES: dict[str, tuple[str, hashes.HashAlgorithm]] = {
    "1.2.840.113549.1.1.5": ("rsa", hashes.SHA1()),  # noqa: S303 - so that it can be told apart from a wrong signature; never accepted
    "1.2.840.113549.1.1.14": ("rsa", hashes.SHA224()),
    "1.2.840.113549.1.1.11": ("rsa", hashes.SHA256()),
    "1.2.840.113549.1.1.12": ("rsa", hashes.SHA384()),
    "1.2.840.113549.1.1.13": ("rsa", hashes.SHA512()),
    "1.2.840.10045.4.3.1": ("ecdsa", hashes.SHA224()),
    "1.2.840.10045.4.3.2": ("ecdsa", hashes.SHA256()),
    "1.2.840.10045.4.3.3": ("ecdsa", hashes.SHA384()),
    "1.2.840.10045.4.3.4": ("ecdsa", hashes.SHA512()),
}
"""Of certificates and revocation lists; hashes below SHA-256 are read and then refused (`chain`)."""
Key = rsa.RSAPublicKey | ec.EllipticCurvePublicKey


@dataclass(frozen=True, slots=True)
class Tpm:
    """What an EK certificate says of its TPM: `manufacturer` (``id:49465800``), model, version; empty where it does not."""

    manufacturer: str = ""
    model: str = ""
    version: str = ""


@dataclass(frozen=True, slots=True)
class Certificate:
    """One certificate. Names, serial and key are the DER as written; times are in seconds since 1970.

    raw         as signed and fingerprinted, without padding
    ca          whether basic constraints say so; None without them. `path_length` of it, or None
    usage       the first byte of the key usage, or None without it
    usages      the extended key usages; empty without them
    critical    object identifiers of critical extensions
    extensions  values by object identifier
    quirks      oddities that were let pass, by name
    """

    raw: bytes
    tbs: bytes
    serial: bytes
    algorithm: str
    issuer: bytes
    not_before: int
    not_after: int
    subject: bytes
    spki: bytes
    ca: bool | None
    path_length: int | None
    usage: int | None
    usages: tuple[str, ...]
    tpm: Tpm
    critical: tuple[str, ...]
    extensions: tuple[tuple[str, bytes], ...]
    signature: bytes
    quirks: tuple[str, ...]

    @property
    def fingerprint(self) -> str:
        """SHA-256 of the DER, in hex."""
        return hashlib.sha256(self.raw).hexdigest()

    @property
    def name(self) -> str:
        """Its subject for people; an EK certificate often has none."""
        return readable(self.subject) or "the TPM's certificate"

    def key(self) -> Key | None:
        """The certified key, or None when it is neither RSA nor ECC, or cannot be read."""
        return _key(self.spki)


@lru_cache(maxsize=512)
def _key(spki: bytes) -> Key | None:
    try:
        made = load_der_public_key(spki)
    except (ValueError, TypeError, UnsupportedAlgorithm):
        return None
    return made if isinstance(made, rsa.RSAPublicKey | ec.EllipticCurvePublicKey) else None


def parse_certificate(data: bytes) -> Certificate:
    """The certificate in DER or in one PEM block. Raises `EvidenceRefusal` (non_canonical)."""
    if len(data) > MAX_CERTIFICATE:
        raise refuse(
            NON_CANONICAL, "a certificate is too large", expected=f"{MAX_CERTIFICATE} bytes", seen=f"{len(data)}"
        )
    quirks: list[str] = []
    outer = Der(unarmoured(bytes(data), CERTIFICATE), "a certificate")
    whole = outer.next(SEQUENCE)
    if outer.left:
        # NV indices are as long as they were defined, and some published files end in a newline.
        rest = outer.rest()
        if not any(not rest.strip(padding) for padding in (b"\0", b"\xff", b"\r\n")):
            raise outer.bad(f"{len(rest)} bytes follow its end that are no padding")
        quirks.append("padding")
    parts = Der(whole.body, "a certificate")
    tbs = parts.next(SEQUENCE)
    algorithm = parts.next(SEQUENCE)
    signature = parts.bits()
    parts.end()
    return _signed_part(whole.raw, tbs.raw, tbs.body, algorithm.raw, signature, quirks)


def _signed_part(
    raw: bytes, tbs: bytes, body: bytes, algorithm: bytes, signature: bytes, quirks: list[str]
) -> Certificate:
    reader = Der(body, "a certificate")
    version = reader.optional(0xA0)
    if version is not None and version.body not in (b"\x02\x01\x01", b"\x02\x01\x02"):
        raise reader.bad("an unknown version")
    serial = reader.next(INTEGER).body
    if not serial:
        raise reader.bad("an INTEGER of no bytes")
    if serial[0] & 0x80 or serial == b"\0" or is_longer(serial) or len(serial) > 20:
        quirks.append("serial")  # RFC 5280 wants 1 to 20 bytes, positive; it is only compared, never counted with
    inner = reader.next(SEQUENCE)
    if inner.body[:1] != b"\x06":
        raise reader.bad(
            "no signature algorithm: perhaps an attribute certificate (a platform's), which certifies no key"
        )
    if inner.raw != algorithm:
        raise reader.bad("two signature algorithms")
    issuer = reader.next(SEQUENCE).raw
    validity = reader.within(SEQUENCE)
    not_before, not_after = validity.time(), validity.time()
    validity.end()
    subject = reader.next(SEQUENCE).raw
    spki = reader.next(SEQUENCE).raw
    for tag in (0x81, 0x82):  # unique identifiers of versions 2 and 3: nobody uses them, and they say nothing
        reader.optional(tag)
    wrapped = reader.optional(0xA3)
    reader.end()
    for name in (issuer, subject):
        list(attributes(name))  # read once here, so that nothing raises later
    extensions, critical = _extensions(wrapped.body) if wrapped is not None else ({}, ())
    ca, path_length = _basic_constraints(extensions.get(BASIC_CONSTRAINTS))
    return Certificate(
        raw, tbs, serial, _algorithm(algorithm), issuer, not_before, not_after, subject, spki, ca, path_length,
        _key_usage(extensions.get(KEY_USAGE)), _usages(extensions.get(EXTENDED_KEY_USAGE)),
        _tpm(extensions.get(SUBJECT_ALTERNATIVE_NAME)), critical, tuple(extensions.items()), signature, tuple(quirks),
    )  # fmt: skip


def verify_signed(algorithm: str, signature: bytes, message: bytes, key: Key | None) -> bool:
    """Whether `signature` over `message` is by `key`, with an algorithm of `SIGNATURES`."""
    kind, digest = SIGNATURES.get(algorithm, ("", None))
    try:
        if kind == "rsa" and isinstance(key, rsa.RSAPublicKey) and digest is not None:
            key.verify(signature, message, padding.PKCS1v15(), digest)
            return True
        if kind == "ecdsa" and isinstance(key, ec.EllipticCurvePublicKey) and digest is not None:
            key.verify(signature, message, ec.ECDSA(digest))
            return True
    except (InvalidSignature, UnsupportedAlgorithm, ValueError):
        pass
    return False


def read_algorithm(raw: bytes, what: str) -> str:
    """The object identifier of a signature's AlgorithmIdentifier; parameters are none or NULL."""
    reader = Der(Der(raw, what).next(SEQUENCE).body, what)
    found = reader.oid()
    # ECDSA wants none (RFC 5758, 3.2), RSA wants NULL (RFC 4055, 5): a vendor's root has NULL with ECDSA
    null = reader.optional(NULL)
    if (reader.left or (null is not None and null.body)) and found in SIGNATURES:
        raise reader.bad("a signature algorithm with parameters")
    return found


def _algorithm(raw: bytes) -> str:
    return read_algorithm(raw, "a certificate")


def read_extensions(body: bytes, what: str) -> tuple[dict[str, bytes], tuple[str, ...]]:
    """Values by object identifier, and which are critical."""
    outer = Der(body, what)
    each = outer.within(SEQUENCE)
    outer.end()
    found: dict[str, bytes] = {}
    critical = []
    while each.left:
        one = each.within(SEQUENCE)
        oid = one.oid()
        if oid in found or len(found) >= MAX_EXTENSIONS:
            raise one.bad("an extension twice, or too many")
        if one.optional_is(BOOLEAN) and one.boolean():
            critical.append(oid)
        found[oid] = one.next(OCTET_STRING).body
        one.end()
    return found, tuple(critical)


def _extensions(body: bytes) -> tuple[dict[str, bytes], tuple[str, ...]]:
    return read_extensions(body, "a certificate")


def _basic_constraints(value: bytes | None) -> tuple[bool | None, int | None]:
    if value is None:
        return None, None
    outer = Der(value, "basic constraints")
    reader = outer.within(SEQUENCE)
    outer.end()
    # an explicit FALSE is not DER, and vendors write it
    ca = reader.boolean() if reader.optional_is(BOOLEAN) else False
    length = reader.optional(INTEGER)
    reader.end()
    if length is None:
        return ca, None
    if not length.body or length.body[0] & 0x80 or len(length.body) > 2 or is_longer(length.body):
        raise outer.bad("a path length out of bounds")
    return ca, int.from_bytes(length.body)


def _key_usage(value: bytes | None) -> int | None:
    if value is None:
        return None
    reader = Der(value, "a key usage")
    body = reader.next(BIT_STRING).body
    reader.end()
    if not 2 <= len(body) <= 3 or body[0] > 7:
        raise reader.bad("not a BIT STRING of nine bits at most")
    if body[-1] & (1 << body[0]) - 1:
        raise reader.bad("bits that are set and said to be unused")
    return body[1]


def _usages(value: bytes | None) -> tuple[str, ...]:
    if value is None:
        return ()
    outer = Der(value, "an extended key usage")
    reader = outer.within(SEQUENCE)
    outer.end()
    found = []
    while reader.left:
        found.append(reader.oid())
        if len(found) > MAX_USAGES:
            raise reader.bad("too many usages")
    if not found:
        raise reader.bad("no usage")  # as if there were no such extension: that would allow every one
    return tuple(found)


def _tpm(value: bytes | None) -> Tpm:
    """The TCG's attributes in the first directory name that has them. Vendors put them into one SET or into several."""
    if value is None:
        return Tpm()
    outer = Der(value, "an alternative name")
    reader = outer.within(SEQUENCE)
    outer.end()
    told: dict[str, str] = {}
    while reader.left:
        name = reader.any()
        if name.tag == 0xA4:  # directoryName, explicitly tagged
            for oid, text in attributes(name.body):
                told.setdefault(oid, text)
    return Tpm(told.get(MANUFACTURER, ""), told.get(MODEL, ""), told.get(VERSION, ""))
