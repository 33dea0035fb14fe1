"""Language models by Hugging Face's Transformers: a folder of safetensors, configuration and tokenizer, continued token by token.

Nothing of the model's own is run: no remote code, no pickles, no network; the chat template is rendered by Transformers in Jinja's sandbox, and all of it in this engine's. One answer is
computed beside others (`AT_ONCE`), each with its own cache.
"""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from perunml.sealing.formats import check_format
from perunml.serving.codes import ENGINE_UNKNOWN, INFERENCE_FAILED, INPUTS_REFUSED, MODEL_REFUSED
from perunml.serving.language import Finish, Message, Sampling, Vectors
from perunml.serving.stops import until_stopped
from perunml.wire.errors import PerunError, refuse

THREADS = 2
AT_ONCE = 4
"""Answers computed beside each other; the next one waits."""
MAX_WEIGHTS = 2**40
MAX_CONFIG = 64 * 2**20
"""Bytes of a configuration or a tokenizer."""
_PLAIN = {
    "config.json", "generation_config.json", "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json",
    "vocab.json", "merges.txt", "chat_template.jinja", "chat_template.json", "model.safetensors.index.json", "README.md", "LICENSE",
}  # fmt: skip
"""Files of text that a model's folder may have; beside them weights in safetensors, and nothing else."""
_CODE = ("auto_map", "custom_pipelines")
"""Members of a configuration that name code of the model's own."""


class Transformers:
    """A loaded model on the GPU where there is one. A `LanguageEngine`."""

    def __init__(self, folder: Path, *, threads: int = THREADS) -> None:
        """Raises `IntegrityError` (model_refused), `AgreementRefusal` (engine_unknown): the library is not installed."""
        os.environ.update(HF_HUB_OFFLINE="1", TRANSFORMERS_OFFLINE="1", HF_HUB_DISABLE_TELEMETRY="1")
        check_folder(folder)
        try:
            import torch
            import transformers
        except ImportError:
            raise refuse(
                ENGINE_UNKNOWN, "Transformers is not installed on this host", expected="pip install 'perunml[language]'"
            ) from None
        transformers.utils.logging.set_verbosity_error()
        transformers.utils.logging.disable_progress_bar()
        torch.set_num_threads(threads)
        self._torch = torch
        self._device = "cuda" if torch.cuda.is_available() else "cpu"
        try:
            self._tokenizer: Any = transformers.AutoTokenizer.from_pretrained(
                str(folder), local_files_only=True, trust_remote_code=False, use_fast=True
            )
            model: Any = transformers.AutoModelForCausalLM.from_pretrained(
                str(folder), local_files_only=True, trust_remote_code=False, use_safetensors=True, dtype="auto"
            )
        except Exception as exc:
            # The library quotes the model's files in what it says, so the type must do.
            raise refuse(MODEL_REFUSED, f"the model is not loaded: {type(exc).__name__} in Transformers") from None
        self._model = model.to(self._device).eval()
        self._context = int(getattr(model.config, "max_position_embeddings", 0) or 2**31)
        self._ends = _ends(model, self._tokenizer)
        self._room = threading.Semaphore(AT_ONCE)

    def chat(self, messages: Sequence[Message], sampling: Sampling) -> Iterator[str | Finish]:
        tokens = self._prompt(messages)
        with self._room:
            yield from until_stopped(self._continued(tokens, sampling), sampling.stop, len(tokens))

    def embed(self, texts: Sequence[str]) -> Vectors:
        """The mean of the last layer over a text's tokens, of length one."""
        torch, vectors, count = self._torch, [], 0
        for text in texts:
            tokens = self._bounded(self._tokenizer(text)["input_ids"], 0)
            count += len(tokens)
            with self._room, torch.inference_mode():
                found = self._asked(torch.tensor([tokens], device=self._device), output_hidden_states=True)
                mean = found.hidden_states[-1][0].float().mean(0)
                vector = (mean / mean.norm().clamp_min(1e-12)).cpu()
            if not bool(torch.isfinite(vector).all()):
                raise refuse(INFERENCE_FAILED, "the model's vector is not finite")
            vectors.append(tuple(vector.tolist()))
        return Vectors(tuple(vectors), count)

    def _prompt(self, messages: Sequence[Message]) -> list[int]:
        """The conversation's tokens, by the model's own template, or in lines where it has none."""
        said = [{"role": message.role, "content": message.content} for message in messages]
        try:
            if getattr(self._tokenizer, "chat_template", None):
                text = self._tokenizer.apply_chat_template(said, tokenize=False, add_generation_prompt=True)
                tokens = self._tokenizer(text, add_special_tokens=False)["input_ids"]
            else:
                lines = [f"{message.role}: {message.content}\n" for message in messages]
                tokens = self._tokenizer("".join((*lines, "assistant:")))["input_ids"]
        except Exception as exc:
            # A template refuses roles that it does not know, in its own words about the messages.
            raise refuse(
                INPUTS_REFUSED, f"the model's template does not take these messages ({type(exc).__name__})"
            ) from None
        return self._bounded(tokens, 1)

    def _bounded(self, tokens: list[int], more: int) -> list[int]:
        if not 0 < len(tokens) <= self._context - more:
            raise refuse(
                INPUTS_REFUSED,
                "too long for the model",
                expected=f"at most {self._context - more} tokens",
                seen=str(len(tokens)),
            )
        return tokens

    def _continued(self, tokens: list[int], sampling: Sampling) -> Iterator[str | Finish]:
        """A piece of text for each token (empty while a character is not whole), then the end."""
        torch, made = self._torch, _Text(self._tokenizer)
        chance = torch.Generator(device="cpu")
        chance.manual_seed(sampling.seed & (2**63 - 1)) if sampling.seed is not None else chance.seed()
        most = min(sampling.max_tokens, self._context - len(tokens))
        given, past = torch.tensor([tokens], device=self._device), None
        for count in range(1, most + 1):
            with torch.inference_mode():
                found = self._asked(given, past_key_values=past, use_cache=True)
                past = found.past_key_values
                token = _chosen(torch, found.logits[0, -1].float().cpu(), sampling, chance)
            if token in self._ends:
                yield made.rest()
                yield Finish("stop", len(tokens), count)
                return
            yield made.add(token)
            given = torch.tensor([[token]], device=self._device)
        yield made.rest()
        yield Finish("length", len(tokens), most)

    def _asked(self, tokens: Any, **options: Any) -> Any:
        try:
            return self._model(input_ids=tokens, **options)
        except Exception as exc:
            raise refuse(INFERENCE_FAILED, f"the model failed ({type(exc).__name__})") from None


