"""The story's processes: the `perunml` command as each party runs it, and the servers that stay.

Every party has a key folder of its own and a passphrase that only its processes are handed, through a pipe.
"""

from __future__ import annotations

import json
import os
import secrets
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

CALL_TIMEOUT = 180
START_TIMEOUT = 60
STOP_TIMEOUT = 10


class StoryError(Exception):
    """A step that should have worked did not, or one that should have been refused was not."""


@dataclass(frozen=True)
class Outcome:
    """What one call of the command gave: its JSON on stdout, or coded reasons on stderr."""

    exit_code: int
    value: Any
    reasons: tuple[dict[str, Any], ...]
    text: str

    @property
    def code(self) -> str:
        return str(self.reasons[0]["code"]) if self.reasons else ""

    @property
    def message(self) -> str:
        return str(self.reasons[0]["message"]) if self.reasons else self.text[-300:]


def command(home: Path, *arguments: str) -> list[str]:
    return [sys.executable, "-m", "perunml", "--home", str(home), "-o", "json", *arguments]


@dataclass
class Party:
    """Somebody with a key folder of its own."""

    name: str
    folder: Path
    passphrase: str = field(default_factory=lambda: secrets.token_urlsafe(18), repr=False)
    identity: str = ""
    receive: str = ""

    @property
    def home(self) -> Path:
        return self.folder / "home"

    def call(self, *arguments: str) -> Outcome:
        """Runs `perunml … arguments` as this party; never raises for a refusal."""
        with handed(self.passphrase) as fd:
            done = subprocess.run(
                [*command(self.home, "--passphrase-fd", str(fd)), *arguments],
                capture_output=True,
                pass_fds=(fd,),
                timeout=CALL_TIMEOUT,
                stdin=subprocess.DEVNULL,
                check=False,
            )
        out, err = done.stdout.decode(errors="replace"), done.stderr.decode(errors="replace")
        return Outcome(done.returncode, _json(out), _reasons(err), (err or out).strip())

    def run(self, *arguments: str) -> Any:
        """As `call`, and it must work."""
        outcome = self.call(*arguments)
        if outcome.exit_code != 0:
            raise StoryError(
                f"{self.name}: perunml {' '.join(arguments)}: exit {outcome.exit_code}\n{outcome.text[-3000:]}"
            )
        return outcome.value

    def refused(self, *arguments: str) -> Outcome:
        """As `call`, and it must be refused with a code."""
        outcome = self.call(*arguments)
        if outcome.exit_code == 0 or not outcome.code:
            raise StoryError(
                f"{self.name}: perunml {' '.join(arguments)}: was not refused with a code "
                f"(exit {outcome.exit_code})\n{outcome.text[-3000:]}"
            )
        return outcome


class handed:
    """A file descriptor from which a child process reads `secret`; nothing is in argv, environment or a file."""

    def __init__(self, secret: str) -> None:
        self._secret = secret

    def __enter__(self) -> int:
        self._read, write = os.pipe()
        os.write(write, self._secret.encode() + b"\n")
        os.close(write)
        return self._read

    def __exit__(self, *_: object) -> None:
        os.close(self._read)


class Server:
    """A process that stays: its lines of JSON are kept as they come, its last words on stderr for when it fails."""

    def __init__(self, name: str, arguments: Sequence[str], log: Path, passphrase: str | None = None) -> None:
        self.name = name
        self._log = log
        self.lines: list[dict[str, Any]] = []
        self._news = threading.Condition()
        fds: tuple[int, ...] = ()
        with handed(passphrase or "-") as fd, log.open("ab") as err:
            if passphrase is not None:
                arguments = [a.replace("{fd}", str(fd)) for a in arguments]
                fds = (fd,)
            self.process = subprocess.Popen(
                arguments,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=err,
                pass_fds=fds,
                start_new_session=True,
            )
        threading.Thread(target=self._read, args=(self.process.stdout,), daemon=True).start()

    def _read(self, stream: IO[bytes]) -> None:
        for raw in stream:
            value = _json(raw.decode(errors="replace"))
            if isinstance(value, dict):
                with self._news:
                    self.lines.append(value)
                    self._news.notify_all()
        with self._news:
            self._news.notify_all()

    def wait_for(self, timeout: float = START_TIMEOUT, /, **members: Any) -> dict[str, Any]:
        """The first line whose members are these (`...`: has it). Raises `StoryError` when it ends or takes too long."""
        deadline = time.monotonic() + timeout
        with self._news:
            seen = 0
            while True:
                for line in self.lines[seen:]:
                    if all(value in (..., line.get(name)) and name in line for name, value in members.items()):
                        return line
                seen = len(self.lines)
                left = deadline - time.monotonic()
                if left <= 0 or (self.process.poll() is not None and not self._news.wait(0.2)):
                    raise StoryError(f"{self.name}: no line {members} ({self._last_words()})")
                self._news.wait(min(left, 0.5))

    def ask(self, line: str) -> dict[str, Any]:
        """One command line on its stdin, and the line that answers it."""
        stdin = self.process.stdin
        if stdin is None:
            raise StoryError(f"{self.name} has no stdin")
        seen = len(self.lines)
        stdin.write(line.encode() + b"\n")
        stdin.flush()
        with self._news:
            if not self._news.wait_for(lambda: len(self.lines) > seen, START_TIMEOUT):
                raise StoryError(f"{self.name}: no answer to {line!r} ({self._last_words()})")
            return self.lines[seen]

    def kill(self) -> None:
        """kill -9, as a power cut would."""
        self.process.kill()
        self.process.wait(STOP_TIMEOUT)
        self._close()

    def stop(self) -> None:
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            try:
                self.process.wait(STOP_TIMEOUT)
            except subprocess.TimeoutExpired:
                self.kill()
        self._close()

    def _close(self) -> None:
        for stream in (self.process.stdin, self.process.stdout):
            if stream is not None:
                stream.close()

    def _last_words(self) -> str:
        text = self._log.read_text(errors="replace") if self._log.exists() else ""
        return f"exit {self.process.poll()}; {self.lines[-3:]}; {text[-2000:]}"


def _json(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return None


def _reasons(text: str) -> tuple[dict[str, Any], ...]:
    for line in reversed(text.splitlines()):
        value = _json(line)
        if isinstance(value, dict) and isinstance(value.get("reasons"), list):
            return tuple(value["reasons"])
    value = _json(text)
    return tuple(value["reasons"]) if isinstance(value, dict) and isinstance(value.get("reasons"), list) else ()
