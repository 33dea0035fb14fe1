"""Reads a reference integrity manifest: an ISO 19770-2 SWID tag with the measurements that one version of a driver or of a
device's firmware gives, signed as a whole (XML-DSig, enveloped, ECDSA on P-384 with SHA-384).

XML is read without DTD, entities and network. What a manifest says is taken only from the element that the signature check
gives back, never from the document that came. lxml and signxml are an extra, and are imported where they are used.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from types import MappingProxyType
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec

from perunml.evidence.nvidia.codes import EXTRA_MISSING, RIM_SIGNATURE
from perunml.evidence.parts import MAX_CERTIFICATE, MAX_CERTIFICATES
from perunml.evidence.x509 import read_certificate
from perunml.wire.errors import EvidenceRefusal, PerunError, refuse

MAX_RIM = 256 * 1024
"""Bytes of a manifest; NVIDIA's have some 20,000."""
MAX_MEASUREMENTS = 255
"""A report's blocks are numbered from 1 to 255."""
MAX_ALTERNATIVES = 64
CACHED = 64
"""Manifests whose signatures are remembered as good: two for each pair of driver and firmware in a fleet, each at most MAX_RIM."""
SWID = "{http://standards.iso.org/iso/19770/-2/2015/schema.xsd}"
HASH = "{http://www.w3.org/2001/04/xmlenc#sha384}Hash"
DS = "{http://www.w3.org/2000/09/xmldsig#}"
C14N = "http://www.w3.org/2006/12/xml-c14n11"
ENVELOPED = "http://www.w3.org/2000/09/xmldsig#enveloped-signature"
_NUMBER = re.compile(r"0|[1-9][0-9]{0,3}")
_BOOLEAN = {"True": True, "true": True, "False": False, "false": False}


@dataclass(frozen=True, slots=True)
class Rim:
    """What a manifest says, under a signature that verifies by `chain`'s first certificate. Whether that chain is NVIDIA's, and
    in force, is not known here.

    version  ``550.90.07`` (driver) or ``96.00.9F.00.01`` (firmware)
    product  ``GH100``
    edition  ``GPU`` or ``SWITCH``
    golden   index of a measurement (from 0) -> the values that are good; active ones alone
    chain    certificates, the signer's first
    """

    version: str
    product: str
    edition: str
    golden: Mapping[int, frozenset[bytes]]
    chain: tuple[x509.Certificate, ...]


def read_rim(data: bytes) -> Rim:
    """Raises `EvidenceRefusal` (rim_signature), `UsageError` (extra_missing). Pure: what was found good is remembered."""
    if len(data) > MAX_RIM:
        raise _bad(f"it has more than {MAX_RIM} bytes")
    return _read(bytes(data))


@lru_cache(maxsize=CACHED)
def _read(data: bytes) -> Rim:
    etree, signxml = _libraries()
    root = _parse(etree, data)
    signature = _signature(root)
    chain = _certificates(signature)
    signer = chain[0].public_key()
    if not isinstance(signer, ec.EllipticCurvePublicKey) or not isinstance(signer.curve, ec.SECP384R1):
        raise _bad("its signer's key is not on P-384")
    expected = signxml.SignatureConfiguration(
        location="./",
        expect_references=1,
        signature_methods=frozenset({signxml.SignatureMethod.ECDSA_SHA384}),
        digest_algorithms=frozenset({signxml.DigestAlgorithm.SHA384}),
        # whether the signer is valid now is for the caller to judge: signxml would look at a clock
        verification_time=chain[0].not_valid_before_utc,
    )
    try:
        verified = signxml.XMLVerifier().verify(root, x509_cert=chain[0], parser=_parser(etree), expect_config=expected)
        signed = _one(verified.signed_xml.getroottree(), ".")
    except Exception as exc:  # signxml, lxml and cryptography raise kinds of their own, and ValueErrors for bad base64
        raise _bad(f"its signature does not verify ({type(exc).__name__})") from None
    return _values(signed, chain)


def _libraries() -> tuple[Any, Any]:
    try:
        import signxml
        from lxml import etree
    except ImportError as exc:
        raise refuse(
            EXTRA_MISSING, "NVIDIA's manifests cannot be read", expected="perunml[gpu]", seen=str(exc)
        ) from None
    return etree, signxml


def _parser(etree: Any) -> Any:
    return etree.XMLParser(
        resolve_entities=False, load_dtd=False, dtd_validation=False, no_network=True, huge_tree=False, recover=False
    )


