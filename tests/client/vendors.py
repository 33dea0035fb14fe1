"""Vendors' services as their documents say, on this machine over TLS, with forged content: Intel's PCS as a cache has it, AMD's KDS,
NVIDIA's RIM service and OCSP responder. Every request is kept; any answer can be made wrong."""

from __future__ import annotations

import base64
import datetime as dt
import ipaddress
import json
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import quote

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509 import ocsp

from perunml.client.collateral import Services
from perunml.testing.dcap import ForgedIntel, Says
from perunml.testing.nvidia import ForgedNvidia
from perunml.testing.nvidia_pki import Holder, answer, moment
from perunml.testing.snp import ForgedChip

DRIVER, VBIOS = "NV_GPU_DRIVER_GH100_550.90.07", "NV_GPU_VBIOS_1010_0200_882_96009F0001"
NOW = int(time.time())
SAYS = Says(
    issued=NOW - 86_400, until=NOW + 29 * 86_400, qe_issued=NOW - 86_400, qe_until=NOW + 28 * 86_400,
    crl_issued=NOW - 86_400, crl_until=NOW + 29 * 86_400, root_crl_until=NOW + 364 * 86_400,
)  # fmt: skip


@dataclass
class Reply:
    """`slow`: seconds before each byte of the body."""

    body: bytes = b""
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    slow: float = 0.0


Route = Reply | Callable[[bytes], Reply]


@dataclass
class Vendors:
    """`routes`: "METHOD path?query" -> the answer; whatever else is asked for is not there."""

    intel: ForgedIntel = field(default_factory=ForgedIntel)
    chip: ForgedChip = field(default_factory=ForgedChip)
    nvidia: ForgedNvidia = field(default_factory=ForgedNvidia)
    asked: list[str] = field(default_factory=list)
    routes: dict[str, Route] = field(default_factory=dict)
    url: str = ""
    tls_ca: str = ""

    def __post_init__(self) -> None:
        self.subjects: list[Holder] = self.nvidia.subjects([self.nvidia.gpu()])
        for tee in ("sgx", "tdx"):
            self.put_intel(tee)
        self.put_amd()
        for name, rim in ((DRIVER, self.nvidia.driver_rim()), (VBIOS, self.nvidia.vbios_rim())):
            told = {
                "id": name,
                "rim": base64.b64encode(rim).decode(),
                "sha256": "00",
                "rim_format": "SWID",
                "request_id": "1",
            }
            self.routes[f"GET /v1/rim/{name}"] = Reply(json.dumps(told).encode())
        self.routes["POST /"] = self.respond

    @property
    def services(self) -> Services:
        return Services(self.url, self.url, self.url, self.url, self.tls_ca)

    def put_intel(self, tee: str) -> None:
        """The answers of a cache about one TEE; the lists are the other's, too."""
        item: dict[str, str] = json.loads(self.intel.collateral(tee, SAYS))
        fmspc = self.intel.fmspc.hex().upper()

        def signed(name: str, part: str) -> bytes:
            # spaces and order as they come: what is signed is the member's text
            return f'{{"{name}": {item[part]} ,\n"signature":"{item[part + "_signature"]}"}}'.encode()

        def chain(header: str, part: str) -> dict[str, str]:
            return {header: quote(item[f"{part}_issuer_chain"])}

        self.routes |= {
            f"GET /{tee}/certification/v4/tcb?fmspc={fmspc}": Reply(
                signed("tcbInfo", "tcb_info"), headers=chain("TCB-Info-Issuer-Chain", "tcb_info")
            ),
            f"GET /{tee}/certification/v4/qe/identity": Reply(
                signed("enclaveIdentity", "qe_identity"),
                headers=chain("SGX-Enclave-Identity-Issuer-Chain", "qe_identity"),
            ),
            "GET /sgx/certification/v4/pckcrl?ca=platform&encoding=der": Reply(
                bytes.fromhex(item["pck_crl"]), headers=chain("SGX-PCK-CRL-Issuer-Chain", "pck_crl")
            ),
            "GET /sgx/certification/v4/rootcacrl": Reply(item["root_ca_crl"].encode()),
        }

    def put_amd(self) -> None:
        """The answers about the chip's product line, and the chip."""
        ca, tcb = self.chip.ca, self.chip.tcb
        base = f"GET /{'vlek' if ca.vlek else 'vcek'}/v1/{ca.product}"
        pem = "".join(
            x509.load_der_x509_certificate(der).public_bytes(Encoding.PEM).decode() for der in (ca.middle, ca.root)
        )
        fmc, size = (f"fmcSPL={tcb.fmc:02}&", 8) if ca.product == "Turin" else ("", 64)
        query = f"{fmc}blSPL={tcb.bootloader:02}&teeSPL={tcb.tee:02}&snpSPL={tcb.snp:02}&ucodeSPL={tcb.microcode:02}"
        self.routes |= {
            f"{base}/cert_chain": Reply(pem.encode()),
            f"{base}/crl": Reply(ca.revocations()),
            f"{base}/{self.chip.chip_id[:size].hex()}?{query}": Reply(self.chip.certificate),
        }

    def respond(self, body: bytes, **changed: Any) -> Reply:
        """What the responder says, without a nonce, as it may."""
        serial = ocsp.load_der_ocsp_request(body).serial_number
        found = next((one for one in self.subjects if one.certificate.serial_number == serial), None)
        return Reply(answer(found, made=NOW - 60, until=NOW + 86_400, **changed)) if found else Reply(status=404)


