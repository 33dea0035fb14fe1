"""Completion in bash, zsh and fish: what the shells are answered, and the shells themselves where they are installed."""

from __future__ import annotations

import os
import pty
import select
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from cli.kit import Party

FILE = "<a file>"
FOLDER = "<a folder>"
CASES = [
    ("agr", {"agreement"}),
    ("agreement ap", {"approve"}),
    (
        "agreement ",
        {
            "check",
            "schema",
            "review",
            "propose",
            "diff",
            "approve",
            "message",
            "attach",
            "withdraw",
            "rotate-key",
            "show",
            "list",
        },
    ),
    ("model pu", {"pull"}),
    ("--home here job su", {"submit"}),
    ("host enrol --si", {"--simulated-machine"}),
    ("host enrol --dry", {"--dry-run"}),
    ("agreement list --out", {"--output"}),
    ("seal scans --kind ", {"dataset", "code", "model"}),
    ("agreement list -o ", {"text", "json"}),
    ("completion ", {"bash", "zsh", "fish"}),
    ("trust https://x --profile pro", {FILE}),
    ("agreement check ag", {FILE}),
    ("agreement review ag", {FILE}),
    ("document push ", {FILE}),
    ("seal sc", {FILE}),
    ("infer run pat", {FILE}),
    ("output pull run --to mo", {FOLDER}),
    ("--home ", {FOLDER}),
    ("agreement nothing", set()),
]
"""What is typed after `perunml `, and what is offered for its last word."""
WAIT = 20.0
"""Seconds for a shell to show what it completed; it takes a third of one."""


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A PATH on which `perunml` is this checkout's."""
    folder = tmp_path_factory.mktemp("bin")
    script = folder / "perunml"
    script.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m perunml "$@"\n')
    script.chmod(0o755)
    return f"{folder}:{os.environ['PATH']}"


def asked(shell: str, typed: str) -> set[str]:
    """The answer to a shell that asks by the protocol of its script, in this shell's form."""
    line = f"perunml {typed}"
    words = line.split(" ")
    variables = {
        "_PERUNML_COMPLETE": f"{shell}_complete",
        "COMP_WORDS": line,
        "COMP_CWORD": words[-1] if shell == "fish" else str(len(words) - 1),
    }
    done = subprocess.run(
        [sys.executable, "-m", "perunml"],
        env=os.environ | variables,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.stderr == ""
    assert "Usage" not in done.stdout
    lines = done.stdout.strip("\n").splitlines()
    if shell == "zsh":
        assert len(lines) % 3 == 0
        pairs = [(kind, value) for kind, value, _ in zip(*[iter(lines)] * 3, strict=True)]
    else:
        pairs = [(kind, value.partition("\t")[0]) for kind, _, value in (item.partition(",") for item in lines)]
    return {{"file": FILE, "dir": FOLDER}.get(kind, value) for kind, value in pairs}


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_the_script_registers_a_completion(shell: str, nobody: Party) -> None:
    """`eval "$(perunml completion bash)"`: the shell's own way to ask, by the variable that the command listens to."""
    script = nobody.ok("completion", shell)["script"]
    assert f"_PERUNML_COMPLETE={shell}_complete" in script
    assert {"bash": "complete -o nosort -F", "zsh": "compdef", "fish": "complete --no-files"}[shell] in script
    assert nobody("completion", shell, passphrase=None).out.strip() == script.strip()


@pytest.mark.parametrize(("typed", "offered"), CASES, ids=[typed for typed, _ in CASES])
def test_bash_is_answered(typed: str, offered: set[str]) -> None:
    """Subcommands, options, choices, files and folders."""
    assert asked("bash", typed) == offered


@pytest.mark.parametrize("shell", ["zsh", "fish"])
@pytest.mark.parametrize(("typed", "offered"), CASES[2::5], ids=[typed for typed, _ in CASES[2::5]])
def test_zsh_and_fish_are_answered_the_same(shell: str, typed: str, offered: set[str]) -> None:
    """Each in its own form."""
    assert asked(shell, typed) == offered


@pytest.fixture
def files(tmp_path: Path) -> Path:
    """A folder with a file to complete."""
    (tmp_path / "agreement-of-ours.yaml").touch()
    return tmp_path


class Terminal:
    """An interactive shell on a terminal of its own."""

    def __init__(self, command: list[str], folder: Path, path: str) -> None:
        self._leader, follower = pty.openpty()
        env = os.environ | {"PATH": path, "TERM": "dumb", "PS1": "$ ", "HISTFILE": "/dev/null", "HOME": str(folder)}
        self._process = subprocess.Popen(
            command, stdin=follower, stdout=follower, stderr=follower, cwd=folder, env=env, start_new_session=True
        )
        os.close(follower)
        self.shown = ""

    def type(self, keys: str, until: str) -> None:
        """Press keys, and wait for what is to be seen after them."""
        begin = len(self.shown)
        os.write(self._leader, keys.encode())
        end = time.monotonic() + WAIT
        while until not in self.shown[begin:]:
            ready, _, _ = select.select([self._leader], [], [], max(0.0, end - time.monotonic()))
            assert ready, f"{until!r} was not shown: {self.shown[begin:]!r}"
            self.shown += os.read(self._leader, 65536).decode(errors="replace")

    def close(self) -> None:
        self._process.kill()
        self._process.wait()
        os.close(self._leader)


SHELLS = {
    "bash": (["bash", "--noprofile", "--norc", "-i"], 'eval "$(perunml completion bash)"'),
    "zsh": (["zsh", "-f", "-i"], 'autoload -U compinit; compinit -u -D; eval "$(perunml completion zsh)"'),
}


@pytest.fixture(params=sorted(SHELLS))
def terminal(request: pytest.FixtureRequest, files: Path, path: str) -> Iterator[Terminal]:
    """A shell that has read its script."""
    command, source = SHELLS[request.param]
    if shutil.which(command[0]) is None:
        pytest.skip(
            f"{command[0]} is not installed here; the protocol is tested without it, bash runs wherever Perun does"
        )
    made = Terminal(command, files, path)
    try:
        made.type(f"{source}; echo rea''dy\n", "ready")
        yield made
    finally:
        made.close()


def test_the_tab_key(terminal: Terminal) -> None:
    """A person types half a word and presses Tab: a verb, an option, a file's name."""
    terminal.type("perunml agr\t", "agreement ")
    terminal.type("che\t", "check ")
    terminal.type("--pass\t", "--passphrase-fd ")
    terminal.type("3 agreement-o\t", "agreement-of-ours.yaml")


def test_fish_offers_the_same(files: Path, path: str) -> None:
    """fish says without a terminal what it would offer."""
    if shutil.which("fish") is None:
        pytest.skip("fish is not installed here; the protocol is tested without it")

    def offered(line: str) -> list[str]:
        script = f"perunml completion fish | source; complete -C '{line}'"
        env = os.environ | {"PATH": path, "HOME": str(files)}
        done = subprocess.run(
            ["fish", "--no-config", "-c", script],
            capture_output=True,
            text=True,
            timeout=60,
            check=True,
            cwd=files,
            env=env,
        )
        return [item.partition("\t")[0] for item in done.stdout.splitlines()]

    assert offered("perunml agr") == ["agreement"]
    assert offered("perunml host enrol --dry") == ["--dry-run"]
    assert offered("perunml agreement check agreement-o") == ["agreement-of-ours.yaml"]
