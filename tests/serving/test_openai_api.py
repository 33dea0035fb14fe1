"""OpenAI's protocol over a model that repeats what it hears: what is asked, what is refused, and how streams are cut into events."""

from __future__ import annotations

import base64
import json
import struct
from collections.abc import Iterator, Sequence
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from perunml.serving.inner import Inner, Reply
from perunml.serving.language import Finish, Message, Sampling, Vectors
from perunml.serving.openai_api import OpenAiApi
from perunml.serving.stops import until_stopped
from perunml.wire.errors import PerunError

CHAT, VECTORS = "/v1/chat/completions", "/v1/embeddings"
HELLO: dict[str, Any] = {"model": "serve", "messages": [{"role": "user", "content": "a b c d"}]}


class Parrot:
    """Says the last message again, a word at a time, and keeps how it was asked. Vectors are a text's length and its first letter."""

    def __init__(self) -> None:
        self.asked: list[tuple[list[Message], Sampling]] = []
        self.closed = 0

    def chat(self, messages: Sequence[Message], sampling: Sampling) -> Iterator[str | Finish]:
        self.asked.append((list(messages), sampling))
        return until_stopped(self._words(messages, sampling.max_tokens), sampling.stop, 7)

    def _words(self, messages: Sequence[Message], most: int) -> Iterator[str | Finish]:
        words = messages[-1].content.split(" ")
        try:
            for number, word in enumerate(words[:most]):
                yield word if not number else f" {word}"
            yield Finish("length" if most < len(words) else "stop", 7, min(most, len(words)))
        finally:
            self.closed += 1

    def embed(self, texts: Sequence[str]) -> Vectors:
        return Vectors(tuple((float(len(text)), float(ord(text[0]))) for text in texts), sum(map(len, texts)))


def ask(value: Any, path: str = CHAT, engine: Parrot | None = None) -> Reply:
    body = value if isinstance(value, bytes) else json.dumps(value).encode()
    return OpenAiApi(engine or Parrot(), "serve", clock=lambda: 1234.5)(Inner("POST", path, {}, body))


def read(reply: Reply) -> Any:
    return json.loads(b"".join(reply.parts))


def events(reply: Reply) -> list[Any]:
    assert reply.headers == {"content-type": "text/event-stream"}
    lines = b"".join(reply.parts).decode().split("\n\n")
    assert lines[-2:] == ["data: [DONE]", ""]
    return [json.loads(line.removeprefix("data: ")) for line in lines[:-2]]


def test_a_conversation_is_answered() -> None:
    """In the protocol's form, with the tokens that it took."""
    told = read(ask(HELLO))
    assert told.pop("id").startswith("chatcmpl-")
    assert told == {
        "object": "chat.completion", "created": 1234, "model": "serve",
        "choices": [{"index": 0, "finish_reason": "stop", "logprobs": None, "message": {"role": "assistant", "content": "a b c d", "refusal": None}}],
        "usage": {"prompt_tokens": 7, "completion_tokens": 4, "total_tokens": 11},
    }  # fmt: skip


def test_what_is_asked_reaches_the_engine() -> None:
    """Roles, parts of text, and how to sample; the newer name of a bound before the older."""
    engine = Parrot()
    parts = [{"type": "text", "text": "x "}, {"type": "text", "text": "y"}]
    ask({
        "model": "serve", "messages": [{"role": "system", "content": "be kind"}, {"role": "user", "content": parts, "name": "ann"}],
        "max_tokens": 9, "max_completion_tokens": 3, "temperature": 0.5, "top_p": 0.25, "stop": "END", "seed": 5, "user": "u", "n": 1, "tools": [],
        "response_format": {"type": "text"}, "frequency_penalty": 0, "logprobs": False,
    }, engine=engine)  # fmt: skip
    ask(HELLO, engine=engine)
    assert engine.asked[0] == (
        [Message("system", "be kind"), Message("user", "x y")],
        Sampling(3, 0.5, 0.25, 5, ("END",)),
    )
    assert engine.asked[1][1] == Sampling(1024, 1.0, 1.0, None, ())


@pytest.mark.parametrize(
    "changes",
    [{"max_completion_tokens": None, "max_tokens": 2}, {"max_completion_tokens": 2, "max_tokens": None}],
    ids=["the older", "the newer"],
)
def test_a_bound_holds_beside_one_that_is_null(changes: dict[str, Any]) -> None:
    """Clients write what is not set as null: the bound that is set is the one that counts."""
    engine = Parrot()
    ask({**HELLO, **changes}, engine=engine)
    assert engine.asked[0][1].max_tokens == 2