def nonced(subject: Holder, nonce: bytes) -> bytes:
    """An answer by the issuer itself that repeats a nonce."""
    assert subject.issuer is not None
    builder = ocsp.OCSPResponseBuilder().add_response(
        cert=subject.certificate,
        issuer=subject.issuer.certificate,
        algorithm=hashes.SHA384(),
        cert_status=ocsp.OCSPCertStatus.GOOD,
        this_update=moment(NOW - 60),
        next_update=moment(NOW + 86_400),
        revocation_time=None,
        revocation_reason=None,
    )
    builder = builder.responder_id(ocsp.OCSPResponderEncoding.HASH, subject.issuer.certificate)
    builder = builder.add_extension(x509.OCSPNonce(nonce), critical=False)
    return builder.sign(subject.issuer.key, hashes.SHA384()).public_bytes(Encoding.DER)


@contextmanager
def serving(folder: Path, vendors: Vendors) -> Iterator[Vendors]:
    """Answers on a port of this machine, under a certificate that `vendors.tls_ca` vouches for."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.reply(f"GET {self.path}", b"")

        def do_POST(self) -> None:
            assert self.headers["content-type"] == "application/ocsp-request"
            self.reply(f"POST {self.path}", self.rfile.read(int(self.headers["content-length"])))

        def reply(self, asked: str, body: bytes) -> None:
            vendors.asked.append(asked)
            route = vendors.routes.get(asked, Reply(status=404))
            found = route if isinstance(route, Reply) else route(body)
            self.send_response(found.status)
            for name, value in found.headers.items():
                self.send_header(name, value)
            self.end_headers()
            try:
                for at in range(0, len(found.body), 1 if found.slow else len(found.body)):
                    time.sleep(found.slow)
                    self.wfile.write(found.body[at : at + (1 if found.slow else len(found.body))])
            except (ConnectionError, ssl.SSLError):
                pass  # the caller had enough

        def log_message(self, format: str, *args: object) -> None:
            pass

    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    vendors.tls_ca = _certificate(folder, context)
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    server.handle_error = lambda *args: None  # type: ignore[method-assign]  # a caller that does not trust us goes away
    server.socket = context.wrap_socket(server.socket, server_side=True, do_handshake_on_connect=False)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    vendors.url = f"https://127.0.0.1:{server.server_address[1]}"
    try:
        yield vendors
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def _certificate(folder: Path, context: ssl.SSLContext) -> str:
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "a cache")])
    now = dt.datetime.now(dt.UTC)
    address = x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))])
    made = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
        .not_valid_before(now - dt.timedelta(hours=1))
        .not_valid_after(now + dt.timedelta(hours=1))
        .add_extension(address, critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .sign(key, hashes.SHA256())
    )
    pem = made.public_bytes(Encoding.PEM)
    (folder / "tls.pem").write_bytes(pem + key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    context.load_cert_chain(folder / "tls.pem")
    return pem.decode()
