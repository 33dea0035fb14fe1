"""What a leaf certificate says of its device and firmware, each element broken alone: DER as it must be, and nothing beside it."""

from __future__ import annotations

import pytest
from cryptography import x509
from hypothesis import given, settings
from hypothesis import strategies as st

from evidence.nvidia_forged import vendor
from perunml.evidence.nvidia.dice import COMPOSITE_DEVICE_ID, DEVICE_NAME, DICE_TCB_INFO, SHA384, read_leaf
from perunml.testing.nvidia import FWID, composite, element, tcb_info
from perunml.testing.nvidia_pki import certify
from perunml.wire.errors import EvidenceRefusal

IDENTITY = certify("BROM", vendor().provisioner)
KEY = composite(IDENTITY, FWID).value
BODY = KEY[3:]
"""Of CompositeDeviceID: version, key, firmware."""
DIGEST = element(0x30, SHA384 + element(4, FWID))
FLAGS = element(0x87, b"\0" + bytes(4))
NAME = b"NVIDIA:GH100:48B02D92494BADF4"


def name(value: bytes, *others: x509.GeneralName) -> x509.SubjectAlternativeName:
    return x509.SubjectAlternativeName([*others, x509.OtherName(DEVICE_NAME, value)])


def leaf(*extensions: x509.ExtensionType) -> x509.Certificate:
    return certify("FMC", IDENTITY, ca=False, extensions=extensions).certificate


def old(data: bytes) -> x509.Certificate:
    return leaf(name(element(0x0C, NAME)), x509.UnrecognizedExtension(COMPOSITE_DEVICE_ID, data))


def new(*members: bytes) -> x509.Certificate:
    data = element(0x30, b"".join(members))
    return leaf(name(element(0x0C, NAME)), x509.UnrecognizedExtension(DICE_TCB_INFO, data))


def refused(certificate: x509.Certificate) -> None:
    with pytest.raises(EvidenceRefusal) as caught:
        read_leaf(certificate, IDENTITY.certificate)
    assert caught.value.code == "non_canonical"


def test_both_forms_are_read() -> None:
    """Firmware, flags where there are any, product and serial number; other names of the device do no harm."""
    first = read_leaf(old(KEY), IDENTITY.certificate)
    assert (first.fwid, first.flags, first.chip, first.serial) == (FWID, None, "GH100", "48B02D92494BADF4")
    second = read_leaf(new(element(0xA6, DIGEST), FLAGS), IDENTITY.certificate)
    assert (second.fwid, second.flags) == (FWID, ())
    named = leaf(name(element(0x0C, NAME), x509.DNSName("x")), composite(IDENTITY, FWID))
    assert read_leaf(named, IDENTITY.certificate).chip == "GH100"


@pytest.mark.parametrize(
    "value",
    [
        element(0x13, NAME),
        element(0x0C, NAME + b":1"),
        element(0x0C, b"NVIDIA:GH100"),
        element(0x0C, b"NVIDIA::1"),
        element(0x0C, b"NVIDIA:GH 100:1"),
        element(0x0C, b"NVIDIA:" + b"G" * 65 + b":1"),
        element(0x0C, "NVIDIA:GH¹:1".encode()),
    ],
)
def test_another_name_is_none(value: bytes) -> None:
    """Type, parts, letters, length."""
    refused(leaf(name(value), composite(IDENTITY, FWID)))


def test_two_names_or_another_kind_of_name_are_none() -> None:
    """Exactly one of the device's own kind."""
    value = element(0x0C, NAME)
    refused(leaf(name(value, x509.OtherName(DEVICE_NAME, value)), composite(IDENTITY, FWID)))
    other = x509.SubjectAlternativeName([x509.OtherName(x509.ObjectIdentifier("1.2.3"), value)])
    refused(leaf(other, composite(IDENTITY, FWID)))


@pytest.mark.parametrize(
    "data",
    [
        element(0x31, BODY),
        element(0x30, b"\x04" + BODY[1:]),
        element(0x30, BODY.replace(b"\x02\x01\x01", b"\x02\x01\x02", 1)),
        element(0x30, BODY + b"\0"),
        element(0x30, BODY[: -len(DIGEST)] + element(0x31, DIGEST[2:])),
        element(0x30, BODY[: -len(DIGEST)] + element(0x30, SHA384 + element(5, FWID))),
        element(0x30, BODY[: -len(DIGEST)] + element(0x30, SHA384 + element(4, FWID) + b"\0")),
        b"\x30\x82\0" + bytes((len(BODY),)) + BODY,
        b"\x30\x83\0\0" + bytes((len(BODY),)) + BODY,
        b"\x30\x80" + BODY,
        b"\x30\x82\1",
        b"\x30",
        b"",
    ],
    ids=range(13),
)
def test_a_composite_device_id_of_another_form_is_refused(data: bytes) -> None:
    """Tags, version, what follows, lengths that are not the shortest."""
    refused(old(data))


@pytest.mark.parametrize(
    "members",
    [
        (FLAGS, element(0xA6, DIGEST)),
        (element(0xA6, DIGEST), element(0xA6, DIGEST), FLAGS),
        (element(0xA6, DIGEST),),
        (FLAGS,),
        (element(0xA6, element(0x31, DIGEST[2:])), FLAGS),
        (element(0xA6, b""), FLAGS),
        (element(0xA6, DIGEST), element(0x87, b"")),
        (element(0xA6, DIGEST), element(0x87, b"\x08" + bytes(4))),
        (element(0xA6, DIGEST), element(0x87, b"\0" + bytes(9))),
        (element(0xA6, DIGEST), element(0x87, b"\1")),
    ],
    ids=range(10),
)
def test_a_tcb_info_of_another_form_is_refused(members: tuple[bytes, ...]) -> None:
    """Order, repetition, what is missing, bit strings that are none."""
    refused(new(*members))


@pytest.mark.parametrize(
    ("bits", "told"),
    [
        (b"\0", ()),
        (b"\4\x10", ("debug",)),
        (b"\4\x70", ("not secure", "recovery", "debug")),
        (b"\0\x80\0\0\1", ()),
        (b"\0\x8f\xff\xff\xff", ()),
    ],
)
def test_flags_are_told_by_their_bits(bits: bytes, told: tuple[str, ...]) -> None:
    """The first bit is the highest; short strings have the others clear."""
    found = read_leaf(new(element(0xA6, DIGEST), element(0x87, bits)), IDENTITY.certificate)
    assert found.flags == told


@settings(max_examples=60, deadline=None)
@given(st.binary(max_size=120), st.booleans())
def test_any_extension_is_read_or_refused(data: bytes, newer: bool) -> None:
    """Noise where DICE should be."""
    oid = DICE_TCB_INFO if newer else COMPOSITE_DEVICE_ID
    refused(leaf(name(element(0x0C, NAME)), x509.UnrecognizedExtension(oid, data)))


def test_the_forges_newer_form_is_the_newer_form() -> None:
    """Vendor and model come before the firmware."""
    made = leaf(name(element(0x0C, NAME)), tcb_info(FWID, b"\x10\0\0\0"))
    assert read_leaf(made, IDENTITY.certificate).flags == ("debug",)
