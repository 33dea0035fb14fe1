"""A logistic regression in NumPy: what the measured machine trains, on rows whose last number is the class."""

import json
import os
import time
from pathlib import Path

import numpy as np
from safetensors.numpy import save_file

given = os.environ["PERUNML_PARAMS"]
parameters = json.loads(given if given.startswith("{") else Path(given).read_text())
out = Path(os.environ["PERUNML_OUT"])
rows = np.concatenate([np.loadtxt(path, delimiter=",") for path in sorted(Path("/in/scans").glob("*.csv"))])
features, classes = rows[:, :-1], rows[:, -1]
weights, bias, losses = np.zeros(features.shape[1]), 0.0, []
for _ in range(parameters["epochs"]):
    scores = 1 / (1 + np.exp(-(features @ weights + bias)))
    losses.append(float(-np.mean(classes * np.log(scores + 1e-9) + (1 - classes) * np.log(1 - scores + 1e-9))))
    weights -= features.T @ (scores - classes) / len(rows)
    bias -= float(np.mean(scores - classes))
    time.sleep(parameters["pause_ms"] / 1000)
save_file({"weights": weights, "bias": np.array([bias])}, out / "model.safetensors")
(out / "metrics.json").write_text(json.dumps({"epoch": list(range(len(losses))), "loss": losses}))
