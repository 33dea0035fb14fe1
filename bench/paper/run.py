"""`make bench-paper`: the paper's table. Train a ResNet on CIFAR-10 and a U-Net on brain MRI, plainly and under Perun, on the CPU and on a GPU where there is one.

The same scripts (code/), which know nothing of Perun, on the same data. Rows take turns within each round; medians over rounds. Writes results/paper.json,
paper.md and paper.svg. `--quick` is noise instead of data and one round of seconds: it shows that everything works, and measures nothing.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE.parent)]

from run import machine  # noqa: E402 # bench/run.py

from paper import data as datasets  # noqa: E402 # found by the line before
from paper import plot  # noqa: E402
from paper.road import UnderPerun  # noqa: E402

RESULTS = HERE.parent / "results"
CPU, GPU = "cpu", "gpu"
ROWS = {
    "plain GPU": (GPU, False),
    "GPU under Perun": (GPU, True),
    "plain CPU": (CPU, False),
    "CPU under Perun": (CPU, True),
}
"""`CPU under Perun` is what a CPU TEE could give at best: memory encryption costs on top."""


@dataclass(frozen=True)
class Size:
    """How much of each dataset, how often, how large the models."""

    cifar: dict[str, int]
    mri: dict[str, int]
    images: int
    slices: int
    tests: int
    pool: int
    rounds: int


QUICK = Size(
    {"epochs": 1, "batch_size": 32, "width": 4, "blocks": 1, "images": 0},
    {"epochs": 1, "batch_size": 8, "width": 4, "images": 0},
    images=128,
    slices=32,
    tests=50,
    pool=2,
    rounds=1,
)
SMALL = Size(
    {"epochs": 3, "batch_size": 128, "width": 16, "blocks": 1, "images": 0},
    {"epochs": 3, "batch_size": 16, "width": 12, "images": 0},
    images=8000,
    slices=600,
    tests=1000,
    pool=2,
    rounds=3,
)
LARGE = Size(
    {"epochs": 6, "batch_size": 512, "width": 64, "blocks": 3, "images": 0},
    {"epochs": 6, "batch_size": 64, "width": 32, "images": 0},
    images=50_000,
    slices=2800,
    tests=10_000,
    pool=1,
    rounds=5,
)
"""For a GPU."""
BESIDE_A_GPU = {"epochs": 2, "images": 2048}
"""The same model on the CPU would take a day over all of it; images per second need no more."""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--data", type=Path, default=None, help="folder with cifar10/ and lgg128/ [default: ../shared/data]"
    )
    parser.add_argument("--quick", action="store_true", help="made-up data, seconds")
    parser.add_argument("--rounds", type=int, default=0)
    parser.add_argument("--out", type=Path, default=RESULTS)
    chosen = parser.parse_args()
    gpu = gpu_name()
    size = QUICK if chosen.quick else LARGE if gpu else SMALL
    source = chosen.data or HERE.parents[2] / "shared" / "data"
    with tempfile.TemporaryDirectory(prefix="perun-paper-") as name:
        folder = Path(name)
        called = prepare(folder / "data", None if chosen.quick else source, size)
        found = measure(folder, size, gpu, chosen.rounds or size.rounds)
    report = {
        "name": "paper",
        "machine": {**machine(), "gpu": gpu or "none"},
        "data": called,
        "made_up": chosen.quick,
        **found,
    }
    chosen.out.mkdir(parents=True, exist_ok=True)
    (chosen.out / "paper.json").write_text(json.dumps(report, indent=2) + "\n")
    (chosen.out / "paper.md").write_text(page(report))
    (chosen.out / "paper.svg").write_text(plot.svg(report))
    sys.stdout.write(page(report))
    return 0


def gpu_name() -> str:
    """The GPU that PyTorch finds, asked in a process of its own: CUDA's memory must be the jobs'."""
    code = "import torch; print(torch.cuda.get_device_name() if torch.cuda.is_available() else '')"
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip()


def prepare(folder: Path, source: Path | None, size: Size) -> dict[str, str]:
    """The arrays in files, and what the datasets are called."""
    if source is None:
        called = {"cifar": "made-up images", "mri": "made-up slices"}
        cifar = datasets.made_up(1, 32, "labels", size.images, size.tests)
        mri = datasets.made_up(2, 64, "masks", size.slices, size.tests)
    else:
        name, cifar = datasets.cifar(source, size.images, size.tests)
        other, mri = datasets.mri(source, size.slices, min(size.tests, 300), size.pool)
        called = {"cifar": name, "mri": other}
    datasets.save(cifar, folder / "cifar")
    datasets.save(mri, folder / "mri")
    return called


def measure(folder: Path, size: Size, gpu: str, rounds: int) -> dict[str, Any]:
    """The rows of both trainings."""
    rows = {name: kind for name, kind in ROWS.items() if gpu or kind[0] == CPU}
    tasks = {"cifar": size.cifar, "mri": size.mri}
    road = UnderPerun(folder / "road", folder / "data", HERE / "code")
    seen: dict[str, dict[str, list[dict[str, Any]]]] = {task: {row: [] for row in rows} for task in tasks}
    try:
        for number in range(rounds):
            for task, parameters in tasks.items():
                for row, (device, under) in rows.items():
                    less = BESIDE_A_GPU if gpu and device == CPU else {}
                    given = {**parameters, **less, "seed": number + 1, "gpu": int(device == GPU)}
                    sys.stderr.write(f"round {number + 1} of {rounds}: {task}, {row}\n")
                    seen[task][row].append(road.train(task, given) if under else plainly(folder, task, given))
    finally:
        road.close()
    return {"rounds": rounds, "parameters": tasks, "tables": {task: summary(found) for task, found in seen.items()}}


def plainly(folder: Path, task: str, parameters: dict[str, int]) -> dict[str, Any]:
    """The same script with the same environment, no sandbox, on plain files."""
    from perunml.host.contract import environment, thread_count

    code = {"cifar": "cifar.py", "mri": "unet.py"}[task]
    with tempfile.TemporaryDirectory(dir=folder) as out:
        roots = {"in": str(folder / "data"), "out": out, "parameters": f"{out}/parameters.json", "tmp": out}
        Path(roots["parameters"]).write_text(json.dumps(parameters))
        given = environment({task: f"{folder}/data/{task}"}, parameters, threads=thread_count(), roots=roots)
        subprocess.run(
            [sys.executable, str(HERE / "code" / code)],
            env={**given, "PATH": os.environ["PATH"]},
            check=True,
            cwd=HERE / "code",
        )
        return dict(json.loads((Path(out) / "metrics.json").read_text()))


def summary(found: dict[str, list[dict[str, Any]]]) -> dict[str, dict[str, float]]:
    """Medians by row; `overhead` against the plain row of the same device, of each round's own two figures."""
    made: dict[str, dict[str, float]] = {}
    for row, runs in found.items():
        made[row] = {
            name: statistics.median(run[name] for run in runs)
            for name in ("images_per_second", "epoch_seconds", "input_wait", "score")
        }
        if "whole_seconds" in runs[0]:
            made[row]["whole_seconds"] = statistics.median(run["whole_seconds"] for run in runs)
            plain = found[f"plain {row.split()[0]}"]
            ratios = [own["epoch_seconds"] / other["epoch_seconds"] for own, other in zip(runs, plain, strict=True)]
            made[row]["overhead"] = statistics.median(ratios) - 1
    return made


