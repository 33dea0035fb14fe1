"""Reference manifests: what is signed, by whom, over what, and what they may hold."""

from __future__ import annotations

import builtins
from contextlib import suppress
from dataclasses import replace
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from hypothesis import given, settings
from hypothesis import strategies as st

from evidence.nvidia_files import rim as captured
from evidence.nvidia_forged import NONCE, ONE, card, codes, reasons, vendor, verify
from evidence.vectors import needs_vectors
from perunml.evidence.endorsements import Endorsements
from perunml.evidence.nvidia.compare import compare
from perunml.evidence.nvidia.rim import MAX_RIM, read_rim
from perunml.testing.nvidia import DRIVER, VBIOS, measurement
from perunml.testing.nvidia_pki import NOW, certify, moment
from perunml.testing.nvidia_rim import manifest, sign
from perunml.wire.errors import EvidenceRefusal, UsageError

GOLDEN = {index: [measurement(index)] for index in range(8)}


def judged_by(*rims: bytes, **more: Any) -> Endorsements:
    return vendor().endorsements([card()], rims=rims, **more)


def refused(data: bytes) -> bool:
    """Whether a manifest is refused as one that is none."""
    with pytest.raises(EvidenceRefusal) as caught:
        read_rim(data)
    return caught.value.code == "rim_signature"


def test_a_manifest_says_what_was_signed() -> None:
    """Version, product, edition, the active measurements and their alternatives."""
    found = read_rim(vendor().driver_rim())
    assert (found.version, found.product, found.edition) == (DRIVER, "GH100", "GPU")
    assert found.golden == {index: {bytes(48), measurement(index)} for index in range(8, 16)}
    assert [c.subject for c in found.chain] == [h.certificate.subject for h in vendor().rim_signer.chain()]


@needs_vectors
def test_captured_manifests_are_read() -> None:
    """NVIDIA's own, of a driver and of a firmware."""
    driver, vbios = captured("Driver_RIM_test_no_gpu.swidtag"), captured("1010_0200_882_96005E0001_PROD.swidtag")
    assert (read_rim(driver).version, len(read_rim(driver).golden)) == ("545.00", 21)
    assert (read_rim(vbios).version, len(read_rim(vbios).golden)) == ("96.00.5E.00.01", 12)


@needs_vectors
def test_a_digit_changed_in_a_captured_manifest_is_refused() -> None:
    """In the measurements, in the version, in the signature."""
    data = captured("1010_0200_882_96005E0001_PROD.swidtag")
    for part in (b'Hash0="c3f65ef7', b'colloquialVersion="96.00.5E', b'active="False', b"<ds:SignatureValue>"):
        at = data.index(part) + len(part)
        other = b"A" if data[at : at + 1] != b"A" else b"B"
        assert refused(data[:at] + other + data[at + 1 :])


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (b'index="3"', b'index="2"'),
        (b'version="1.0"', b'version="1.1"'),
        (b'URI=""', b'URI="#x"'),
        (b"ecdsa-sha384", b"ecdsa-sha256"),
        (b"<Payload>", b"<Payload><!-- a comment -->\n<Other/>"),
        (b"<SoftwareIdentity", b"<!DOCTYPE x [<!ENTITY y 'z'>]><SoftwareIdentity"),
        (b"<SoftwareIdentity", b"<?php x?><SoftwareIdentity"),
        (b"SoftwareIdentity", b"Software"),
        (b"</Payload>", b"<![CDATA[x]]></Payload>"),
        (b"<ds:SignedInfo>", b""),
        (b"<ds:X509Certificate>", b"<ds:X509Certificate>!"),
        (b"<ds:SignatureValue>", b"<ds:SignatureValue>AAAA"),
        (b"<", b""),
    ],
    ids=lambda value: value.decode()[:24],
)
def test_a_manifest_that_was_changed_is_refused(old: bytes, new: bytes) -> None:
    """In what is signed, in how it is signed, in its XML."""
    data = vendor().vbios_rim()
    assert old in data
    assert refused(data.replace(old, new))


def test_a_manifest_without_a_signature_or_with_two_is_refused() -> None:
    """Exactly one, of the root itself."""
    bare = manifest(VBIOS, GOLDEN).encode()
    assert refused(bare)
    signed = vendor().vbios_rim()
    at = signed.index(b"<ds:Signature ")
    signature = signed[at:].removesuffix(b"</SoftwareIdentity>")
    assert refused(signed[:at] + signature + signature + b"</SoftwareIdentity>")
    assert refused(signed.replace(b"<Payload>", b"<Payload>" + signature))


