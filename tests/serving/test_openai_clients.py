"""OpenAI's own client, unchanged through `perunml proxy` and as `perunml.openai.OpenAI`, before a real language model."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from cli.kit import PASSPHRASE
from perunml import Client
from perunml.api.inference import ReceiptFile
from perunml.client.audit import verify_receipt_file
from perunml.client.home import Home
from perunml.client.identity import Identity
from perunml.client.proxy import Proxy
from perunml.client.tunnel import Service, Tunnel
from perunml.serving.codes import ENGINE_GONE
from perunml.serving.language import Finish, LanguageEngine, Message, Sampling, Vectors
from perunml.serving.openai_api import OpenAiApi
from perunml.testing.service import AGREEMENT, RUN, World, pin_of
from perunml.testing.service import Client as Party
from perunml.wire.errors import PerunError, refuse
from perunml.wire.identity import SigningKey

pytestmark = pytest.mark.torch
openai = pytest.importorskip("openai", reason="openai is not installed; `make setup` installs it")
pytest.importorskip("transformers", reason="Transformers is not installed; `make setup` installs it")
from perunml.openai import AsyncOpenAI, OpenAI  # noqa: E402 - after it is known to be there
from perunml.serving.transformers import Transformers  # noqa: E402
from serving.tiny import write_model  # noqa: E402

HELLO: Any = [{"role": "user", "content": "hello"}]
PLAIN = Sampling(24, 0, 1)


class Breaks:
    """The real engine; at `stop` pieces it waits for `go_on`, or is gone."""

    def __init__(self, inner: LanguageEngine) -> None:
        self.inner, self.embed = inner, inner.embed
        self.after = 10**9
        self.go_on: threading.Event | None = None
        self.closed = threading.Event()

    def chat(self, messages: Sequence[Message], sampling: Sampling) -> Iterator[str | Finish]:
        try:
            for number, piece in enumerate(self.inner.chat(messages, sampling)):
                if number == self.after:
                    if self.go_on is None:
                        raise refuse(ENGINE_GONE, "the engine's process ended, or took too long")
                    self.go_on.wait(20)
                yield piece
        finally:
            self.closed.set()


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Transformers:
    return Transformers(write_model(tmp_path_factory.mktemp("tiny")))


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("clinic") / "home"
    Client.create(folder, "clinic", PASSPHRASE).close()
    return folder


@pytest.fixture
def world(engine: Transformers, home: Path) -> Iterator[World]:
    """A service of the language model; the clinic has the manager pinned."""
    key = Identity.open(Home(home), PASSPHRASE).signing
    model = Breaks(engine)
    made = World(model, handler=OpenAiApi(model, "serve"), clinic=Party("clinic", key))  # type: ignore[arg-type]  # the handler is what is asked
    Home(home).save_pin(pin_of(made.manager))
    with made.gateway():
        yield made


@pytest.fixture
def proxy(world: World) -> Iterator[tuple[Proxy, list[ReceiptFile]]]:
    receipts: list[ReceiptFile] = []
    tunnel = Tunnel(world.clinic, pin_of(world.manager), Service(world.endpoint, AGREEMENT, RUN))
    listening = Proxy(tunnel, "127.0.0.1:0", on_receipt=receipts.append)
    thread = threading.Thread(target=listening.serve)
    thread.start()
    yield listening, receipts
    listening.stop()
    thread.join()


@pytest.fixture
def plain(proxy: tuple[Proxy, list[ReceiptFile]]) -> Iterator[Any]:
    """OpenAI's client, which knows of nothing."""
    with openai.OpenAI(base_url=f"{proxy[0].url}/v1", api_key="none", max_retries=0) as client:
        yield client


@pytest.fixture
def sealed(world: World, home: Path) -> Iterator[tuple[OpenAI, list[ReceiptFile]]]:
    """The same client with the tunnel inside."""
    receipts: list[ReceiptFile] = []
    with OpenAI(RUN, home=home, passphrase=PASSPHRASE, endpoint=world.endpoint, on_receipt=receipts.append) as client:
        yield client, receipts


def text_of(engine: Transformers, content: str, sampling: Sampling = PLAIN) -> str:
    return "".join(piece for piece in engine.chat([Message("user", content)], sampling) if isinstance(piece, str))


