"""One service under one lease: opens requests, checks who asks, computes, signs receipts, seals answers. No HTTP.

The order of checks is docs/spec/inference.md, section 3. Until a request is open, a refusal is plain and says nothing of its
content; from then on everything that goes back, refusals too, is sealed to the one who asked, so that whoever
terminates TLS on the way learns neither inputs nor outcome.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass

from perunml.api.inference import ServiceView
from perunml.api.refusal import RefusalBody
from perunml.api.service import (
    InferenceReceipt,
    ResponseHash,
    SealedRequest,
    ServiceCertificate,
    padded,
    read_request,
    sealed_info,
)
from perunml.host.codes import DELIVERY_MISMATCH
from perunml.release.codes import CLIENT_NOT_IN_AGREEMENT
from perunml.serving.codes import (
    INFERENCE_FAILED,
    REQUEST_NOT_FOR_THIS_SERVICE,
    SERVICE_OVER,
)
from perunml.serving.inner import Handler, Inner, Reply
from perunml.serving.quota import Quota
from perunml.serving.replay import Replays
from perunml.wire.canonical import canonical
from perunml.wire.codes import MALFORMED
from perunml.wire.dsse import Envelope
from perunml.wire.errors import PerunError, refuse
from perunml.wire.hpke import HpkePrivateKey
from perunml.wire.identity import PublicKey, SigningKey
from perunml.wire.streams import FRAME, TAG_SIZE, StreamSealer
from perunml.wire.timestamps import format_time, parse_time

PART = 1 << 20
"""Bytes of one chunk of a sealed answer's body."""


@dataclass(frozen=True, slots=True)
class Terms:
    """What a service was released for. `clients` maps a party to the key texts that may ask for it."""

    manager: PublicKey
    agreement: str
    run: str
    model: str
    clients: Mapping[str, tuple[str, ...]]


@dataclass(frozen=True, slots=True)
class _Certified:
    envelope: Envelope
    body: ServiceCertificate
    end: int


