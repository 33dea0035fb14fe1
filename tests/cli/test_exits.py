"""Exit codes: the page's table and the help's line are the code's, and each comes out of the real command."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import click
import pytest

from cli.kit import PASSPHRASE, Party
from cli.world import World
from perunml.cli.root import cli
from perunml.cli.voice import INTERNAL, INTERRUPTED
from perunml.wire.rules import Kind

PAGE = (Path(__file__).parents[2] / "docs" / "cli.md").read_text()
OWN = {0: "done", INTERNAL: "defect", INTERRUPTED: "interrupted"}


def table() -> dict[int, str]:
    """The page's two columns of codes, each with its meaning; "1, 130" has one meaning for each."""
    part = PAGE.partition("| exit code | meaning |")[2].partition("\n\n")[0]
    cells = [cell.strip() for line in part.splitlines()[2:] for cell in line.strip("| ").split("|") if cell.strip()]
    assert len(cells) % 2 == 0
    found: dict[int, str] = {}
    for codes, meaning in zip(cells[::2], cells[1::2], strict=True):
        numbers = [int(code) for code in codes.split(",")]
        meanings = meaning.split(";") if len(numbers) > 1 else [meaning]
        for number, said in zip(numbers, meanings, strict=True):
            assert number not in found, number
            found[number] = said.strip()
    return found


def test_the_pages_table_is_the_codes() -> None:
    """Every kind of refusal by its number and its name, the three others beside them, and no more."""
    wanted = {kind.value: kind.name.lower() for kind in Kind} | OWN
    told = table()
    assert sorted(told) == sorted(wanted)
    assert {code: told[code] for code, word in wanted.items() if word not in told[code].lower()} == {}


def test_the_help_says_the_same_numbers() -> None:
    """`perunml --help` lists what scripts look at."""
    text = " ".join((cli.help or "").split())
    line = re.search(r"Exit codes: (.*?)\.", text)
    assert line is not None
    told = {int(code): said for code, said in re.findall(r"(\d+) ([a-z ]+)", line[1])}
    assert set(told) == {0, *(kind.value for kind in Kind)}
    assert {kind for kind in Kind if kind.name.lower() not in told[kind.value]} == set()
    assert isinstance(cli, click.Group)


@dataclass(frozen=True)
class Place:
    """Where a command is run: a world, and a folder of its own."""

    world: World
    folder: Path

    def agreed(self, name: str, **changes: int) -> str:
        return self.world.agree(name, **changes)


Way = Callable[[Place], tuple[Party, list[object]]]


def _fine(at: Place) -> tuple[Party, list[object]]:
    return at.world["acme"], ["asset", "list"]


def _usage(at: Place) -> tuple[Party, list[object]]:
    return at.world["acme"], ["seal", "--bogus"]


def _agreement(at: Place) -> tuple[Party, list[object]]:
    return at.world["acme"], ["job", "submit", at.agreed("exit-10"), "train", "-p", "epochs=51"]


def _evidence(at: Place) -> tuple[Party, list[object]]:
    profile = at.folder / "strict.yaml"
    profile.write_text(
        "{apiVersion: perunml/v1, kind: ManagerProfile, profile: {profile: tee, sgx: {mr_enclave: ['0000000000000000000000000000000000000000000000000000000000000000']}}}"
    )
    return at.world["acme"], ["trust", at.world.manager.url, "--profile", profile]


def _pending(at: Place) -> tuple[Party, list[object]]:
    path = at.world.write(at.world.document("exit-12"))
    digest = at.world["acme"].ok("agreement", "propose", path)["digest"]
    return at.world["acme"], ["job", "submit", digest, "train", "-p", "epochs=3"]


def _suspended(at: Place) -> tuple[Party, list[object]]:
    digest = at.agreed("exit-13")
    at.world["acme"].ok("asset", "suspend", "unet", "--agreement", digest)
    return at.world["acme"], ["job", "submit", digest, "train", "-p", "epochs=3"]


def _integrity(at: Place) -> tuple[Party, list[object]]:
    run = at.world.finished(at.agreed("exit-14"))
    receipt = at.folder / "receipt.json"
    at.world["acme"].ok("job", "show", run, "--receipt", receipt)
    told = json.loads(receipt.read_bytes())
    told["signatures"][0]["sig"] = "A" * 86
    receipt.write_text(json.dumps(told))
    return at.world["acme"], ["receipt", "verify", receipt]


