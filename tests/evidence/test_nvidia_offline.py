"""Reports in files: every form that they come in, and what an auditor is told."""

from __future__ import annotations

import base64
import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from evidence.nvidia_forged import NODE, NONCE, ONE, card, vendor
from perunml.evidence.nvidia.rules import GpuRules
from perunml.evidence.offline.findings import Checked
from perunml.evidence.offline.nvidia import MAX_FILE, NvidiaFiles, check_nvidia, check_rim
from perunml.testing.nvidia import ForgedDevice
from perunml.testing.nvidia_pki import NOW, answer, certify

ROOTS = (vendor().root.der, vendor().rim_root.der)


def pem_chain(device: ForgedDevice) -> bytes:
    head, tail = b"-----BEGIN CERTIFICATE-----\n", b"\n-----END CERTIFICATE-----\n"
    return b"".join(head + base64.b64encode(der) + tail for der in device.chain)


def as_json(devices: list[ForgedDevice]) -> bytes:
    """NVIDIA's form."""
    listed = [
        {
            "arch": "HOPPER",
            "certificate": base64.b64encode(pem_chain(device)).decode(),
            "evidence": base64.b64encode(device.report(NONCE).report).decode(),
            "nonce": NONCE.hex(),
            "version": "1.0",
        }
        for device in devices
    ]
    return json.dumps(listed).encode()


def check(reports: list[bytes], chain: bytes | None = None, *rules: dict[str, Any], **more: Any) -> Checked:
    read = [GpuRules.from_json(one) for one in rules]
    given_: dict[str, Any] = {"nonce": NONCE, "simulated_roots": ROOTS, **more}
    return check_nvidia(NvidiaFiles(reports, chain, **given_), now=NOW, rules=read)


def codes(checked: Checked) -> list[str]:
    return sorted({reason.code for reason in checked.reasons})


def test_every_form_of_report_and_chain_says_the_same() -> None:
    """Bytes and hex (in capitals, with a line's end); PEM, DER one behind the other, JSON."""
    report = card().report(NONCE).report
    hexed = report.hex().upper().encode() + b"\n"
    for chain in (pem_chain(card()), b"".join(card().chain), as_json([card()])):
        for data in (report, hexed):
            found = check([data], chain)
            assert codes(found) == []
            assert len(found.claims["devices"]) == 1
    assert codes(check([as_json([card()])])) == []
    assert codes(check([as_json([card()]).removeprefix(b"[").removesuffix(b"]")])) == []


def test_without_a_profile_what_is_missing_is_told() -> None:
    """Manifests, OCSP; nobody says that the GPU is in this host; a development root is said aloud."""
    found = check([as_json([card()])])
    (told,) = found.claims["devices"]
    assert found.claims["bound_to_host"] == "not bound to host"
    assert told["rim_missing"] == ["driver:550.90.07", "vbios:96.00.9F.00.01"]
    assert told["development"] == "not known: no manifest to compare with"
    assert told["ocsp"] == {"asked": 3, "good": 0, "until": None}
    assert told["simulated"] is True


def test_without_a_profile_what_is_there_is_judged() -> None:
    """A manifest that does not fit, a certificate on hold, a development flag, a stranger's root; a device shown twice is counted once."""
    rims = vendor().rims()
    assert check([as_json([card()])], rims=rims).claims["devices"][0]["measurements_compared"] == 16
    changed = vendor().gpu()
    changed.measurements[3] = bytes(48)
    bad = check([as_json([changed])], rims=rims)
    assert codes(bad) == ["measurement_mismatch"]
    assert bad.claims["devices"][0]["development"] == "not known: refused"
    from cryptography.x509 import ReasonFlags

    held = [answer(vendor().subjects([card()])[0], revoked=ReasonFlags.certificate_hold)]
    assert codes(check([as_json([card()])], ocsp=held)) == ["certificate_revoked"]
    flagged = vendor().gpu(product="GB100", dice=b"\x10\0\0\0")
    told = check([as_json([flagged])])
    assert codes(told) == ["debug_enabled"]
    assert told.claims["devices"][0]["development"] == "debug"
    twice = check([as_json([card(), card()])])
    assert (codes(twice), twice.claims["distinct"], len(twice.claims["devices"])) == ([], 1, 2)
    assert codes(check([as_json([card()])], simulated_roots=())) == ["certificate_chain"]


