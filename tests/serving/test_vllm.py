"""vLLM's engine behind the same interface. vLLM itself wants a GPU, so what is tested here is this side of its documented interface, with a stand-in for the library."""

from __future__ import annotations

import sys
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from perunml.serving.engines import load_language
from perunml.serving.language import Finish, Message, Sampling
from perunml.wire.errors import PerunError

pytestmark = pytest.mark.torch
pytest.importorskip("transformers", reason="Transformers is not installed; `make setup` installs it")
from serving.tiny import write_model  # noqa: E402 - after it is known to be there


@dataclass
class Given:
    """`SamplingParams`, `AsyncEngineArgs`: what they were given."""

    said: dict[str, Any]


@dataclass
class Library:
    """vLLM's asynchronous engine: says `text` a letter at a time, each time all of it."""

    text: str = "hello there"
    reason: str = "stop"
    fails: bool = False
    asked: list[tuple[list[int], dict[str, Any]]] = field(default_factory=list)
    ended: int = 0

    def get_tokenizer(self) -> Any:
        library = self

        class Tokenizer:
            def apply_chat_template(self, messages: Any, **options: Any) -> str:
                if messages[0]["role"] == "system":
                    raise ValueError(f"no system: {messages}")
                return "|".join(message["content"] for message in messages)

            def __call__(self, text: str, *, add_special_tokens: bool) -> dict[str, list[int]]:
                assert not add_special_tokens
                return {"input_ids": [ord(letter) for letter in text]}

        assert library
        return Tokenizer()

    async def generate(self, prompt: dict[str, list[int]], parameters: Given, request_id: str) -> AsyncIterator[Any]:
        self.asked.append((prompt["prompt_token_ids"], parameters.said))
        try:
            for size in range(1, len(self.text) + 1):
                if self.fails and size == 3:
                    raise RuntimeError(f"out of memory at {prompt}")
                last = size == len(self.text)
                output = ModuleType("output")
                output.text, output.token_ids, output.finish_reason = (
                    self.text[:size],
                    [0] * size,
                    self.reason if last else None,
                )  # type: ignore[attr-defined]
                found = ModuleType("found")
                found.outputs, found.finished, found.prompt_token_ids = [output], last, [0] * 5  # type: ignore[attr-defined]
                yield found
        finally:
            self.ended += 1


@pytest.fixture
def library(monkeypatch: pytest.MonkeyPatch) -> Library:
    """As `import vllm` finds it."""
    made = Library()
    top, engine, inner = ModuleType("vllm"), ModuleType("vllm.engine"), ModuleType("vllm.engine.async_llm_engine")
    top.AsyncEngineArgs = top.SamplingParams = lambda **said: Given(said)  # type: ignore[attr-defined]

    class AsyncLLMEngine:
        @staticmethod
        def from_engine_args(arguments: Given) -> Library:
            assert arguments.said["trust_remote_code"] is False
            return made

    inner.AsyncLLMEngine = AsyncLLMEngine  # type: ignore[attr-defined]
    for name, module in (("vllm", top), ("vllm.engine", engine), ("vllm.engine.async_llm_engine", inner)):
        monkeypatch.setitem(sys.modules, name, module)
    return made


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model(tmp_path_factory.mktemp("tiny"))


def test_an_answer_in_pieces_with_its_tokens(library: Library, folder: Path) -> None:
    """What vLLM gives whole each time comes out once; how to sample goes in."""
    engine = load_language("vllm", folder)
    found = list(engine.chat([Message("user", "hi")], Sampling(9, 0.5, 0.25, 3, ("END",))))
    assert found == [*"hello there", Finish("stop", 5, 11)]
    assert library.asked == [
        ([ord("h"), ord("i")], {"max_tokens": 9, "temperature": 0.5, "top_p": 0.25, "seed": 3, "stop": ["END"]})
    ]
    library.reason = "length"
    assert list(engine.chat([Message("user", "hi")], Sampling(9, 0, 1)))[-1] == Finish("length", 5, 11)


def test_what_goes_wrong_is_told_without_the_conversation(library: Library, folder: Path) -> None:
    """A failure in its middle, a template that takes no such role, vectors."""
    engine = load_language("vllm", folder)
    library.fails = True
    for work, code in (
        (lambda: list(engine.chat([Message("user", "secret")], Sampling(9, 0, 1))), "inference_failed"),
        (lambda: list(engine.chat([Message("system", "secret")], Sampling(9, 0, 1))), "inputs_refused"),
        (lambda: engine.embed(["secret"]), "inputs_refused"),
    ):
        with pytest.raises(PerunError) as refused:
            work()
        assert refused.value.code == code
        assert "secret" not in str(refused.value)


def test_without_the_library_the_engine_is_unknown(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """And the operator hears what to install."""
    monkeypatch.setitem(sys.modules, "vllm", None)
    with pytest.raises(PerunError) as refused:
        load_language("vllm", folder)
    assert refused.value.code == "engine_unknown"
    assert "perunml[vllm]" in str(refused.value.reasons[0].expected)
