"""The wheel, built from this checkout, and a virtual environment in which nothing of the checkout can be seen."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

TOP = Path(__file__).parents[1]
TIMEOUT = 120


def run(*command: object, cwd: Path) -> str:
    """A command's stdout; it must succeed."""
    words = list(map(str, command))
    done = subprocess.run(words, capture_output=True, text=True, timeout=TIMEOUT, check=False, cwd=cwd)
    assert done.returncode == 0, done.stderr
    return done.stdout


def build(folder: Path) -> Path:
    """The wheel, made in `folder` by the build backend that this environment has."""
    pip = (sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation", "-w")
    run(*pip, folder, TOP, cwd=folder)
    (wheel,) = folder.glob("perunml-*.whl")
    return wheel


def install(wheel: Path, folder: Path, *, linked: bool = False) -> Path:
    """The ``bin`` folder of a new virtual environment that holds the wheel. What Perun depends on it borrows from this
    environment: through a path file, whose own path files Python does not read (an editable install stays out of sight), or
    `linked` file by file, for jobs in the sandbox see the environment's own folder alone."""
    run(sys.executable, "-m", "venv", "--without-pip", folder, cwd=folder.parent)
    binaries = folder / "bin"
    options = ("--quiet", "--no-deps", "--no-index", "--disable-pip-version-check")
    run(sys.executable, "-m", "pip", "--python", binaries / "python", "install", *options, wheel, cwd=folder)
    said = run(binaries / "python", "-c", "import sysconfig; print(sysconfig.get_path('purelib'))", cwd=folder)
    own = Path(said.strip())
    borrowed = list(dict.fromkeys(sysconfig.get_path(name) for name in ("purelib", "platlib")))
    if linked:
        for path in borrowed:
            shutil.copytree(path, own, copy_function=_link, ignore=_perunml, symlinks=True, dirs_exist_ok=True)
    else:
        (own / "borrowed.pth").write_text("".join(f"{path}\n" for path in borrowed))
    return binaries


def _link(source: str, target: str) -> None:
    """A hard link, or a copy where there can be none."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copy2(source, target)


def _perunml(folder: str, names: list[str]) -> list[str]:
    return [name for name in names if "perunml" in name]


def environment() -> dict[str, str]:
    """The variables of a shell that knows nothing of the checkout."""
    return {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