def test_with_a_profile_the_managers_appraisal_runs() -> None:
    """A whole node of several files, met; not met; and the alternative that is met."""
    node = vendor().node()
    answers = [answer(one) for one in vendor().subjects(node)]
    files = [as_json(node[:2]), as_json(node[2:])]
    assert codes(check(files, None, NODE, rims=vendor().rims(), ocsp=answers)) == []
    assert codes(check(files, None, NODE)) == ["revocation_missing", "rim_missing"]
    assert codes(check(files, None, ONE, NODE, rims=vendor().rims(), ocsp=answers)) == []
    assert codes(check(files[:1], None, NODE, rims=vendor().rims(), ocsp=answers)) == [
        "device_topology",
        "nvswitch_missing",
    ]


def test_a_profile_does_not_hide_what_is_not_authentic() -> None:
    """One device of two is another's report: nothing is appraised, and that is the reason."""
    node = vendor().node()
    assert codes(check([as_json(node)], None, NODE, nonce=bytes(32))) == ["binding_mismatch"]


@pytest.mark.parametrize(
    ("report", "chain"),
    [
        (b"", b""),
        (b"zz", b"0"),
        (b"00", None),
        (b"[]", None),
        (b"{}", None),
        (b"[1]", None),
        (b'[{"evidence": 1, "certificate": 2}]', None),
        (b'[{"evidence": "AA", "certificate": "AA=="}]', None),
        (b'[{"evidence": "AA==", "certificate": "!"}]', None),
        (b"[NaN]", None),
        (b"[" * 2000, None),
        (bytes(MAX_FILE + 1), None),
        (card().report(NONCE).report, b"[]"),
        (card().report(NONCE).report, as_json([card(), card()])),
        (card().report(NONCE).report, b"".join(card().chain) + b"\0"),
        (card().report(NONCE).report, b"".join(card().chain) * 2),
        (card().report(NONCE).report, pem_chain(card()) * 2),
        (card().report(NONCE).report, b"\x30\x82\xff\xff" + bytes(10)),
        (card().report(NONCE).report, b"-----BEGIN CERTIFICATE-----\n!"),
    ],
    ids=range(19),
)
def test_files_that_are_none_are_refused(report: bytes, chain: bytes | None) -> None:
    """With a reason, never a crash."""
    found = check([report], chain)
    assert not found.accepted
    assert set(codes(found)) <= {"non_canonical", "certificate_chain"}


def test_a_manifest_alone() -> None:
    """Good; by a stranger; no manifest at all."""
    good = check_rim(vendor().driver_rim(), now=NOW, simulated_roots=ROOTS)
    assert good.accepted
    assert good.claims["manifest"] == {
        "version": "550.90.07",
        "product": "GH100",
        "edition": "GPU",
        "measurements": 8,
    }
    assert codes(check_rim(vendor().driver_rim(), now=NOW)) == ["certificate_chain"]
    bare = check_rim(b"<x/>", now=NOW)
    assert (codes(bare), bare.claims) == (["rim_signature"], {"manifest": None})
    stranger = certify("signer", certify("root", None), ca=False)
    told = check([as_json([card()])], rims=[b"<x/>", vendor().vbios_rim(signer=stranger)]).claims["manifests"]
    assert [one["usable"] for one in told] == ["rim_signature", "certificate_chain"]


@settings(max_examples=60, deadline=None)
@given(st.binary(max_size=400), st.binary(max_size=200))
def test_any_files_are_judged(report: bytes, chain: bytes) -> None:
    """Noise beside an honest half."""
    for reports, certificates in (([report], chain), ([card().report(NONCE).report], chain), ([report], None)):
        assert not check(reports, certificates).accepted
