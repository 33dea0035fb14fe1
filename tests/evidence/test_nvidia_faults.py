"""Each check of NVIDIA's evidence, broken alone: the forge makes valid evidence, and one thing is changed."""

from __future__ import annotations

import datetime as dt
from dataclasses import replace
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509 import ocsp
from cryptography.x509.oid import ExtendedKeyUsageOID

from evidence.nvidia_forged import NODE, NONCE, ONE, card, codes, honest, reasons, refused, vendor, verify
from perunml.evidence.endorsements import Endorsements
from perunml.evidence.nvidia import fields as opaque
from perunml.evidence.nvidia.appraise import gpu_claims
from perunml.evidence.nvidia.ocsp import newest_answer
from perunml.testing.nvidia import FWID, ForgedNvidia, composite, element, tcb_info
from perunml.testing.nvidia_pki import END, NOW, START, answer, certify, moment

HOLD, COMPROMISED = x509.ReasonFlags.certificate_hold, x509.ReasonFlags.key_compromise
PAST = moment(NOW - 1)


def test_an_honest_gpu_and_an_honest_node_are_accepted() -> None:
    """Or nothing below says anything."""
    assert codes([card()]) == []
    assert codes(vendor().node(), NODE) == []
    assert verify(card().report(NONCE)).value.simulated


def test_invariant_7_a_development_root_counts_only_where_it_is_given() -> None:
    """The same evidence, judged with the vendor's roots alone."""
    assert refused(card().report(NONCE), replace(honest(), simulated_roots=())) == ["certificate_chain"]
    assert refused(card().report(NONCE), replace(honest(), simulated_roots=(vendor().rim_root.der,))) == [
        "certificate_chain"
    ]


def test_g1_a_report_for_another_nonce_is_refused() -> None:
    """Replayed, or asked for by somebody else."""
    assert refused(card().report(bytes(32))) == ["binding_mismatch"]


def test_a_report_that_another_key_signed_is_refused() -> None:
    """The chain of one device, the signature of another."""
    other = vendor().gpu(1)
    assert refused(replace(card().report(NONCE), report=other.report(NONCE).report)) == ["report_signature"]


def test_a_firmware_that_the_certificate_does_not_name_is_refused() -> None:
    """The FWID of report and certificate, in both forms of certificate."""
    for dice in (None, bytes(4)):
        device = vendor().gpu(dice=dice)
        device.fields[opaque.FWID] = bytes(48)
        assert refused(device.report(NONCE)) == ["firmware_mismatch"]


@pytest.mark.parametrize(
    "flags", [b"\x10\0\0\1", b"\x40\0\0\0", b"\x20\0\0\0"], ids=["debug", "not-secure", "recovery"]
)
def test_g3_a_development_flag_in_the_certificate_is_refused(flags: bytes) -> None:
    """TCG DICE's operational flags, as Blackwell's certificates have them."""
    device = vendor().gpu(product="GB100", dice=flags)
    assert codes([device], {"architectures": ["blackwell"], "excused": EXCUSED}) == ["debug_enabled"]


EXCUSED = {"driver:550.90.07": "2028-01-01T00:00:00Z", "vbios:96.00.9F.00.01": "2028-01-01T00:00:00Z"}


def test_g3_flags_of_a_device_in_use_are_no_development() -> None:
    """`not configured` and the fixed width are set on devices as they are sold."""
    device = vendor().gpu(product="GB100", dice=b"\x80\0\0\1")
    assert codes([device], {"architectures": ["blackwell"], "excused": EXCUSED}) == []


@pytest.mark.parametrize(("mode", "told"), [(b"\2\0", "ppcie"), (b"\0\0", "spt"), (b"\1\0", "mpt")])
def test_g3_a_mode_that_the_profile_does_not_name_is_refused(mode: bytes, told: str) -> None:
    """Protected PCIe leaves NVLink in the clear: it has to be named; then the others have to be as well."""
    device = vendor().gpu()
    device.fields[opaque.FEATURE_FLAG] = mode
    assert codes([device]) == (["gpu_mode"] if told == "ppcie" else [])
    assert codes([device], {**ONE, "modes": [told]}) == []
    other = "cc"
    assert codes([device], {**ONE, "modes": [other]}) == ["gpu_mode"]


