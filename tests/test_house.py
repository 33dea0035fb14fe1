"""The house rules that no single room can hold: who imports whom, codes and their page, sizes, honest comments."""

from __future__ import annotations

import ast
import importlib.util
import re
import subprocess
import sys
import tokenize
from pathlib import Path
from types import ModuleType

ROOT = Path(__file__).parents[1]
SOURCE = ROOT / "src" / "perunml"
FILES = sorted(SOURCE.rglob("*.py"))
MAX_LINES = 400


def _tool() -> ModuleType:
    spec = importlib.util.spec_from_file_location("refusals_tool", ROOT / "tools" / "refusals.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


REFUSALS = _tool()


def _declared() -> list[tuple[str, str]]:
    """(code, file) of each ``NAME = rule("code", …)`` in the codes modules, also through a helper of the module's own."""
    found = []
    for path in FILES:
        if path.name == "codes.py":
            for node in ast.parse(path.read_text("utf-8")).body:
                if isinstance(node, ast.Assign) and isinstance(node.value, ast.Call):
                    code = node.value.args[0]
                    assert isinstance(code, ast.Constant), f"{path}:{node.lineno}: a code is a literal"
                    found.append((str(code.value), str(path.relative_to(SOURCE))))
    return found


def test_there_is_a_house() -> None:
    """An empty corpus would pass every test below."""
    assert len(FILES) > 50
    assert len(_declared()) > 50


def test_imports_point_down_only() -> None:
    """The contract in pyproject.toml, checked by import-linter."""
    done = subprocess.run(
        [
            sys.executable,
            "-c",
            "import sys; from importlinter.cli import lint_imports_command as go; sys.argv = ['x']; go()",
        ],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_rules_are_declared_in_codes_modules_and_once() -> None:
    """Two rooms with one code cannot be imported together; a code elsewhere would be missed by the page."""
    places: dict[str, list[str]] = {}
    for code, path in _declared():
        places.setdefault(code, []).append(path)
    assert {code: where for code, where in places.items() if len(where) > 1} == {}
    elsewhere = [
        p for p in FILES if p.name != "codes.py" and re.search(r"rules import .*\brule\b", p.read_text("utf-8"))
    ]
    assert elsewhere == []
    assert {code for code in places if not re.fullmatch(r"[a-z][a-z0-9]*(_[a-z0-9]+)*", code)} == set()


def test_every_rule_has_its_line_in_the_page_and_every_line_its_rule() -> None:
    """docs/refusals.md, above the marker (invariant 5)."""
    table = REFUSALS.PAGE.read_text("utf-8").partition(REFUSALS.MARKER)[0]
    listed = re.findall(r"^\| `([a-z0-9_]+)` \|", table, re.MULTILINE)
    assert sorted(listed) == sorted(REFUSALS.rules()) == sorted(code for code, _ in _declared())
    assert REFUSALS.main(["--check"]) == 0, "run tools/refusals.py"


def test_every_rule_says_what_and_who() -> None:
    """In sentences."""
    for rule in REFUSALS.rules().values():
        assert rule.meaning.rstrip().endswith("."), rule.code
        assert rule.mend.rstrip().endswith((".", "`.")), rule.code
        assert rule.meaning.isprintable(), rule.code


def test_every_ignored_type_error_has_a_reason() -> None:
    """``# type: ignore[code]  # why``, never a bare one; the same for ``# noqa: CODE - why``."""
    missing = []
    for path in FILES:
        for found in _comments(path):
            text = found.string
            if re.search(r"#\s*(type:\s*ignore|noqa)", text) and not re.match(
                r"#\s*(type: ignore\[[\w, -]+\]|noqa: [A-Z0-9, ]+?)\s+[#-]\s*\w.{5,}", text
            ):
                missing.append(f"{path.relative_to(SOURCE)}:{found.start[0]}: {text}")
    assert missing == []


def test_no_file_is_too_long() -> None:
    """One noun, one file: at most 400 lines, in sources, tests aside."""
    assert {
        str(p.relative_to(SOURCE)): n for p in FILES if (n := len(p.read_text("utf-8").splitlines())) > MAX_LINES
    } == {}


def test_nothing_is_left_for_later() -> None:
    """No stubs and no notes to self."""
    left = [
        f"{path.relative_to(SOURCE)}: {word}"
        for path in FILES
        for word in ("TODO", "FIXME", "XXX:", "raise NotImplementedError")
        if word in path.read_text("utf-8")
    ]
    assert left == []


def test_every_module_says_what_it_is() -> None:
    """A docstring at the top of each."""
    assert [str(p.relative_to(SOURCE)) for p in FILES if not ast.get_docstring(ast.parse(p.read_text("utf-8")))] == []


def test_invariant_7_the_forge_is_imported_by_name_only() -> None:
    """Invariant 7: outside `testing`, only the quickstart imports it."""
    users = set()
    for path in FILES:
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            if any(name.startswith("perunml.testing") for name in names):
                users.add(str(path.relative_to(SOURCE)))
    assert {user for user in users if not user.startswith("testing/")} <= {"cli/quickstart.py"}


def _comments(path: Path) -> list[tokenize.TokenInfo]:
    with path.open("rb") as file:
        return [token for token in tokenize.tokenize(file.readline) if token.type == tokenize.COMMENT]