@pytest.mark.parametrize("name", ["frequency_penalty", "presence_penalty"])
@pytest.mark.parametrize("none", [0, 0.0, None], ids=str)
def test_a_penalty_of_nothing_is_taken_however_it_is_written(name: str, none: float | None) -> None:
    """Clients whose penalties are floats write 0.0."""
    assert ask({**HELLO, name: none}).status == 200


def test_a_bound_cuts_the_answer_and_says_so() -> None:
    """`finish_reason` is ``length``."""
    (choice,) = read(ask({**HELLO, "max_tokens": 2}))["choices"]
    assert (choice["message"]["content"], choice["finish_reason"]) == ("a b", "length")


@pytest.mark.parametrize(
    ("stop", "left"), [("c", "a b "), (["b c"], "a "), (["zz", " d"], "a b c"), ("e", "a b c d"), ("a", "")]
)
def test_nothing_of_a_stop_is_given_out(stop: Any, left: str) -> None:
    """Also where it comes in two pieces; and nobody goes on computing."""
    engine = Parrot()
    (choice,) = read(ask({**HELLO, "stop": stop}, engine=engine))["choices"]
    assert (choice["message"]["content"], choice["finish_reason"]) == (left, "stop")
    assert engine.closed == 1


def test_a_stream_says_the_same_in_events() -> None:
    """The role first, a piece each, the reason, and the tokens where they are asked for."""
    told = events(ask({**HELLO, "stream": True, "stream_options": {"include_usage": True}}))
    assert {each["object"] for each in told} == {"chat.completion.chunk"}
    assert len({each["id"] for each in told}) == 1
    assert [each["choices"][0]["delta"] for each in told[:-1]] == [
        {"role": "assistant", "content": ""}, {"content": "a"}, {"content": " b"}, {"content": " c"}, {"content": " d"}, {},
    ]  # fmt: skip
    assert [each["choices"][0]["finish_reason"] for each in told[:-1]] == [None] * 5 + ["stop"]
    assert (told[-1]["choices"], told[-1]["usage"]["total_tokens"]) == ([], 11)
    assert all(each["usage"] is None for each in told[:-1])
    assert "usage" not in events(ask({**HELLO, "stream": True}))[-1]


def test_a_stream_that_nobody_reads_stops_the_model() -> None:
    """Closing the events closes the engine's answer."""
    engine = Parrot()
    parts = iter(ask({**HELLO, "stream": True}, engine=engine).parts)
    assert b'"role"' in bytes(next(parts))
    assert engine.closed == 0
    parts.close()  # type: ignore[attr-defined]  # a stream's parts are a generator
    del parts
    assert engine.closed == 1


def test_vectors_as_numbers_and_packed() -> None:
    """The client's own default is base64 of 32-bit floats."""
    told = read(ask({"model": "serve", "input": ["abc", "z"]}, VECTORS))
    assert [row["embedding"] for row in told["data"]] == [[3.0, 97.0], [1.0, 122.0]]
    assert told["usage"] == {"prompt_tokens": 4, "total_tokens": 4}
    packed = read(ask({"model": "serve", "input": "abc", "encoding_format": "base64"}, VECTORS))["data"][0]["embedding"]
    assert struct.unpack("<2f", base64.b64decode(packed)) == (3.0, 97.0)


def test_the_model_is_listed() -> None:
    """One, called as the service's job."""
    handler = OpenAiApi(Parrot(), "serve")
    (row,) = read(handler(Inner("GET", "/v1/models", {}, b"")))["data"]
    assert row == read(handler(Inner("GET", "/v1/models/serve", {}, b""))) == {"id": "serve", "object": "model", "created": 0, "owned_by": "perunml"}  # fmt: skip


@pytest.mark.parametrize("path", ["/v1/models/other", "/v2/models/serve", "/v1/completions", "/"])
def test_other_paths_are_refused(path: str) -> None:
    """This service has a conversation and vectors."""
    for method in ("GET", "POST"):
        with pytest.raises(PerunError) as refused:
            OpenAiApi(Parrot(), "serve")(Inner(method, path, {}, b"{}"))
        assert refused.value.code == "model_unknown"


LONG = "x" * (4 * 2**20 + 1)