def asked(client: Any, content: str = "hello", **options: Any) -> Any:
    return client.chat.completions.create(
        model="serve", messages=[{"role": "user", "content": content}], max_tokens=24, temperature=0, **options
    )


def test_the_client_asks_unchanged_through_the_proxy(
    plain: Any, proxy: tuple[Proxy, list[ReceiptFile]], engine: Transformers
) -> None:
    """A conversation, a stream, vectors, the list of models: as from any server of the protocol; each with a receipt."""
    found = asked(plain)
    assert found.choices[0].message.content == text_of(engine, "hello")
    assert (found.usage.completion_tokens, found.choices[0].finish_reason) == (24, "length")
    pieces = list(asked(plain, stream=True, stream_options={"include_usage": True}))
    assert "".join(piece.choices[0].delta.content or "" for piece in pieces if piece.choices) == text_of(
        engine, "hello"
    )
    assert pieces[-1].usage.completion_tokens == 24
    vectors = plain.embeddings.create(model="serve", input=["x", "yz"])
    assert [row.embedding for row in vectors.data] == [
        pytest.approx(list(v), abs=1e-6) for v in engine.embed(["x", "yz"]).values
    ]
    assert [model.id for model in plain.models.list()] == ["serve"]
    assert len(proxy[1]) == 4


def test_refusals_come_as_the_clients_own_errors(plain: Any, sealed: tuple[OpenAI, list[ReceiptFile]]) -> None:
    """With Perun's code, and nothing of the conversation."""
    for client in (plain, sealed[0]):
        for options in ({"n": 2}, {"logprobs": True}):
            with pytest.raises(openai.BadRequestError) as refused:
                asked(client, "my secret", **options)
            assert refused.value.code == "inputs_refused"
            assert "my secret" not in str(refused.value)
        with pytest.raises(openai.BadRequestError) as refused:
            client.chat.completions.create(model="gpt-4o", messages=HELLO)
        assert refused.value.code == "model_unknown"
    assert sealed[1] == []


def test_the_sealed_client_is_the_same_client(
    sealed: tuple[OpenAI, list[ReceiptFile]], world: World, engine: Transformers
) -> None:
    """Whole answers, streams and vectors; each answer's receipt verifies offline."""
    client, receipts = sealed
    assert asked(client).choices[0].message.content == text_of(engine, "hello")
    with asked(client, stream=True) as stream:
        assert "".join(piece.choices[0].delta.content or "" for piece in stream) == text_of(engine, "hello")
    assert len(client.embeddings.create(model="serve", input="x", encoding_format="float").data[0].embedding) == 32
    assert client.models.retrieve("serve").id == "serve"
    assert len(receipts) == 4
    assert asked(client.with_options(timeout=30)).choices[0].message.content == text_of(engine, "hello")
    assert len(receipts) == 5
    for kept in receipts:
        assert verify_receipt_file(kept.encode(), pin_of(world.manager))["party"] == "clinic"


def test_a_client_that_awaits_is_the_same_too(world: World, home: Path, engine: Transformers) -> None:
    """Several at once, whole and streamed; refusals, a client that goes away, and other options."""
    receipts: list[ReceiptFile] = []

    async def talk() -> list[str]:
        async with AsyncOpenAI(
            RUN, home=home, passphrase=PASSPHRASE, endpoint=world.endpoint, on_receipt=receipts.append
        ) as client:

            async def one(number: int) -> str:
                if number % 2:
                    return str((await asked(client, f"question {number}")).choices[0].message.content)
                stream = await asked(client.with_options(timeout=30), f"question {number}", stream=True)
                return "".join([piece.choices[0].delta.content or "" async for piece in stream])

            found = await asyncio.gather(*map(one, range(6)))
            with pytest.raises(openai.BadRequestError) as refused:
                await asked(client, n=2)
            assert refused.value.code == "inputs_refused"
            model: Any = world.engine
            model.after, model.go_on = 3, threading.Event()
            model.closed.clear()
            stream = await asked(client, stream=True)
            await anext(aiter(stream))
            model.go_on.set()
            await stream.close()
            assert await asyncio.to_thread(model.closed.wait, 20)
            return found

    assert asyncio.run(talk()) == [text_of(engine, f"question {number}") for number in range(6)]
    assert len(receipts) == 6


