"""The story's data: the Wisconsin breast-cancer table that scikit-learn bundles, as CSV files of a hospital.

Each row is one patient: 30 measurements of cell nuclei, and the label (0 malignant, 1 benign) last.
"""

from __future__ import annotations

import csv
from pathlib import Path

from perunml.testing.story.codes import DATA_UNUSABLE
from perunml.wire.errors import refuse

FILES = 3
"""The table is split into so many files, as a hospital's export by year would be."""
HIDDEN = 32
"""Width of train.py's hidden layer."""


def write_scans(folder: Path) -> list[Path]:
    """Write the table under `folder` (made when missing); the same bytes each time. Returns the files."""
    names, rows = _table()
    folder.mkdir(parents=True, exist_ok=True)
    step = -(-len(rows) // FILES)
    paths = []
    for part in range(FILES):
        path = folder / f"scans-{part + 1}.csv"
        with path.open("w", newline="", encoding="utf-8") as out:
            table = csv.writer(out, lineterminator="\n")
            table.writerow([*names, "benign"])
            table.writerows(rows[part * step : (part + 1) * step])
        paths.append(path)
    return paths


def shape(folder: Path) -> tuple[int, int]:
    """(feature columns, classes) of the CSV files under `folder`: a header line, numbers, the label in the last column."""
    labels: set[float] = set()
    columns = 0
    for path in sorted(folder.rglob("*.csv")):
        with path.open(newline="", encoding="utf-8") as lines:
            table = csv.reader(lines)
            columns = len(next(table, [])) - 1
            labels.update(float(row[-1]) for row in table)
    return columns, len(labels)


def check(folder: Path) -> None:
    """Raises `UsageError` (data_unusable), before anything is started, for a folder that `code/train.py` could not read."""
    headers: set[tuple[str, ...]] = set()
    rows: list[list[float]] = []
    try:
        for path in sorted(folder.rglob("*.csv")):
            with path.open(newline="", encoding="utf-8") as lines:
                table = csv.reader(lines)
                headers.add(tuple(next(table, ())))
                rows += [[float(value) for value in row] for row in table]
    except (ValueError, OSError) as exc:
        raise refuse(DATA_UNUSABLE, "a file of the folder is not such a table", seen=f"{path.name}: {exc}") from None
    if len(headers) != 1:
        raise refuse(
            DATA_UNUSABLE, "there is not one header", expected="1 header in all .csv files", seen=str(len(headers))
        )
    widths, labels = {len(row) for row in rows}, {row[-1] for row in rows if row}
    if widths != {len(headers.pop())} or len(rows) < 10 or not 2 <= len(labels) <= 1000 or min(widths) < 2:
        raise refuse(
            DATA_UNUSABLE, "rows, columns or classes do not fit", seen=f"{len(rows)} rows, {len(labels)} classes"
        )


BUNDLED = (30, 2)
"""Feature columns and classes of the bundled table."""


def initial_weights(path: Path, shape: tuple[int, int] = BUNDLED, seed: int = 7) -> Path:
    """Write weights to start from, of the shapes that `code/train.py` has for (columns, classes), as safetensors."""
    import torch
    from safetensors.torch import save_file

    made = torch.Generator().manual_seed(seed)
    columns, classes = shape
    tensors = {
        "0.weight": torch.randn(HIDDEN, columns, generator=made) / columns**0.5,
        "0.bias": torch.zeros(HIDDEN),
        "2.weight": torch.randn(classes, HIDDEN, generator=made) / HIDDEN**0.5,
        "2.bias": torch.zeros(classes),
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file(tensors, path)
    return path


def patient(folder: Path | None = None, row: int = 19) -> dict[str, list[list[float]]]:
    """The inputs of one inference: the measurements of one row (of the bundled table without a folder), as the served
    model takes them."""
    if folder is None:
        return {"features": [[float(value) for value in _table()[1][row][:-1]]]}
    with sorted(folder.rglob("*.csv"))[0].open(newline="", encoding="utf-8") as lines:
        rows = list(csv.reader(lines))[1:]
    return {"features": [[float(value) for value in rows[min(row, len(rows) - 1)][:-1]]]}


def _table() -> tuple[list[str], list[list[float]]]:
    from sklearn.datasets import load_breast_cancer

    found = load_breast_cancer()
    names = [str(name).replace(" ", "_") for name in found.feature_names]
    rows = [[*map(float, values), int(label)] for values, label in zip(found.data, found.target, strict=True)]
    return names, rows
