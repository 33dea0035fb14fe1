"""`make bench`: run every bench_*.py of this folder, write results/<name>.json and the table results/README.md.

A bench module defines ``run() -> dict`` with ``title`` (a sentence: what was measured, on what) and ``results``, a list of
``{name, value, unit, higher_is_better, target?}``. See bench/README.md.
"""

from __future__ import annotations

import argparse
import datetime as dt
import importlib
import importlib.metadata
import json
import os
import platform
import subprocess
import sys
import traceback
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
RESULTS = HERE / "results"
PACKAGES = ("perunml", "cryptography", "pydantic", "sqlalchemy", "uvicorn", "torch")
"""Whose versions matter to the figures."""
NEEDED = {"name": str, "value": (int, float), "unit": str, "higher_is_better": bool}
ALLOWED = {*NEEDED, "target"}


def machine() -> dict[str, Any]:
    """What the figures were measured on: figures without it mean nothing."""
    return {
        "cpu": _cpu(),
        "cores": len(os.sched_getaffinity(0)),
        "memory_gib": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1),
        "kernel": ".".join(platform.release().split(".")[:2]),
        "python": platform.python_version(),
        "packages": {name: version for name in PACKAGES if (version := _version(name))},
        "commit": _commit(),
        "date": dt.datetime.now(dt.UTC).strftime("%Y-%m-%d"),
    }


def check(found: Any) -> dict[str, Any]:
    """A module's answer, in the shape that README.md states. Raises `ValueError`."""
    if not isinstance(found, dict) or set(found) != {"title", "results"} or not found["results"]:
        raise ValueError("run() returns {title, results} with at least one result")
    for result in found["results"]:
        if set(result) - ALLOWED or any(not isinstance(result.get(name), kind) for name, kind in NEEDED.items()):
            raise ValueError(f"a result has {', '.join(NEEDED)} and perhaps target: {result}")
    return found


def met(result: dict[str, Any]) -> bool | None:
    """Whether a result reaches its target; None where it has none."""
    if "target" not in result:
        return None
    reached: bool = (
        result["value"] >= result["target"] if result["higher_is_better"] else result["value"] <= result["target"]
    )
    return reached


def table(reports: list[dict[str, Any]]) -> str:
    """The Markdown page over all results that lie in the folder."""
    lines = [
        "# Measured",
        "",
        "Written by `make bench`; medians unless a line says otherwise. The paper's table: [paper.md](paper.md).",
        "",
    ]
    for report in reports:
        at = report["machine"]
        lines += [
            f"## {report['name']}",
            "",
            report["title"],
            "",
            "| what | value | target | |",
            "|---|---:|---:|---|",
        ]
        for result in report["results"]:
            sign = "≥" if result["higher_is_better"] else "≤"
            target = f"{sign} {_number(result['target'])} {result['unit']}" if "target" in result else ""
            verdict = {None: "", True: "met", False: "**missed**"}[met(result)]
            lines.append(f"| {result['name']} | {_number(result['value'])} {result['unit']} | {target} | {verdict} |")
        packages = ", ".join(f"{name} {version}" for name, version in at["packages"].items())
        lines += [
            "",
            f"{at['date']}, commit {at['commit']}: {at['cpu']}, {at['cores']} cores, {at['memory_gib']} GiB, Linux {at['kernel']}, "
            f"Python {at['python']}, {packages}.",
            "",
        ]
    return "\n".join(lines)


def main(argv: list[str] | None = None) -> int:
    """Exit code 1 when a bench fails to run; a missed target is told, not an error: machines differ."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--only", metavar="NAME", help="run bench_NAME.py alone")
    parser.add_argument("--results", type=Path, default=RESULTS, help="folder to write to")
    args = parser.parse_args(argv)
    names = sorted(path.stem.removeprefix("bench_") for path in HERE.glob("bench_*.py"))
    if args.only:
        if args.only not in names:
            parser.error(f"no bench {args.only!r}; there are: {', '.join(names)}")
        names = [args.only]
    args.results.mkdir(parents=True, exist_ok=True)
    sys.path.insert(0, str(HERE))
    failed = []
    for name in names:
        print(f"{name} …", flush=True)
        try:
            report = {"name": name, **check(importlib.import_module(f"bench_{name}").run()), "machine": machine()}
        except Exception:  # one that fails must not hide the others
            traceback.print_exc()
            failed.append(name)
            continue
        (args.results / f"{name}.json").write_text(json.dumps(report, indent=2, ensure_ascii=False) + "\n")
        for result in report["results"]:
            print(f"  {result['name']}: {_number(result['value'])} {result['unit']}{_missed(result)}", flush=True)
    # Not paper.json: its page is its own (bench/paper).
    paths = [args.results / f"{path.stem.removeprefix('bench_')}.json" for path in sorted(HERE.glob("bench_*.py"))]
    reports = [json.loads(path.read_text()) for path in paths if path.exists()]
    (args.results / "README.md").write_text(table(reports))
    if failed:
        print(f"failed: {', '.join(failed)}", file=sys.stderr)
    return 1 if failed else 0


def _missed(result: dict[str, Any]) -> str:
    return f" (target {_number(result['target'])} missed)" if met(result) is False else ""


def _number(value: float) -> str:
    """Three significant digits, thousands apart."""
    if abs(value) >= 100:
        return f"{value:,.0f}"
    return f"{value:.3g}"


def _cpu() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


def _version(name: str) -> str:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return ""


def _commit() -> str:
    """The commit measured; results kept by an earlier bench of the same run do not make it dirty."""
    try:
        commit = _git("rev-parse", "--short", "HEAD")
        return commit + ("-dirty" if _git("status", "--porcelain", "--", ":/", ":(top,exclude)bench/results") else "")
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


def _git(*words: str) -> str:
    return subprocess.run(["git", *words], cwd=HERE, capture_output=True, text=True, check=True).stdout.strip()


if __name__ == "__main__":
    sys.exit(main())