def page(report: dict[str, Any]) -> str:
    """The table, for people."""
    at = report["machine"]
    on = f"{at['cpu']}, {at['cores']} cores; GPU: {at['gpu']}; PyTorch {at['packages'].get('torch', 'none')}; {at['date']}, commit {at['commit']}"
    lines = [
        "# The paper's table",
        "",
        "Written by `make bench-paper`. The same training scripts, plainly and under Perun: sealed data and code, a host proven by a software TPM and an imitated IMA log, the "
        "sandbox, leases of 30 s.",
        "",
        f"Measured on {on}; medians of {report['rounds']} interleaved rounds.",
    ]
    if report["made_up"]:
        lines += ["", "**Made-up data, one short round: this shows that it runs, and measures nothing.**"]
    for task, title in (("cifar", "ResNet"), ("mri", "2-D U-Net")):
        rows = report["tables"][task]
        score = "accuracy" if task == "cifar" else "Dice"
        lines += [
            "",
            f"## {title} on {report['data'][task]}",
            "",
            f"| | images/s | time per epoch | input wait | overhead | against plain CPU | {score} | run, start to end |",
            "|---|---:|---:|---:|---:|---:|---:|---:|",
        ]
        cpu = rows["plain CPU"]["images_per_second"]
        for row in ROWS:
            if row not in rows:
                lines.append(f"| {row} | not run | | | | | | |")
                continue
            one = rows[row]
            over = f"{100 * one['overhead']:+.1f} %" if "overhead" in one else ""
            whole = f"{one['whole_seconds']:.1f} s" if "whole_seconds" in one else ""
            lines.append(
                f"| {row} | {one['images_per_second']:,.0f} | {one['epoch_seconds']:.2f} s | {100 * one['input_wait']:.1f} % | {over} | "
                f"{one['images_per_second'] / cpu:.2f}x | {one['score']:.3f} | {whole} |"
            )
    lines += [
        "",
        "*CPU under Perun* is what a CPU TEE could give at best; encrypting memory costs on top. Beside a GPU they see 2,048 images only. *Overhead* compares the epochs of one round; *start to end* also holds evidence, keys, fetching, "
        "opening and sealing. The paper's own figure is 161x for a GPU against its CPU TEE on CIFAR-10 (arXiv 2103.16898).",
        "",
        "![Images per second](paper.svg)",
        "",
    ]
    return "\n".join(lines)


if __name__ == "__main__":
    raise SystemExit(main())