def test_g3_a_gpu_that_tells_no_mode_is_refused() -> None:
    """Unless the profile says that it may be silent."""
    device = vendor().gpu()
    device.fields |= dict.fromkeys((opaque.FEATURE_FLAG, opaque.DATA_VERSION, opaque.PROTECTED_PCIE))
    assert codes([device]) == ["gpu_mode"]
    assert codes([device], {**ONE, "modes": ["unstated"]}) == []


def test_g4_no_manifest_is_refused_but_for_its_version_and_until_its_day() -> None:
    """Both are named; an excuse for another version is none."""
    bare = vendor().endorsements([card()], rims=())
    found = reasons([card()], ONE, bare)
    assert [(one.code, one.expected) for one in found] == [
        ("rim_missing", "driver:550.90.07"),
        ("rim_missing", "vbios:96.00.9F.00.01"),
    ]
    assert codes([card()], {**ONE, "excused": EXCUSED}, bare) == []
    half = {"driver:550.90.07": "2028-01-01T00:00:00Z", "vbios:96.00.74.00.01": "2028-01-01T00:00:00Z"}
    assert [one.expected for one in reasons([card()], {**ONE, "excused": half}, bare)] == ["vbios:96.00.9F.00.01"]
    over = dict.fromkeys(EXCUSED, "2027-01-01T00:00:00Z")
    assert codes([card()], {**ONE, "excused": over}, bare) == ["rim_missing"]


def test_g5_answers_of_ocsp_are_missing_or_too_old() -> None:
    """A responder that is down is no excuse, unless the profile says how old an answer may be, and it is not older."""
    none = vendor().endorsements([card()], ocsp=())
    assert codes([card()], ONE, none) == ["revocation_missing"]
    assert codes([card()], {**ONE, "max_age": "30d"}, none) == ["revocation_missing"]
    old = vendor().endorsements([card()], made=NOW - 3 * 86400, until=NOW - 2 * 86400)
    assert codes([card()], ONE, old) == ["collateral_expired"]
    assert codes([card()], {**ONE, "max_age": "4d"}, old) == []
    assert codes([card()], {**ONE, "max_age": "2d"}, old) == ["collateral_expired"]
    endless = vendor().endorsements([card()], until=None)
    assert codes([card()], ONE, endless) == ["collateral_expired"]
    assert codes([card()], {**ONE, "max_age": "1d"}, endless) == []
    excused = {**ONE, "excused": {"ocsp": "2028-01-01T00:00:00Z"}}
    assert codes([card()], excused, none) == codes([card()], excused, old) == []
    assert codes([card()], {**ONE, "excused": {"ocsp": "2027-01-01T00:00:00Z"}}, none) == ["revocation_missing"]


def test_g5_an_answer_from_the_future_or_of_no_knowledge_is_none() -> None:
    """A responder's clock may run ahead by minutes, not by an hour."""
    assert codes([card()], ONE, vendor().endorsements([card()], made=NOW + 3600)) == ["revocation_missing"]
    assert codes([card()], ONE, vendor().endorsements([card()], made=NOW + 60)) == []
    assert codes([card()], ONE, vendor().endorsements([card()], unknown=True)) == ["revocation_missing"]


@pytest.mark.parametrize("why", [HOLD, COMPROMISED], ids=["hold", "compromised"])
@pytest.mark.parametrize("which", [0, 1, 2], ids=["device", "provisioner", "line"])
def test_g6_a_revoked_or_held_certificate_of_the_device_is_refused(which: int, why: x509.ReasonFlags) -> None:
    """At verification already, whatever a profile excuses."""
    subjects = vendor().subjects([card()])
    answers = [answer(one, revoked=why if number == which else None) for number, one in enumerate(subjects)]
    assert refused(card().report(NONCE), vendor().endorsements([card()], ocsp=answers)) == ["certificate_revoked"]


@pytest.mark.parametrize("which", [3, 4], ids=["signer", "authority"])
def test_g6_a_revoked_or_held_signer_of_a_manifest_is_refused(which: int) -> None:
    """NVIDIA puts such signers on hold when a firmware turns out bad."""
    subjects = vendor().subjects([card()])
    answers = [answer(one, revoked=HOLD if number == which else None) for number, one in enumerate(subjects)]
    found = vendor().endorsements([card()], ocsp=answers)
    assert codes([card()], ONE, found) == ["certificate_revoked"]
    assert codes([card()], {**ONE, "excused": {"ocsp": "2028-01-01T00:00:00Z"}}, found) == ["certificate_revoked"]


