"""AMD SEV-SNP: valid evidence under a development root, then each check broken alone."""

from __future__ import annotations

import datetime as dt
from dataclasses import replace
from functools import cache

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from perunml.evidence.endorsements import Collateral, Endorsements
from perunml.evidence.snp import keys
from perunml.evidence.snp.appraise import appraise_snp, snp_claims
from perunml.evidence.snp.parse import SIGNED, SIZE, Tcb, parse_report
from perunml.evidence.snp.rules import SnpRules
from perunml.evidence.snp.verify import verify_snp
from perunml.testing.snp import AmdCa, ForgedChip
from perunml.wire.errors import PerunError

NOW = int(dt.datetime(2026, 11, 1, tzinfo=dt.UTC).timestamp())
PAST = dt.datetime(2025, 1, 1, tzinfo=dt.UTC)
DATA = b"\xb1" * 48 + bytes(16)


@cache
def chip(product: str = "Milan", vlek: bool = False) -> ForgedChip:
    return ForgedChip(AmdCa(product, vlek=vlek))


def rules(**more: object) -> SnpRules:
    plain: dict[str, object] = {
        "measurement": ["11" * 48],
        "products": ["Genoa", "Milan", "Turin"],
        "min_tcb": {"bootloader": 4, "snp": 24, "microcode": 219},
    }
    return SnpRules.from_json({name: value for name, value in {**plain, **more}.items() if value is not None})


def codes(
    report: bytes, endorsements: Endorsements, asked: SnpRules | None = None, *, data: bytes = DATA, now: int = NOW
) -> list[str]:
    try:
        verified = verify_snp(report, (), endorsements, now=now)
    except PerunError as exc:
        return [reason.code for reason in exc.reasons]
    reasons = appraise_snp(verified, asked or rules(), report_data=data, endorsements=endorsements, now=now)
    return [reason.code for reason in reasons]


@pytest.mark.parametrize("product", ["Milan", "Genoa", "Turin"])
@pytest.mark.parametrize("version", [2, 3, 5])
@pytest.mark.parametrize("vlek", [False, True])
def test_an_honest_report_is_accepted(product: str, version: int, vlek: bool) -> None:
    """Each version, product line and kind of key; ACCEPT is as binding as a refusal."""
    made = chip(product, vlek)
    report = made.report(DATA, version=version)
    asked = rules(vlek=True) if vlek else rules()
    assert codes(report, made.endorsements(), asked) == []
    verified = verify_snp(report, (), made.endorsements(), now=NOW)
    assert verified.value.simulated
    assert verified.value.platform.startswith("chip:sha256:") != vlek
    assert snp_claims(verified)["product"] == product


def test_rsa_authorities_as_amds_own_are_followed() -> None:
    """RSASSA-PSS with 4096 bits."""
    made = ForgedChip(AmdCa("Genoa", with_rsa=True))
    assert codes(made.report(DATA), made.endorsements()) == []


def test_certificates_may_come_from_the_host() -> None:
    """The hypervisor hands them out with the report."""
    made = chip()
    only_lists = Endorsements(Collateral(crls=(made.ca.revocations(),)), (made.ca.root,))
    assert verify_snp(made.report(DATA), made.chain, only_lists, now=NOW).value.collateral


def test_t18_a_development_root_is_accepted_only_when_passed() -> None:
    """T7, T18: there is none by default."""
    made = chip()
    assert codes(made.report(DATA), made.endorsements(trusted=False)) == ["certificate_chain"]


def test_t7_a_root_of_the_same_name_is_not_amds() -> None:
    """T7: another key under the same subject."""
    made, other = chip(), AmdCa("Milan")
    theirs = Endorsements(Collateral(certificates=made.chain, crls=(made.ca.revocations(),)), (other.root,))
    assert codes(made.report(DATA), theirs) == ["certificate_chain"]
    mixed = Endorsements(
        Collateral(certificates=(made.certificate, made.ca.middle, other.root), crls=(made.ca.revocations(),)),
        (other.root,),
    )
    assert set(codes(made.report(DATA), mixed)) == {"certificate_chain"}


def test_t9_a_report_for_other_data_is_refused() -> None:
    """T9: REPORTDATA binds another key."""
    made = chip()
    assert codes(made.report(DATA), made.endorsements(), data=bytes(64)) == ["binding_mismatch"]