def test_a_signed_manifest_inside_another_one_is_refused() -> None:
    """Signature wrapping: the signature is valid, the document around it says something else."""
    signed = vendor().vbios_rim()
    outer = manifest(VBIOS, {0: [bytes(48)]}).encode()
    assert refused(outer.replace(b"</SoftwareIdentity>", signed + b"</SoftwareIdentity>"))
    at = signed.index(b"<ds:Signature ")
    moved = signed[at:].removesuffix(b"</SoftwareIdentity>")
    assert refused(outer.replace(b"</SoftwareIdentity>", moved + b"</SoftwareIdentity>"))


def test_a_manifest_that_another_key_signed_is_refused() -> None:
    """The certificates are the vendor's, the signature is not."""
    assert refused(vendor().vbios_rim(key=ec.generate_private_key(ec.SECP384R1())))


@pytest.mark.parametrize(
    "options",
    [
        {"digest_algorithm": "sha256"},
        {"signature_algorithm": "ecdsa-sha512"},
        {"c14n_algorithm": "http://www.w3.org/2001/10/xml-exc-c14n#"},
        {"exclude_c14n_transform_element": True},
    ],
    ids=lambda options: next(iter(options)),
)
def test_a_manifest_signed_in_another_way_is_refused(options: dict[str, Any]) -> None:
    """One method, one digest, one canonical form, over the whole document."""
    assert refused(vendor().vbios_rim(**options))


def test_a_manifest_without_a_chain_is_refused() -> None:
    """The signer's certificate alone."""
    assert refused(vendor().vbios_rim(signer=vendor().rim_root))


def test_a_manifest_with_a_weaker_key_is_refused() -> None:
    """P-384 alone."""
    signer = certify("signer", vendor().rim_root, ca=False, curve=ec.SECP256R1())
    assert refused(vendor().vbios_rim(signer=signer))


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ('index="3"', 'index="2"'),
        ('index="3"', 'index="03"'),
        ('index="3"', 'index="256"'),
        ('index="3"', ""),
        ('active="True"', 'active="yes"'),
        ('active="True"', ""),
        ('active="True"', 'active="False"'),
        ('alternatives="1"', 'alternatives="2"'),
        ('alternatives="1"', 'alternatives="0"'),
        ("h:Hash0=", "h:Hash1="),
        ("h:Hash0=", "Hash0="),
        ('size="48"', 'size="32"'),
        ('size="48"', 'size="x"'),
        ('type="Measurement"', 'type="Other"'),
        ("<Payload>", "<Payload><Other/>"),
        ("<Payload>", "<Payload/><Payload>"),
        ("<Meta ", "<Meta2 "),
        (f'colloquialVersion="{VBIOS}"', 'colloquialVersion=""'),
        ('edition="GPU"', ""),
        (measurement(0).hex(), measurement(0).hex()[:-1] + "g"),
    ],
)
def test_a_validly_signed_manifest_of_another_form_is_refused(old: str, new: str) -> None:
    """Nothing is guessed."""
    xml = manifest(VBIOS, GOLDEN)
    assert old in xml
    assert refused(sign(xml.replace(old, new), vendor().rim_signer))


def test_noise_and_long_documents_are_refused() -> None:
    """Also in another encoding, where a DTD would not be seen at first sight."""
    assert refused(b"")
    assert refused(b"<a/>")
    assert refused(bytes(MAX_RIM + 1))
    long = manifest(VBIOS, GOLDEN).replace('tagId="development"', f'tagId="{"x" * MAX_RIM}"')
    assert refused(sign(long, vendor().rim_signer))
    assert refused('<?xml version="1.0" encoding="utf-16"?><!DOCTYPE a><a/>'.encode("utf-16"))
    assert refused(vendor().vbios_rim().decode().encode("utf-16"))
    assert refused(b'<?xml version="1.0" encoding="latin1"?>' + vendor().vbios_rim())


@settings(max_examples=80, deadline=None)
@given(st.data())
def test_a_byte_changed_anywhere_changes_nothing_or_is_refused(data: st.DataObject) -> None:
    """White space between elements of the signature is not signed and says nothing; all else is refused."""
    good = vendor().vbios_rim()
    at = data.draw(st.integers(0, len(good) - 1))
    changed = good[:at] + bytes((good[at] ^ data.draw(st.sampled_from([1, 2, 4, 8, 16, 32])),)) + good[at + 1 :]
    with suppress(EvidenceRefusal):
        found = read_rim(changed)
        honest = read_rim(good)
        assert (found.version, found.product, found.edition, found.golden) == (
            honest.version,
            honest.product,
            honest.edition,
            honest.golden,
        )


