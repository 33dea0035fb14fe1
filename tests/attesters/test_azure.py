"""A machine of Azure's: a virtual TPM whose key the TEE vouches for. A software TPM stands for it, with the same handle and index."""

from __future__ import annotations

import json
import struct
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from perunml.attesters import azure
from perunml.attesters.azure import AK_HANDLE, REPORT_INDEX, AzureAttester, ask_service
from perunml.attesters.esys import open_tpm
from perunml.evidence.bundle import Bundle, TpmPart
from perunml.evidence.composite import identify
from perunml.evidence.judge import judge
from perunml.evidence.parts import HclPart
from perunml.evidence.policy import Machine, Policy
from perunml.evidence.snp.rules import SnpRules
from perunml.evidence.tpm.algorithms import HASH_IDS, NULL, RSA, RSASSA
from perunml.evidence.tpm.keys import (
    FIXED_PARENT,
    FIXED_TPM,
    RESTRICTED,
    SENSITIVE_DATA_ORIGIN,
    SIGN,
    USER_WITH_AUTH,
)
from perunml.evidence.tpm.public import parse_public
from perunml.testing.clouds import hcl_report, runtime_data
from perunml.testing.machine import SimulatedMachine
from perunml.testing.snp import ForgedChip
from perunml.testing.structures import sized
from perunml.wire.encoding import b64
from perunml.wire.errors import EvidenceRefusal, Unreachable

pytestmark = pytest.mark.swtpm
BINDING, OTHER = bytes(range(48)), bytes(48)
RULES = SnpRules.from_json({"measurement": ["11" * 48], "products": ["Milan"], "min_tcb": {"bootloader": 4}})
TEMPLATE = sized(
    struct.pack(
        ">HHIH",
        RSA,
        HASH_IDS["sha256"],
        FIXED_TPM | FIXED_PARENT | SENSITIVE_DATA_ORIGIN | RESTRICTED | USER_WITH_AUTH | SIGN,
        0,
    )
    + struct.pack(">HHHHI", NULL, RSASSA, HASH_IDS["sha256"], 2048, 0)
    + sized(b"")
)


@pytest.fixture(scope="module")
def chip() -> ForgedChip:
    return ForgedChip()


@pytest.fixture
def write(machine: SimulatedMachine) -> Iterator[Callable[[Callable[[int], bytes]], None]]:
    """Puts a blob into the TPM that is made for the modulus of its attestation key."""
    from tpm2_pytss import ESAPI, ESYS_TR, TPM2_ALG, TPM2B_NV_PUBLIC, TPMA_NV, TPMS_NV_PUBLIC

    def drop() -> None:
        with open_tpm(machine.tcti) as tpm:
            there = tpm.has(REPORT_INDEX)
        if there:
            with ESAPI(machine.tcti) as esys:
                esys.nv_undefine_space(esys.tr_from_tpmpublic(REPORT_INDEX), auth_handle=ESYS_TR.OWNER)

    def put(make: Callable[[int], bytes]) -> None:
        drop()
        with open_tpm(machine.tcti) as tpm:
            if not tpm.has(AK_HANDLE):
                tpm.create_endorsement_key(TEMPLATE, AK_HANDLE)
            modulus = int.from_bytes(parse_public(tpm.read_public(AK_HANDLE)).unique[0])
        blob = make(modulus).rstrip(b"\0")  # Azure's index has 2,600 bytes, a software TPM's at most 2,048
        pieces = [blob[at : at + 500] for at in range(0, len(blob), 500)]
        area = TPMS_NV_PUBLIC(
            nvIndex=REPORT_INDEX,
            nameAlg=TPM2_ALG.SHA256,
            attributes=TPMA_NV.parse("ownerread|ownerwrite"),
            dataSize=len(blob),
        )
        with ESAPI(machine.tcti) as esys:
            index = esys.nv_define_space("", TPM2B_NV_PUBLIC(nvPublic=area), auth_handle=ESYS_TR.OWNER)
            for number, piece in enumerate(pieces):
                esys.nv_write(index, piece, offset=number * 500, auth_handle=ESYS_TR.OWNER)

    yield put
    drop()
    with open_tpm(machine.tcti) as tpm:
        if tpm.has(AK_HANDLE):
            tpm.evict(AK_HANDLE)


class Service:
    """The platform's, answering what a test says."""

    def __init__(self, answer: Any = None) -> None:
        self.answer = answer
        self.asked: list[tuple[str, dict[str, str] | None]] = []

    def __call__(self, path: str, body: dict[str, str] | None) -> bytes:
        self.asked.append((path, body))
        if self.answer is None:
            raise OSError("no route")
        return self.answer if isinstance(self.answer, bytes) else json.dumps(self.answer).encode()


def attester(machine: SimulatedMachine, service: Service) -> AzureAttester:
    return AzureAttester(machine.tcti, machine.ima_log, machine.event_log, machine.cmdline, ask=service)