APPRAISED = [
    ("T11 debug", {"policy": 1 << 17 | 1 << 19}, {}, ["debug_enabled"]),
    ("T11 migration agent", {"policy": 1 << 17 | 1 << 18}, {}, ["guest_policy"]),
    ("T11 VMPL", {"vmpl": 1}, {}, ["vmpl"]),
    ("SMT", {"policy": 1 << 17 | 1 << 16}, {}, ["guest_policy"]),
    ("SMT on", {"platform_info": 1}, {}, ["configuration_mismatch"]),
    ("two sockets", {}, {"single_socket": True}, ["guest_policy"]),
    ("older ABI", {"policy": 1 << 17 | 0x0130}, {"min_abi": 0x0137}, ["guest_policy"]),
    ("T2 measurement", {"measurement": bytes(48)}, {}, ["measurement_mismatch"]),
    ("T19 host data", {"host_data": b"\x01" * 32}, {}, ["configuration_mismatch"]),
    ("T19 host data demanded", {}, {"host_data": "01" * 32}, ["configuration_mismatch"]),
    ("id key", {"id_key_digest": b"\x01" * 48}, {}, ["configuration_mismatch"]),
    ("other id key", {"id_key_digest": b"\x01" * 48}, {"id_keys": ["02" * 48]}, ["configuration_mismatch"]),
    ("author key", {"author_key_digest": b"\x01" * 48, "key_info": 1}, {}, ["configuration_mismatch"]),
    ("author key not enabled", {}, {"author_keys": ["01" * 48]}, ["configuration_mismatch"]),
    ("family", {"family_id": b"\x01" * 16}, {}, ["configuration_mismatch"]),
    ("image", {"image_id": b"\x01" * 16}, {}, ["configuration_mismatch"]),
    ("T3 guest svn", {}, {"min_guest_svn": 3}, ["tcb_too_old"]),
    ("T12 reported", {}, {"min_tcb": {"bootloader": 5}}, ["tcb_too_old"] * 3),
    ("T12 committed", {"committed": Tcb(3, 0, 24, 219)}, {}, ["tcb_too_old"]),
    ("T12 launch", {"launch": Tcb(4, 0, 24, 218)}, {}, ["tcb_too_old"]),
    ("T20 product", {}, {"products": ["Genoa"]}, ["product_denied"]),
    ("T20 none named", {}, {"products": None}, ["product_denied"]),
    ("no measurement named", {}, {"measurement": None}, ["rules_missing"]),
    ("no firmware named", {}, {"min_tcb": None}, ["rules_missing"]),
    ("ECC demanded", {}, {"platform_info": 4}, ["configuration_mismatch"]),
    ("T15 version 3 tells no mitigations", {}, {"mitigations": 1}, ["report_unsupported"]),
    ("mitigations", {"version": 5, "mitigations": 2}, {"mitigations": 3}, ["tcb_too_old"]),
    ("CXL", {"policy": 1 << 17 | 1 << 21}, {}, ["guest_policy"]),
    ("AES-256", {}, {"aes_256_xts": True}, ["guest_policy"]),
    ("RAPL", {}, {"rapl_disabled": True}, ["guest_policy"]),
    ("ciphertext", {}, {"ciphertext_hiding": True}, ["guest_policy"]),
    ("page swaps", {}, {"page_swap_disabled": True}, ["guest_policy"]),
    ("T21 chip", {}, {"chips": ["chip:sha256:" + "0" * 64]}, ["wrong_device"]),
    ("T6 older list than agreed", {}, {"max_age": "30d"}, ["collateral_expired"]),
]


@pytest.mark.parametrize(("told", "asked", "expected"), [case[1:] for case in APPRAISED], ids=[c[0] for c in APPRAISED])
def test_what_the_profile_does_not_admit_is_refused(
    told: dict[str, object], asked: dict[str, object], expected: list[str]
) -> None:
    """T2, T3, T11, T12, T15, T19, T20: each alone."""
    made = chip()
    assert codes(made.report(DATA, **told), made.endorsements(), rules(**asked)) == expected