def _parse(etree: Any, data: bytes) -> Any:
    if b"\0" in data:
        raise _bad("it is not in UTF-8")
    if b"<!" in data.replace(b"<!--", b"") or b"<?" in data.removeprefix(b"<?xml "):
        raise _bad("it has a DTD, CDATA or processing instructions")
    try:
        root = etree.fromstring(data, parser=_parser(etree))
    except (etree.XMLSyntaxError, ValueError):
        raise _bad("it is no XML") from None
    about = root.getroottree().docinfo
    if about.internalDTD is not None or about.externalDTD is not None or about.encoding not in (None, "UTF-8", "ASCII"):
        raise _bad("it has a DTD, or another encoding than UTF-8")
    if root.tag != SWID + "SoftwareIdentity":
        raise _bad("it is no SWID tag")
    return root


def _signature(root: Any) -> Any:
    """The one signature, a child of the root, over the whole document by the one method that NVIDIA uses."""
    found = list(root.iter(DS + "Signature"))
    if len(found) != 1 or found[0].getparent() is not root:
        raise _bad("it has no signature of its own, or several")
    info = _one(found[0], DS + "SignedInfo")
    reference = _one(info, DS + "Reference")
    transforms = [transform.get("Algorithm") for transform in _one(reference, DS + "Transforms")]
    covered = dict(reference.attrib) == {"URI": ""} and transforms == [ENVELOPED, C14N]
    if not covered or _one(info, DS + "CanonicalizationMethod").get("Algorithm") != C14N:
        raise _bad("its signature is not over the whole document")
    return found[0]


def _certificates(signature: Any) -> tuple[x509.Certificate, ...]:
    texts = [str(element.text or "") for element in signature.iter(DS + "X509Certificate")]
    if not 2 <= len(texts) <= MAX_CERTIFICATES or any(len(text) > 2 * MAX_CERTIFICATE for text in texts):
        raise _bad("it comes without a chain of certificates")
    try:
        ders = [base64.b64decode("".join(text.split()), validate=True) for text in texts]
        return tuple(read_certificate(der, "a certificate of a manifest") for der in ders)
    except (ValueError, EvidenceRefusal):
        raise _bad("a certificate in it cannot be read") from None


def _values(root: Any, chain: tuple[x509.Certificate, ...]) -> Rim:
    """From the signed element alone."""
    meta, payload = _one(root, SWID + "Meta"), _one(root, SWID + "Payload")
    named = {name: meta.get(name, "") for name in ("colloquialVersion", "product", "edition")}
    if root.tag != SWID + "SoftwareIdentity" or any(
        not 0 < len(v) <= 64 or not v.isprintable() for v in named.values()
    ):
        raise _bad("it names no version, product or edition")
    golden, seen = dict[int, frozenset[bytes]](), set[int]()
    for resource in payload:
        index = _number(resource, "index", MAX_MEASUREMENTS)
        if resource.tag != SWID + "Resource" or resource.get("type") != "Measurement" or index in seen:
            raise _bad("its payload has something else than measurements, or one twice")
        seen.add(index)
        values = _hashes(resource)
        active = _BOOLEAN.get(resource.get("active", ""))
        if active is None:
            raise _bad(f"it does not say whether measurement {index} is active")
        if active:
            golden[index] = values
    if not golden:
        raise _bad("none of its measurements is active")
    return Rim(named["colloquialVersion"], named["product"], named["edition"].upper(), MappingProxyType(golden), chain)


def _hashes(resource: Any) -> frozenset[bytes]:
    size, count = _number(resource, "size", 64), _number(resource, "alternatives", MAX_ALTERNATIVES)
    texts = {name: value for name, value in resource.attrib.items() if name.startswith(HASH)}
    if count < 1 or set(texts) != {f"{HASH}{number}" for number in range(count)}:
        raise _bad("the alternatives of a measurement are not those it counts")
    try:
        values = frozenset(bytes.fromhex(text) for text in texts.values())
    except ValueError:
        raise _bad("a measurement is not in hex") from None
    if any(len(value) != size or size == 0 for value in values):
        raise _bad("a measurement is of another length than it says")
    return values


def _number(element: Any, name: str, limit: int) -> int:
    text = element.get(name, "")
    if not _NUMBER.fullmatch(text) or int(text) > limit:
        raise _bad(f"`{name}` of a measurement is not a number of at most {limit}")
    return int(text)


def _one(element: Any, tag: str) -> Any:
    found = element.findall(tag)
    if len(found) != 1:
        raise _bad(f"it has {len(found)} of {tag.rpartition('}')[2]}, where one is meant")
    return found[0]


def _bad(why: str) -> PerunError:
    return refuse(RIM_SIGNATURE, f"a reference manifest is not of its form: {why}")
