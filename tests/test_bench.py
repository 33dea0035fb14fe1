"""The harness of `make bench`: shapes, targets, the table. The benches themselves are run by `make bench`."""

from __future__ import annotations

import ast
import importlib.util
import json
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

BENCH = Path(__file__).parents[1] / "bench"
GOOD = {"name": "append", "value": 12.5, "unit": "µs", "higher_is_better": False}


def _harness() -> ModuleType:
    spec = importlib.util.spec_from_file_location("bench_run", BENCH / "run.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


RUN = _harness()


def test_every_bench_has_a_run_function() -> None:
    """``def run() -> dict[str, Any]`` and nothing that starts by itself on import."""
    modules = sorted(BENCH.glob("bench_*.py"))
    assert modules
    for path in modules:
        tree = ast.parse(path.read_text("utf-8"))
        assert "run" in {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}, path.name
        assert ast.get_docstring(tree), path.name


@pytest.mark.parametrize(
    "bad",
    [None, [], {}, {"title": "t", "results": []}, {"title": "t", "results": [{}]}, {"title": "t", "results": [{**GOOD, "more": 1}]},
     {"title": "t", "results": [{**GOOD, "value": "fast"}]}, {"title": "t", "results": [GOOD], "more": 1}],
)  # fmt: skip
def test_a_bench_that_answers_in_another_shape_is_refused(bad: Any) -> None:
    """So that no figure is lost in silence."""
    with pytest.raises(ValueError):
        RUN.check(bad)


def test_targets() -> None:
    """Both directions, and none."""
    assert RUN.met(GOOD) is None
    assert RUN.met({**GOOD, "target": 12.5}) is True
    assert RUN.met({**GOOD, "target": 12}) is False
    assert RUN.met({**GOOD, "target": 13, "higher_is_better": True}) is False


def test_the_harness_writes_files_and_a_table(tmp_path: Path) -> None:
    """One real bench, from the command line's entry to the page."""
    assert RUN.main(["--only", "ledger", "--results", str(tmp_path)]) == 0
    report = json.loads((tmp_path / "ledger.json").read_text())
    assert report["machine"]["cores"] >= 1
    assert report["machine"]["packages"]["cryptography"]
    page = (tmp_path / "README.md").read_text()
    assert "## ledger" in page
    assert all(result["name"] in page for result in report["results"])
    with pytest.raises(SystemExit):
        RUN.main(["--only", "nothing"])