ADMITTED = [
    ({"policy": 1 << 17 | 1 << 16, "platform_info": 1}, {"smt": True}),
    ({"host_data": b"\x01" * 32}, {"host_data": "01" * 32}),
    ({"id_key_digest": b"\x01" * 48}, {"id_keys": ["01" * 48]}),
    ({"author_key_digest": b"\x01" * 48, "key_info": 1}, {"author_keys": ["01" * 48]}),
    ({"platform_info": 36}, {"platform_info": 36}),
    ({"version": 5, "mitigations": 7}, {"mitigations": 3}),
    ({"policy": 1 << 17 | 1 << 20 | 0x0137}, {"single_socket": True, "min_abi": 0x0137}),
    ({"policy": 1 << 17 | 1 << 21}, {"cxl": True}),
    (
        {"policy": 1 << 17 | 15 << 22},
        {"aes_256_xts": True, "rapl_disabled": True, "ciphertext_hiding": True, "page_swap_disabled": True},
    ),
    ({}, {"max_age": "9000d"}),
    ({"platform_info": 0xBE}, {}),
]


@pytest.mark.parametrize(("told", "asked"), ADMITTED)
def test_what_the_profile_admits_is_accepted(told: dict[str, object], asked: dict[str, object]) -> None:
    """The same members, agreed upon."""
    made = chip()
    assert codes(made.report(DATA, **told), made.endorsements(), rules(**asked)) == []


def test_t13_the_clouds_key_is_refused_unless_admitted() -> None:
    """T13: VLEK when banned."""
    made = chip("Milan", True)
    assert codes(made.report(DATA), made.endorsements()) == ["signing_key_kind"]


def test_t13_another_chips_certificate_is_refused() -> None:
    """T13: a VCEK for another chip, though it was signed with its key."""
    ca = AmdCa()
    made = ForgedChip(ca)
    made.certificate = ca.certify(made.key.public_key(), made.tcb, b"\xc2" * 64)
    assert codes(made.report(DATA), made.endorsements()) == ["certificate_mismatch"]
    other = ForgedChip(ca, chip_id=b"\xc2" * 64)
    assert "report_signature" in codes(made.report(DATA), other.endorsements())


def test_t13_a_chip_whose_id_is_masked_is_refused() -> None:
    """T13, T21: what is signed with a chip's key tells which chip; zeros, or a report that says that it is masked, are none."""
    made = chip()
    for told in ({"chip_id": bytes(64)}, {"key_info": 2}, {"chip_id": bytes(64), "key_info": 2}):
        assert codes(made.report(DATA, **told), made.endorsements()) == ["certificate_mismatch"]
    cloud = chip(vlek=True)
    assert codes(cloud.report(DATA, key_info=1 << 2 | 2), cloud.endorsements(), rules(vlek=True)) == []


def test_t21_a_clouds_key_tells_no_chip() -> None:
    """T21: a profile that names chips admits none that a cloud's key vouches for, whatever the report says of its chip."""
    made = chip(vlek=True)
    mine = verify_snp(chip().report(DATA), (), chip().endorsements(), now=NOW).value.platform
    report = made.report(DATA, chip_id=chip().chip_id)
    asked = rules(vlek=True, chips=[mine])
    assert codes(report, made.endorsements(), asked) == ["wrong_device"]
    assert codes(chip().report(DATA), chip().endorsements(), rules(chips=[mine])) == []


@pytest.mark.parametrize("product", ["Milan", "Turin"])
def test_t13_half_a_chips_id_is_none(product: str) -> None:
    """T13: a certificate's id has the product's whole length; a shorter one that the report's begins with is another chip's."""
    ca = AmdCa(product)
    whole = {"Milan": 64, "Turin": 8}[product]
    made = ForgedChip(
        ca, chip_id=(b"\xc3" * (whole - 2)).ljust(64, b"\0")
    )  # ends with zeros, so that less of it fills up alike
    for wrong in (made.chip_id[: whole - 1], made.chip_id[:4], b""):
        made.certificate = ca.certify(made.key.public_key(), made.tcb, wrong)
        assert "certificate_mismatch" in codes(made.report(DATA), made.endorsements())
    made.certificate = ca.certify(made.key.public_key(), made.tcb, bytes((4, whole)) + made.chip_id[:whole])
    assert codes(made.report(DATA), made.endorsements()) == []


