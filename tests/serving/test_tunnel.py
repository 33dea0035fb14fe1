"""HTTP requests sealed end to end: what comes back is what the service sent, to this request, whole; and nothing leaves to anybody else."""

from __future__ import annotations

import json
import socket
import struct
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from typing import Any

import httpx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from perunml.api.inference import ReceiptFile
from perunml.api.service import SealedRequest, frame_request, padded, read_request, sealed_info
from perunml.client.audit import verify_receipt_file
from perunml.client.proxy import Proxy
from perunml.client.tunnel import Service, Tunnel
from perunml.serving.inner import Reply
from perunml.testing.service import AGREEMENT, RUN, Client, World, pin_of, predict
from perunml.testing.story.data import patient
from perunml.wire.digests import digest
from perunml.wire.errors import IntegrityError, PerunError, Unreachable, UsageError, refuse
from perunml.wire.identity import SigningKey
from perunml.wire.streams import MAX_CHUNK, StreamOpener, StreamSealer
from perunml.wire.timestamps import format_time

pytestmark = pytest.mark.torch
SECRET, ASKED = bytes(range(32)), digest(b"asked")
ROWS = patient()["features"]
BODY = json.dumps(
    {"inputs": [{"name": "features", "datatype": "FP32", "shape": [len(ROWS), 30], "data": ROWS}]}
).encode()
INFER = "/v2/models/serve/infer"


class Recorder(httpx.HTTPTransport):
    """Somebody on the way, who keeps what passes and may change answers."""

    def __init__(self, change: Callable[[str, bytes], bytes] = lambda path, body: body) -> None:
        super().__init__()
        self.change = change
        self.seen: list[bytes] = []

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        self.seen.append(request.read())
        answer = super().handle_request(request)
        body = self.change(request.url.path, answer.read())
        self.seen.append(body)
        return httpx.Response(answer.status_code, stream=httpx.ByteStream(body))


def tunnel(world: World, **changes: Any) -> Tunnel:
    service = Service(
        world.endpoint, changes.pop("agreement", AGREEMENT), changes.pop("run", RUN), changes.pop("model", "")
    )
    pin = pin_of(changes.pop("manager", world.manager))
    return Tunnel(changes.pop("identity", world.clinic), pin, service, **changes)


def code(world: World, **changes: Any) -> str:
    with tunnel(world, **changes) as made, pytest.raises(PerunError) as caught:
        made.ask("POST", INFER, {}, BODY).read()
    return caught.value.code


def test_an_answer_comes_back_with_a_receipt_that_holds_offline(world: World) -> None:
    """The same numbers as the engine's own; nobody on the way reads a word of either; the receipt verifies from its file."""
    on_the_way = Recorder()
    with tunnel(world, transport=on_the_way) as made:
        answer = made.ask("POST", INFER, {"Content-Type": "application/json", "Cookie": "secret-cookie"}, BODY)
        found = json.loads(answer.read())
    (output,) = [each for each in found["outputs"] if each["name"] == "probabilities"]
    assert output["data"] == [n for row in predict(world.engine, patient())["probabilities"] for n in row]
    passed = b"".join(on_the_way.seen)
    assert not [word for word in (b"features", b"probabilities", b"/v2/models", b"secret-cookie") if word in passed]
    assert answer.receipt is not None
    body = verify_receipt_file(answer.receipt.encode(), pin_of(world.manager))
    assert (body["party"], body["run"]) == ("clinic", RUN)


@pytest.mark.parametrize(
    "changes",
    [{"agreement": digest(b"x")}, {"run": "cd" * 16}, {"model": digest(b"x")}, {"manager": SigningKey.generate()}],
)
def test_nothing_is_sent_to_a_service_that_is_not_the_one_meant(world: World, changes: dict[str, Any]) -> None:
    """Agreement, run, model, manager: refused when its certificate is seen, before the first byte of the request."""
    on_the_way = Recorder()
    assert code(world, transport=on_the_way, **changes) in ("service_not_expected", "bad_signature")
    assert [len(body) > 0 for body in on_the_way.seen] == [
        False,
        True,
    ]  # the certificate was asked for, and that is all