def test_g6_the_newest_answer_counts() -> None:
    """A hold that was lifted, one that came later, and two of the same second."""
    subject = vendor().subjects([card()])[0]
    others = [answer(one) for one in vendor().subjects([card()])[1:]]
    before, after = NOW - 7200, NOW - 60

    def judged(*answers: bytes) -> list[str]:
        return refused(card().report(NONCE), vendor().endorsements([card()], ocsp=[*others, *answers]))

    held, good = answer(subject, revoked=HOLD, made=before), answer(subject, made=after)
    assert judged(held, good) == []
    assert judged(answer(subject, made=before), answer(subject, revoked=HOLD, made=after)) == ["certificate_revoked"]
    assert judged(answer(subject, made=after), answer(subject, revoked=HOLD, made=after)) == ["certificate_revoked"]


def test_g7_more_or_fewer_gpus_than_demanded_are_refused() -> None:
    """The count is exact."""
    gpus = [vendor().gpu(number) for number in range(3)]
    assert codes(gpus[:2], {**ONE, "count": 2}) == []
    assert codes(gpus[:1], {**ONE, "count": 2}) == ["gpu_count"]
    assert codes(gpus, {**ONE, "count": 2}) == ["gpu_count"]
    assert codes([], ONE) == ["gpu_count"]


def test_g7_one_gpu_shown_twice_counts_once_and_is_refused() -> None:
    """Also where the count would fit."""
    device = vendor().gpu()
    assert codes([device, device], {**ONE, "count": 2}) == ["device_repeated", "gpu_count"]
    assert codes([device, device], ONE) == ["device_repeated"]


def test_g8_a_switch_that_is_demanded_and_missing_is_refused() -> None:
    """And one that nobody asked for."""
    node = vendor().node()
    assert codes(node[:2], NODE) == ["device_topology", "nvswitch_missing"]
    assert codes(node, {name: value for name, value in NODE.items() if name != "switches"}) == ["nvswitch_missing"]


def test_g8_devices_of_two_nodes_do_not_make_one() -> None:
    """A GPU that is wired to another switch, a switch to another GPU; both valid."""
    node = vendor().node()
    stranger = vendor().gpu(7, switches=[b"\x07" * 8])
    assert codes([node[0], stranger, node[2]], NODE) == ["device_topology"]
    lonely = vendor().switch(0, gpus=[node[0].pdi])
    assert codes([*node[:2], lonely], NODE) == ["device_topology"]


def test_g8_an_unlocked_switch_is_refused() -> None:
    """Its configuration could be changed after it was measured."""
    node = vendor().node()
    node[2].fields[opaque.SWITCH_LOCK] = b"\0\0"
    assert codes(node, NODE) == ["device_topology"]


def test_g10_a_measurement_that_differs_is_named_by_its_index() -> None:
    """Of the driver's and of the firmware's manifest; one that no manifest names may be what it is."""
    for index in (3, 9):
        device = vendor().gpu()
        device.measurements[index] = bytes(47) + b"\1"
        (found,) = reasons([device])
        assert found.code == "measurement_mismatch"
        assert f"measurement {index} of the gpu" in found.message
        assert found.seen == device.measurements[index].hex()
    device = vendor().gpu()
    device.measurements[30] = bytes(48)
    assert codes([device]) == []


def test_g10_a_measurement_that_is_not_there_is_refused() -> None:
    """Missing is not zero."""
    device = vendor().gpu()
    del device.measurements[5]
    (found,) = reasons([device])
    assert (found.code, found.seen) == ("measurement_mismatch", "none")


def test_g10_an_alternative_is_as_good() -> None:
    """The driver's manifest has two for each index."""
    device = vendor().gpu()
    device.measurements[9] = bytes(48)
    assert codes([device]) == []


def test_g10_the_video_decoder_is_compared_where_it_is_on() -> None:
    """The forge's manifest has a value for it that no device shows."""
    device = vendor().gpu()
    device.fields[opaque.NVDEC0_STATUS] = opaque.ON
    assert codes([device]) == ["measurement_mismatch"]


@pytest.mark.parametrize(
    ("rules", "code"),
    [
        ({"architectures": ["blackwell"]}, "gpu_architecture"),
        ({}, "gpu_architecture"),
        ({**ONE, "drivers": ["550.54.15"]}, "gpu_driver"),
        ({**ONE, "min_driver": "550.90.08"}, "gpu_driver"),
        ({**ONE, "min_driver": "550.144.03"}, "gpu_driver"),
        ({**ONE, "vbios": ["96.00.74.00.01"]}, "gpu_firmware"),
    ],
    ids=str,
)
def test_what_a_party_narrows_holds(rules: dict[str, Any], code: str) -> None:
    """Architectures, drivers by list and floor (in numbers: 90 is before 144), firmware."""
    (found,) = reasons([card()], rules)
    assert found.code == code
    assert found.expected
    assert found.seen in ("hopper", "550.90.07", "96.00.9F.00.01")


