"""A program for the tests of the confined engine: starts it as a runner does; one JSON line in, one out.

Arguments: the folder with the model, and perhaps the engine. Input lines: inputs to predict, or "kill" (the engine's process dies), or "tend".
"""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path

from perunml.host.memory import PrivateMemory
from perunml.host.sandbox import job_user
from perunml.serving.confined import ConfinedEngine
from perunml.serving.forms import forms_json
from perunml.testing.service import predict
from perunml.wire.errors import PerunError


def main() -> None:
    memory = PrivateMemory.enter(swap_allowed=True)
    folder = memory.add("model", 64 << 20, owner=job_user())
    for path in Path(sys.argv[1]).iterdir():
        shutil.copy(path, folder)
    memory.freeze("model", job_user())
    engine = ConfinedEngine(sys.argv[2] if len(sys.argv) > 2 else "torch-export", folder, memory, swap_allowed=True)
    try:
        engine.start()
        print(json.dumps(forms_json(engine.forms())), flush=True)
        for line in sys.stdin:
            try:
                match asked := json.loads(line):
                    case "kill":
                        assert engine._sandbox
                        engine._sandbox.kill()
                        engine._sandbox.wait(None)
                        answer: object = {}
                    case "tend":
                        engine.tend()
                        answer = {}
                    case _:
                        answer = predict(engine, asked)
            except PerunError as exc:
                answer = {"code": exc.code, "text": str(exc)}
            print(json.dumps(answer), flush=True)
    except PerunError as exc:
        print(json.dumps({"code": exc.code}), flush=True)
    finally:
        engine.close()


main()
