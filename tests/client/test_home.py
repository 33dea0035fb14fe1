"""The home folder: which manager, which asset, and writes that are whole or not at all."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from client.test_pin import issue, pin_of
from perunml.client.home import Home, checked_name, default_home, manager_name, write_file
from perunml.wire.errors import UsageError


def code(act: object, *args: object, **kwargs: object) -> str:
    assert callable(act)
    with pytest.raises(UsageError) as caught:
        act(*args, **kwargs)
    return caught.value.code


def test_one_pin_needs_no_choice(tmp_path: Path) -> None:
    """None and several do; by URL, name or identity."""
    home = Home(tmp_path)
    assert code(home.pin) == "not_pinned"
    first = pin_of(issue("a")[1], url="https://a.example:7443")
    home.save_pin(first)
    assert home.pin() == first
    second = pin_of(issue("b")[1], url="https://b.example")
    home.save_pin(second)
    assert code(home.pin) == "not_pinned"
    for wanted in (second.url, second.identity, "b.example-443"):
        assert home.pin(wanted) == second
    assert code(home.pin, "https://c.example") == "not_pinned"
    assert home.checkpoint_path(first) != home.checkpoint_path(second)


@pytest.mark.parametrize(
    "url", ["https://[::1]:7443", f"https://{'x' * 99}:1", "https://127.0.0.1:1", "https://Host.Example"]
)
def test_a_managers_file_name_is_a_name(url: str) -> None:
    """No address leads out of the folder."""
    assert checked_name(manager_name(url)) == manager_name(url)


@pytest.mark.parametrize("name", ["../x", "a/b", "", ".", "-x", "A", "x" * 64, "a\n", None])
def test_what_is_no_name(name: object) -> None:
    """C13: names stand in paths."""
    assert code(checked_name, name) == "malformed"


def test_a_file_is_replaced_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """S2: a failure in the middle leaves the old file and nothing else."""
    path = tmp_path / "file"
    write_file(path, b"old", mode=0o600)
    assert path.stat().st_mode & 0o777 == 0o600

    def fails(source: object, target: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", fails)
    with pytest.raises(OSError, match="No space"):
        write_file(path, b"new")
    assert path.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["file"]


def test_create_only(tmp_path: Path) -> None:
    """What must never be overwritten is not."""
    path = tmp_path / "file"
    write_file(path, b"old", replace=False)
    with pytest.raises(FileExistsError):
        write_file(path, b"new", replace=False)
    assert path.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["file"]


def test_versions_of_an_asset(tmp_path: Path) -> None:
    """The newest by number, not by spelling; strays do not count."""
    home = Home(tmp_path)
    for name in ("v1", "v2", "v10", ".new-x", "vx"):
        (home.assets / "scans" / name).mkdir(parents=True)
    (home.assets / "scans" / "v11").write_text("a file")
    assert home.asset("scans").name == "v10"
    assert home.asset("scans", 2).name == "v2"
    assert code(home.asset, "scans", 3) == "not_found"
    assert code(home.asset, "other") == "not_found"


def test_where_the_home_is(monkeypatch: pytest.MonkeyPatch) -> None:
    """$PERUNML_HOME, then ~/.perunml; an empty variable is none."""
    monkeypatch.setenv("PERUNML_HOME", "/somewhere")
    assert default_home() == Path("/somewhere")
    monkeypatch.setenv("PERUNML_HOME", "")
    assert default_home() == Path.home() / ".perunml"


def test_the_client_needs_few_packages() -> None:
    """DESIGN section 10: 25 packages or fewer come with a client."""
    import tomllib
    from importlib.metadata import PackageNotFoundError, distribution

    from packaging.requirements import Requirement

    root = Path(__file__).parents[2]
    todo = [
        Requirement(text) for text in tomllib.loads((root / "pyproject.toml").read_text())["project"]["dependencies"]
    ]
    assert todo
    found: set[str] = set()
    while todo:
        wanted = todo.pop()
        name = wanted.name.lower().replace("_", "-")
        if name in found or (wanted.marker and not wanted.marker.evaluate({"extra": ""})):
            continue
        found.add(name)
        try:
            requires = distribution(wanted.name).requires or []
        except PackageNotFoundError:  # pragma: no cover - a marker said that it is not for this machine
            continue
        todo += [Requirement(text) for text in requires]
    assert len(found) + 1 <= 25, sorted(found)
