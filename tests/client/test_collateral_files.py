"""Collateral out of a folder, for machines without a network: told apart by content; shown."""

from __future__ import annotations

import base64
import json
from functools import partial
from pathlib import Path
from urllib.parse import quote

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from client.vendors import DRIVER, NOW, VBIOS, Reply, Vendors
from evidence.vectors import FOLDER, needs_vectors
from manager.world import code_of
from perunml.client.collateral import describe, first_to_end, make_bundle, past, read_wanted
from perunml.client.collateral.intel import member_texts
from perunml.client.collateral.sort import Pile, sort_files
from perunml.evidence.dcap.collateral import read_collateral
from perunml.evidence.dcap.verify import verify_dcap
from perunml.evidence.endorsements import Collateral, Endorsements
from perunml.evidence.snp.verify import verify_snp
from perunml.testing.nvidia_pki import answer
from perunml.wire.errors import PerunError
from perunml.wire.identity import SigningKey

OPERATOR = SigningKey.generate()
VENDORS = Vendors()


def body(asked: str) -> bytes:
    found = VENDORS.routes[asked]
    assert isinstance(found, Reply)
    return found.body


def chain(asked: str) -> str:
    found = VENDORS.routes[asked]
    assert isinstance(found, Reply)
    return next(iter(found.headers.values()))


TCB = "GET /tdx/certification/v4/tcb?fmspc=50806F000000"
QE = "GET /tdx/certification/v4/qe/identity"
CRL = "GET /sgx/certification/v4/pckcrl?ca=platform&encoding=der"
ROOT = "GET /sgx/certification/v4/rootcacrl"
KDS = "GET /vcek/v1/Milan"


def pem_crl(der: bytes) -> bytes:
    return x509.load_der_x509_crl(der).public_bytes(Encoding.PEM)


@pytest.fixture(scope="module")
def files() -> dict[str, bytes]:
    """As an operator saves them, under names that say nothing."""
    gpu = VENDORS.nvidia.gpu()
    signer = VENDORS.nvidia.rim_signer
    return {
        "1": body(TCB),
        "2": body(QE),
        "3": chain(TCB).encode(),  # a header as it came
        "4": VENDORS.intel.ca.pck_ca_chain.encode(),
        "5": body(CRL),
        "6": body(ROOT),  # in hex
        "7": body(f"{KDS}/cert_chain"),
        "8": VENDORS.chip.certificate,
        "9": pem_crl(body(f"{KDS}/crl")),
        "a": VENDORS.nvidia.vbios_rim(),
        "b": body(f"GET /v1/rim/{DRIVER}"),
        "c": answer(signer, made=NOW - 60),
        "d": VENDORS.intel.collateral("sgx"),
        "words.txt": b"what this folder is",
        "page.html": b"<html></html>",
        "other.json": b'{"a": 1}',
        "leaf.der": gpu.chain[0],
        "empty": b"",
    }


@pytest.fixture
def folder(tmp_path: Path, files: dict[str, bytes]) -> Path:
    made = tmp_path / "vendors"
    made.mkdir()
    (made / "a folder").mkdir()
    for name, data in files.items():
        (made / name).write_bytes(data)
    return made


def test_files_are_told_apart_by_what_is_in_them(folder: Path) -> None:
    """Everything of use is in the bundle, the rest is named, and nobody was asked."""
    quotes = {"tdx": VENDORS.intel.tdx_quote(), "sgx": VENDORS.intel.sgx_quote()}
    wanted = read_wanted(quotes.values(), (), [VENDORS.chip.report()], ["Milan"], (), [DRIVER, VBIOS])
    made = make_bundle(wanted, OPERATOR, now=NOW, folder=folder)
    found = made.collateral
    assert [len(getattr(found, name)) for name in ("dcap", "certificates", "crls", "rims", "ocsp")] == [2, 3, 1, 2, 1]
    assert {name for name, _ in made.left_out} == {"words.txt", "page.html", "other.json", "leaf.der", "empty"}
    known = Endorsements(found, (VENDORS.intel.root, VENDORS.chip.ca.root))
    assert verify_dcap(quotes["tdx"], "tdx", known, now=NOW).value.status == "UpToDate"
    assert verify_snp(VENDORS.chip.report(), (), known, now=NOW).value.collateral


@pytest.mark.parametrize("name", ["2", "3", "4", "5", "6"])
def test_intels_answer_alone_is_not_enough(files: dict[str, bytes], name: str) -> None:
    """Without QE identity, issuers or a list nothing is made of a TCB info, and the file is named with what lacks."""
    pile = sort_files([(other, data) for other, data in files.items() if other not in (name, "d")])
    assert pile.dcap == []
    assert "beside it" in dict(pile.left_out)["1"]