def test_g4_a_manifest_by_a_stranger_is_no_manifest() -> None:
    """It is authentic, under a root that is not known; the collateral is refused, not passed over."""
    stranger = certify("signer", certify("root", None), ca=False)
    known = judged_by(vendor().driver_rim(), vendor().vbios_rim(signer=stranger))
    assert codes([card()], {**ONE, "excused": {"ocsp": "2028-01-01T00:00:00Z"}}, known) == ["certificate_chain"]


def test_invariant_7_a_manifest_under_a_development_root_is_none_for_a_real_device() -> None:
    """Judged as if the device's root were the vendor's."""
    known = judged_by(*vendor().rims())
    report = verify(card().report(NONCE), known).value
    assert compare(report, known, NOW).reasons == ()
    found = compare(replace(report, simulated=False), known, NOW).reasons
    assert {reason.code for reason in found} == {"certificate_chain"}


@pytest.mark.parametrize(
    ("more", "code"),
    [
        ({"end": moment(NOW - 1)}, "certificate_expired"),
        ({"start": moment(NOW + 1)}, "certificate_expired"),
        ({"signing": False}, "certificate_chain"),
    ],
)
def test_g4_a_manifest_whose_signer_may_not_sign_now_is_refused(more: dict[str, Any], code: str) -> None:
    """Its validity is judged at the time of judging, not at that of signing."""
    authority = vendor().rim_signer.issuer
    signer = certify("signer", authority, ca=False, **more)
    known = judged_by(vendor().driver_rim(signer=signer), vendor().vbios_rim())
    assert codes([card()], {**ONE, "excused": {"ocsp": "2028-01-01T00:00:00Z"}}, known) == [code]


def test_one_manifest_that_cannot_be_read_does_not_hide_the_others() -> None:
    """But it is told where one is missing."""
    good = vendor().rims()
    assert codes([card()], ONE, judged_by(b"<x/>", *good)) == []
    found = reasons([card()], ONE, judged_by(b"<x/>", good[0]))
    assert [reason.code for reason in found] == ["rim_missing", "rim_signature"]


def test_of_several_manifests_of_one_version_one_has_to_fit() -> None:
    """Boards share a firmware's version; so may a newer edition of a manifest."""
    other = sign(manifest(VBIOS, {0: [bytes(48)]}), vendor().rim_signer)
    driver, vbios, _ = vendor().rims()
    assert codes([card()], ONE, judged_by(other, driver, vbios)) == []
    assert codes([card()], ONE, judged_by(vbios, driver, other)) == []
    assert codes([card()], ONE, judged_by(driver, other)) == ["measurement_mismatch"]


def test_two_manifests_that_name_one_measurement_contradict_each_other() -> None:
    """A driver's and a firmware's are about different ones."""
    overlapping = sign(manifest(DRIVER, {0: [measurement(0)]}), vendor().rim_signer)
    assert codes([card()], ONE, judged_by(overlapping, vendor().vbios_rim())) == ["collateral_invalid"]


def test_a_manifest_of_another_product_or_edition_is_not_this_devices() -> None:
    """A switch's firmware, another chip's driver."""
    driver = vendor().driver_rim()
    for options in ({"product": "GB100"}, {"edition": "SWITCH"}):
        other = sign(manifest(VBIOS, GOLDEN, **options), vendor().rim_signer)
        assert codes([card()], ONE, judged_by(driver, other)) == ["rim_missing"]


def test_without_the_extra_the_refusal_names_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """lxml and signxml are imported when a manifest is read, and only then."""
    real = builtins.__import__

    def without(name: str, *rest: Any) -> Any:
        if name.split(".")[0] in ("lxml", "signxml"):
            raise ImportError(f"No module named {name}")
        return real(name, *rest)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(UsageError) as caught:
        read_rim(NEVER_READ)
    assert caught.value.code == "extra_missing"
    with pytest.raises(UsageError):
        codes([card()], ONE, judged_by(NEVER_READ, ocsp=()))
    assert codes([card()], ONE, judged_by(ocsp=())) == ["revocation_missing", "rim_missing"]


NEVER_READ = b"<SoftwareIdentity>never read before, so not remembered</SoftwareIdentity>"
