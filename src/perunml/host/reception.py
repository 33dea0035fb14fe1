"""Where a machine without a login is enrolled: it answers its operator over the network, and nobody else.

The operator's key never comes to the machine. Its command line asks here, signed (RFC 9421), for what an enrolment sends;
talks with the manager; and brings back the manager's challenge and, at last, the certificate. The key behind that certificate
was made here and never leaves. What is answered is no secret (public keys, a TPM's answer to a challenge), and a false answer
on the way is found out: by the manager, who challenges the TPM, and by the operator, who compares the machine's name.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from perunml.api.base import Message
from perunml.api.enrolment import (
    AtHost,
    BootLog,
    BootLogAsked,
    EnrolAnswer,
    EnrolChallenge,
    Enrolled,
    EnrolRequest,
)
from perunml.api.pin import Pin
from perunml.api.refusal import STATUS, RefusalBody
from perunml.attesters.quoting import KERNEL_EVENT_LOG
from perunml.host.codes import ENROLMENT_ADDRESS, ENROLMENT_STRANGE, HOST_UNFIT
from perunml.host.enrol import (
    Beside,
    SimulatedMachine,
    TeeMachine,
    TpmMachine,
    answer_challenge,
    enrol_request,
    keep,
)
from perunml.wire.codes import REQUEST_STALE
from perunml.wire.errors import PerunError, refuse
from perunml.wire.httpsig import MAX_LIFETIME, MAX_SKEW, verify_request
from perunml.wire.identity import PublicKey, SigningKey

MAX_BODY = 256 * 1024
"""Bytes of a request: certificates and revocation lists come from the operator."""
IDLE_SECONDS = 10.0
"""After which a connection on which nothing comes is closed."""
BEGIN, ANSWER, KEEP = "/v1/enrolment", "/v1/enrolment/answer", "/v1/enrolment/certificate"
BOOT_LOG = "/v1/boot-log"
PATHS = (BEGIN, ANSWER, KEEP, BOOT_LOG)
MAX_LOG = 16 * 1024 * 1024
"""Bytes of a boot log that is read."""

Machine = TpmMachine | SimulatedMachine | TeeMachine


@dataclass
class Enrolling:
    """The three questions, without a network: each takes what the operator sent and gives what is answered.

    One enrolment at a time: a new beginning makes a new key and forgets the one before.
    """

    pin: Pin
    machine: Machine
    folder: Path
    event_log: Path = KERNEL_EVENT_LOG
    on_enrolled: Callable[[Enrolled], None] = lambda enrolled: None
    _key: SigningKey | None = field(default=None, repr=False)

    def begin(self, body: bytes) -> Message:
        """What an enrolment sends, with a new TLS key."""
        asked = AtHost.decode(body)
        self._key = SigningKey.generate()
        beside = Beside(asked.cleared, tuple(asked.revocations), asked.ak_certificate, tuple(asked.ak_chain))
        request: EnrolRequest = enrol_request(self.machine, asked.name, self._key.public.text, beside)
        return request

    def answer(self, body: bytes) -> Message:
        """The machine's answer to the manager's challenge."""
        key = self._begun()
        return EnrolAnswer(
            answer=answer_challenge(self.machine, EnrolChallenge.decode(body), key.public.text, self.pin.identity)
        )

    def keep(self, body: bytes) -> Message:
        """Keep the certificate, once it is for this machine and this key."""
        enrolled = Enrolled.decode(body)
        keep(self.folder, self.pin, self.machine.machine, self._begun(), enrolled)
        self._key = None
        self.on_enrolled(enrolled)
        return enrolled

    def boot_log(self, body: bytes) -> Message:
        """The firmware's boot log: an operator makes golden values of a machine's firmware with it."""
        BootLogAsked.decode(body)
        try:
            with self.event_log.open("rb") as file:
                return BootLog(event_log=file.read(MAX_LOG))
        except OSError as exc:
            raise refuse(HOST_UNFIT, "the kernel keeps no boot log", seen=exc.strerror or "OSError", command="perunml host doctor") from None  # fmt: skip

    def _begun(self) -> SigningKey:
        if self._key is None:
            raise refuse(ENROLMENT_STRANGE, "no enrolment was begun here, or it is over")
        return self._key


class Reception:
    """Listens at `address` (HOST:PORT, port 0 any) from `start` on, for `operator`'s signed requests alone."""

    def __init__(self, enrolling: Enrolling, operator: PublicKey, address: str) -> None:
        """Raises `UsageError` (enrolment_address)."""
        self._enrolling, self._operator = enrolling, operator
        self._seen: dict[str, int] = {}
        self._lock = threading.Lock()
        host, _, port = address.rpartition(":")
        try:
            self._server = _Server((host.strip("[]"), int(port)), _Handler)
        except (OSError, ValueError, OverflowError) as exc:
            raise refuse(ENROLMENT_ADDRESS, "the address for enrolment cannot be listened on", expected="HOST:PORT", seen=f"{address}: {exc}") from None  # fmt: skip
        self._server.take = self._take
        self.port: int = self._server.server_address[1]

    def start(self) -> None:
        threading.Thread(target=self._server.serve_forever, args=(0.5,), daemon=True).start()

    def stop(self) -> None:
        self._server.shutdown()
        self._server.server_close()

    def _take(self, handler: _Handler, body: bytes) -> Message:
        self._check(handler, body)
        ask = {
            BEGIN: self._enrolling.begin,
            ANSWER: self._enrolling.answer,
            KEEP: self._enrolling.keep,
            BOOT_LOG: self._enrolling.boot_log,
        }[handler.path]
        with self._lock:  # one TPM, one enrolment
            return ask(body)

    def _check(self, handler: _Handler, body: bytes) -> None:
        """Raises `AgreementRefusal` (enrolment_strange, request_unsigned, request_stale): not the operator, or not fresh."""
        headers: dict[str, str] = {}
        for name, value in handler.headers.items():
            if name.lower() in headers:
                raise refuse(ENROLMENT_STRANGE, "a header comes twice", seen=name.lower())
            headers[name.lower()] = value
        now = int(time.time())
        signed = verify_request("POST", headers.get("host", ""), handler.path, "", headers, body, now)
        if signed.key != self._operator:
            raise refuse(ENROLMENT_STRANGE, "this machine's settings name another operator", seen=signed.key.text)
        with self._lock:
            self._seen = {nonce: until for nonce, until in self._seen.items() if until + MAX_SKEW > now}
            if signed.nonce in self._seen or signed.expires > now + MAX_LIFETIME + MAX_SKEW:
                raise refuse(REQUEST_STALE, "this request came before")
            self._seen[signed.nonce] = signed.expires


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    take: Callable[[_Handler, bytes], Message]


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server_version = "perunml"
    sys_version = ""
    timeout = IDLE_SECONDS

    def do_POST(self) -> None:
        length = self.headers.get("content-length", "")
        if self.path not in PATHS or not length.isdecimal() or int(length) > MAX_BODY:
            self.close_connection = True
            self._say(404, b"")
            return
        body = self.rfile.read(int(length))
        try:
            assert isinstance(self.server, _Server)
            self._say(200, self.server.take(self, body).encode())
        except PerunError as exc:
            self._say(STATUS[exc.reasons[0].rule.kind], RefusalBody.of(exc).encode())
        except Exception:  # fail closed, and tell a stranger nothing
            self._say(500, b"")

    def log_message(self, format: str, *arguments: object) -> None:
        """Nothing: who asks is told, and nobody reads this machine's output."""

    def _say(self, status: int, body: bytes) -> None:
        self.send_response(status)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
