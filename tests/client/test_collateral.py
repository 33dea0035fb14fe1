"""Collecting from vendors' services (local ones that behave like theirs): what is asked, and every answer that is none. K15, G5."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509 import ocsp

from client.vendors import DRIVER, NOW, VBIOS, Reply, Vendors, nonced, serving
from perunml.client.collateral import Services, Wanted, make_bundle, read_bundle, read_wanted
from perunml.client.collateral.intel import Platform, fetch_dcap
from perunml.client.collateral.wanted import fetch
from perunml.client.collateral.web import MAX_ANSWER, Answer, Web
from perunml.evidence.dcap.verify import verify_dcap
from perunml.evidence.endorsements import Endorsements
from perunml.evidence.snp.parse import Tcb
from perunml.evidence.snp.verify import verify_snp
from perunml.testing.nvidia_pki import answer
from perunml.testing.snp import AmdCa, ForgedChip
from perunml.wire.encoding import b64
from perunml.wire.errors import PerunError
from perunml.wire.identity import SigningKey

OPERATOR = SigningKey.generate()
TCB = "GET /tdx/certification/v4/tcb?fmspc=50806F000000"
QE = "GET /tdx/certification/v4/qe/identity"
CRL = "GET /sgx/certification/v4/pckcrl?ca=platform&encoding=der"
ROOT = "GET /sgx/certification/v4/rootcacrl"
TDX = Platform("tdx", "50806F000000", "platform")


@pytest.fixture
def vendors(tmp_path: Path) -> Iterator[Vendors]:
    with serving(tmp_path, Vendors()) as made:
        yield made


def collect(vendors: Vendors, wanted: Wanted, **limits: float) -> Endorsements:
    """As an operator does; roots are the forges'."""
    with Web(vendors.services, **limits) as web:
        collateral = fetch(wanted, web, NOW)
    return Endorsements(collateral, (vendors.intel.root, vendors.chip.ca.root))


def refused(vendors: Vendors, wanted: Wanted, **limits: float) -> str:
    """Code and what was seen."""
    with pytest.raises(PerunError) as caught:
        collect(vendors, wanted, **limits)
    return f"{caught.value.code}: {caught.value.reasons[0].seen}"


def test_a_quote_says_what_is_asked_of_intel(vendors: Vendors) -> None:
    """FMSPC, CA and TEE come from the quote; what comes back judges that quote, signatures and all."""
    quotes = [vendors.intel.tdx_quote(), vendors.intel.sgx_quote()]
    found = collect(vendors, read_wanted(quotes=[*quotes, quotes[0].hex().encode()]))
    assert len(found.collateral.dcap) == 2
    assert sorted(vendors.asked) == sorted(
        [TCB, QE, CRL, ROOT, TCB.replace("tdx", "sgx"), QE.replace("tdx", "sgx")]
    )  # each once
    for quote, tee in zip(quotes, ("tdx", "sgx"), strict=True):
        assert verify_dcap(quote, tee, found, now=NOW).value.status == "UpToDate"


def test_intel_itself_is_asked_where_its_documents_say() -> None:
    """Without options the addresses are the vendor's, the root's revocation list its own; none comes from a certificate."""
    vendors, asked = Vendors(), list[str]()

    class Recorded(Web):
        def get(self, url: str) -> Answer:
            asked.append(url)
            path = url.removeprefix("https://api.trustedservices.intel.com")
            reply = vendors.routes[ROOT if "IntelSGXRootCA" in url else f"GET {path}"]
            assert isinstance(reply, Reply)
            return Answer(reply.body, {name.lower(): value for name, value in reply.headers.items()})

    fetch_dcap(TDX, Recorded(Services()))
    base = "https://api.trustedservices.intel.com"
    assert asked == [
        f"{base}/tdx/certification/v4/tcb?fmspc=50806F000000",
        f"{base}/tdx/certification/v4/qe/identity",
        f"{base}/sgx/certification/v4/pckcrl?ca=platform&encoding=der",
        "https://certificates.trustedservices.intel.com/IntelSGXRootCA.der",
    ]


@pytest.mark.parametrize("product", ["Milan", "Genoa", "Turin"])
def test_a_report_says_what_is_asked_of_amd(tmp_path: Path, product: str) -> None:
    """Product line, chip and firmware come from the report; Turin's chip id is shorter and its firmware has a part more."""
    chip = ForgedChip(AmdCa(product=product))
    with serving(tmp_path, Vendors(chip=chip)) as vendors:
        found = collect(vendors, read_wanted(reports=[chip.report()]))
        assert len(vendors.asked) == 3
    assert len(found.collateral.certificates) == 3
    assert verify_snp(chip.report(), (), found, now=NOW).value.collateral


