"""Language models by vLLM: continuous batching on GPUs, behind the same interface as `transformers`.

vLLM's asynchronous engine runs in a thread of its own; each answer is a stream of it. The folder is held against the same list before anything is loaded. Whatever its library prints stays in the sandbox.
"""

from __future__ import annotations

import asyncio
import itertools
import os
import queue
import threading
from collections.abc import AsyncIterator, Iterator, Sequence
from pathlib import Path
from typing import Any

from perunml.serving.codes import ENGINE_UNKNOWN, INFERENCE_FAILED, INPUTS_REFUSED, MODEL_REFUSED
from perunml.serving.language import Finish, Message, Sampling, Vectors
from perunml.serving.transformers import check_folder
from perunml.wire.errors import PerunError, refuse

_OFFLINE = {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1", "VLLM_NO_USAGE_STATS": "1", "VLLM_DO_NOT_TRACK": "1"}


class Vllm:
    """A loaded model. A `LanguageEngine` for conversations; vectors want an engine of their own in vLLM, so they are refused."""

    def __init__(self, folder: Path) -> None:
        """Raises `IntegrityError` (model_refused), `AgreementRefusal` (engine_unknown): vLLM is not installed."""
        os.environ.update(_OFFLINE)
        check_folder(folder)
        try:
            from vllm import AsyncEngineArgs, SamplingParams
            from vllm.engine.async_llm_engine import AsyncLLMEngine
        except ImportError:
            raise refuse(
                ENGINE_UNKNOWN, "vLLM is not installed on this host", expected="pip install 'perunml[vllm]'"
            ) from None
        self._parameters: Any = SamplingParams
        self._loop = asyncio.new_event_loop()
        threading.Thread(target=self._loop.run_forever, name="vllm", daemon=True).start()
        self._numbers = itertools.count(1)
        try:
            self._engine, self._tokenizer = self._run(_started(AsyncLLMEngine, AsyncEngineArgs, folder))
        except Exception as exc:
            raise refuse(MODEL_REFUSED, f"the model is not loaded: {type(exc).__name__} in vLLM") from None

    def chat(self, messages: Sequence[Message], sampling: Sampling) -> Iterator[str | Finish]:
        said = [{"role": message.role, "content": message.content} for message in messages]
        try:
            text = self._tokenizer.apply_chat_template(said, tokenize=False, add_generation_prompt=True)
            # As tokens: given the text, vLLM would put a begin of its own before the template's.
            prompt = {"prompt_token_ids": self._tokenizer(text, add_special_tokens=False)["input_ids"]}
        except Exception as exc:
            raise refuse(
                INPUTS_REFUSED, f"the model's template does not take these messages ({type(exc).__name__})"
            ) from None
        options = self._parameters(
            max_tokens=sampling.max_tokens, temperature=sampling.temperature, top_p=sampling.top_p or 1e-9, seed=sampling.seed, stop=list(sampling.stop)
        )  # fmt: skip
        places: queue.Queue[str | Finish | BaseException] = queue.Queue()
        task = asyncio.run_coroutine_threadsafe(self._stream(prompt, options, places), self._loop)
        try:
            while True:
                found = places.get()
                if isinstance(found, PerunError):
                    raise found
                if isinstance(found, BaseException):
                    raise refuse(INFERENCE_FAILED, f"the model failed ({type(found).__name__})")
                yield found
                if isinstance(found, Finish):
                    return
        finally:
            task.cancel()  # vLLM aborts a request whose stream is not read any more

    def embed(self, texts: Sequence[str]) -> Vectors:
        raise refuse(INPUTS_REFUSED, "this service makes no vectors", expected="the engine transformers")

    async def _stream(
        self, prompt: dict[str, Any], options: Any, places: queue.Queue[str | Finish | BaseException]
    ) -> None:
        """What vLLM gives, which is the whole text each time, in pieces."""
        try:
            before = ""
            stream: AsyncIterator[Any] = self._engine.generate(prompt, options, request_id=str(next(self._numbers)))
            async for found in stream:
                (output,) = found.outputs
                if piece := output.text[len(before) :]:
                    places.put(piece)
                before = output.text
                if found.finished:
                    reason = "length" if output.finish_reason == "length" else "stop"
                    places.put(Finish(reason, len(found.prompt_token_ids), len(output.token_ids)))  # type: ignore[arg-type]  # one of the two
                    return
            raise refuse(INFERENCE_FAILED, "the model's answer has no end")
        except BaseException as exc:
            places.put(exc)
            raise

    def _run(self, work: Any) -> Any:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result()


async def _started(engine: Any, arguments: Any, folder: Path) -> tuple[Any, Any]:
    made = engine.from_engine_args(arguments(model=str(folder), trust_remote_code=False, load_format="safetensors"))
    tokenizer = made.get_tokenizer()
    return made, await tokenizer if asyncio.iscoroutine(tokenizer) else tokenizer