def _limit(at: Place) -> tuple[Party, list[object]]:
    digest = at.agreed("exit-15", runs=1)
    at.world.finished(digest)
    return at.world["acme"], ["job", "submit", digest, "train", "-p", "epochs=3"]


def _unreachable(at: Place) -> tuple[Party, list[object]]:
    return at.world["acme"], ["trust", "https://127.0.0.1:1", "--profile", at.world.manager.profile]


def _failed(at: Place) -> tuple[Party, list[object]]:
    digest = at.agreed("exit-17")
    run = at.world.submit(digest)
    at.world.machine.take(run, digest, error="code_failed")
    return at.world["acme"], ["job", "wait", run, "--timeout", "30"]


def _held(at: Place) -> tuple[Party, list[object]]:
    run = at.world.finished(at.agreed("exit-18"))
    return at.world["acme"], ["model", "pull", run, "--to", at.folder / "model"]


WAYS: dict[int, tuple[Way, str]] = {
    0: (_fine, ""),
    2: (_usage, "usage"),
    10: (_agreement, "parameter_out_of_range"),
    11: (_evidence, "simulated_not_allowed"),
    12: (_pending, "agreement_not_in_force"),
    13: (_suspended, "asset_suspended"),
    14: (_integrity, "bad_signature"),
    15: (_limit, "runs_exhausted"),
    16: (_unreachable, "unreachable"),
    17: (_failed, "run_failed"),
    18: (_held, "output_held"),
}
"""How each code is come by, and the reason that comes with it."""


def start(
    party: Party, words: list[object], program: str = "from perunml.cli import main; main()"
) -> subprocess.Popen[str]:
    """The command as a process, its passphrase on a descriptor."""
    reading, writing = os.pipe()
    os.write(writing, PASSPHRASE)
    os.close(writing)
    options = ["--home", party.home, "--passphrase-fd", reading]
    command = [sys.executable, "-c", program, *map(str, [*options, *words])]
    try:
        return subprocess.Popen(
            command,
            pass_fds=[reading],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            stdin=subprocess.DEVNULL,
            text=True,
        )
    finally:
        os.close(reading)


@pytest.mark.parametrize("code", sorted({0, *(kind.value for kind in Kind)}))
def test_each_code_comes_out_of_the_command(world: World, tmp_path: Path, code: int) -> None:
    """As a process of its own at a real manager: its status, and with a refusal the reason in the same breath."""
    way, reason = WAYS[code]
    party, words = way(Place(world, tmp_path))
    process = start(party, words)
    _, err = process.communicate(timeout=60)
    if way is _suspended:
        party.ok("asset", "lift", "unet", "--agreement", "exit-13")
    assert process.returncode == code, err
    first = err.splitlines()[0] if code == 2 else next((line for line in err.splitlines() if "refused" in line), "")
    assert first.startswith(f"refused: {reason}: " if reason else "")
    assert bool(err) == bool(reason)


def test_a_defect_is_1(world: World) -> None:
    """Something in the house breaks: no traceback, no code that means anything else."""
    program = "import perunml.client.assets as room; room.local_assets = None; from perunml.cli import main; main()"
    process = start(world["acme"], ["asset", "list"], program)
    out, err = process.communicate(timeout=60)
    assert (process.returncode, out) == (INTERNAL, "")
    assert err.startswith("perunml: a defect of its own: TypeError")


def test_an_interrupt_is_130(world: World) -> None:
    """Ctrl-C while waiting for a run that nobody takes."""
    run = world.submit(world.agree("exit-130"))
    # Tests run in the background inherit a SIGINT that is ignored, and Python leaves such a one alone.
    heeding = "import signal; signal.signal(signal.SIGINT, signal.default_int_handler); "
    process = start(world["acme"], ["job", "wait", run], heeding + "from perunml.cli import main; main()")
    assert process.stderr is not None
    assert "queued" in process.stderr.readline()
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert (process.returncode, err.strip()) == (INTERRUPTED, "interrupted")
