"""The images that the tests boot, built once for as long as nothing that goes into them changes."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
from pathlib import Path

PROJECT = Path(__file__).parents[2]
BUILD = Path(os.environ.get("PERUNML_VM_FOLDER", PROJECT / "build" / "vm"))
DOOR = PROJECT / "tests" / "vm" / "door"
BUILD_SECONDS = 600


def keys(name: str = "keys") -> Path:
    """Secure Boot keys of our own, made once."""
    folder = BUILD / name
    if not folder.exists():
        BUILD.mkdir(parents=True, exist_ok=True)
        subprocess.run([PROJECT / "images" / "keys.sh", folder], check=True)
    return folder


def built(name: str, *arguments: str, signed: bool = True) -> Path:
    """The folder of an image built by images/build.sh with these arguments; an older one is used where its inputs are the same."""
    target, mark = BUILD / name, BUILD / f"{name}.inputs"
    wanted = _inputs([*arguments, str(signed)])
    if target.exists() and mark.exists() and mark.read_text() == wanted:
        return target
    shutil.rmtree(target, ignore_errors=True)
    build(target, *arguments, signed=signed, cache=True)
    mark.write_text(wanted)
    return target


def build(target: Path, *arguments: str, signed: bool = True, cache: bool = False) -> None:
    """Build an image into a new folder; with `cache`, packages that were unpacked for another are taken again."""
    command = [PROJECT / "images" / "build.sh", "--out", target, *(["--keys", keys()] if signed else []), *arguments]
    environment = {**os.environ, **({"PERUNML_IMAGE_CACHE": str(BUILD / "cache")} if cache else {})}
    done = subprocess.run(command, capture_output=True, text=True, timeout=BUILD_SECONDS, check=False, env=environment)
    if done.returncode:
        raise RuntimeError(f"images/build.sh failed:\n{done.stdout[-2000:]}{done.stderr[-2000:]}")


def missing() -> str:
    """What a build needs and this machine lacks, or nothing."""
    path = os.environ.get("PATH", "") + ":/usr/sbin:/sbin"
    tools = ("mmdebstrap", "mkfs.erofs", "veritysetup", "objcopy", "sbsign", "mcopy", "mkfs.fat", "sfdisk", "cpio", "zstd", "faketime", "mke2fs", "lz4")  # fmt: skip
    lacks = [tool for tool in tools if shutil.which(tool, path=path) is None]
    if not Path("/usr/lib/systemd/boot/efi/linuxx64.efi.stub").exists():
        lacks.append("systemd-boot-efi")
    if os.geteuid() != 0:
        lacks.append("root")
    return ", ".join(lacks)


def _inputs(arguments: list[str]) -> str:
    found = hashlib.sha256(repr(arguments).encode())
    for folder in ("images", "src/perunml", "tests/vm/door"):
        for path in sorted((PROJECT / folder).rglob("*")):
            if path.is_file() and "__pycache__" not in path.parts:
                found.update(f"{path.relative_to(PROJECT)} {hashlib.sha256(path.read_bytes()).hexdigest()}\n".encode())
    return found.hexdigest()