def test_a_machine_of_azures_is_accepted_by_what_its_tee_vouches_for(
    machine: SimulatedMachine, write: Callable[..., None], chip: ForgedChip
) -> None:
    """A quote by the key that the report names, over this exchange alone; T14 with a report that names another key."""
    write(lambda modulus: hcl_report(chip.report, runtime_data(modulus)))
    made = attester(machine, Service())
    asked = Policy("simulated", "measured+tee", machine.baseline(), True, tee=RULES, binder="vtpm")

    def codes(bundle: Bundle, binding: bytes = BINDING) -> list[str]:
        sent = Bundle.from_json(bundle.as_json())
        known, now = chip.endorsements(), int(time.time())
        found = judge(sent, machine=Machine("", True), policy=asked, binding=binding, now=now, endorsements=known)
        return [reason.code for reason in found.appraisal.reasons]

    bundle = made.collect(BINDING)
    assert codes(bundle) == []
    assert codes(bundle, OTHER) == ["binding_mismatch"]
    found = identify(bundle, binding=BINDING, endorsements=chip.endorsements(), now=int(time.time()))
    assert found.identity.startswith("chip:")
    assert (made.machine, made.enrolment()) == ("", {"tee": True})
    write(lambda modulus: hcl_report(chip.report, runtime_data(modulus + 2)))
    assert codes(made.collect(BINDING)) == ["ak_not_vouched"]


def test_the_log_is_shortened_and_sent_whole_again(
    machine: SimulatedMachine, write: Callable[..., None], chip: ForgedChip
) -> None:
    """As a TPM's; one quote serves several exchanges, and the report is asked about once."""
    write(lambda modulus: hcl_report(chip.report, runtime_data(modulus)))
    service = Service()
    made = attester(machine, service)
    found = made.collect_many([BINDING, OTHER])
    first = found[BINDING].parts[0]
    assert isinstance(first, TpmPart)
    assert first.others == (OTHER,)
    made.accepted(found[BINDING])
    offsets = []
    for _ in range(2):
        part = made.collect(BINDING).parts[0]
        assert isinstance(part, TpmPart)
        offsets.append(part.ima_offset)
        made.forget()
    assert offsets == [len(first.ima_log), 0]
    assert [path for path, _ in service.asked] == [azure.CERTIFICATES]


def test_certificates_are_taken_where_the_service_has_them(
    machine: SimulatedMachine, write: Callable[..., None], chip: ForgedChip
) -> None:
    """The leaf first; an odd answer is as good as none, for the manager has them."""
    write(lambda modulus: hcl_report(chip.report, runtime_data(modulus)))
    vcek, *above = (x509.load_der_x509_certificate(der).public_bytes(Encoding.PEM).decode() for der in chip.chain)
    told = {"vcekCert": vcek, "certificateChain": "".join(above)}
    for answer, wanted in ((told, chip.chain), (b"[]", ()), (b"no json", ()), ({"vcekCert": 1}, ())):
        part = attester(machine, Service(answer)).collect(BINDING).parts[1]
        assert isinstance(part, HclPart)
        assert part.certificates == wanted


def test_a_td_report_becomes_a_quote_by_the_platforms_service(
    machine: SimulatedMachine, write: Callable[..., None]
) -> None:
    """It is posted, and the answer's quote goes along; without one there is no evidence."""
    write(lambda modulus: hcl_report(lambda data: b"TD".ljust(1024, b"r"), runtime_data(modulus), kind=4))
    service = Service({"quote": b64(b"a quote")})
    part = attester(machine, service).collect(BINDING).parts[1]
    assert isinstance(part, HclPart)
    assert part.quote == b"a quote"
    assert service.asked == [(azure.QUOTES, {"report": b64(b"TD".ljust(1024, b"r"))})]
    with pytest.raises(Unreachable, match="tee_refused"):
        attester(machine, Service()).collect(BINDING)
    for answer in ({}, {"quote": ""}, {"quote": 7}, b"[]", b"{", {"quote": "é"}, {"quote": b64(bytes(40000))}):
        with pytest.raises(EvidenceRefusal, match="odd_answer"):
            attester(machine, Service(answer)).collect(BINDING)


def test_another_tpm_is_not_azures(machine: SimulatedMachine) -> None:
    """No report in it: refused, and nothing is made up."""
    with pytest.raises(Unreachable, match="tee_unavailable"):
        attester(machine, Service())


def test_the_service_is_asked_as_it_wants_and_bounded(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """With its header; an error, an endless answer or nobody there is an `OSError`."""
    seen: list[tuple[str, str | None, bytes]] = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.do_POST()

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers.get("content-length", "0")))
            seen.append((self.path, self.headers.get("Metadata"), body))
            data = b"x" * (azure.MAX_ANSWER + 1 if self.path == "/long" else 3)
            self.send_response(404 if self.path == "/none" else 200)
            self.send_header("content-length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, *args: Any) -> None:
            pass

    with HTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = Thread(target=server.serve_forever)
        thread.start()
        monkeypatch.setattr(azure, "SERVICE", f"http://127.0.0.1:{server.server_port}")
        try:
            assert ask_service("/get", None) == b"xxx"
            assert ask_service("/post", {"report": "r"}) == b"xxx"
            for path in ("/long", "/none"):
                with pytest.raises(OSError, match=r"too long|404"):
                    ask_service(path, None)
        finally:
            server.shutdown()
            thread.join()
    assert seen[0] == ("/get", "true", b"")
    assert json.loads(seen[1][2]) == {"report": "r"}
    with pytest.raises(OSError, match=r"."):
        ask_service("/gone", None)
