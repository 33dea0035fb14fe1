"""The story's training code: deterministic, plain, and clear about data that does not fit."""

from __future__ import annotations

import json
import runpy
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from perunml.testing.story.data import initial_weights, write_scans
from perunml.testing.story.weights import weights_digest

Train = Callable[..., subprocess.CompletedProcess[str]]
CODE = Path(__file__).parents[2] / "src/perunml/testing/story/code/train.py"
pytestmark = pytest.mark.torch


def test_the_same_seed_gives_the_same_bytes(scans: Path, train: Train, model: Path, tmp_path: Path) -> None:
    """A second run, elsewhere, writes the very same archive."""
    assert train(scans, tmp_path / "again", epochs=2).returncode == 0
    again = tmp_path / "again/model.pt2"
    assert again.read_bytes() == model.read_bytes()
    assert weights_digest(again) == weights_digest(model)


def test_metrics_are_lists_of_plain_numbers(model: Path) -> None:
    """metrics.json has one entry per epoch with epoch, loss and accuracy, and nothing else."""
    metrics = json.loads((model.parent / "metrics.json").read_text())
    assert metrics["epoch"] == [1, 2]
    assert {name: len(values) for name, values in metrics.items()} == {"epoch": 2, "loss": 2, "accuracy": 2}
    assert sorted(path.name for path in model.parent.iterdir()) == ["metrics.json", "model.pt2"]


def test_the_model_does_not_carry_the_code(model: Path) -> None:
    """No line, path or name of the training code leaves with the weights."""
    data = model.read_bytes()
    for word in (b"train.py", b"Classifier", b"stack_trace", b"site-packages", b"def forward"):
        assert word not in data


def test_training_starts_from_given_weights(train: Train, scans: Path, model: Path, tmp_path: Path) -> None:
    """Somebody's initial weights change the result."""
    write_scans(tmp_path / "in/scans")
    initial_weights(tmp_path / "in/weights/initial.safetensors")
    assert train(tmp_path / "in", tmp_path / "out", epochs=2).returncode == 0
    assert weights_digest(tmp_path / "out/model.pt2") != weights_digest(model)


def test_weights_of_another_shape_are_refused_in_words(tmp_path: Path) -> None:
    """Initial weights that do not fit the data end the training before it begins."""
    import torch

    initial_weights(tmp_path / "initial.safetensors")
    code = runpy.run_path(str(CODE))
    layers = code["Classifier"](torch.zeros(3), torch.ones(3), 2).layers
    with pytest.raises(SystemExit) as refused:
        code["load_weights"](layers, tmp_path)
    assert "do not fit" in str(refused.value)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (None, "no .csv file"),
        ("x,y\n1,a\n", "not a number"),
        ("x,y\n1,nan\n", "finite"),
        ("x,y\n1\n", "2 finite numbers"),
        ("y\n1\n", "one header"),
        ("x,y\n" + "1,0\n" * 20, "class label"),
    ],
)
def test_other_data_is_refused_in_words(tmp_path: Path, content: str | None, said: str) -> None:
    """Data without labels, or that is not numbers, is refused in one line without a traceback."""
    if content is not None:
        (tmp_path / "a.csv").write_text(content)
    with pytest.raises(SystemExit) as refused:
        runpy.run_path(str(CODE))["read_table"](tmp_path)
    assert said in str(refused.value)