CERTIFICATES = [
    ("another structure", {}, 7, ["report_unsupported"]),
    ("no structure", {keys.STRUCTURE_OID: b""}, None, ["report_unsupported"]),
    ("no product", {keys.PRODUCT_OID: b"Milan"}, None, ["certificate_mismatch"]),
    ("no bootloader", {keys.PART_OIDS["bootloader"]: b""}, None, ["certificate_mismatch"]),
    ("a negative number", {keys.PART_OIDS["microcode"]: b"\2\1\xdb"}, None, ["certificate_mismatch"]),
    ("a padded number", {keys.PART_OIDS["bootloader"]: b"\2\2\0\4"}, None, ["certificate_mismatch"]),
    ("a number of three bytes", {keys.PART_OIDS["bootloader"]: b"\2\3\0\0\4"}, None, ["certificate_mismatch"]),
    ("a reserved part", {"1.3.6.1.4.1.3704.1.3.6": b"\2\1\1"}, None, ["certificate_mismatch"]),
    ("Turin's part in a Milan", {keys.PART_OIDS["fmc"]: b"\2\1\0"}, None, ["certificate_mismatch"]),
    ("reserved parts of zero", {"1.3.6.1.4.1.3704.1.3.6": b"\2\1\0"}, None, []),
]


@pytest.mark.parametrize(
    ("more", "structure", "expected"), [c[1:] for c in CERTIFICATES], ids=[c[0] for c in CERTIFICATES]
)
def test_t12_what_a_certificate_does_not_say_is_not_guessed(
    more: dict[str, bytes], structure: int | None, expected: list[str]
) -> None:
    """T12: each extension missing or in another form."""
    ca = AmdCa()
    made = ForgedChip(ca)
    key = made.key.public_key()
    made.certificate = ca.certify(key, made.tcb, made.chip_id, structure=structure, more=more)
    assert codes(made.report(DATA), made.endorsements()) == expected


def test_a_fleets_certificates_lie_in_any_order() -> None:
    """The chip's own certificate for its firmware is found among others', and among those of its older firmware."""
    ca = AmdCa()
    chips = [ForgedChip(ca, chip_id=bytes((n,)) * 64) for n in range(1, 6)]
    old = [ca.certify(one.key.public_key(), replace(one.tcb, snp=8), one.chip_id) for one in chips]
    ders = (*old, *(one.certificate for one in chips), ca.root, ca.middle)
    known = Endorsements(Collateral(certificates=ders, crls=(ca.revocations(),)), (ca.root,))
    for one in chips:
        assert codes(one.report(DATA), known) == []
        stale = verify_snp(one.report(DATA), (old[0], *chips[0].chain), known, now=NOW)
        assert stale.value.raw.chip_id == one.chip_id


def test_t5_an_older_revocation_list_than_before_is_refused() -> None:
    """T5, T6: validly signed, in force, and from before somebody was revoked."""
    made = chip()
    since = dt.datetime(2026, 1, 1, tzinfo=dt.UTC)
    newer, older = made.ca.revocations(since=since, number=7), made.ca.revocations(number=6)
    known = made.endorsements(crls=(older, newer))
    seen = verify_snp(made.report(DATA), (), known, now=NOW).value.collateral
    assert [(each.number, each.issued) for each in seen.values()] == [(7, int(since.timestamp()))]
    assert codes(made.report(DATA), replace(known, seen=seen)) == []
    rolled = replace(made.endorsements(crls=(older,)), seen=seen)
    assert codes(made.report(DATA), rolled) == ["collateral_rollback"]


def test_all_reasons_are_told_at_once() -> None:
    """Chip, firmware, time and signature: the host's operator need not come again for each."""
    ca = AmdCa()
    made = ForgedChip(ca)
    made.certificate = ca.certify(
        chip().key.public_key(), replace(made.tcb, snp=8), b"\xc2" * 64, product="Genoa", until=PAST
    )
    found = codes(made.report(DATA), made.endorsements(trusted=False))
    assert sorted(set(found)) == [
        "certificate_chain",
        "certificate_expired",
        "certificate_mismatch",
        "report_signature",
    ]
    assert found.count("certificate_mismatch") == 3


def test_t13_swapped_authorities_are_refused() -> None:
    """T13: what is named ASK signs as root, what is named ARK in between."""
    made = ForgedChip(AmdCa(swapped=True))
    assert "certificate_chain" in codes(made.report(DATA), made.endorsements())