def test_nothing_is_sent_to_a_service_that_is_not_the_one_meant(world: World, home: Path) -> None:
    """The coded reason, and not an error of the network: another run, another manager, nobody there."""
    with pytest.raises(PerunError) as refused:
        OpenAI("cd" * 16, home=home, passphrase=PASSPHRASE, endpoint=world.endpoint)
    assert refused.value.code == "service_not_expected"
    with pytest.raises(PerunError) as refused:
        OpenAI(RUN, home=home, passphrase=PASSPHRASE, endpoint="http://127.0.0.1:1")
    assert refused.value.code == "unreachable"
    Home(home).save_pin(pin_of(SigningKey.generate()))
    with pytest.raises(PerunError) as refused:
        OpenAI(RUN, home=home, passphrase=PASSPHRASE, endpoint=world.endpoint)
    assert refused.value.code == "bad_signature"
    assert world.granted == 10**6


@pytest.mark.parametrize("which", ["plain", "sealed"])
def test_a_stream_that_breaks_ends_with_the_code(world: World, request: pytest.FixtureRequest, which: str) -> None:
    """What was said so far is read; then an error, never a silent end; and there is no receipt for it."""
    found = request.getfixturevalue(which)
    client = found if which == "plain" else found[0]
    model: Any = world.engine
    model.after = 5
    stream = asked(client, stream=True)
    pieces: list[Any] = []
    with pytest.raises(openai.APIError) as broken:
        pieces.extend(stream)
    assert len(pieces) >= 2
    assert "engine_gone" in str(broken.value)
    receipts = request.getfixturevalue("proxy" if which == "plain" else "sealed")[1]
    assert receipts == []


def test_a_lost_lease_ends_a_stream_in_its_middle(world: World, plain: Any) -> None:
    """Keys are gone: so is the rest of the answer."""
    model: Any = world.engine
    model.after, model.go_on = 5, threading.Event()
    stream = asked(plain, stream=True)
    next(stream)
    world.ends = world.clock()
    model.go_on.set()
    with pytest.raises(openai.APIError) as broken:
        list(stream)
    assert "service_over" in str(broken.value)


def test_a_client_that_goes_away_is_computed_for_no_more(
    world: World, sealed: tuple[OpenAI, list[ReceiptFile]]
) -> None:
    """Its stream is closed up to the engine."""
    model: Any = world.engine
    model.after, model.go_on = 3, threading.Event()
    stream = asked(sealed[0], stream=True)
    next(stream)
    assert not model.closed.is_set()
    stream.close()
    model.go_on.set()
    assert model.closed.wait(20)


def test_clients_at_once_never_cross(
    plain: Any, sealed: tuple[OpenAI, list[ReceiptFile]], engine: Transformers
) -> None:
    """Through both ways, streamed and whole, each gets the answer to what it asked."""

    def ask(number: int) -> tuple[str, str]:
        client, content = (plain, sealed[0])[number % 2], f"question {number}"
        if number % 3:
            return content, "".join(
                piece.choices[0].delta.content or "" for piece in asked(client, content, stream=True)
            )
        return content, asked(client, content).choices[0].message.content

    with ThreadPoolExecutor(8) as pool:
        for content, text in pool.map(ask, range(16)):
            assert text == text_of(engine, content)


def test_vectors_of_another_number_are_a_failure_of_the_model() -> None:
    """Whose they are nobody knows."""

    class Fewer:
        def chat(self, messages: Sequence[Message], sampling: Sampling) -> Iterator[str | Finish]:
            return iter(())

        def embed(self, texts: Sequence[str]) -> Vectors:
            return Vectors(((1.0,),), 1)

    from perunml.serving.inner import Inner

    with pytest.raises(PerunError) as refused:
        OpenAiApi(Fewer(), "serve")(Inner("POST", "/v1/embeddings", {}, b'{"model": "serve", "input": ["a", "b"]}'))
    assert refused.value.code == "inference_failed"
    with pytest.raises(PerunError) as refused:
        OpenAiApi(Fewer(), "serve")(
            Inner(
                "POST",
                "/v1/chat/completions",
                {},
                b'{"model": "serve", "messages": [{"role": "user", "content": "x"}]}',
            )
        )
    assert refused.value.code == "inference_failed"
