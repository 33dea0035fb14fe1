"""`perunml checker run` at a real manager: a second member of a board, which signs what it may and says of the rest why not."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

from cli.kit import PASSPHRASE
from cli.world import World

RULES = """
apiVersion: perunml/v1
kind: Checker
agreements: [good, bad, other]
versions: any
limits: {runs: 50}
code: {unet: {forbid: [network, processes]}}
"""


def proposed(world: World, name: str, **options: Any) -> str:
    path = world.write(world.document(name, **options))
    digest: str = world["acme"].ok("agreement", "propose", path)["digest"]
    return digest


def test_it_signs_what_nothing_speaks_against(world: World, tmp_path: Path) -> None:
    """One proposal within its rules, one that runs too often, and one of another name, which it leaves alone."""
    rules = tmp_path / "checker.yaml"
    rules.write_text(RULES)
    acme = world["acme"]
    good, bad, other = proposed(world, "good", runs=50), proposed(world, "bad", runs=51), proposed(world, "unknown")
    assert acme.ok("checker", "try", "--config", rules, "bad")["would_sign"] is False
    reading, writing = os.pipe()
    os.write(writing, PASSPHRASE)
    os.close(writing)
    command = [
        sys.executable, "-m", "perunml", "--home", acme.home, "--passphrase-fd", str(reading), "-o", "json",
        "checker", "run", "--config", rules, "--every", "0.2",
    ]  # fmt: skip
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    running = subprocess.Popen(command, stdout=subprocess.PIPE, pass_fds=[reading], env=env)
    os.close(reading)
    try:
        assert running.stdout is not None
        said = {}
        while len(said) < 2:
            line = json.loads(running.stdout.readline())
            said[line["agreement"]] = line
    finally:
        running.send_signal(signal.SIGTERM)
        assert running.wait(20) == 0
        running.stdout.close()  # type: ignore[union-attr] # a pipe
    assert said[good]["event"] == "signed"
    assert (said[bad]["event"], [one["rule"] for one in said[bad]["findings"]]) == ("not-signed", ["limits.runs"])
    assert acme.ok("agreement", "show", good)["approved"] == ["acme"]
    assert acme.ok("agreement", "show", bad)["approved"] == []
    assert acme.ok("agreement", "show", other)["approved"] == []


def test_a_partner_that_cannot_open_the_code_does_not_sign(world: World, tmp_path: Path) -> None:
    """The hospital's home has no key to it: that is said."""
    rules = tmp_path / "checker.yaml"
    rules.write_text(RULES)
    proposed(world, "other")
    found = world["st-vitus"].ok("checker", "try", "--config", rules, "other")
    assert [one["rule"] for one in found["findings"] if one["rule"] != "limits.runs"] == ["code.unet"]


def test_a_folder_before_it_is_sealed(world: World, tmp_path: Path) -> None:
    """By the rules of the one code asset that they have."""
    rules, folder = tmp_path / "checker.yaml", tmp_path / "code"
    rules.write_text(RULES)
    folder.mkdir()
    (folder / "train.py").write_text("import socket\n")
    found = world["acme"].ok("checker", "try", "--config", rules, folder)
    assert [one["rule"] for one in found["findings"]] == ["code.unet.forbid"]
    (folder / "train.py").write_text("import math\n")
    assert world["acme"].ok("checker", "try", "--config", rules, folder)["would_sign"]