def test_t13_a_vleks_authority_signs_no_vcek() -> None:
    """T13: the chain is of the kind of key that the report names."""
    ca = AmdCa(vlek=True)
    made = ForgedChip(ca)
    made.certificate = ca.certify(made.key.public_key(), made.tcb, made.chip_id, name="SEV-VCEK")
    report = made.sign(replace(made.fields(report_data=DATA), key_info=0).unsigned())
    assert "certificate_chain" in codes(report, made.endorsements())


def test_t12_a_key_of_other_firmware_is_refused() -> None:
    """T12: the certificate's TCB is older than the one that the report tells."""
    made = ForgedChip()
    made.certificate = made.ca.certify(made.key.public_key(), replace(made.tcb, snp=8), made.chip_id)
    assert codes(made.report(DATA), made.endorsements()) == ["certificate_mismatch"]


def test_another_products_certificate_is_refused() -> None:
    """The report's processor, the certificate's product and the root's are one."""
    made = ForgedChip()
    made.certificate = made.ca.certify(made.key.public_key(), made.tcb, made.chip_id, product="Genoa")
    assert codes(made.report(DATA), made.endorsements()) == ["certificate_mismatch"]
    made = chip()
    assert codes(made.report(DATA, cpu=(0x19, 0x11, 1)), made.endorsements()) == ["certificate_mismatch"]
    assert codes(made.report(DATA, cpu=(0x17, 0x31, 0)), made.endorsements()) == ["report_unsupported"]


def test_t6_without_a_revocation_list_it_is_refused() -> None:
    """T6: missing, expired, not yet in force, forged, of another authority."""
    made = chip()
    for crls in (
        (),
        (made.ca.revocations(until=PAST),),
        (made.ca.revocations(since=dt.datetime(2027, 1, 1, tzinfo=dt.UTC)),),
        (made.ca.revocations(forged=True),),
        (AmdCa().revocations(),),
        (made.ca.revocations(by_middle=True),),
    ):
        assert codes(made.report(DATA), made.endorsements(crls=crls)) == ["revocation_missing"], crls


def test_a_revoked_authority_is_refused() -> None:
    """The ASK, by the ARK's list; also by one that is past its time, beside one that is not."""
    made = chip()
    revoking = made.ca.revocations([made.ca.middle])
    assert codes(made.report(DATA), made.endorsements(crls=(revoking,))) == ["certificate_revoked"]
    old = made.ca.revocations([made.ca.middle], until=PAST)
    assert codes(made.report(DATA), made.endorsements(crls=(old, made.ca.revocations()))) == ["certificate_revoked"]


def test_a_revoked_chip_key_is_refused() -> None:
    """The VCEK, by a list of the ASK's."""
    made = chip()
    crls = (made.ca.revocations(), made.ca.revocations([made.certificate], by_middle=True))
    assert codes(made.report(DATA), made.endorsements(crls=crls)) == ["certificate_revoked"]


def test_an_expired_certificate_is_refused() -> None:
    """The leaf's, and the authority's."""
    made = ForgedChip()
    made.certificate = made.ca.certify(made.key.public_key(), made.tcb, made.chip_id, until=PAST)
    assert codes(made.report(DATA), made.endorsements()) == ["certificate_expired"]
    old = ForgedChip(AmdCa(middle_until=PAST))
    assert codes(old.report(DATA), old.endorsements()) == ["certificate_expired"]


def test_a_missing_certificate_is_said() -> None:
    """Of the key, of the ASK, of the ARK."""
    made = chip()
    for certificates in ((), made.chain[1:], made.chain[::2], made.chain[:2]):
        found = codes(made.report(DATA), Endorsements(Collateral(certificates=certificates), (made.ca.root,)))
        assert found == ["collateral_missing"]


def test_t16_a_report_of_another_length_is_refused() -> None:
    """T16: shorter or longer, no panic."""
    made = chip()
    report = made.report(DATA)
    for wrong in (b"", report[:-1], report + b"\0", report[:64], bytes(SIZE)):
        assert set(codes(wrong, made.endorsements())) <= {"non_canonical", "report_unsupported"}


