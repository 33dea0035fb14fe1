"""A program for the sandbox's tests: runs code in the real sandbox as a runner does, and prints what came of it as JSON.

Input, as JSON on stdin: {"code": {name: text}, "inputs": {name: {file: text}}, "parameters": {}, "kill_after": seconds | null,
"tmp_size": bytes, "devices": {path: node}, "memory": bytes | null, "then": "" | "crash", "landlock": bool}.
"""

from __future__ import annotations

import json
import os
import sys
import threading
import time
from pathlib import Path

from perunml.host import contract, launch, limits
from perunml.host.memory import PrivateMemory
from perunml.host.sandbox import Sandbox, View, job_user, show_interpreter
from perunml.wire.canonical import canonical


def main() -> None:
    asked = json.load(sys.stdin)
    if asked.get("landlock") is False:
        launch.landlock_version = lambda: 0
    user = job_user()
    memory = PrivateMemory.enter()
    code = memory.add("code", 1 << 20, owner=user)
    for name, text in asked["code"].items():
        (code / name).write_text(text)
    memory.freeze("code", user)
    inputs = {}
    for name, files in asked.get("inputs", {}).items():
        folder = inputs[f"/in/{name}"] = memory.add(f"in-{name}", 1 << 20, owner=user)
        for file, text in files.items():
            (folder / file).write_text(text)
        memory.freeze(f"in-{name}", user)
    parameters = asked.get("parameters", {})
    out = memory.add("out", 64 << 20, owner=user)
    view = View(
        code=code,
        inputs=inputs,
        out=out,
        tmp=memory.add("tmp", asked.get("tmp_size", 64 << 20), owner=user, executable=True),
        shm=memory.add("shm", 64 << 20, owner=user),
        parameters=canonical(parameters),
        prefixes=show_interpreter(memory),
        devices={shown: Path(real) for shown, real in asked.get("devices", {}).items()},
    )
    env = contract.environment({name.removeprefix("/in/"): name for name in inputs}, parameters, threads=1)
    group = limits.make_cgroup(f"test-{os.getpid()}", asked["memory"]) if asked.get("memory") else None
    command = [view.python, "/code/train.py"]
    with Sandbox(view, command, env, file_size=1 << 30, cgroup=group) as sandbox:
        print(json.dumps({"init": sandbox.init_pid, "user": user, "runner": os.getpid()}), flush=True)
        if asked.get("then") == "crash":
            time.sleep(asked["kill_after"])
            os.kill(os.getpid(), 9)
        if asked.get("kill_after") is not None:
            threading.Timer(asked["kill_after"], sandbox.kill).start()
        status = sandbox.wait(None)
        starved = sandbox.out_of_memory()
    files = {path.name: path.read_text() for path in sorted(out.iterdir()) if path.is_file()}
    print(json.dumps({"status": status, "out": files, "oom": starved, "group": group.kind if group else ""}))


main()