def test_every_thing_that_lacks_is_named(folder: Path, files: dict[str, bytes]) -> None:
    """A platform, a chip, a product line, a manifest, an answer: one reason for each, and no bundle."""
    certs = b"".join(_pem(der) for der in VENDORS.nvidia.gpu(1).chain)
    wanted = read_wanted(
        (),
        ["tdx:50806F000000:processor", "sgx:00906EA10000:platform"],
        (),
        ["Genoa"],
        [certs],
        ["NV_GPU_DRIVER_GH100_1.0"],
    )
    with pytest.raises(PerunError) as caught:
        make_bundle(wanted, OPERATOR, now=NOW, folder=folder)
    assert {reason.code for reason in caught.value.reasons} == {"collateral_lacking"}
    assert len(caught.value.reasons) == 7
    (folder / "8").unlink()
    with pytest.raises(PerunError, match="c1c1c1"):
        make_bundle(read_wanted(reports=[VENDORS.chip.report()]), OPERATOR, now=NOW, folder=folder)


def test_an_empty_folder_makes_no_bundle(tmp_path: Path) -> None:
    """A bundle of nothing would only look like one."""
    for folder in (tmp_path, tmp_path / "missing"):
        with pytest.raises(PerunError) as caught:
            make_bundle(read_wanted(), OPERATOR, now=NOW, folder=folder)
        assert caught.value.code == ("collateral_lacking" if folder.exists() else "local_file")


def test_what_ends_first_is_told(files: dict[str, bytes]) -> None:
    """Each item with its dates; what cannot be read is said to be so."""
    pile = sort_files(list(files.items()))
    collateral = Collateral(NOW, *map(tuple, (pile.dcap, pile.certificates, pile.crls, pile.rims, pile.ocsp)))
    items = describe(collateral)
    assert [item.kind for item in items] == ["dcap"] * 2 + ["certificates"] * 3 + ["crls"] + ["rims"] * 2 + ["ocsp"]
    assert "tdx 50806F000000, Intel SGX PCK Platform CA: TCB 18, QE 18" in {item.what for item in items}
    first = first_to_end(items)
    assert first is not None
    assert first.until == min(item.until for item in items if item.until is not None)
    assert list(past(items, 0)) == []
    assert len(list(past(items, 253_402_300_800))) == len([item for item in items if item.until is not None])
    odd = describe(Collateral(NOW, dcap=(b"{}",), certificates=(b"0",), crls=(b"0",), rims=(b"<",), ocsp=(b"0",)))
    assert all(item.what.startswith("cannot be read") and item.until is None for item in odd)
    assert first_to_end(odd) is None


def test_the_text_that_intel_signed_stays_as_it_came() -> None:
    """Members are cut out character by character: order, spaces and escapes are part of what is signed."""
    inner = '{"b": 1,  "a":[ {} , "\\u00e9}{\\"" ] , "signature": "x"}'
    found = member_texts(f' {{ "tcbInfo" : {inner}\n , "signature" : "00" }} '.encode())
    assert found == {"tcbInfo": inner, "signature": '"00"'}
    assert member_texts(b"{}") == {}
    for bad in (b"[]", b'{"a": 1, "a": 2}', b'{"a": NaN}', b'{"a"', b""):
        with pytest.raises((PerunError, ValueError)):
            member_texts(bad)


_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53) + 1, 2**53 - 1) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=8,
)


@given(st.dictionaries(st.text(max_size=6), _VALUES, max_size=4), st.sampled_from([None, 1, "\t"]), st.booleans())
@settings(max_examples=60, deadline=None)
def test_members_are_cut_where_a_parser_cuts_them(
    value: dict[str, object], indent: int | str | None, plain: bool
) -> None:
    """Whatever the layout, each text reads as the member's value, and stands in the answer."""
    text = json.dumps(value, indent=indent, ensure_ascii=plain)
    found = member_texts(text.encode())
    assert {name: json.loads(part) for name, part in found.items()} == value
    assert all(part in text for part in found.values())


@given(st.data())
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_a_broken_file_is_named_and_breaks_nothing(files: dict[str, bytes], data: st.DataObject) -> None:
    """Cut, flipped, made up: it is left out, or still something; never an error of another kind."""
    name = data.draw(st.sampled_from(sorted(files)))
    whole = files[name]
    at = data.draw(st.integers(0, max(len(whole) - 1, 0)))
    broken = data.draw(
        st.sampled_from([whole[:at], whole[:at] + b"\xff" + whole[at + 1 :], whole[at:], b"\x30" + whole])
    )
    pile = sort_files([*((other, own) for other, own in files.items() if other != name), (name, broken)])
    assert isinstance(pile, Pile)