def test_strangers_and_replays_are_refused_sealed(world: World) -> None:
    """Only the one who asked learns why; the same sealed bytes again give a refusal under the same secret."""
    assert code(world, identity=Client("clinic")) == "client_not_in_agreement"
    assert code(world, identity=Client("stranger")) == "client_not_in_agreement"
    kept: list[bytes] = []
    on_the_way = Recorder()
    with tunnel(world, transport=on_the_way) as made:
        made.ask("POST", INFER, {}, BODY).read()
    kept = [body for body in on_the_way.seen if len(body) > 1000]
    again = httpx.post(f"{world.endpoint}/v1/sealed", content=kept[-2] if len(kept[-2]) > len(kept[-1]) else kept[-1])
    assert again.status_code == 200
    assert b"replayed" not in again.content


@pytest.mark.parametrize(
    ("change", "wanted"),
    [
        (lambda body: body[:-1], "answer_incomplete"),
        (lambda body: body[:200], "answer_incomplete"),
        (lambda body: b"", "answer_incomplete"),
        (lambda body: body + b"\0" * 40, "answer_incomplete"),
        (lambda body: body[:100] + bytes([body[100] ^ 1]) + body[101:], "unseal_failed"),
        (lambda body: bytes(32) + body[32:], "unseal_failed"),
        (lambda body: body[:32] + b"\xff\xff\xff\xff" + body[36:], "malformed"),
        (lambda body: body[:36] + b"\x01" + body[37:], "unseal_failed"),
    ],
)  # fmt: skip
def test_an_answer_that_was_touched_is_refused(world: World, change: Callable[[bytes], bytes], wanted: str) -> None:
    """Cut, lengthened, altered, under another nonce, its first chunk called the last."""
    on_the_way = Recorder(lambda path, body: change(body) if path == "/v1/sealed" else body)
    assert code(world, transport=on_the_way) == wanted


def test_another_requests_answer_is_none(world: World) -> None:
    """Two clients' answers, exchanged on the way."""
    first: list[bytes] = []

    def swap(path: str, body: bytes) -> bytes:
        if path == "/v1/sealed":
            first.append(body)
            return first[0]
        return body

    on_the_way = Recorder(swap)
    with tunnel(world, transport=on_the_way) as made:
        made.ask("POST", INFER, {}, BODY).read()
        with pytest.raises(IntegrityError) as caught:
            made.ask("POST", INFER, {}, BODY).read()
    assert caught.value.code == "unseal_failed"


def streaming(world: World, parts: Callable[[], Iterator[bytes]]) -> Any:
    """A service whose handler answers in parts."""
    service = world.service()
    service._handler = lambda request: Reply(200, {"content-type": "text/event-stream"}, parts())  # type: ignore[assignment]
    return service


def test_a_stream_is_read_while_it_is_made(world: World) -> None:
    """The first part is here before the last one exists."""
    here = threading.Event()

    def parts() -> Iterator[bytes]:
        yield b"data: one\n\n"
        assert here.wait(20)
        yield b"data: two\n\n"

    with world.gateway(streaming(world, parts)), tunnel(world) as made:
        answer = made.ask("GET", "/v1/x", {})
        found = answer.parts()
        assert next(found) == b"data: one\n\n"
        assert answer.receipt is None
        here.set()
        assert list(found) == [b"data: two\n\n"]
        assert answer.receipt is not None


def test_a_service_that_breaks_in_mid_stream_ends_it_with_a_code(world: World) -> None:
    """A refusal of its own is said; a lease that ends in the middle, and a process that is gone, are too."""

    def broken() -> Iterator[bytes]:
        yield b"one"
        from perunml.serving.codes import ENGINE_GONE

        raise refuse(ENGINE_GONE, "the engine's process is gone")

    def over() -> Iterator[bytes]:
        yield b"one"
        world.ends = world.clock()
        yield b"two"

    def dead() -> Iterator[bytes]:
        yield b"one"
        raise RuntimeError("a defect")

    ends = world.ends
    for parts, wanted in ((broken, "engine_gone"), (over, "service_over"), (dead, "inference_failed")):
        service = streaming(world, parts)
        with world.gateway(service), tunnel(world) as made:
            answer = made.ask("GET", "/v1/x", {})
            found = answer.parts()
            assert next(found) == b"one"
            with pytest.raises(PerunError) as caught:
                next(found)
            assert caught.value.code == wanted
            assert answer.receipt is None
        world.ends = ends