MALFORMED = [
    ("version 1", 0, b"\x01", "report_unsupported"),
    ("version 4", 0, b"\x04", "report_unsupported"),
    ("algorithm", 0x34, b"\x02", "report_unsupported"),
    ("unsigned", 0x48, b"\x1c", "report_unsupported"),
    ("key info", 0x48, b"\x20", "non_canonical"),
    ("reserved", 0x4C, b"\x01", "non_canonical"),
    ("policy's one", 0x0A, b"\x00", "report_unsupported"),
    ("policy's zeros", 0x0F, b"\x01", "report_unsupported"),
    ("policy's unknown bit", 0x0B, b"\x04", "report_unsupported"),
    ("platform's unknown bit", 0x41, b"\x01", "report_unsupported"),
    ("platform's reserved bit", 0x40, b"\x40", "report_unsupported"),
    ("reserved 2", 0x18F, b"\x01", "non_canonical"),
    ("reserved 3", 0x1EB, b"\x01", "non_canonical"),
    ("mitigations of version 3", 0x1F8, b"\x01", "non_canonical"),
    ("the end", SIGNED - 1, b"\x01", "non_canonical"),
    ("reserved TCB", 0x182, b"\x01", "non_canonical"),
]


@pytest.mark.parametrize(("at", "byte", "expected"), [case[1:] for case in MALFORMED], ids=[c[0] for c in MALFORMED])
def test_a_form_that_is_not_known_is_refused(at: int, byte: bytes, expected: str) -> None:
    """Signed or not: versions, algorithms and reserved bytes are not guessed at."""
    made = chip()
    raw = bytearray(made.fields(report_data=DATA).unsigned())
    raw[at : at + 1] = byte
    assert codes(made.sign(bytes(raw)), made.endorsements()) == [expected]


def test_any_byte_of_the_report_is_covered() -> None:
    """A bit anywhere, also behind R and S; what is no form or no signature is refused."""
    made = chip()
    report = made.report(DATA)
    for at in range(SIZE):
        wrong = bytearray(report)
        wrong[at] ^= 1 << at % 8
        with pytest.raises(PerunError):
            verify_snp(bytes(wrong), (), made.endorsements(), now=NOW)


@pytest.mark.parametrize("part", [0, 2**384 - 1, 2**384])
def test_q20_a_signature_out_of_range_is_refused(part: int) -> None:
    """Zero, past the curve's order, wider than the curve."""
    made = chip()
    report = bytearray(made.report(DATA))
    report[SIGNED : SIGNED + 72] = part.to_bytes(72, "little")
    assert codes(bytes(report), made.endorsements())[0] in ("report_signature", "non_canonical")


@given(st.binary(min_size=SIZE, max_size=SIZE))
@settings(max_examples=50, deadline=None)
def test_random_bytes_are_refused_in_words(data: bytes) -> None:
    """The parser is total."""
    with pytest.raises(PerunError):
        parse_report(data)


@pytest.mark.parametrize(
    "data",
    [
        {"measurment": ["11" * 48]},
        {"measurement": "11" * 48},
        {"measurement": []},
        {"measurement": ["11" * 47]},
        {"measurement": ["22" * 48, "11" * 48]},
        {"measurement": ["AA" * 48]},
        {"vlek": False},
        {"products": ["Rome"]},
        {"min_tcb": {"boot": 1}},
        {"min_tcb": {"snp": 256}},
        {"min_tcb": {"snp": True}},
        {"min_guest_svn": 0},
        {"host_data": "00" * 32},
        [],
        None,
    ],
)
def test_rules_have_one_spelling(data: object) -> None:
    """Unknown members, other forms, defaults written out: refused before anything is agreed."""
    with pytest.raises(PerunError) as caught:
        SnpRules.from_json(data)
    assert caught.value.code == "malformed"


def test_an_unknown_rule_names_the_nearest() -> None:
    """So that a typing error is no silent loosening."""
    with pytest.raises(PerunError) as caught:
        SnpRules.from_json({"measurment": ["11" * 48]})
    assert caught.value.reasons[0].expected == "measurement"


def test_rules_round_trip() -> None:
    """What is written is what is read."""
    written = {"measurement": ["11" * 48], "min_tcb": {"bootloader": 4, "snp": 24}, "products": ["Milan"], "vlek": True}
    assert SnpRules.from_json(written).as_json() == written