class Service:
    """`handler` says what the requests mean; `deadline()` is the lease's end in seconds of `clock`, which never goes back; `quota` draws the
    agreement's requests. `open` may be called from several threads, and then the handler is."""

    def __init__(
        self,
        terms: Terms,
        *,
        hpke: HpkePrivateKey,
        signer: SigningKey,
        certificate: Envelope,
        handler: Handler,
        quota: Quota,
        deadline: Callable[[], float],
        clock: Callable[[], float],
        issued: float | None = None,
    ) -> None:
        """Raises `IntegrityError` (delivery_mismatch) for a certificate that is not about this very session."""
        self._terms = terms
        self._hpke: HpkePrivateKey | None = hpke
        self._signer: SigningKey | None = signer
        self._handler: Handler | None = handler
        self._quota = quota
        self._deadline = deadline
        self._clock = clock
        self._replays = Replays()
        self._certificates: dict[str, _Certified] = {}
        self._newest = ""
        self._lag = 0.0
        self.certify(certificate, issued=issued)

    def certify(self, envelope: Envelope, *, issued: float | None = None) -> None:
        """Take a newer certificate, after a renewal; requests may name an older one until that is over. Its start was the
        manager's time at `issued`, in seconds of `clock` (default: now), and no other clock counts here."""
        hpke, signer, _ = self._keys()
        body = ServiceCertificate.open(envelope, [self._terms.manager])
        wanted = {
            "manager": self._terms.manager.text,
            "agreement": self._terms.agreement,
            "run": self._terms.run,
            "model": self._terms.model,
            "hpke": hpke.public.text,
            "session_key": signer.public.text,
        }
        for name, value in wanted.items():
            if getattr(body, name) != value:
                raise refuse(DELIVERY_MISMATCH, f"the service certificate is of another {name}")
        begin = parse_time(body.not_before)
        lag = begin - (self._clock() if issued is None else issued)
        self._lag = max(self._lag, lag) if self._certificates else lag
        now = self.now()
        # The newest until now stays, whatever its end: other threads look for it until they see this one's name.
        kept = {name: each for name, each in self._certificates.items() if each.end > now or name == self._newest}
        self._certificates = {**kept, envelope.digest: _Certified(envelope, body, parse_time(body.not_after))}
        self._newest = envelope.digest

    def now(self) -> int:
        """Seconds since the epoch, as the manager's certificates tell the time; never goes back."""
        return int(self._clock() + self._lag)

    def view(self) -> ServiceView:
        """What a client fetches first. Raises `SuspendedError` (service_over)."""
        self._keys()
        return ServiceView(certificate=self._certificates[self._newest].envelope)

    def close(self) -> None:
        """Answer nobody any more, also not what is being computed; drop keys and model."""
        self._hpke = self._signer = self._handler = None

    def open(self, sealed: bytes) -> tuple[bytes, Iterator[bytes] | None]:
        """The sealed answer to a sealed HTTP request (`api.service.SealedRequest`): whole, or its begin and what follows as it is made. A refusal is
        sealed too, and where it comes in the middle it is the answer's end. Raises, for everybody to see, `SuspendedError` (service_over), and `IntegrityError` (unseal_failed) or
        `UsageError` (malformed) for what is no request to this session."""
        hpke, _, handler = self._keys()
        terms = self._terms
        plain = hpke.open(sealed, sealed_info(terms.manager.text, terms.agreement, terms.run))
        try:
            envelope, request, body = read_request(plain)
        except PerunError:
            # The loaders' messages name keys and places; whoever carries this refusal must not read them.
            raise refuse(MALFORMED, "what was sealed is not a signed request") from None
        try:
            certified = self._admit(envelope, request)
            reply = handler(Inner(request.method, request.path, request.headers, body))
            made = _Sealing(envelope, request)
            begin = made.begin(reply)
            try:
                self._alive(certified)
            except PerunError:
                _close(reply.parts)
                raise
            if not isinstance(reply.parts, (list, tuple)):
                return begin, self._rest(made, certified, reply.parts)
            pieces = [begin, *(made.part(part) for part in _cut(reply.parts))]
            return b"".join((*pieces, made.end(*self._signed(envelope, request, certified, made.response)))), None
        except Exception as exc:
            return _Sealing(envelope, request).refusal(exc), None

    def _rest(self, made: _Sealing, certified: _Certified, parts: Iterable[bytes | memoryview]) -> Iterator[bytes]:
        try:
            for part in _cut(parts):
                self._alive(certified)
                yield made.part(part)
            end = made.end(*self._signed(made.envelope, made.request, certified, made.response))
        except Exception as exc:
            end = made.refusal(exc)
        finally:
            _close(parts)
        yield end

    def _admit(self, envelope: Envelope, request: SealedRequest) -> _Certified:
        """That it is for this session, from a client, new, and one of those that the agreement allows."""
        certified = self._addressed(request)
        self._signed_by_client(envelope, request)
        self._replays.admit(
            request.party, request.id, time=parse_time(request.time), certificate_end=certified.end, now=self.now()
        )
        if request.method != "GET":  # what is only looked up says nothing of the model that its answers do
            self._quota.take()
        return certified

    def _addressed(self, request: SealedRequest) -> _Certified:
        for name, wanted in (
            ("manager", self._terms.manager.text),
            ("agreement", self._terms.agreement),
            ("run", self._terms.run),
        ):
            if getattr(request, name) != wanted:
                raise refuse(
                    REQUEST_NOT_FOR_THIS_SERVICE,
                    f"the request names another {name}",
                    expected=wanted,
                    seen=getattr(request, name),
                )
        certified = self._certificates.get(request.certificate)
        if certified is None or certified.end <= self.now():
            raise refuse(
                REQUEST_NOT_FOR_THIS_SERVICE,
                "the request names a certificate that is over, or none of this service",
                expected=self._newest,
                seen=request.certificate,
            )
        return certified

    def _signed_by_client(self, envelope: Envelope, request: SealedRequest) -> None:
        keys = self._terms.clients.get(request.party)
        if not keys:
            raise refuse(CLIENT_NOT_IN_AGREEMENT, "the party is not a client of this service", seen=request.party)
        try:
            envelope.verify(SealedRequest.__name__, [PublicKey(key) for key in keys])
        except PerunError:
            raise refuse(
                CLIENT_NOT_IN_AGREEMENT,
                "the request is not signed by a key of that party",
                expected=request.party,
                seen=", ".join(key for key, _ in envelope.signatures),
            ) from None

    def _alive(self, certified: _Certified) -> _Certified:
        """The certificate under which something may leave now: that of the request, or, when it ended while the answer was made, the one of a renewal since. Nothing leaves after the
        lease. Raises `SuspendedError` (service_over), `AgreementRefusal` (request_not_for_this_service)."""
        self._keys()
        now = self.now()
        for found in (certified, self._certificates[self._newest]):
            if now < found.end:
                return found
        raise refuse(REQUEST_NOT_FOR_THIS_SERVICE, "the certificate ended while the answer was computed")

    def _signed(
        self, envelope: Envelope, request: SealedRequest, asked: _Certified, response: str
    ) -> tuple[Envelope, Envelope | None]:
        """The receipt, and the certificate that it is under where the request named an older one."""
        certified = self._alive(asked)
        receipt = self._receipt(envelope, request, certified, response)
        return receipt, None if certified is asked else certified.envelope

    def _receipt(self, envelope: Envelope, request: SealedRequest, certified: _Certified, response: str) -> Envelope:
        _, signer, _ = self._keys()
        body = certified.body
        return InferenceReceipt(
            manager=body.manager,
            agreement=body.agreement,
            job=body.job,
            run=body.run,
            model=body.model,
            certificate=certified.envelope.digest,
            request=envelope.digest,
            response=response,
            party=request.party,
            id=request.id,
            time=format_time(self.now()),
            simulated=body.simulated,
            verdict=body.verdict,
        ).envelope(signer)

    def _keys(self) -> tuple[HpkePrivateKey, SigningKey, Handler]:
        hpke, signer, handler = self._hpke, self._signer, self._handler
        if hpke is None or signer is None or handler is None or self._clock() >= self._deadline():
            raise refuse(SERVICE_OVER, "the service's lease is over; it answers nobody")
        return hpke, signer, handler