@pytest.mark.parametrize(
    "reply",
    [Reply(200, {"content-type": "a\r\nset-cookie: x"}, [b""]), Reply(99999, {}, [b""]), Reply(100, {}, [b""]), Reply(200, {"accept": "x" * 1025}, [b""])],
    ids=["lines", "high", "low", "long"],
)  # fmt: skip
def test_a_head_that_is_no_plain_answer_s_is_malformed(world: World, reply: Reply) -> None:
    """What a service says of its answer becomes the proxy's own head: one line each, a status that there is."""
    before, world.handler = world.handler, lambda asked: reply
    try:
        with world.gateway(world.service()), tunnel(world) as made, pytest.raises(PerunError) as caught:
            made.ask("GET", "/v2", {})
    finally:
        world.handler = before
    assert caught.value.code == "malformed"


def outlasting(world: World, renew: Callable[[Any, int], None]) -> tuple[Any, Callable[[], float]]:
    """A service whose answer takes longer than a certificate: in its middle a minute passes, and `renew(service, now)` happens. And the client's clock, which goes with it."""

    def parts() -> Iterator[bytes]:
        yield b"one"
        world.skipped = 61
        renew(service, int(time.time()) + 61)
        yield b"two"

    service = streaming(world, parts)
    return service, lambda: time.time() + world.skipped


def test_a_stream_may_outlast_its_certificate_but_not_the_lease(world: World) -> None:
    """The lease was renewed meanwhile: the receipt comes with the newer certificate, and holds offline. Without a renewal nothing more leaves."""
    service, clock = outlasting(world, lambda it, now: it.certify(world.certificate(not_before=format_time(now), not_after=format_time(now + 60))))  # fmt: skip
    try:
        with world.gateway(service), tunnel(world, clock=clock) as made:
            answer = made.ask("GET", "/v1/x", {})
            assert answer.read() == b"onetwo"
            newest = service.view().certificate.digest
        assert answer.receipt is not None
        assert answer.receipt.certificate.digest == newest
        assert verify_receipt_file(answer.receipt.encode(), pin_of(world.manager), b"onetwo")["party"] == "clinic"
        world.skipped = 0.0
        service, clock = outlasting(world, lambda it, now: None)
        with world.gateway(service), tunnel(world, clock=clock) as made, pytest.raises(PerunError) as caught:
            made.ask("GET", "/v1/x", {}).read()
        assert caught.value.code == "request_not_for_this_service"
    finally:
        world.skipped = 0.0


@pytest.mark.parametrize(
    ("changes", "code"),
    [({"signer": SigningKey.generate()}, "bad_signature"), ({"machine": "simulated:sha256:" + "1" * 64}, "service_not_expected"),
     ({"session_key": SigningKey.generate().public.text}, "service_not_expected"), ({"not_after": None}, "service_certificate_over")],
    ids=["manager", "machine", "session", "over"],
)  # fmt: skip
def test_a_renewal_of_another_session_is_none(world: World, changes: dict[str, Any], code: str) -> None:
    """What comes with the receipt must be the pinned manager's word on the very session that was asked, for now."""

    def renew(it: Any, now: int) -> None:
        times = {"not_before": format_time(now), "not_after": format_time(now + 60)}
        if "not_after" in changes:
            times = {"not_before": format_time(now - 60), "not_after": format_time(now)}
        honest = it._signed
        lie = world.certificate(**{**times, **{name: value for name, value in changes.items() if value}})
        it.certify(world.certificate(not_before=format_time(now), not_after=format_time(now + 60)))
        it._signed = lambda *arguments: (honest(*arguments)[0], lie)

    service, clock = outlasting(world, renew)
    try:
        with world.gateway(service), tunnel(world, clock=clock) as made, pytest.raises(PerunError) as caught:
            made.ask("GET", "/v1/x", {}).read()
    finally:
        world.skipped = 0.0
    assert caught.value.code == code


