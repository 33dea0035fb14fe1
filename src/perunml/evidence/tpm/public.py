"""Parses TPM2B_PUBLIC of RSA and ECC keys (TPM 2.0 Library part 2, 12.2.4), and computes names (part 1, 16)."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

from cryptography.hazmat.primitives.asymmetric import ec, rsa

from perunml.evidence.codes import WEAK_SCHEME
from perunml.evidence.tpm.algorithms import (
    CURVE_WIDTHS,
    CURVES,
    DIGEST,
    ECC,
    ECDAA,
    HASH_IDS,
    HASHES,
    NULL,
    RSA,
    SIGNING_HASHES,
)
from perunml.evidence.tpm.reader import Reader
from perunml.wire.errors import refuse

RSA_EXPONENT = 65537
RSA_SIZES = (2048, 3072, 4096)
MAX_POLICY = 64
MAX_MODULUS = 512
DEFINED_ATTRIBUTES = 0x000F0CF6
"""Bits of TPMA_OBJECT that the specification defines (part 2, 8.3.2; revision 1.38 and 1.59); others are zero."""
_CURVE: dict[str, type[ec.EllipticCurve]] = {"p256": ec.SECP256R1, "p384": ec.SECP384R1, "p521": ec.SECP521R1}


@dataclass(frozen=True, slots=True)
class PublicArea:
    """A TPMT_PUBLIC. `symmetric` is (algorithm, bits, mode), `scheme` (algorithm, hash); None where NULL.

    `unique` is the modulus, or x and y; `bits` and `exponent` are RSA's, `curve` ECC's.
    """

    raw: bytes
    kind: int
    name_hash: str
    attributes: int
    policy: bytes
    symmetric: tuple[int, int, int] | None
    scheme: tuple[int, str] | None
    bits: int
    exponent: int
    curve: str
    unique: tuple[bytes, ...]

    @property
    def name(self) -> bytes:
        """The key's name: hash algorithm and digest of its public area."""
        return HASH_IDS[self.name_hash].to_bytes(2) + bytes(DIGEST[self.name_hash](self.raw).digest())

    def key(self) -> rsa.RSAPublicKey | ec.EllipticCurvePublicKey:
        """The public key. Raises `EvidenceRefusal` (weak_scheme): small or even modulus, another exponent, another
        curve, a point that is not on it."""
        return _key(self)


@lru_cache(maxsize=1024)
def _key(area: PublicArea) -> rsa.RSAPublicKey | ec.EllipticCurvePublicKey:
    # Kept, for a machine's key is used at each renewal; what is refused is refused anew.
    if area.kind == RSA:
        modulus = int.from_bytes(area.unique[0])
        if area.bits not in RSA_SIZES or modulus.bit_length() != area.bits or not modulus & 1:
            raise refuse(WEAK_SCHEME, "RSA key size", expected="2048, 3072 or 4096 bits", seen=f"{area.bits} bits")
        if area.exponent != RSA_EXPONENT:
            raise refuse(WEAK_SCHEME, "RSA exponent", expected=str(RSA_EXPONENT), seen=str(area.exponent))
        return rsa.RSAPublicNumbers(area.exponent, modulus).public_key()
    x, y = (int.from_bytes(part) for part in area.unique)
    try:
        return ec.EllipticCurvePublicNumbers(x, y, _CURVE[area.curve]()).public_key()
    except ValueError:
        raise refuse(WEAK_SCHEME, "the key is not a point of its curve", seen=area.curve) from None


def parse_public(data: bytes) -> PublicArea:
    """The key in a TPM2B_PUBLIC. Raises `EvidenceRefusal`: weak_scheme for types, name hashes and curves that are not
    accepted, non_canonical."""
    outer = Reader(data, "TPM2B_PUBLIC")
    raw = outer.sized(len(data))
    outer.end()
    reader = Reader(raw, "TPMT_PUBLIC")
    kind, name_hash = reader.u16(), _hash(reader.u16())
    if kind not in (RSA, ECC):
        raise refuse(WEAK_SCHEME, "key type is not accepted", expected="RSA or ECC", seen=f"{kind:04x}")
    attributes = reader.u32()
    if attributes & ~DEFINED_ATTRIBUTES:
        raise reader.bad(f"reserved attributes are set: {attributes:08x}")
    policy = reader.sized(MAX_POLICY)
    if len(policy) not in (0, DIGEST[name_hash](b"").digest_size):
        raise reader.bad("the policy is not a digest of the name's hash")
    symmetric = _symmetric(reader)
    scheme = _scheme(reader)
    bits = exponent = 0
    curve = ""
    if kind == RSA:
        bits, exponent = reader.u16(), reader.u32() or RSA_EXPONENT
        unique: tuple[bytes, ...] = (reader.sized(MAX_MODULUS),)
        if len(unique[0]) * 8 != bits:
            raise reader.bad("the modulus is not of the key's size")
    else:
        number = reader.u16()
        curve = CURVES.get(number, "")
        if not curve:
            raise refuse(WEAK_SCHEME, "curve is not accepted", expected="P-256, P-384 or P-521", seen=f"{number:04x}")
        if (kdf := reader.u16()) != NULL:
            raise reader.bad(f"a key derivation scheme is set: {kdf:04x}")
        width = CURVE_WIDTHS[curve]
        unique = (reader.sized(width), reader.sized(width))
        if any(len(part) != width for part in unique):
            raise reader.bad("a coordinate is not of the curve's width")
    reader.end()
    return PublicArea(raw, kind, name_hash, attributes, policy, symmetric, scheme, bits, exponent, curve, unique)


def _hash(number: int) -> str:
    name = HASHES.get(number, "")
    if name not in SIGNING_HASHES:
        raise refuse(
            WEAK_SCHEME, "hash is not accepted", expected=", ".join(SIGNING_HASHES), seen=name or f"{number:04x}"
        )
    return name


def _symmetric(reader: Reader) -> tuple[int, int, int] | None:
    algorithm = reader.u16()
    return None if algorithm == NULL else (algorithm, reader.u16(), reader.u16())


def _scheme(reader: Reader) -> tuple[int, str] | None:
    algorithm = reader.u16()
    if algorithm == NULL:
        return None
    if algorithm == ECDAA:
        raise refuse(WEAK_SCHEME, "ECDAA is not accepted", expected="RSASSA, RSAPSS or ECDSA")
    return algorithm, _hash(reader.u16())