class _Sealing:
    """One sealed answer while it is made; `response` is what its receipt names."""

    def __init__(self, envelope: Envelope, request: SealedRequest) -> None:
        self.envelope, self.request = envelope, request
        self._sealer = StreamSealer(request.secret, envelope.digest)
        self._hash: ResponseHash | None = None
        self._sent = 0

    @property
    def response(self) -> str:
        assert self._hash is not None
        return self._hash.text

    def begin(self, reply: Reply) -> bytes:
        head = canonical({"status": reply.status, "headers": dict(reply.headers)})
        self._hash = ResponseHash(head)
        return self._counted(self._sealer.nonce + self._sealer.seal(head))

    def part(self, part: memoryview) -> bytes:
        assert self._hash is not None
        self._hash.add(part)
        return self._counted(self._sealer.seal(part))

    def end(self, receipt: Envelope, certificate: Envelope | None = None) -> bytes:
        renewed = {"certificate": certificate.as_json()} if certificate else {}
        return self._last(canonical({"receipt": receipt.as_json(), **renewed}))

    def refusal(self, exc: Exception) -> bytes:
        """Whatever it was, the one who asked is told that there is no answer; of what is no refusal not a word, for that may be of another's model."""
        if not isinstance(exc, PerunError):
            exc = refuse(INFERENCE_FAILED, "the service failed at this request")
        nonce = b"" if self._sent else self._counted(self._sealer.nonce)
        return nonce + self._last(_refusal(exc))

    def _last(self, text: bytes) -> bytes:
        if self.request.pad:
            whole = self._sent + len(text) + FRAME + TAG_SIZE
            text += b" " * (padded(whole) - whole)
        return self._sealer.seal(text, last=True)

    def _counted(self, piece: bytes) -> bytes:
        self._sent += len(piece)
        return piece


def _refusal(exc: PerunError) -> bytes:
    return canonical({"refusal": RefusalBody.of(exc).model_dump(mode="json")})


def _close(parts: Iterable[bytes | memoryview]) -> None:
    """What nobody reads, because the client went away or the lease is over, is not computed."""
    getattr(parts, "close", lambda: None)()


def _cut(parts: Iterable[bytes | memoryview]) -> Iterator[memoryview]:
    """The same bytes in pieces that fit into chunks."""
    for part in parts:
        view = memoryview(part)
        for at in range(0, len(view), PART):
            yield view[at : at + PART]