@given(st.binary(max_size=64) | st.text(max_size=64).map(str.encode))
@settings(max_examples=60, deadline=None)
def test_anything_is_left_out_with_a_word(data: bytes) -> None:
    """Noise holds nothing."""
    assert [name for name, _ in sort_files([("noise", data)]).left_out] == ["noise"]


CAPTURED = [("sgx/Phala-Network__dcap-qvl", [1, 0, 0, 0, 0]), ("nvidia/NVIDIA__nvtrust", [0, 0, 0, 5, 0])]
"""A folder of the vectors, and how many of each kind its files hold."""


@needs_vectors
@pytest.mark.parametrize(("name", "counts"), CAPTURED)
def test_captured_files_are_told_apart(name: str, counts: list[int]) -> None:
    """What vendors really sent: dcap-qvl's form, manifests."""
    paths = [path for path in sorted((FOLDER / name).iterdir()) if path.is_file()]
    assert paths
    pile = sort_files([(path.name, path.read_bytes()) for path in paths])
    assert [len(getattr(pile, kind)) for kind in ("dcap", "certificates", "crls", "rims", "ocsp")] == counts


@needs_vectors
def test_captured_collateral_comes_together_from_its_parts() -> None:
    """Every bundle of the vectors, taken apart into the answers of Intel's service, gives the same item again."""
    paths = sorted((FOLDER / "dcap-bundles").glob("*.json"))
    assert len(paths) > 30
    for path in paths:
        item = json.loads(path.read_bytes())["collateral"]
        parts = [
            (
                "tcb",
                b'{"tcbInfo":%s,"signature":"%s"}' % (item["tcb_info"].encode(), item["tcb_info_signature"].encode()),
            ),
            (
                "qe",
                b'{"enclaveIdentity":%s,"signature":"%s"}'
                % (item["qe_identity"].encode(), item["qe_identity_signature"].encode()),
            ),
            *((name, quote(item[f"{name}_issuer_chain"]).encode()) for name in ("tcb_info", "qe_identity", "pck_crl")),
            ("crl", bytes.fromhex(item["pck_crl"])),
            ("root", item["root_ca_crl"].encode()),
        ]
        pile = sort_files(parts)
        assert pile.left_out == [], path.name
        (made,) = (json.loads(one) for one in pile.dcap)
        assert {name: made[name] for name in made if "chain" not in name} == {
            name: item[name] for name in made if "chain" not in name
        }


def _pem(der: bytes) -> bytes:
    return b"-----BEGIN CERTIFICATE-----\n" + base64.encodebytes(der) + b"-----END CERTIFICATE-----\n"


@needs_vectors
def test_captured_evidence_says_what_it_needs() -> None:
    """Real quotes, reports and devices: platforms as the bundles name them, chips by AMD's lines, manifests by NVIDIA's names."""
    read = 0
    for path in sorted((FOLDER / "dcap-bundles").glob("*.json")):
        told = json.loads(path.read_bytes())
        if code_of(wanted := partial(read_wanted, [told["quote_hex"].encode()])) == "non_canonical":
            continue  # bytes after the quote: refused in judging, too
        (platform,) = wanted().platforms
        assert (platform.tee, platform.fmspc) == (told["tee"].lower(), told["fmspc"].upper()), path.name
        assert platform.is_of(read_collateral(json.dumps(told["collateral"]).encode())), path.name
        read += 1
    assert read > 30
    folder = FOLDER / "nvidia" / "NVIDIA__nvtrust"
    gpus, switches, chain = (
        read_wanted(certs=[(folder / name).read_bytes()])
        for name in ("gpu_evidence.json", "switch_evidence.json", "hopperCertChain.txt")
    )
    assert gpus.rims == ("NV_GPU_DRIVER_GH100_590.12", "NV_GPU_VBIOS_G520_0200_885_9600A50001")
    assert switches.rims == ("NV_SWITCH_BIOS_5612_0002_890_9610730001",)
    assert [len(one.asked) for one in (gpus, switches, chain)] == [10, 6, 3]
    reports = [path for path in sorted((FOLDER / "snp").rglob("*")) if path.is_file() and path.stat().st_size == 1184]
    assert reports
    for path in reports:
        if code_of(wanted := partial(read_wanted, reports=[path.read_bytes()])) != "collateral_lacking":
            (chips,) = wanted().chips  # of version 3 on, the chip not hidden
            assert chips.product in ("Milan", "Genoa", "Turin")
            assert len(chips.chip) in ((0,) if chips.vlek else (16, 128))
