"""Requests of OpenAI's protocol, read: what a service can do of them, and no more."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from perunml.serving.codes import INPUTS_REFUSED
from perunml.serving.language import (
    DEFAULT_TOKENS,
    MAX_MESSAGES,
    MAX_TEXT,
    MAX_TEXTS,
    MAX_TOKENS,
    ROLES,
    Message,
    Sampling,
)
from perunml.wire.errors import PerunError, refuse

MAX_STOPS, MAX_STOP = 4, 256
"""Texts that end an answer, and characters of each."""
_PASSED_OVER = {"model", "user", "safety_identifier", "prompt_cache_key", "metadata", "store", "service_tier"}
"""Members without an effect on the answer: who asks, tags, prices."""
_NEUTRAL: dict[str, tuple[Any, ...]] = {
    "n": (1, None), "frequency_penalty": (0, 0.0, None), "presence_penalty": (0, 0.0, None), "logprobs": (False, None), "top_logprobs": (None,),
    "logit_bias": (None, {}), "tools": (None, []), "tool_choice": (None, "none", "auto"), "parallel_tool_calls": (None, True, False),
    "response_format": (None, {"type": "text"}), "modalities": (None, ["text"]),
}  # fmt: skip
"""Members that are taken with the values that mean nothing special."""
_CHAT = {
    "messages",
    "stream",
    "stream_options",
    "max_tokens",
    "max_completion_tokens",
    "temperature",
    "top_p",
    "stop",
    "seed",
}
_VECTORS = {"input", "encoding_format"}


@dataclass(frozen=True, slots=True)
class Chat:
    """A conversation to continue."""

    messages: tuple[Message, ...]
    sampling: Sampling
    stream: bool
    include_usage: bool


@dataclass(frozen=True, slots=True)
class Texts:
    """Texts to turn into vectors, in base64 where `packed`."""

    texts: tuple[str, ...]
    packed: bool


def asked_for_chat(value: dict[str, Any]) -> Chat:
    """Raises `UsageError` (inputs_refused), which names a member and shows nothing of a conversation."""
    _only(value, _CHAT)
    stream = value.get("stream")
    options = value.get("stream_options")
    if stream is not None and type(stream) is not bool:
        raise _odd("stream", "true or false")
    if options is not None and not (
        stream and isinstance(options, dict) and set(options) <= {"include_usage", "include_obfuscation"}
    ):
        raise _odd("stream_options", "include_usage, of a stream")
    most = _given(value, "max_completion_tokens", value.get("max_tokens"))
    sampling = Sampling(
        max_tokens=DEFAULT_TOKENS if most is None else int(_number("max_tokens", most, 1, MAX_TOKENS, whole=True)),
        temperature=_number("temperature", _given(value, "temperature", 1.0), 0, 2),
        top_p=_number("top_p", _given(value, "top_p", 1.0), 0, 1),
        seed=None if value.get("seed") is None else int(_number("seed", value["seed"], -(2**53), 2**53, whole=True)),
        stop=_stops(value.get("stop")),
    )
    return Chat(
        messages=_messages(value.get("messages")),
        sampling=sampling,
        stream=stream is True,
        include_usage=bool(options and options.get("include_usage") is True),
    )


def asked_for_vectors(value: dict[str, Any]) -> Texts:
    """Raises `UsageError` (inputs_refused)."""
    _only(value, _VECTORS)
    said = value.get("input")
    texts = [said] if isinstance(said, str) else said
    if (
        not isinstance(texts, list)
        or not 0 < len(texts) <= MAX_TEXTS
        or not all(_is_text(text) and text for text in texts)
    ):
        raise _odd("input", f"a text, or 1 to {MAX_TEXTS} of them")
    if sum(map(len, texts)) > MAX_TEXT:
        raise _odd("input", f"at most {MAX_TEXT} characters")
    form = value.get("encoding_format") or "float"
    if form not in ("float", "base64"):
        raise _odd("encoding_format", "float or base64")
    return Texts(tuple(texts), form == "base64")


def _only(value: dict[str, Any], known: set[str]) -> None:
    """What would change the answer, and is not done here, is refused."""
    for name, said in value.items():
        if name in known or name in _PASSED_OVER:
            continue
        neutral = _NEUTRAL.get(name)
        if neutral is None or not any(type(said) is type(one) and said == one for one in neutral):
            raise refuse(INPUTS_REFUSED, "the request asks for something that this service does not do", seen=name[:40])


def _messages(value: Any) -> tuple[Message, ...]:
    if not isinstance(value, list) or not 0 < len(value) <= MAX_MESSAGES:
        raise _odd("messages", f"1 to {MAX_MESSAGES} messages")
    made = tuple(map(_message, value))
    if sum(len(message.content) for message in made) > MAX_TEXT:
        raise _odd("messages", f"at most {MAX_TEXT} characters")
    return made


def _message(value: Any) -> Message:
    if (
        not isinstance(value, dict)
        or set(value) - {"role", "content", "name", "refusal"}
        or value.get("role") not in ROLES
    ):
        raise _odd("messages", f"role ({', '.join(ROLES)}) and content")
    content = value.get("content")
    if isinstance(content, list):
        plain = all(
            isinstance(part, dict) and set(part) == {"type", "text"} and part["type"] == "text" for part in content
        )
        content = "".join(part["text"] for part in content if _is_text(part["text"])) if plain else None
    if not _is_text(content):
        raise _odd("messages", "content that is text")
    return Message(str(value["role"]), str(content))


def _stops(value: Any) -> tuple[str, ...]:
    stops = [] if value is None else [value] if isinstance(value, str) else value
    if (
        not isinstance(stops, list)
        or len(stops) > MAX_STOPS
        or not all(_is_text(one) and 0 < len(one) <= MAX_STOP for one in stops)
    ):
        raise _odd("stop", f"up to {MAX_STOPS} texts of up to {MAX_STOP} characters")
    return tuple(stops)


def _is_text(value: Any) -> bool:
    """Text that can be written: JSON can name half a character (a lone surrogate)."""
    if not isinstance(value, str):
        return False
    try:
        value.encode()
    except UnicodeEncodeError:
        return False
    return True


def _given(value: dict[str, Any], name: str, default: Any) -> Any:
    found = value.get(name)
    return default if found is None else found


def _number(name: str, value: Any, least: float, most: float, *, whole: bool = False) -> float:
    good = type(value) is int or (type(value) is float and not whole and math.isfinite(value))
    if not good or not least <= value <= most:
        raise _odd(name, f"a {'whole ' if whole else ''}number from {least} to {most}")
    return float(value) if not whole else value


def _odd(name: str, expected: str) -> PerunError:
    return refuse(INPUTS_REFUSED, f"{name} is not of its form", expected=expected)