@pytest.mark.parametrize("fault", ["chip", "firmware", "name", "page"])
def test_another_certificate_than_the_chips_makes_no_bundle(tmp_path: Path, fault: str) -> None:
    """Another chip's, another firmware's, the line's own, a page."""
    chip = ForgedChip()
    other = {
        "chip": chip.ca.certify(chip.key.public_key(), chip.tcb, b"\xc2" * 64),
        "firmware": chip.ca.certify(chip.key.public_key(), Tcb(4, 0, 23, 219), chip.chip_id),
        "name": chip.ca.middle,
        "page": b"<html></html>",
    }[fault]
    with serving(tmp_path, Vendors(chip=chip)) as vendors:
        (asked,) = (name for name in vendors.routes if "blSPL" in name)
        vendors.routes[asked] = Reply(other)
        assert refused(vendors, read_wanted(reports=[chip.report()])).startswith("vendor_answer: ")


@pytest.mark.parametrize("asked", ["cert_chain", "crl"])
@pytest.mark.parametrize("body", [b"", b"<html></html>", b"-----BEGIN CERTIFICATE-----\n!"])
def test_an_answer_of_amds_that_is_none_makes_no_bundle(vendors: Vendors, asked: str, body: bytes) -> None:
    """Neither certificates of the line nor its list."""
    vendors.routes[f"GET /vcek/v1/Milan/{asked}"] = Reply(body)
    assert refused(vendors, read_wanted(products=["Milan"])).startswith("vendor_answer: ")


def test_a_report_under_a_clouds_key_asks_for_the_lines_certificates(tmp_path: Path) -> None:
    """A VLEK's own certificate comes from the host: the service has none."""
    chip = ForgedChip(AmdCa(vlek=True))
    with serving(tmp_path, Vendors(chip=chip)) as vendors:
        found = collect(vendors, read_wanted(reports=[chip.report()]))
        assert vendors.asked == ["GET /vlek/v1/Milan/cert_chain", "GET /vlek/v1/Milan/crl"]
    assert verify_snp(chip.report(), [chip.certificate], found, now=NOW).value.vlek


def test_an_old_report_needs_its_product_named(vendors: Vendors) -> None:
    """Version 2 does not tell; and a chip that hides itself cannot be asked about."""
    report = vendors.chip.report(version=2)
    with pytest.raises(PerunError) as caught:
        read_wanted(reports=[report])
    assert caught.value.code == "collateral_lacking"
    found = collect(vendors, read_wanted(reports=[report], products=["Milan"]))
    assert len(found.collateral.certificates) == 3
    with pytest.raises(PerunError) as caught:
        read_wanted(reports=[vendors.chip.report(key_info=2)])
    assert caught.value.code == "collateral_lacking"


def test_devices_say_which_manifests_and_answers_are_asked_of_nvidia(vendors: Vendors) -> None:
    """Manifests by the report's versions; OCSP about each certificate between leaf and root, and about the manifests' signers."""
    gpu = vendors.nvidia.gpu()
    vendors.subjects = vendors.nvidia.subjects([gpu])
    pem = "".join(
        "-----BEGIN CERTIFICATE-----\n" + base64.encodebytes(der).decode() + "-----END CERTIFICATE-----\n"
        for der in gpu.chain
    )
    told = [
        {
            "certificate": base64.b64encode(pem.encode()).decode(),
            "evidence": base64.b64encode(gpu.report(bytes(32)).report).decode(),
        }
    ]
    wanted = read_wanted(certs=[json.dumps(told).encode()])
    assert wanted.rims == (DRIVER, VBIOS)
    found = collect(vendors, wanted).collateral
    assert (len(found.rims), len(found.ocsp)) == (2, 5)
    serials = {ocsp.load_der_ocsp_response(one).serial_number for one in found.ocsp}
    assert serials == {one.certificate.serial_number for one in vendors.subjects}
    leaf = x509.load_der_x509_certificate(gpu.chain[0]).serial_number
    assert leaf not in serials
    assert len(collect(vendors, read_wanted(certs=[pem.encode()])).collateral.ocsp) == 3


def test_a_signed_bundle_reads_back(vendors: Vendors) -> None:
    """All of it, dated, under the caller's key; an altered one does not read."""
    wanted = read_wanted([vendors.intel.tdx_quote()], reports=[vendors.chip.report()], rim_ids=[DRIVER])
    made = make_bundle(wanted, OPERATOR, now=NOW, services=vendors.services)
    data = made.envelope.encode()
    again = read_bundle(data)
    assert again.collateral == made.collateral
    assert (again.collateral.made, again.signers) == (NOW, (OPERATOR.public.text,))
    envelope = json.loads(data)
    envelope["signatures"][0]["sig"] = b64(bytes(64))
    for broken in (json.dumps(envelope), json.dumps({**envelope, "signatures": []})):
        with pytest.raises(PerunError) as caught:
            read_bundle(broken.encode())
        assert caught.value.code == "bad_signature"


