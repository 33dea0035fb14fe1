"""The whole story, with real processes: what `make demo` and `perunml quickstart` tell, held line by line; told by an
installed package that sees no checkout."""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import wheel
from perunml.testing.story.tell import missing_programs

REFUSALS = [
    ("acme", "digest_not_agreed"),
    ("stranger", "client_not_in_agreement"),
    ("acme", "asset_suspended"),
    ("gpu-cloud", "binding_mismatch"),
    ("trainer", "pcr_mismatch"),
    ("acme", "runs_exhausted"),
]
TIMEOUT = 400


@pytest.fixture(scope="module")
def perunml(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[str]]:
    """The command of a wheel in a virtual environment of its own; gone afterwards, for it has tens of thousands of files.
    Where the build backend is missing, as it is not in CI, the checkout's command stands in."""
    absent = missing_programs()
    backend = importlib.util.find_spec("hatchling") is not None
    # In CI everything is installed: there a skip would hide a broken set-up.
    assert not os.environ.get("CI") or (backend and not absent), f"the set-up left out {absent or 'hatchling'}"
    if absent:
        pytest.skip(f"the story needs {', '.join(absent)}; `make setup` installs them")
    if not backend:
        yield [sys.executable, "-m", "perunml"]
        return
    folder = tmp_path_factory.mktemp("wheel")
    yield [str(wheel.install(wheel.build(folder), folder / "venv", linked=True) / "perunml")]
    shutil.rmtree(folder)


@pytest.fixture(scope="module")
def told(perunml: list[str], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """`perunml quickstart -o json`, run once, as a user would, away from the checkout."""
    away = tmp_path_factory.mktemp("story")
    folder = away / "kept"
    done = subprocess.run(
        [*perunml, "quickstart", "-o", "json", "--keep", str(folder)],
        capture_output=True,
        text=True,
        timeout=TIMEOUT,
        check=False,
        cwd=away,
        env=wheel.environment() if len(perunml) == 1 else None,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    return {**json.loads(done.stdout), "folder": folder}


@pytest.mark.e2e
def test_everything_that_goes_wrong_is_refused_with_its_code(told: dict[str, Any]) -> None:
    """Act 7: who tried, and which code came."""
    refused = [(step["who"], step["refused"]) for step in told["steps"] if "refused" in step]
    assert refused == REFUSALS


@pytest.mark.e2e
def test_the_weights_equal_those_of_the_unsealed_run(told: dict[str, Any]) -> None:
    """Act 5: same code, same seed, sealed or not: the same bytes."""
    assert told["weights_identical"] is True
    assert any("weights are byte-identical" in step.get("found", "") for step in told["steps"])


@pytest.mark.e2e
def test_whoever_is_simulated_is_called_so(told: dict[str, Any]) -> None:
    """Manager, both hosts, the answer and the receipt."""
    said = [step for step in told["steps"] if "simulated" in json.dumps(step)]
    assert told["simulated"] is True
    assert len(said) >= 7


@pytest.mark.e2e
def test_no_secret_lies_unsealed_in_any_folder(told: dict[str, Any]) -> None:
    """Nothing of the data, the code or the weights is on disk in the clear outside its owner's own folder, and no
    passphrase is anywhere."""
    folder: Path = told["folder"]
    code = (folder / "acme" / "code" / "train.py").read_bytes()[:200]
    scans = next((folder / "st-vitus" / "scans").glob("*.csv")).read_bytes()[:200]
    weights = (folder / "modelworks" / "weights" / "start.safetensors").read_bytes()[-200:]
    own = {"acme": code, "st-vitus": scans, "modelworks": weights}
    seen = 0
    for path in folder.rglob("*"):
        if not path.is_file() or "unsealed" in path.parts:
            continue
        seen += 1
        data = path.read_bytes()
        for party, secret in own.items():
            assert secret not in data or party in path.relative_to(folder).parts, f"{party}'s plaintext is in {path}"
    assert seen > 50
