"""Through the hole in the tests' own image: what somebody could do who had root on a machine that the parties agreed on."""

from __future__ import annotations

import base64
import json
import socket
from collections.abc import Sequence
from dataclasses import dataclass

PORT = 7999
ANSWER_SECONDS = 120
NOBODY = 65534


@dataclass
class Burglar:
    """`port` of this machine leads to the hole."""

    port: int

    def run(self, command: Sequence[str], *, user: int = 0, stdin: bytes = b"") -> bytes:
        """What the command printed. Raises `AssertionError` where it failed."""
        asked = {"run": list(command), "user": user, "stdin": base64.b64encode(stdin).decode()}
        with socket.create_connection(("127.0.0.1", self.port), ANSWER_SECONDS) as sock, sock.makefile("rb") as answers:
            sock.sendall(json.dumps(asked).encode() + b"\n")
            answer = json.loads(answers.readline())
        assert answer["rc"] == 0, answer
        return base64.b64decode(answer["out"])

    def python(self, script: str, *arguments: str) -> bytes:
        """Run a script as root, out of memory: no file of it is measured, which is why nobody may get this far."""
        return self.run(["/usr/bin/python3", "-", *arguments], stdin=script.encode())

    def put(self, path: str, data: bytes, mode: str = "0644") -> None:
        self.run(["/usr/bin/busybox", "sh", "-c", f"cat > {path}; chmod {mode} {path}"], stdin=data)

    def hold_agent(self) -> None:
        """End the agent, and keep it from starting again."""
        self.run(["/usr/bin/busybox", "sh", "-c", "cd /usr/bin; touch /run/hold; ./busybox pkill -f 'json host boot'"])