@pytest.mark.parametrize(
    "changes",
    [
        {"messages": None}, {"messages": []}, {"messages": ["x"]}, {"messages": [{"role": "user"}]}, {"messages": [{"role": "tool", "content": "x"}]},
        {"messages": [{"role": "user", "content": 1}]}, {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {}}]}]},
        {"messages": [{"role": "user", "content": LONG}]}, {"messages": [{"role": "user", "content": "x"}] * 1025},
        {"messages": [{"role": "user", "content": "\ud800"}]}, {"messages": [{"role": "assistant", "content": "x", "tool_calls": []}]},
        {"stream": 1}, {"stream": 1.0}, {"stream": 0.0}, {"stream": "yes"}, {"stream_options": {}}, {"stream": True, "stream_options": {"other": 1}},
        {"max_tokens": 0}, {"max_tokens": 1.5}, {"max_tokens": True}, {"max_tokens": 10**9}, {"temperature": -0.1}, {"temperature": 2.1},
        {"temperature": "1"}, {"top_p": 1.1}, {"stop": ["x"] * 5}, {"stop": ""}, {"stop": [1]}, {"stop": "x" * 257}, {"seed": "1"}, {"seed": 2**53 + 1},
        {"n": 2}, {"n": True}, {"logprobs": True}, {"tools": [{}]}, {"response_format": {"type": "json_object"}}, {"frequency_penalty": 0.5}, {"surprise": 1},
    ],
    ids=lambda changes: str(changes)[:50],
)  # fmt: skip
def test_what_cannot_be_done_is_refused_and_not_shown(changes: dict[str, Any]) -> None:
    """Coded, named, and without a word of the conversation."""
    with pytest.raises(PerunError) as refused:
        ask({**HELLO, **changes})
    assert refused.value.code == "inputs_refused"
    assert "a b c d" not in str(refused.value)


@pytest.mark.parametrize("changes", [{"input": []}, {"input": ""}, {"input": [1, 2]}, {"input": ["x"] * 257}, {"input": LONG}, {"dimensions": 3}, {"encoding_format": "int8"}, {}])  # fmt: skip
def test_vectors_of_what_is_no_text_are_refused(changes: dict[str, Any]) -> None:
    """Tokens' numbers, other lengths and forms."""
    with pytest.raises(PerunError) as refused:
        ask({"model": "serve", **changes}, VECTORS)
    assert refused.value.code == "inputs_refused"


@pytest.mark.parametrize("body", [b"", b"[]", b"null", b"{", b"\xff", b"[" * 10_000])
def test_junk_is_refused(body: bytes) -> None:
    """D2."""
    for path in (CHAT, VECTORS):
        with pytest.raises(PerunError) as refused:
            ask(body, path)
        assert refused.value.code == "inputs_refused"


def test_another_model_is_refused() -> None:
    """It is called as the service's job, and nothing else answers in its place."""
    for model in ("gpt-4o", None, 1):
        with pytest.raises(PerunError) as refused:
            ask({**HELLO, "model": model})
        assert refused.value.code == "model_unknown"


_json = st.recursive(
    st.none() | st.booleans() | st.floats() | st.integers() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["role", "content", "type", "text", "x"]), inner, max_size=3),
    max_leaves=8,
)  # fmt: skip
_names = st.sampled_from(
    [
        "messages",
        "stream",
        "stream_options",
        "max_tokens",
        "temperature",
        "top_p",
        "stop",
        "seed",
        "n",
        "input",
        "encoding_format",
        "logit_bias",
    ]
)


@given(st.dictionaries(_names, _json, max_size=5), st.sampled_from([CHAT, VECTORS]))
@settings(max_examples=300, deadline=None)
def test_whatever_is_asked_is_answered_or_refused(changes: dict[str, Any], path: str) -> None:
    """No request makes anything else."""
    base = HELLO if path == CHAT else {"model": "serve", "input": "x"}
    refused: list[str] = []
    try:
        assert b"".join(ask({**base, **changes}, path).parts)
    except PerunError as exc:
        refused.append(exc.code)
    assert refused in ([], ["inputs_refused"])


@given(st.lists(st.text("abc", max_size=4), max_size=12), st.lists(st.text("abc", min_size=1, max_size=4), max_size=4))
@settings(max_examples=300, deadline=None)
def test_stops_cut_as_if_the_text_came_whole(pieces: list[str], stops: list[str]) -> None:
    """However it is cut into pieces, what comes out is the text before the first stop."""
    text = "".join(pieces)
    found = list(until_stopped(iter([*pieces, Finish("length", 1, len(pieces))]), stops, 1))
    said, end = "".join(piece for piece in found if isinstance(piece, str)), found[-1]
    assert isinstance(end, Finish)
    assert all(piece != "" for piece in found)
    if not any(stop in text for stop in stops):
        assert (said, end.reason) == (text, "length")
        return
    assert end.reason == "stop"
    assert text.startswith(said)
    assert not any(stop in said for stop in stops)
    # What follows begins one of them, within the pieces that were looked at.
    assert any(text[len(said) :].startswith(stop) for stop in stops)