class _Text:
    """Text out of tokens, in whole characters: a token may be a part of one."""

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer
        self._tokens: list[int] = []
        self._begin = self._said = 0

    def add(self, token: int) -> str:
        """What can be read now and could not before."""
        self._tokens.append(token)
        return self._new(whole=True)

    def rest(self) -> str:
        """What is left at the end, whole characters or not."""
        return self._new(whole=False)

    def _new(self, *, whole: bool) -> str:
        # Tokens from `_begin` on are read together: some tokenizers drop the blank in front of the first one.
        before = self._read(self._begin, self._said)
        now = self._read(self._begin, len(self._tokens))
        if len(now) <= len(before) or (whole and now.endswith("\ufffd")):
            return ""
        self._begin, self._said = self._said, len(self._tokens)
        return now[len(before) :]

    def _read(self, begin: int, end: int) -> str:
        return str(self._tokenizer.decode(self._tokens[begin:end], skip_special_tokens=True))


def check_folder(folder: Path) -> None:
    """That a model's folder holds weights in safetensors, text, and nothing that would be run. Raises `IntegrityError` (model_refused)."""
    files = [path for path in sorted(folder.rglob("*")) if not path.is_dir()]
    weights = [path for path in files if path.suffix == ".safetensors"]
    if not weights or not (folder / "config.json").is_file():
        raise refuse(
            MODEL_REFUSED, "not a language model's folder", expected="config.json, tokenizer.json, *.safetensors"
        )
    for path in files:
        try:
            if path in weights:
                check_format(path, "safetensors", MAX_WEIGHTS)
            elif path.parent != folder or path.name not in _PLAIN or path.stat().st_size > MAX_CONFIG:
                raise refuse(
                    MODEL_REFUSED,
                    "the folder holds something that is no part of a model",
                    expected=", ".join(sorted(_PLAIN)),
                    seen=path.name[:80],
                )
            elif path.suffix == ".json" and "config" in path.name:
                _check_config(path)
        except PerunError as exc:
            said = exc.reasons[0]
            raise refuse(
                MODEL_REFUSED, f"the model is not loaded: {said.message}", expected=said.expected, seen=said.seen
            ) from None


def _check_config(path: Path) -> None:
    try:
        value = json.loads(path.read_bytes())
    except (ValueError, RecursionError):
        raise refuse(MODEL_REFUSED, "a configuration is not JSON", seen=path.name) from None
    if not isinstance(value, dict) or any(name in value for name in _CODE):
        raise refuse(
            MODEL_REFUSED,
            "the model wants to bring code of its own",
            expected="a model of a known kind",
            seen=path.name,
        )


def _ends(model: Any, tokenizer: Any) -> frozenset[int]:
    """Tokens after which an answer is over."""
    found: set[int] = set()
    for said in (
        getattr(model.generation_config, "eos_token_id", None),
        model.config.eos_token_id,
        tokenizer.eos_token_id,
    ):
        found.update(said if isinstance(said, (list, tuple)) else [said] if isinstance(said, int) else [])
    return frozenset(found)


def _chosen(torch: Any, logits: Any, sampling: Sampling, chance: Any) -> int:
    """The next token: the likeliest, or one by chance of the fewest that make `top_p` of it."""
    if not bool(torch.isfinite(logits).any()) or bool(torch.isnan(logits).any()):
        raise refuse(INFERENCE_FAILED, "the model's answer is not finite")
    if sampling.temperature == 0 or sampling.top_p == 0:
        return int(logits.argmax())
    weights = torch.softmax(logits / sampling.temperature, -1)
    if sampling.top_p < 1:
        ordered, places = weights.sort(descending=True)
        ordered[ordered.cumsum(0) - ordered >= sampling.top_p] = 0
        weights = torch.zeros_like(weights).scatter(0, places, ordered)
    return int(torch.multinomial(weights, 1, generator=chance))
