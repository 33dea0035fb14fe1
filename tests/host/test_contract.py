"""The job's contract with its environment."""

from __future__ import annotations

import pytest

from perunml.host import contract
from perunml.wire.errors import IntegrityError


def test_environment_names_everything_twice() -> None:
    """PERUNML_* with SageMaker's names beside them; nothing of this process's environment."""
    env = contract.environment({"mri-scans": "/in/scans"}, {"epochs": 2}, threads=2)
    assert env["PERUNML_IN"] == "/in"
    assert env["PERUNML_OUT"] == env["SM_MODEL_DIR"] == "/out"
    assert env["SM_CHANNEL_MRI_SCANS"] == "/in/scans"
    assert env["SM_HPS"] == '{"epochs":2}'
    assert env["OMP_NUM_THREADS"] == env["MKL_NUM_THREADS"] == "2"
    assert not {"USER", "LOGNAME", "SHELL", "PYTHONPATH"} & set(env)


def test_environment_can_lie_elsewhere() -> None:
    """The same variables for a run outside the sandbox, to compare results."""
    env = contract.environment({}, {}, threads=1, roots={"in": "/a", "out": "/b", "parameters": "/c", "tmp": "/d"})
    assert (env["PERUNML_IN"], env["PERUNML_OUT"], env["PERUNML_PARAMS"], env["HOME"]) == ("/a", "/b", "/c", "/d")


@pytest.mark.parametrize(
    "mount", ["/in", "/in/", "/in/..", "/in/../etc", "/in/a/b", "/out/x", "in/a", "/in/.a", "/in/a\n"]
)
def test_mount_anywhere_else_is_refused(mount: str) -> None:
    """C13: a delivery cannot put an input outside /in."""
    with pytest.raises(IntegrityError) as caught:
        contract.input_folder(mount)
    assert caught.value.code == "delivery_mismatch"


@pytest.mark.parametrize(
    "entry", ["", "/train.py", "../train.py", "a/../../b", "a//b", "./a", ".hidden", "-c", "a b", "a\n"]
)
def test_entry_outside_the_code_is_refused(entry: str) -> None:
    """C13: nor name anything to run but a file of the code, nor an option of the interpreter."""
    with pytest.raises(IntegrityError):
        contract.entry_path(entry)


def test_entry_inside_the_code_passes() -> None:
    """Relative paths of plain names."""
    assert contract.entry_path("src/train_v1.2.py") == "/code/src/train_v1.2.py"
