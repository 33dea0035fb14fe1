"""A program for the tests of the confined language engine: starts it as a runner does, in the folder with the model that it is given, and says in JSON what came of it."""

from __future__ import annotations

import json
import shutil
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from perunml.host.memory import PrivateMemory
from perunml.host.sandbox import job_user
from perunml.serving.confined_language import ConfinedLanguage
from perunml.serving.language import Finish, Message, Sampling
from perunml.wire.errors import PerunError

LIKELIEST = Sampling(24, 0, 1)


def main() -> None:
    memory = PrivateMemory.enter(swap_allowed=True)
    folder = memory.add("model", 64 << 20, owner=job_user())
    for path in Path(sys.argv[1]).iterdir():
        shutil.copy(path, folder)
    memory.freeze("model", job_user())
    engine = ConfinedLanguage("transformers", folder, memory, swap_allowed=True)
    engine.start()
    try:
        print(json.dumps(_talked(engine)), flush=True)
    finally:
        engine.close()


def _talked(engine: ConfinedLanguage) -> dict[str, Any]:
    found: dict[str, Any] = {"alone": _said(engine, "hello")}
    with ThreadPoolExecutor(6) as pool:
        found["together"] = [[text] for text, _ in pool.map(lambda n: _said(engine, f"number {n}"), range(6))]
    vectors = engine.embed(["x", "yz"])
    found["vectors"] = [len(vectors.values[0]), vectors.tokens]
    found["refused"] = _code(engine, "x" * 300)
    long = engine.chat([Message("user", "hello")], Sampling(230, 0, 1))
    next(long)
    long.close()  # type: ignore[attr-defined]  # it is a generator
    found["taken back"] = _said(engine, "hello")
    begun = engine.chat([Message("user", "hello")], Sampling(230, 0, 1))
    next(begun)
    assert engine._sandbox
    engine._sandbox.kill()
    engine._sandbox.wait(None)
    killed = []
    try:
        for _ in begun:
            pass
    except PerunError as exc:
        killed.append(exc.code)
    found["killed"] = [*killed, _code(engine, "hello")]
    engine.tend()
    found["again"] = _said(engine, "hello")
    return found


def _said(engine: ConfinedLanguage, text: str) -> list[Any]:
    *pieces, finish = engine.chat([Message("user", text)], LIKELIEST)
    assert isinstance(finish, Finish)
    return ["".join(str(piece) for piece in pieces), finish.completion_tokens]


def _code(engine: ConfinedLanguage, text: str) -> str:
    try:
        _said(engine, text)
    except PerunError as exc:
        return exc.code
    return ""


main()
