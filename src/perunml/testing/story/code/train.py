"""Train a small classifier on CSV files. Plain PyTorch: files in, files out, parameters from the environment.

Reads every ``*.csv`` under $PERUNML_IN (a header line, numbers, the label in the last column) and writes ``model.pt2`` and
``metrics.json`` to $PERUNML_OUT. $PERUNML_PARAMS is JSON, or the path of a JSON file:
``{"epochs": 30, "batch_size": 32, "seed": 1, "pause_ms": 0}``. Where $PERUNML_IN/weights has a .safetensors file (or is one),
training starts from these weights, else from the seed.

    python train.py [INPUT-FOLDER OUTPUT-FOLDER [PARAMETERS-JSON]]

The same data, parameters and machine type give the same bytes.
"""

import csv
import io
import json
import math
import os
import sys
import time
from pathlib import Path

import torch
from torch import nn

DEFAULTS = {"epochs": 30, "batch_size": 32, "seed": 1, "pause_ms": 0}
HELD_OUT = 5  # every fifth row is kept for testing


class Classifier(nn.Module):  # type: ignore[misc]  # torch is not read by the type checker
    """Standardises its inputs with what it saw in training, then two layers."""

    def __init__(self, mean: torch.Tensor, spread: torch.Tensor, classes: int) -> None:
        super().__init__()
        self.register_buffer("mean", mean)
        self.register_buffer("spread", spread)
        self.layers = nn.Sequential(nn.Linear(len(mean), 32), nn.ReLU(), nn.Linear(32, classes))

    def logits(self, features: torch.Tensor) -> torch.Tensor:
        return self.layers((features - self.mean) / self.spread)

    def forward(self, features: torch.Tensor) -> dict[str, torch.Tensor]:
        return {"probabilities": torch.softmax(self.logits(features), dim=1)}


def read_table(folder: Path) -> tuple[torch.Tensor, torch.Tensor]:
    """Features (rows x columns) and labels (rows, classes 0..n-1) of all CSV files under `folder`."""
    files = sorted(folder.rglob("*.csv"))
    if not files:
        sys.exit(f"train.py: no .csv file in {folder.name}: it wants CSV files with a header line and the label last")
    rows, header = [], None
    for path in files:
        with path.open(newline="", encoding="utf-8") as lines:
            table = csv.reader(lines)
            names = next(table, None)
            if names is None or len(names) < 2 or (header is not None and names != header):
                sys.exit(f"train.py: {path.name}: wants one header for all files: feature columns, then the label")
            header = names
            for number, row in enumerate(table, 2):
                try:
                    values = [float(value) for value in row]
                except ValueError:
                    sys.exit(f"train.py: {path.name} line {number}: a value is not a number")
                if len(values) != len(header) or not all(map(math.isfinite, values)):
                    sys.exit(f"train.py: {path.name} line {number}: wants {len(header)} finite numbers")
                rows.append(values)
    found = sorted({row[-1] for row in rows})
    if not 2 <= len(found) <= 1000 or len(rows) < 2 * HELD_OUT:
        sys.exit(f"train.py: the last column must be a class label: {len(found)} classes in {len(rows)} rows")
    place = {label: index for index, label in enumerate(found)}
    features = torch.tensor([row[:-1] for row in rows], dtype=torch.float32)
    return features, torch.tensor([place[row[-1]] for row in rows])


def load_weights(layers: nn.Module, place: Path) -> None:
    """Start from somebody's weights, when there are some, and only when they fit."""
    files = sorted(place.rglob("*.safetensors")) if place.is_dir() else [place] if place.is_file() else []
    if not files:
        return
    if len(files) > 1:
        sys.exit(f"train.py: {len(files)} .safetensors files of initial weights; it wants one")
    from safetensors.torch import load_file

    given = load_file(files[0])
    wanted = {name: list(tensor.shape) for name, tensor in layers.state_dict().items()}
    if {name: list(tensor.shape) for name, tensor in given.items()} != wanted:
        sys.exit(f"train.py: the initial weights do not fit this data: it wants {wanted}")
    layers.load_state_dict(given)


def parameters(text: str) -> dict[str, int]:
    """The defaults, overridden by JSON text or a JSON file."""
    if text and not text.lstrip().startswith("{"):
        text = Path(text).read_text(encoding="utf-8")
    given: dict[str, int] = json.loads(text or "{}")
    if unknown := set(given) - set(DEFAULTS):
        sys.exit(f"train.py: unknown parameter {sorted(unknown)[0]!r}; it takes {', '.join(DEFAULTS)}")
    return DEFAULTS | given


def export(model: nn.Module, example: torch.Tensor, path: Path) -> None:
    """Write `model` for serving, with any number of rows. Source lines and paths of this code do not go with it."""
    batch = torch.export.Dim("batch", min=1, max=4096)
    program = torch.export.export(model.eval(), (example,), dynamic_shapes={"features": {0: batch}})
    for node in program.graph.nodes:
        for name in ("stack_trace", "nn_module_stack", "source_fn_stack", "torch_fn", "from_node"):
            node.meta.pop(name, None)
    # Saved to memory first: torch puts the file's name into the archive, and the bytes shall not depend on it.
    archive = io.BytesIO()
    torch.export.save(program, archive)
    path.write_bytes(archive.getvalue())


def main(argv: list[str]) -> None:
    source = Path(os.environ.get("PERUNML_IN") or argv[1])
    target = Path(os.environ.get("PERUNML_OUT") or argv[2])
    options = parameters(os.environ.get("PERUNML_PARAMS") or (argv[3] if len(argv) > 3 else ""))
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True)
    torch.manual_seed(options["seed"])

    features, labels = read_table(source)
    test = torch.arange(len(labels)) % HELD_OUT == 0
    train_x, train_y, test_x, test_y = features[~test], labels[~test], features[test], labels[test]
    spread = train_x.std(dim=0)
    model = Classifier(train_x.mean(dim=0), torch.where(spread > 0, spread, 1.0), int(labels.max()) + 1)
    load_weights(model.layers, source / "weights")
    optimiser = torch.optim.Adam(model.parameters(), lr=0.01)
    metrics: dict[str, list[float]] = {"epoch": [], "loss": [], "accuracy": []}
    for epoch in range(1, options["epochs"] + 1):
        rows = torch.randperm(len(train_y))
        total = 0.0
        for at in range(0, len(rows), options["batch_size"]):
            chosen = rows[at : at + options["batch_size"]]
            optimiser.zero_grad()
            loss = nn.functional.cross_entropy(model.logits(train_x[chosen]), train_y[chosen])
            loss.backward()
            optimiser.step()
            total += loss.item() * len(chosen)
        with torch.no_grad():
            accuracy = (model.logits(test_x).argmax(dim=1) == test_y).float().mean().item()
        for name, value in (("epoch", epoch), ("loss", total / len(rows)), ("accuracy", accuracy)):
            metrics[name].append(round(value, 4))
        print(f"epoch {epoch}/{options['epochs']}", flush=True)
        time.sleep(options["pause_ms"] / 1000)

    export(model, train_x[:2], target / "model.pt2")
    (target / "metrics.json").write_text(json.dumps(metrics) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv)