def test_two_clients_at_once_never_cross(world: World) -> None:
    """Each of many threads gets the answer to what it asked."""
    wrong: list[object] = []

    def ask(number: int) -> None:
        rows = [[float(number)] * 30]
        wanted = predict(world.engine, {"features": rows})["probabilities"][0]
        body = json.dumps(
            {"id": str(number), "inputs": [{"name": "features", "datatype": "FP32", "shape": [1, 30], "data": rows}]}
        ).encode()
        for _ in range(3):
            found = json.loads(made.ask("POST", INFER, {}, body).read())
            output = next(each for each in found["outputs"] if each["name"] == "probabilities")
            if found["id"] != str(number) or output["data"] != wanted:
                wrong.append(found)

    with world.gateway(), tunnel(world) as made:
        threads = [threading.Thread(target=ask, args=(number,)) for number in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert wrong == []


def test_padding_leaves_few_lengths(world: World) -> None:
    """Requests of many lengths, and their answers, have a few; what is said is the same."""
    lengths: list[tuple[int, int]] = []
    with world.gateway():
        for number in range(0, 400, 40):
            on_the_way = Recorder()
            with tunnel(world, transport=on_the_way, pad=True) as made:
                body = BODY[:-1] + b" " * number + b"}"
                assert json.loads(made.ask("POST", INFER, {}, body).read())["outputs"]
                lengths.append((len(on_the_way.seen[-2]), len(on_the_way.seen[-1])))
    assert len({asked for asked, _ in lengths}) <= 8 < len(range(0, 400, 40))
    assert all(padded(size) == size for _, size in lengths)


@given(st.integers(0, 2**30))
def test_padding_costs_an_eighth_at_most(size: int) -> None:
    """And never takes anything away."""
    assert size <= padded(size) <= size + size // 8 + 1
    assert padded(padded(size)) == padded(size)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.binary(max_size=300), max_size=6), st.integers(1, 50))
def test_streams_open_in_pieces_of_any_size(parts: list[bytes], step: int) -> None:
    """However the bytes arrive."""
    sealer = StreamSealer(SECRET, ASKED)
    sent = sealer.nonce + b"".join(sealer.seal(part) for part in parts) + sealer.seal(b"end", last=True)
    opener, found = StreamOpener(SECRET, ASKED), []
    for at in range(0, len(sent), step):
        found += opener.feed(sent[at : at + step])
    opener.end()
    assert found == [*((part, False) for part in parts), (b"end", True)]


