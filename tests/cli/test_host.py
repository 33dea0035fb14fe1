"""`perunml host`: flags, events, an agent that may not start."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from cli.kit import Party
from client.test_pin import issue, pin_of
from perunml.cli.host import event_line

EVENTS: list[tuple[dict[str, object], str]] = [
    ({"event": "ready", "machine": "ek:x", "simulated": False}, "ready       machine ek:x"),
    ({"event": "taken", "run": "1", "simulated": True}, "taken       run 1  (simulated)"),
    (
        {
            "event": "lease_lost",
            "run": "1",
            "reasons": [{"code": "pcr_mismatch", "message": "PCR 10"}],
            "simulated": True,
        },
        "lease_lost  run 1  pcr_mismatch: PCR 10  (simulated)",
    ),
]


@pytest.mark.parametrize(("event", "line"), EVENTS, ids=lambda value: "")
def test_events_as_lines(event: dict[str, object], line: str) -> None:
    """Each on one line; simulated is said in the same line."""
    assert event_line(event) == line


def test_a_machine_that_was_never_enrolled(tmp_path: Path) -> None:
    """The agent refuses with exit code 2: as root because it is not enrolled, else because it is not root."""
    pin = tmp_path / "pin.json"
    pin.write_bytes(pin_of(issue("manager")[1]).to_file())
    words = ["host", "run", "--folder", str(tmp_path / "host"), "--pin", str(pin), "--simulated-machine"]
    done = subprocess.run(
        [sys.executable, "-m", "perunml", *words], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 2
    assert done.stderr.startswith(f"refused: {'not_enrolled' if os.geteuid() == 0 else 'host_unfit'}: ")


def test_one_machine_or_the_other(nobody: Party, tmp_path: Path) -> None:
    """Neither flag, or both: there is no default machine."""
    words = ("host", "run", "--folder", tmp_path)
    pin = tmp_path / "pin.json"
    pin.write_bytes(pin_of(issue("manager")[1]).to_file())
    assert nobody.refused(*words, "--pin", pin, passphrase=None) == (2, "usage")
    assert nobody.refused(*words, "--pin", pin, "--simulated-machine", "--tcti", "x", passphrase=None) == (2, "usage")
    assert nobody.refused(*words, "--simulated-machine", passphrase=None) == (2, "not_pinned")