def test_what_a_party_names_is_admitted() -> None:
    """The same members, met."""
    met = {**ONE, "drivers": ["550.90.07"], "min_driver": "550.90.07", "vbios": ["96.00.9F.00.01"]}
    assert codes([card()], met) == []


def test_a_driver_whose_version_has_no_order_is_below_every_floor() -> None:
    """A version of letters."""
    device = vendor().gpu()
    device.fields[opaque.DRIVER_VERSION] = b"550.x"
    known = vendor().endorsements([device], rims=(vendor().driver_rim("550.x"), vendor().vbios_rim()))
    assert codes([device], {**ONE, "min_driver": "1.0"}, known) == ["gpu_driver"]
    assert codes([device], ONE, known) == []


def test_a_product_that_is_not_known_is_of_no_architecture() -> None:
    """A new generation is added here before anybody can admit it."""
    device = vendor().gpu(product="GR100")
    (found,) = reasons([device], {**ONE, "excused": EXCUSED})
    assert (found.code, found.expected, found.seen) == ("gpu_architecture", "hopper", "GR100")


def _leaf(identity: Any, **more: Any) -> Any:
    name = b"NVIDIA:GH100:1"
    san = x509.SubjectAlternativeName([x509.OtherName(DEVICE, element(0x0C, name))])
    return certify("FMC", identity, **{"ca": False, "extensions": [san, composite(identity, FWID)], **more})


DEVICE = x509.ObjectIdentifier("1.3.6.1.4.1.412.274.1")
UNKNOWN = x509.UnrecognizedExtension(x509.ObjectIdentifier("1.2.3.4"), b"\5\0")
OTHER_KEY = ec.generate_private_key(ec.SECP384R1())


@pytest.mark.parametrize(
    ("where", "more", "code"),
    [
        ("leaf", {"end": PAST}, "certificate_expired"),
        ("leaf", {"start": moment(NOW + 1)}, "certificate_expired"),
        ("leaf", {"critical": [UNKNOWN]}, "certificate_chain"),
        ("leaf", {"signing": False}, "certificate_chain"),
        ("leaf", {"usage": False}, "certificate_chain"),
        ("identity", {"usage": False}, "certificate_chain"),
        ("leaf", {"ca": True, "signing": True}, "certificate_chain"),
        ("leaf", {"signed_with": hashes.SHA256()}, "certificate_chain"),
        ("leaf", {"signed_by": OTHER_KEY}, "certificate_chain"),
        ("identity", {"end": PAST}, "certificate_expired"),
        ("identity", {"ca": False}, "certificate_chain"),
        ("identity", {"signed_by": OTHER_KEY}, "certificate_chain"),
        ("identity", {"critical": [UNKNOWN]}, "certificate_chain"),
        ("provisioner", {"path_length": 0}, "certificate_chain"),
        ("provisioner", {"end": PAST}, "certificate_expired"),
        ("root", {"signed_by": OTHER_KEY}, "certificate_chain"),
    ],
    ids=lambda value: value if isinstance(value, str) else "-".join(value),
)
def test_a_certificate_that_may_not_stand_where_it_stands_is_refused(
    where: str, more: dict[str, Any], code: str
) -> None:
    """Time, authority, path length, use, unknown critical extensions, weak hashes, forged signatures; at each height."""
    root = certify("root", None, **(more if where == "root" else {}))
    provisioner = certify("provisioner", certify("line", root), **(more if where == "provisioner" else {}))
    identity = certify("BROM", provisioner, serial_number="41" + "0A" * 8, **(more if where == "identity" else {}))
    device = replace(card(), leaf=_leaf(identity, **(more if where == "leaf" else {})))
    assert refused(device.report(NONCE), Endorsements(simulated_roots=(root.der,))) == [code]


def test_a_key_that_is_not_on_p384_is_refused() -> None:
    """Of the leaf, whose signature is then not even looked at, and of an authority."""
    identity = certify("BROM", vendor().provisioner)
    device = replace(card(), leaf=_leaf(identity, curve=ec.SECP256R1()))
    assert refused(device.report(NONCE)) == ["certificate_chain", "report_signature"]
    device = replace(card(), leaf=_leaf(certify("BROM", vendor().provisioner, curve=ec.SECP256R1())))
    assert refused(device.report(NONCE)) == ["certificate_chain"]