def swapped(reply: object, old: bytes, new: bytes) -> Reply:
    assert isinstance(reply, Reply)
    assert old in reply.body
    return Reply(reply.body.replace(old, new, 1), headers=reply.headers)


ENDING = "END%20CERTIFICATE-----"
FAULTS = ("missing", "moved", "page", "empty", "long", "zipped", "chain", "short chain")


@pytest.mark.parametrize(
    ("asked", "fault"),
    # the root's list comes without issuers
    [(asked, fault) for asked in (TCB, QE, CRL, ROOT) for fault in FAULTS if asked != ROOT or "chain" not in fault],
)
def test_an_answer_of_intels_that_is_none_makes_no_bundle(vendors: Vendors, asked: str, fault: str) -> None:
    """A 404, a redirect (K15: never followed), a page, nothing, too much, compressed, without its issuers."""
    good = vendors.routes[asked]
    assert isinstance(good, Reply)
    vendors.routes[asked] = {
        "missing": Reply(status=404),
        "moved": Reply(status=302, headers={"Location": f"{vendors.url}/elsewhere"}),
        "page": Reply(b"<html>Welcome to this network</html>"),
        "empty": Reply(headers=good.headers),
        "long": Reply(good.body + b" " * MAX_ANSWER, headers=good.headers),
        "zipped": Reply(good.body, headers={**good.headers, "Content-Encoding": "gzip"}),
        "chain": Reply(good.body, headers=dict.fromkeys(good.headers, "none")),
        "short chain": Reply(
            good.body, headers={name: one.partition("END%20")[0] + ENDING for name, one in good.headers.items()}
        ),
    }[fault]
    assert refused(vendors, Wanted(platforms=(TDX,))).startswith("vendor_answer: ")
    assert "GET /elsewhere" not in vendors.asked


@pytest.mark.parametrize(
    ("asked", "old", "new"),
    [
        (TCB, b'"fmspc":"50806F000000"', b'"fmspc":"50806F000001"'),
        (TCB, b'"id":"TDX"', b'"id":"SGX"'),
        (TCB, b'"tcbInfo"', b'"tcbinfo"'),
        (TCB, b'"signature":"', b'"signature":"00'),
        (QE, b'"id":"TD_QE"', b'"id":"QE"'),
        (QE, b"{", b'{"more": 1, '),
        (CRL, b"0", b"1"),
    ],
)
def test_another_answer_than_was_asked_for_makes_no_bundle(
    vendors: Vendors, asked: str, old: bytes, new: bytes
) -> None:
    """Another platform, another TEE, members that are not those of the form."""
    vendors.routes[asked] = swapped(vendors.routes[asked], old, new)
    assert refused(vendors, Wanted(platforms=(TDX,))).startswith("vendor_answer: ")


def test_the_other_authoritys_list_makes_no_bundle(vendors: Vendors) -> None:
    """The processor CA was asked for, the platform CA's list came."""
    vendors.routes[CRL.replace("platform", "processor")] = vendors.routes[CRL]
    assert "Platform CA" in refused(vendors, Wanted(platforms=(Platform("tdx", "50806F000000", "processor"),)))


def test_a_slow_answer_ends(vendors: Vendors) -> None:
    """A byte now and then is no answer, and none at all is not waited for twice."""
    good = vendors.routes[TCB]
    assert isinstance(good, Reply)
    vendors.routes[TCB] = Reply(good.body, headers=good.headers, slow=0.05)
    assert "not at its end" in refused(vendors, Wanted(platforms=(TDX,)), whole=0.3)
    vendors.routes[TCB] = Reply(good.body, headers=good.headers, slow=2.0)
    vendors.asked.clear()
    wanted = Wanted(platforms=(TDX, Platform("tdx", "000000000001", "platform")), rims=(DRIVER, VBIOS))
    assert refused(vendors, wanted, step=0.2).startswith("vendor_answer: ")
    assert vendors.asked == [TCB]


def test_whoever_is_not_known_is_told_nothing(vendors: Vendors) -> None:
    """Neither the public authorities nor another certificate vouch for this server; no request is sent."""
    for tls_ca in ("", Vendors().tls_ca):
        services = Services(vendors.url, vendors.url, vendors.url, vendors.url, tls_ca)
        with pytest.raises(PerunError) as caught, Web(services) as web:
            fetch(Wanted(platforms=(TDX,)), web, NOW)
        assert "CERTIFICATE_VERIFY_FAILED" in caught.value.reasons[0].seen
    assert vendors.asked == []


