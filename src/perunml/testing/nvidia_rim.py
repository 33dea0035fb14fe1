"""Signed reference manifests, as NVIDIA writes them, under a development root."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding

from perunml.testing.nvidia_pki import Holder

MEASUREMENTS = 64
"""Entries of a manifest; those that nothing is said of are not active."""
_SWID = "http://standards.iso.org/iso/19770/-2/2015/schema.xsd"
_HASH = "http://www.w3.org/2001/04/xmlenc#sha384"


def manifest(
    version: str, golden: Mapping[int, Sequence[bytes]], *, product: str = "GH100", edition: str = "GPU"
) -> str:
    """The XML of a manifest, not signed yet: for each index the values that are good."""
    lines = [
        f'<SoftwareIdentity xmlns="{_SWID}" xmlns:h="{_HASH}" name="{product}" tagId="development" version="1.0">',
        '<Entity name="Perun development" role="softwareCreator tagCreator"/>',
        f'<Meta colloquialVersion="{version}" edition="{edition}" product="{product}"/>',
        "<Payload>",
        *(_entry(index, golden.get(index, ()), active=index in golden) for index in range(MEASUREMENTS)),
        "</Payload>",
        "</SoftwareIdentity>",
    ]
    return "\n".join(lines)


def sign(xml: str, signer: Holder, *, key: ec.EllipticCurvePrivateKey | None = None, **options: Any) -> bytes:
    """The manifest with an enveloped signature over all of it and the signer's whole chain. `key`: another one than the
    certificate's; `options` of signxml's signer, to sign otherwise."""
    import signxml
    from lxml import etree

    made = signxml.XMLSigner(
        method=signxml.methods.enveloped,
        signature_algorithm=options.pop("signature_algorithm", "ecdsa-sha384"),
        digest_algorithm=options.pop("digest_algorithm", "sha384"),
        c14n_algorithm=options.pop("c14n_algorithm", "http://www.w3.org/2006/12/xml-c14n11"),
    )
    chain = [holder.certificate.public_bytes(Encoding.PEM).decode() for holder in signer.chain()]
    signed = made.sign(etree.fromstring(xml.encode()), key=key or signer.key, cert=chain, **options)
    return bytes(etree.tostring(signed))


def _entry(index: int, values: Sequence[bytes], *, active: bool) -> str:
    listed = list(values) or [bytes(48)]
    hashes = " ".join(f'h:Hash{number}="{value.hex()}"' for number, value in enumerate(listed))
    return (
        f'<Resource type="Measurement" index="{index}" active="{active}" alternatives="{len(listed)}" {hashes} '
        f'name="Measurement_{index}" size="{len(listed[0])}"/>'
    )