def test_a_chain_of_another_length_or_order_is_refused() -> None:
    """Five certificates, the leaf first."""
    part = card().report(NONCE)
    assert refused(replace(part, chain=part.chain[:4])) == ["certificate_chain"]
    assert refused(replace(part, chain=(*part.chain, part.chain[4]))) == ["certificate_chain"]
    assert "certificate_chain" in refused(replace(part, chain=part.chain[::-1]))
    assert refused(replace(part, chain=(*part.chain[:4], b"\x30\0"))) == ["non_canonical"]
    assert refused(replace(part, chain=(*part.chain[:4], bytes(9000)))) == ["non_canonical"]
    swapped = (*part.chain[:2], part.chain[3], part.chain[2], part.chain[4])
    assert refused(replace(part, chain=swapped)) == ["certificate_chain"]


def test_all_reasons_are_told_at_once() -> None:
    """Not the first one only."""
    other = vendor().gpu(1)
    part = replace(card().report(bytes(32)), device="switch", chain=other.chain)
    found = refused(part, Endorsements(simulated_roots=()))
    assert found == ["binding_mismatch", "certificate_chain", "non_canonical", "report_signature", "wrong_tee"]


@pytest.mark.parametrize(
    "extensions",
    [
        [],
        ["name"],
        ["old"],
        ["name", "old", "new"],
        ["other-name", "old"],
        ["name", "old-other-key"],
        ["name", "old-version"],
        ["name", "old-sha256"],
        ["name", "old-short"],
        ["name", "old-trailing"],
        ["name", "new-twice"],
        ["name", "new-without-flags"],
        ["name", "new-no-sequence"],
        ["name", "new-long-length"],
        ["name", "new-cut"],
        ["name", "new-overlong"],
        ["name", "new-bad-flags"],
    ],
    ids="-".join,
)
def test_a_leaf_that_does_not_name_its_firmware_is_refused(extensions: list[str]) -> None:
    """TCG DICE, in one of its two forms, as DER has it."""
    identity = certify("BROM", vendor().provisioner)
    key = composite(identity, FWID).value
    digest = element(0x30, bytes.fromhex("0609608648016503040202") + element(4, FWID))
    old, new = composite(identity, FWID).oid, tcb_info(FWID, bytes(4)).oid

    def of(oid: x509.ObjectIdentifier, data: bytes) -> x509.UnrecognizedExtension:
        return x509.UnrecognizedExtension(oid, data)

    made = {
        "name": x509.SubjectAlternativeName([x509.OtherName(DEVICE, element(0x0C, b"NVIDIA:GH100:1"))]),
        "other-name": x509.SubjectAlternativeName([x509.OtherName(DEVICE, element(0x0C, b"ACME:GH100:1"))]),
        "old": composite(identity, FWID),
        "new": tcb_info(FWID, bytes(4)),
        "old-other-key": composite(vendor().line, FWID),
        "old-version": of(old, key.replace(b"\x02\x01\x01", b"\x02\x01\x02", 1)),
        "old-sha256": of(old, key.replace(b"\x03\x04\x02\x02", b"\x03\x04\x02\x01", 1)),
        "old-short": composite(identity, FWID[:32]),
        "old-trailing": of(old, key + b"\0"),
        "new-twice": of(new, element(0x30, element(0xA6, digest) + element(0xA6, digest) + element(0x87, bytes(5)))),
        "new-without-flags": of(new, element(0x30, element(0xA6, digest))),
        "new-no-sequence": of(new, element(0x30, element(0xA6, digest[2:]) + element(0x87, bytes(5)))),
        "new-long-length": of(new, b"\x30\x81\x10" + bytes(16)),
        "new-cut": of(new, element(0x30, element(0xA6, digest) + b"\x87")),
        "new-overlong": of(new, element(0x30, element(0xA6, digest) + b"\x87\x7f\0")),
        "new-bad-flags": of(new, element(0x30, element(0xA6, digest) + element(0x87, b"\x09\0"))),
    }
    device = replace(card(), leaf=_leaf(identity, extensions=[made[name] for name in extensions]))
    assert refused(device.report(NONCE)) == ["non_canonical"]


