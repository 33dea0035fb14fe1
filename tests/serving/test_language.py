"""The language engine: what it computes is what Transformers computes, its text is whole, and a folder that brings code is not touched."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from perunml.serving.engines import load_language
from perunml.serving.language import Finish, Message, Sampling
from perunml.wire.errors import PerunError

pytestmark = pytest.mark.torch
pytest.importorskip("transformers", reason="Transformers is not installed; `make setup` installs it")
from perunml.serving.transformers import Transformers, check_folder  # noqa: E402 - after it is known to be there
from serving.tiny import edit_json, write_model  # noqa: E402

HELLO = [Message("user", "hello")]


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model(tmp_path_factory.mktemp("tiny"))


@pytest.fixture(scope="session")
def engine(folder: Path) -> Transformers:
    return Transformers(folder)


def said(engine: Transformers, messages: list[Message], sampling: Sampling) -> tuple[str, Finish]:
    *pieces, finish = engine.chat(messages, sampling)
    assert isinstance(finish, Finish)
    return "".join(str(piece) for piece in pieces), finish


def test_it_says_what_transformers_says(engine: Transformers, folder: Path) -> None:
    """The likeliest tokens, one after the other, with and without the cache of the library's own loop."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer, model = AutoTokenizer.from_pretrained(folder), AutoModelForCausalLM.from_pretrained(folder)
    prompt = tokenizer("<user>hello<assistant>", add_special_tokens=False, return_tensors="pt")["input_ids"]
    with torch.inference_mode():
        whole = model.generate(prompt, max_new_tokens=24, do_sample=False)[0, prompt.shape[1] :]
    text, finish = said(engine, HELLO, Sampling(24, 0, 1))
    assert text == tokenizer.decode(whole, skip_special_tokens=True)
    assert finish == Finish("length", prompt.shape[1], 24)


def test_a_seed_gives_the_same_answer_again(engine: Transformers) -> None:
    """Another seed, or none, another one; a narrow top_p takes the likeliest."""
    once, again, other, free = (said(engine, HELLO, Sampling(16, 1, 1, seed))[0] for seed in (1, 1, 2, None))
    assert once == again
    assert len({once, other, free}) == 3
    likeliest = said(engine, HELLO, Sampling(16, 0, 1))[0]
    assert said(engine, HELLO, Sampling(16, 2, 1e-6, 5))[0] == likeliest
    assert said(engine, HELLO, Sampling(16, 2, 0, 5))[0] == likeliest


def test_text_comes_in_whole_characters(engine: Transformers) -> None:
    """Bytes of one character in several tokens are one piece; joined, the pieces are the text."""
    made: Any = type(engine._tokenizer)
    tokens = engine._tokenizer("grüße 🙂 ok", add_special_tokens=False)["input_ids"]
    from perunml.serving.transformers import _Text

    text = _Text(engine._tokenizer)
    pieces = [text.add(token) for token in tokens] + [text.rest()]
    assert made
    assert "".join(pieces) == "grüße 🙂 ok"
    assert "🙂" in pieces
    assert not any("\ufffd" in piece for piece in pieces)


def test_a_conversation_too_long_for_the_model_is_refused(engine: Transformers) -> None:
    """By its tokens; and an answer never goes past the model's context."""
    with pytest.raises(PerunError) as refused:
        list(engine.chat([Message("user", "x" * 300)], Sampling(8, 0, 1)))
    assert refused.value.code == "inputs_refused"
    assert "xxx" not in str(refused.value)
    _, finish = said(engine, [Message("user", "x" * 200)], Sampling(1000, 0, 1))
    assert finish.prompt_tokens + finish.completion_tokens == 256


def test_vectors_are_of_length_one_and_tell_texts_apart(engine: Transformers) -> None:
    """The same text, the same vector."""
    found = engine.embed(["scan", "scan", "a longer text"])
    assert found.values[0] == found.values[1] != found.values[2]
    assert all(sum(number * number for number in vector) == pytest.approx(1, abs=1e-5) for vector in found.values)
    assert found.tokens == 4 + 4 + 13