@pytest.mark.parametrize(
    "url", ["http://pccs.example", "pccs.example", "https://a@b.example", "https://b.example?x=1", "file:///etc"]
)
def test_only_https_addresses_are_services(url: str) -> None:
    """A cache without TLS, credentials or words in an address, a file: none is a service."""
    for name in ("pcs", "kds", "rim", "ocsp"):
        with pytest.raises(PerunError) as caught:
            Services(**{name: url})
        assert caught.value.code == "malformed"
    with pytest.raises(PerunError):
        Services(tls_ca="not certificates")


def test_every_failure_is_told_at_once(vendors: Vendors) -> None:
    """Not the first alone: which platform, which manifest, which chip."""
    unknown = Platform("sgx", "000000000001", "platform")
    with pytest.raises(PerunError) as caught:
        collect(vendors, Wanted((unknown,), read_wanted(products=["Genoa"]).chips, ("NV_GPU_DRIVER_GH100_1",)))
    assert [reason.seen for reason in caught.value.reasons] == ["HTTP status 404"] * 3
    assert caught.value.exit_code == 16


@pytest.mark.parametrize(
    "told",
    [
        b"[]",
        b'{"id": "NV_GPU_DRIVER_GH100_1", "rim": "PHg+"}',
        b'{"id": "%s", "rim": "PHg+"}' % DRIVER.encode(),
        b'{"id": "%s", "rim": "?"}' % DRIVER.encode(),
        b'{"id": "%s"}' % DRIVER.encode(),
        b"<SoftwareIdentity/>",
    ],
)
def test_what_is_no_manifest_makes_no_bundle(vendors: Vendors, told: bytes) -> None:
    """Another name, another thing, no base64, no manifest whose signature verifies."""
    vendors.routes[f"GET /v1/rim/{DRIVER}"] = Reply(told)
    assert refused(vendors, Wanted(rims=(DRIVER,))).startswith("vendor_answer: ")


def test_another_manifest_than_was_asked_for_makes_no_bundle(vendors: Vendors) -> None:
    """A genuine one, under its own name."""
    vendors.routes[f"GET /v1/rim/{DRIVER}"] = vendors.routes[f"GET /v1/rim/{VBIOS}"]
    assert refused(vendors, Wanted(rims=(DRIVER,))).startswith("vendor_answer: ")


def with_nonce(vendors: Vendors, request: bytes, nonce: bytes | None) -> Reply:
    """An answer that repeats the request's nonce, or holds another."""
    asked = ocsp.load_der_ocsp_request(request)
    held = asked.extensions.get_extension_for_class(x509.OCSPNonce).value.nonce
    assert len(held) == 32
    subject = next(one for one in vendors.subjects if one.certificate.serial_number == asked.serial_number)
    return Reply(nonced(subject, held if nonce is None else nonce))


@pytest.mark.parametrize("fault", ["page", "refusal", "another", "replay", "missing"])
def test_what_is_no_ocsp_answer_makes_no_bundle(vendors: Vendors, fault: str) -> None:
    """G5: no answer, a responder that refuses, another certificate's, an old one under another nonce."""
    wanted = read_wanted(certs=[b"".join(_pem(der) for der in vendors.nvidia.gpu().chain)])
    other = vendors.nvidia.rim_signer
    refusal = ocsp.OCSPResponseBuilder.build_unsuccessful(ocsp.OCSPResponseStatus.TRY_LATER)
    vendors.routes["POST /"] = {
        "page": Reply(b"<html></html>"),
        "refusal": Reply(refusal.public_bytes(Encoding.DER)),
        "another": Reply(answer(other)),
        "missing": Reply(status=404),
        "replay": lambda request: with_nonce(vendors, request, b"another nonce"),
    }[fault]
    assert refused(vendors, Wanted(asked=wanted.asked[1:])).startswith("vendor_answer: ")


def test_a_responder_may_repeat_the_nonce(vendors: Vendors) -> None:
    """RFC 6960, 4.4.1: ours is fine, none is fine."""
    wanted = read_wanted(certs=[b"".join(_pem(der) for der in vendors.nvidia.gpu().chain)])
    vendors.routes["POST /"] = lambda request: with_nonce(vendors, request, None)
    assert len(collect(vendors, Wanted(asked=wanted.asked[1:])).collateral.ocsp) == 2


def _pem(der: bytes) -> bytes:
    return b"-----BEGIN CERTIFICATE-----\n" + base64.encodebytes(der) + b"-----END CERTIFICATE-----\n"
