"""What a device's leaf certificate says of the firmware that holds its key: TCG DICE Attestation Architecture, by its first form
(CompositeDeviceID, on Hopper and NVSwitch) and its second (DiceTcbInfo, on Blackwell).
"""

from __future__ import annotations

from dataclasses import dataclass

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from perunml.evidence.codes import NON_CANONICAL
from perunml.wire.errors import PerunError, refuse

COMPOSITE_DEVICE_ID = x509.ObjectIdentifier("2.23.133.5.4.1")
DICE_TCB_INFO = x509.ObjectIdentifier("2.23.133.5.4.1.1")
DEVICE_NAME = x509.ObjectIdentifier("1.3.6.1.4.1.412.274.1")
"""DMTF's name of a device in a certificate (DSP0274, 10.8.2): ``NVIDIA:GH100:<serial>``."""
SHA384 = bytes.fromhex("0609608648016503040202")
"""The OBJECT IDENTIFIER, in DER."""
INTEGER, BIT_STRING, OCTET_STRING, UTF8_STRING, SEQUENCE = 0x02, 0x03, 0x04, 0x0C, 0x30
FWIDS, FLAGS = 0xA6, 0x87
"""Members of DiceTcbInfo: ``fwids [6]``, ``flags [7]``."""
DEVELOPMENT = {1: "not secure", 2: "recovery", 3: "debug"}
"""OperationalFlags that a machine in use must not show, by bit. Bit 0 (not configured) is set on devices in use and is told."""
NOT_CONFIGURED = 0
_MAX_MEMBERS = 16


@dataclass(frozen=True, slots=True)
class Dice:
    """`fwid` is the firmware's digest; `flags` the names of development flags that are set, None where the form has none;
    `chip` the product as the certificate names it (``GH100``); `serial` behind it."""

    fwid: bytes
    flags: tuple[str, ...] | None
    chip: str
    serial: str


def read_leaf(leaf: x509.Certificate, issuer: x509.Certificate) -> Dice:
    """Raises `EvidenceRefusal` (non_canonical)."""
    found = {extension.oid: extension.value for extension in leaf.extensions}
    chip, serial = _device_name(found.get(x509.OID_SUBJECT_ALTERNATIVE_NAME))
    old, new = found.get(COMPOSITE_DEVICE_ID), found.get(DICE_TCB_INFO)
    if isinstance(old, x509.UnrecognizedExtension) and new is None:
        return Dice(_composite(old.value, issuer), None, chip, serial)
    if isinstance(new, x509.UnrecognizedExtension) and old is None:
        fwid, flags = _tcb_info(new.value)
        return Dice(fwid, flags, chip, serial)
    raise _bad("it does not name its firmware (TCG DICE), or twice")


def _device_name(names: object) -> tuple[str, str]:
    if isinstance(names, x509.SubjectAlternativeName):
        others = [n for n in names if isinstance(n, x509.OtherName) and n.type_id == DEVICE_NAME]
        if len(others) == 1:
            tag, value, rest = _element(others[0].value)
            parts = value.decode("ascii", "replace").split(":")
            if tag == UTF8_STRING and not rest and len(parts) == 3 and parts[0] == "NVIDIA" and all(map(_word, parts)):
                return parts[1], parts[2]
    raise _bad("it does not name its device")


def _word(text: str) -> bool:
    return 0 < len(text) <= 64 and text.isascii() and text.replace("_", "").isalnum()


def _composite(data: bytes, issuer: x509.Certificate) -> bytes:
    """``SEQUENCE {version 1, deviceID SubjectPublicKeyInfo, fwid FWID}``; the key is the issuer's."""
    body = _only(data, SEQUENCE)
    tag, version, body = _element(body)
    if tag != INTEGER or version != b"\x01":
        raise _bad("its DICE extension is of another version")
    key = issuer.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    if not body.startswith(key):
        raise _bad("its DICE extension names another device's key")
    return _fwid(_only(body[len(key) :], SEQUENCE))


def _tcb_info(data: bytes) -> tuple[bytes, tuple[str, ...]]:
    body, members = _only(data, SEQUENCE), dict[int, bytes]()
    while body:
        tag, value, body = _element(body)
        if tag in members or (members and tag & 0x1F <= max(members) & 0x1F) or len(members) >= _MAX_MEMBERS:
            raise _bad("its DICE extension has members out of order")
        members[tag] = value
    if FWIDS not in members or FLAGS not in members:
        raise _bad("its DICE extension lacks firmware or flags")
    tag, first, _ = _element(members[FWIDS])
    if tag != SEQUENCE:
        raise _bad("its DICE extension names no firmware")
    return _fwid(first), _flags(members[FLAGS])


def _flags(bits: bytes) -> tuple[str, ...]:
    """A BIT STRING: the count of unused bits, then the bits, the first one highest."""
    if not bits or bits[0] > 7 or len(bits) > 9 or (len(bits) == 1 and bits[0]):
        raise _bad("its DICE flags are no bit string")
    return tuple(name for bit, name in DEVELOPMENT.items() if bit // 8 + 1 < len(bits) and _bit(bits[1:], bit))


def _bit(raw: bytes, number: int) -> bool:
    return bool(raw[number // 8] & (0x80 >> number % 8))


def _fwid(body: bytes) -> bytes:
    """``{hashAlg OBJECT IDENTIFIER, digest OCTET STRING}``."""
    if not body.startswith(SHA384):
        raise _bad("its firmware's digest is not by SHA-384")
    digest = _only(body[len(SHA384) :], OCTET_STRING)
    if len(digest) != 48:
        raise _bad("its firmware's digest is of another length")
    return digest


def _only(data: bytes, wanted: int) -> bytes:
    tag, value, rest = _element(data)
    if tag != wanted or rest:
        raise _bad("its DICE extension is not of its form")
    return value


def _element(data: bytes) -> tuple[int, bytes, bytes]:
    """Tag, content and what follows, of DER with one-byte tags and the shortest form of each length."""
    if len(data) < 2:
        raise _bad("an element is cut off")
    size, at = data[1], 2
    if size & 0x80:
        count = size & 0x7F
        size, at = int.from_bytes(data[2 : 2 + count]), 2 + count
        if not 1 <= count <= 2 or len(data) < at or size < (0x80, 0x100)[count - 1]:
            raise _bad("a length is not in its shortest form")
    if size > len(data) - at:
        raise _bad("an element is cut off")
    return data[0], data[at : at + size], data[at + size :]


def _bad(why: str) -> PerunError:
    return refuse(NON_CANONICAL, f"the device's leaf certificate is not of its form: {why}")