def test_a_model_without_a_template_is_asked_in_lines(tmp_path: Path) -> None:
    """A base model has none; and a template that takes no such roles is the asker's to hear of."""
    plain = Transformers(write_model(tmp_path / "plain", template=""))
    assert said(plain, HELLO, Sampling(4, 0, 1))[1].prompt_tokens == len("user: hello\nassistant:")
    strict = Transformers(write_model(tmp_path / "strict", template="{{ raise_exception('not hello') }}"))
    with pytest.raises(PerunError) as refused:
        list(strict.chat(HELLO, Sampling(4, 0, 1)))
    assert refused.value.code == "inputs_refused"
    assert "hello" not in str(refused.value)


def _pickle(folder: Path) -> None:
    (folder / "pytorch_model.bin").write_bytes(b"x")


def _code(folder: Path) -> None:
    (folder / "modeling.py").write_text("boom")


def _deep(folder: Path) -> None:
    (folder / "sub").mkdir()
    (folder / "sub/config.json").write_text("{}")


def _short(folder: Path) -> None:
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1])


FOLDERS: dict[str, Callable[[Path], object]] = {
    "pickle": _pickle,
    "code": _code,
    "deep": _deep,
    "short": _short,
    "remote model": lambda folder: edit_json(folder / "config.json", auto_map={"AutoModelForCausalLM": "x.Y"}),
    "remote tokenizer": lambda folder: edit_json(
        folder / "tokenizer_config.json", auto_map={"AutoTokenizer": ["x.Y", None]}
    ),
    "no weights": lambda folder: (folder / "model.safetensors").unlink(),
    "no config": lambda folder: (folder / "config.json").unlink(),
    "junk config": lambda folder: (folder / "config.json").write_text("[" * 100_000),
    "other kind": lambda folder: edit_json(folder / "config.json", model_type="nothing-known"),
    "other sizes": lambda folder: edit_json(folder / "config.json", hidden_size=64),
    "no tokenizer": lambda folder: [path.unlink() for path in folder.glob("tokenizer*")],
}


@pytest.mark.parametrize("how", FOLDERS)
def test_a_folder_that_is_no_plain_model_is_refused(folder: Path, tmp_path: Path, how: str) -> None:
    """Pickles, code, other folders, a cut file, configurations that name code; and what the library cannot read."""
    copy = tmp_path / "copy"
    shutil.copytree(folder, copy)
    FOLDERS[how](copy)
    with pytest.raises(PerunError) as refused:
        load_language("transformers", copy)
    assert refused.value.code == "model_refused"


def test_the_folder_as_it_was_made_is_good(folder: Path) -> None:
    """So that the refusals above are about what was changed; an engine of another name is refused."""
    check_folder(folder)
    for name in ("llama", "torch-export"):
        with pytest.raises(PerunError) as refused:
            load_language(name, folder)
        assert refused.value.code == "engine_unknown"


@pytest.mark.sandbox
@pytest.mark.skipif(
    os.geteuid() != 0 or shutil.which("bwrap") is None, reason="the runner makes mounts, as root, with bubblewrap"
)
def test_a_confined_language_model_talks_to_several_at_once(folder: Path, engine: Transformers) -> None:
    """In its sandbox, as a service starts it: the same words, answers side by side, one taken back, refusals, death in the middle, and life after it."""
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    program = Path(__file__).with_name("confined_language.py")
    done = subprocess.run(
        [sys.executable, str(program), str(folder)], capture_output=True, text=True, env=env, timeout=240, check=False
    )
    assert done.stdout, done.stderr
    told = json.loads(done.stdout.splitlines()[-1])
    alone = said(engine, HELLO, Sampling(24, 0, 1))
    assert told["alone"] == [alone[0], alone[1].completion_tokens]
    assert told["together"] == [
        [said(engine, [Message("user", f"number {n}")], Sampling(24, 0, 1))[0]] for n in range(6)
    ]
    assert told["vectors"] == [len(engine.embed(["x"]).values[0]), 3]
    assert told["refused"] == "inputs_refused"
    assert told["taken back"] == told["alone"]
    assert told["killed"] == ["engine_gone", "engine_gone"]
    assert told["again"] == told["alone"]