@settings(max_examples=100, deadline=None)
@given(st.data())
def test_a_stream_with_any_bit_flipped_is_refused(data: st.DataObject) -> None:
    """Nonce, length, flag, text, tag: never another plaintext."""
    sealer = StreamSealer(SECRET, ASKED)
    sent = bytearray(sealer.nonce + sealer.seal(b"first") + sealer.seal(b"last", last=True))
    bit = data.draw(st.integers(0, 8 * len(sent) - 1))
    sent[bit // 8] ^= 1 << bit % 8
    opener = StreamOpener(SECRET, ASKED)
    found: list[tuple[bytes, bool]] = []
    with pytest.raises(PerunError):  # noqa: PT012 - it may be told at the end alone
        found += opener.feed(bytes(sent))
        opener.end()
    assert found in ([], [(b"first", False)])


def test_chunks_cannot_be_swapped_or_dropped() -> None:
    """Each has its place, and the last one its mark."""
    sealer = StreamSealer(SECRET, ASKED)
    frames = [sealer.seal(b"0"), sealer.seal(b"1"), sealer.seal(b"2", last=True)]
    for order in ((1, 0, 2), (0, 2), (0, 0, 1, 2), (2,), (0, 1, 2, 2), (0, 1)):
        opener = StreamOpener(SECRET, ASKED)
        with pytest.raises(IntegrityError):  # noqa: PT012 - it may be told at the end alone
            opener.feed(sealer.nonce + b"".join(frames[place] for place in order))
            opener.end()
    with pytest.raises(ValueError, match="size"):
        sealer.seal(bytes(MAX_CHUNK + 1))


def signed(world: World, body: bytes = b"body", **changes: Any) -> bytes:
    """A framed request as the clinic signs it."""
    said: dict[str, Any] = {
        "manager": world.manager.public.text, "agreement": AGREEMENT, "run": RUN, "certificate": digest(b"c"), "party": "clinic",
        "id": "ab" * 16, "secret": SECRET, "time": "2027-01-01T00:00:00Z", "method": "POST", "path": "/v2", "headers": {},
        "body": changes.pop("named", digest(body)), "size": len(body), "pad": False,
    }  # fmt: skip
    return frame_request(SealedRequest(**(said | changes)).envelope(world.clinic.signing), body, pad=False)


def test_a_frame_that_lies_is_malformed(world: World) -> None:
    """D2: another body, another length, bytes behind it that are no padding, a document that runs over: refused in one constant sentence."""
    good = signed(world)
    assert bytes(read_request(good)[2]) == b"body"
    assert bytes(read_request(good + bytes(100))[2]) == b"body"
    service = world.service()
    for bad in (
        b"", b"\0\0\0", good[:-1], good[:-1] + b"x", good + b"\0x", b"\xff\xff\xff\xff" + good[4:], b"\0\0\0\0" + good, good[:60],
        signed(world, size=3), signed(world, size=5), signed(world, size=-1), signed(world, named=digest(b"other")),
    ):  # fmt: skip
        with pytest.raises(PerunError):
            read_request(bad)
        sealed = world.hpke.public.seal(bad, sealed_info(world.manager.public.text, AGREEMENT, RUN))
        with pytest.raises(PerunError) as caught:
            service.open(sealed)
        assert str(caught.value) == "malformed: what was sealed is not a signed request"


@pytest.mark.parametrize(
    "changes", [{"path": "v2"}, {"path": "/ü"}, {"path": "/" + "a" * 1024}, {"path": "/a\nb"}, {"method": "PUT"}, {"headers": {"cookie": "x"}}, {"headers": {"accept": "a\r\nb"}}]
)  # fmt: skip
def test_paths_and_headers_that_do_not_go_through(world: World, changes: dict[str, Any]) -> None:
    """A request has a plain path, one of two methods, and headers of a short list."""
    with pytest.raises((PerunError, ValueError)):
        signed(world, **changes)


@pytest.fixture
def proxy(world: World) -> Iterator[tuple[Proxy, list[ReceiptFile]]]:
    receipts: list[ReceiptFile] = []
    with world.gateway(), tunnel(world) as made:
        listening = Proxy(made, "127.0.0.1:0", on_receipt=receipts.append)
        thread = threading.Thread(target=listening.serve)
        thread.start()
        yield listening, receipts
        listening.stop()
        thread.join()


def test_a_plain_client_asks_through_the_proxy(world: World, proxy: tuple[Proxy, list[ReceiptFile]]) -> None:
    """Metadata, JSON, binary, keep-alive; each answer has its receipt."""
    listening, receipts = proxy
    with httpx.Client(base_url=listening.url) as http:
        assert http.get("/v2/health/ready").json() == {"ready": True}
        assert http.get("/v2/models/serve").json()["inputs"][0]["name"] == "features"
        found = http.post(INFER, content=BODY, headers={"content-type": "application/json"})
        wanted = [n for row in predict(world.engine, patient())["probabilities"] for n in row]
        assert next(each for each in found.json()["outputs"] if each["name"] == "probabilities")["data"] == wanted
        data = struct.pack(f"<{30 * len(ROWS)}f", *(n for row in ROWS for n in row))
        head = json.dumps({"inputs": [{"name": "features", "datatype": "FP32", "shape": [len(ROWS), 30], "parameters": {"binary_data_size": len(data)}}], "parameters": {"binary_data_output": True}}).encode()  # fmt: skip
        found = http.post(INFER, content=head + data, headers={"Inference-Header-Content-Length": str(len(head))})
        size = int(found.headers["inference-header-content-length"])
        assert json.loads(found.content[:size])["outputs"][0]["parameters"]["binary_data_size"]
        chunked = http.post(INFER, content=iter([BODY[:100], BODY[100:]]))
        assert chunked.status_code == 200
    assert len(receipts) == 5
    for receipt in receipts:
        verify_receipt_file(receipt.encode(), pin_of(world.manager))


def test_the_proxy_refuses_as_the_protocol_does(proxy: tuple[Proxy, list[ReceiptFile]]) -> None:
    """A coded 4xx in the protocol's words, and it stays up."""
    listening, _ = proxy
    with httpx.Client(base_url=listening.url) as http:
        for path, body, status, said in (
            ("/v2/models/other/infer", BODY, 400, "model_unknown"), (INFER, b"{}", 400, "inputs_refused"), (INFER, b"", 400, "inputs_refused"),
        ):  # fmt: skip
            found = http.post(path, content=body)
            assert (found.status_code, found.headers["perunml-code"]) == (status, said)
            assert found.json()["error"].startswith(said)
        assert http.post("/v1/chat/completions", content=b"{}").json()["error"]["code"] == "model_unknown"
        assert http.put(INFER, content=BODY).status_code == 501
        with socket.create_connection(("127.0.0.1", int(listening.url.rpartition(":")[2])), timeout=20) as raw:
            raw.sendall(b"POST /v2 HTTP/1.1\r\nhost: localhost\r\ncontent-length: 1099511627776\r\n\r\n")
            assert raw.recv(100).startswith(b"HTTP/1.1 413 ")
        assert http.get("/v2/health/live").json() == {"live": True}


@pytest.mark.parametrize(
    "headers",
    [
        {"origin": "https://evil.example"},
        {"origin": "null"},
        {"sec-fetch-site": "cross-site"},
        {"host": "evil.example"},
        {"host": "evil.example:9000"},
    ],
)
def test_a_web_page_cannot_ask(proxy: tuple[Proxy, list[ReceiptFile]], headers: dict[str, str]) -> None:
    """A browser on this machine may be sent anywhere by any page, and a page's name may lead here: neither asks in this party's name."""
    listening, receipts = proxy
    found = httpx.post(listening.url + INFER, content=BODY, headers=headers)
    assert (found.status_code, found.headers["perunml-code"], receipts) == (400, "browser_refused", [])
    assert httpx.post(listening.url + INFER, content=BODY, headers={"host": "localhost"}).status_code == 200


@pytest.mark.parametrize(
    "address", ["0.0.0.0:0", "192.0.2.1:0", "example.org:80", "127.0.0.1", "127.0.0.1:x", "127.0.0.1:99999", "[::]:0"]
)
def test_the_proxy_listens_on_this_machine_alone(world: World, address: str) -> None:
    """Whoever reaches it asks in this party's name."""
    with tunnel(world) as made, pytest.raises(UsageError) as caught:
        Proxy(made, address)
    assert caught.value.code == "listen_refused"


def test_a_proxy_without_a_service_says_so(world: World) -> None:
    """And nothing was sent."""
    made = Tunnel(world.clinic, pin_of(world.manager), Service("http://127.0.0.1:1", AGREEMENT, RUN))
    with pytest.raises(Unreachable):
        made.check()
    gone = Proxy(made, "localhost:0")
    thread = threading.Thread(target=gone.serve)
    thread.start()
    with pytest.raises(urllib.error.HTTPError) as caught:
        urllib.request.urlopen(gone.url + "/v2", timeout=20)
    assert caught.value.code in (502, 503, 504)
    caught.value.close()
    gone.stop()
    thread.join()