def test_g2_claims_say_that_nothing_binds_the_gpu_to_the_host() -> None:
    """Unless whoever joins the parts knows better."""
    gpus = [verify(card().report(NONCE))]
    claims = gpu_claims(gpus, endorsements=honest(), now=NOW)
    assert claims["bound_to_host"] == "not bound to host"
    assert gpu_claims(gpus, endorsements=honest(), now=NOW, bound="pinned")["bound_to_host"] == "pinned"
    (told,) = claims["devices"]
    assert told["development"] == "off"
    assert told["ocsp"] == {"asked": 7, "good": 7, "until": "2027-01-16T08:00:00Z"}


def test_the_platform_is_the_devices_and_not_its_firmwares() -> None:
    """It stays when the device gets a new leaf key, as at each update; two devices differ."""
    device = vendor().gpu()
    again = replace(device, leaf=_leaf(device.leaf.issuer))
    first, second = (verify(one.report(NONCE)).value.platform for one in (device, again))
    assert first == second
    assert first.startswith("gpu:sha256:")
    assert first != verify(vendor().gpu(1).report(NONCE)).value.platform


def test_an_answer_by_a_stranger_or_a_wrong_responder_is_none() -> None:
    """Forged, by a responder of another issuer, by a certificate of another use, by one that has expired; by the issuer itself is
    as good."""
    from perunml.testing.nvidia_pki import responder

    identity, *others = vendor().subjects([card()])
    rest = [answer(one) for one in others]
    issuer = identity.issuer
    assert issuer is not None
    stranger = ForgedNvidia()
    bad = {
        "forged": answer(identity, forged=True),
        "stranger": answer(identity, by=responder(stranger.provisioner)),
        "use": answer(identity, by=responder(issuer, delegated=False)),
        "expired": answer(identity, by=responder(issuer, end=PAST)),
        "curve": answer(identity, by=certify("r", issuer, ca=False, curve=ec.SECP256R1(), extensions=[OCSP_USE])),
        "noise": b"\x30\x03\x0a\x01\x06",
        "bytes": b"no answer at all",
        "long": bytes(70_000),
        "other": answer(stranger.subjects()[0]),
        "weak": answer(identity, by=issuer, signed_with=hashes.SHA256()),
        "unnamed": answer(identity, named_with=hashes.SHA224()),
    }
    for name, data in bad.items():
        assert codes([card()], ONE, vendor().endorsements([card()], ocsp=[*rest, data])) == ["revocation_missing"], name
    for good in (
        answer(identity, by=issuer),
        answer(identity, by_name=True),
        answer(identity, by=issuer, by_name=True),
        answer(identity, named_with=hashes.SHA1()),
    ):
        assert codes([card()], ONE, vendor().endorsements([card()], ocsp=[*rest, good])) == []


def test_an_answer_about_an_issuer_of_another_kind_of_key_is_none() -> None:
    """NVIDIA's are on P-384: what cannot be compared is not good."""
    key = rsa.generate_private_key(65537, 2048)
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "rsa")])
    builder = x509.CertificateBuilder().subject_name(name).issuer_name(name).public_key(key.public_key())
    builder = builder.serial_number(7).not_valid_before(START).not_valid_after(END)
    issuer = builder.sign(key, hashes.SHA384())
    assert newest_answer(issuer, issuer, [_rsa_answer(issuer, key)], NOW) is None


def _rsa_answer(issuer: x509.Certificate, key: rsa.RSAPrivateKey) -> bytes:
    builder = ocsp.OCSPResponseBuilder().add_response(
        cert=issuer,
        issuer=issuer,
        algorithm=hashes.SHA384(),
        cert_status=ocsp.OCSPCertStatus.GOOD,
        this_update=moment(NOW),
        next_update=None,
        revocation_time=None,
        revocation_reason=None,
    )
    builder = builder.responder_id(ocsp.OCSPResponderEncoding.HASH, issuer)
    return builder.sign(key, hashes.SHA384()).public_bytes(Encoding.DER)


OCSP_USE = x509.ExtendedKeyUsage([ExtendedKeyUsageOID.OCSP_SIGNING])


def test_the_first_expiry_is_told() -> None:
    """So that a verdict is not kept longer than its certificates."""
    device = vendor().gpu(leaf={"end": dt.datetime(2027, 2, 1, tzinfo=dt.UTC)})
    assert verify(device.report(NONCE)).value.expires == 1_801_440_000
    assert verify(card().report(NONCE)).value.expires == int(END.timestamp())
