"""docs/views.md: what it shows runs."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest

PAGE = (Path(__file__).parents[2] / "docs" / "views.md").read_text()
BLOCKS = re.findall(r"```python\n(.*?)```", PAGE, re.S)


@pytest.mark.filterwarnings("ignore:.*pin_memory.*:UserWarning", "ignore:.*worker processes.*:UserWarning")
def test_the_training_shown_trains(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As in a job, whose inputs are plain."""
    torch = pytest.importorskip("torch", reason="PyTorch is not installed")
    data = tmp_path / "in" / "cifar"
    data.mkdir(parents=True)
    np.save(data / "images.npy", np.zeros((300, 3, 4, 4), np.float32))
    np.save(data / "labels.npy", np.zeros(300, np.int64))
    monkeypatch.setenv("PERUNML_IN", str(tmp_path / "in"))
    monkeypatch.chdir(tmp_path)
    shown = [block for block in BLOCKS if "perunml.torch" in block]
    assert len(shown) == 2
    names = {"torch": torch, "model": torch.nn.Linear(1, 1)}
    for block in shown:
        exec(block.replace("num_workers=4", "num_workers=1").replace("range(10)", "range(2)"), names)
    assert torch.load("checkpoint.pt")["loader"] == {"epoch": 2, "delivered": 0, "seed": 7, "workers": 1}


def test_the_files_shown_are_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The lines for pandas and pyarrow, word for word, in a job."""
    pandas = pytest.importorskip("pandas", reason="pandas is not installed")
    pytest.importorskip("pyarrow", reason="pyarrow is not installed")
    import fsspec

    from perunml.fs import SealedFileSystem

    fsspec.register_implementation("perunml", SealedFileSystem, clobber=True)
    SealedFileSystem.clear_instance_cache()
    frame = pandas.DataFrame({"age": [1], "dose": [2], "name": ["x"]})
    for name in ("scans", "tables"):
        (tmp_path / "in" / name).mkdir(parents=True)
    frame.to_csv(tmp_path / "in" / "scans" / "labels.csv", index=False)
    frame.to_parquet(tmp_path / "in" / "tables" / "a.parquet")
    monkeypatch.setenv("PERUNML_IN", str(tmp_path / "in"))
    names: dict[str, object] = {}
    import perunml.fs

    for block in BLOCKS:
        if "read_csv" in block or "pyarrow.dataset" in block:
            exec(block, names | {"perunml": perunml}, names)
    assert frame.equals(names["frame"])
    assert names["table"].column_names == ["age", "dose"]  # type: ignore[attr-defined] # a pyarrow table
