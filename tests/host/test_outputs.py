"""What a job may leave behind in /out, and what of it leaves the machine."""

from __future__ import annotations

import json
import os
import struct
from pathlib import Path

import pytest

from perunml.api.runs import OutputKey
from perunml.host import outputs
from perunml.sealing.manifest import open_manifest
from perunml.sealing.reader import SealedReader
from perunml.wire.errors import PerunError
from perunml.wire.identity import SigningKey

SECRET = "patient-17"


def key(format: str = "safetensors", max_size: int = 10_000, fields: list[str] | None = None) -> OutputKey:
    return OutputKey(key=b"k" * 32, asset_id="ab" * 16, format=format, max_size=max_size, fields=fields or [])


def tensors() -> bytes:
    header = json.dumps({"w": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}}).encode()
    return len(header).to_bytes(8, "little") + header + struct.pack("<2f", 1.0, 2.0)


def codes(folder: Path, declared: dict[str, OutputKey]) -> list[str]:
    with pytest.raises(PerunError) as caught:
        outputs.collect(folder, declared)
    for reason in caught.value.reasons:
        assert SECRET not in json.dumps(reason.as_json()), "what the job wrote or called it must not be told"
    return [reason.code for reason in caught.value.reasons]


@pytest.mark.parametrize("name", ["model", "model.safetensors"])
def test_declared_output_passes_under_both_names(tmp_path: Path, name: str) -> None:
    """An output is the file of its name, with or without its format's suffix."""
    (tmp_path / name).write_bytes(tensors())
    (found,) = outputs.collect(tmp_path, {"model": key()})
    assert (found.name, found.file_name, found.content) == ("model", name, tmp_path / name)


def test_missing_output_is_refused(tmp_path: Path) -> None:
    """A job that ends well without its output has failed: output_missing."""
    assert codes(tmp_path, {"model": key()}) == ["output_missing"]


@pytest.mark.parametrize("kind", ["file", "folder", "hidden", "link"])
def test_undeclared_output_is_refused_without_its_name(tmp_path: Path, kind: str) -> None:
    """Anything else in /out refuses all, and its name, which the job chose, is told nobody."""
    (tmp_path / "model").write_bytes(tensors())
    other = tmp_path / (f".{SECRET}" if kind == "hidden" else SECRET)
    if kind == "folder":
        other.mkdir()
    elif kind == "link":
        other.symlink_to("model")
    else:
        other.write_text(SECRET)
    assert codes(tmp_path, {"model": key()}) == ["output_undeclared"]


def test_two_files_for_one_output_are_refused(tmp_path: Path) -> None:
    """model and model.safetensors at once: which one leaves is nobody's guess."""
    for name in ("model", "model.safetensors"):
        (tmp_path / name).write_bytes(tensors())
    assert codes(tmp_path, {"model": key()}) == ["output_undeclared"]


@pytest.mark.parametrize("kind", ["symlink", "folder", "fifo", "hard link"])
def test_output_that_is_no_plain_file_is_refused(tmp_path: Path, kind: str) -> None:
    """A link could make the runner, which is root, read what the job may not."""
    path = tmp_path / "model"
    declared = {"model": key()}
    if kind == "symlink":
        path.symlink_to("/etc/hostname")
    elif kind == "folder":
        path.mkdir()
    elif kind == "fifo":
        os.mkfifo(path)
    else:
        path.write_bytes(tensors())
        os.link(path, tmp_path / "other")
        declared["other"] = key()
    assert set(codes(tmp_path, declared)) == {"output_not_a_file"}


def test_output_over_its_size_is_refused(tmp_path: Path) -> None:
    """max_size is in bytes of the file, holes included."""
    with open(tmp_path / "model", "wb") as out:
        out.truncate(10_001)
    assert codes(tmp_path, {"model": key()}) == ["output_too_large"]


@pytest.mark.parametrize(
    "content", [b"\x80\x04\x95" + SECRET.encode() + b".", SECRET.encode(), b"", tensors() + SECRET.encode()]
)
def test_output_of_another_format_is_refused_without_its_text(tmp_path: Path, content: bytes) -> None:
    """Pickle under a declared name, or bytes after the tensors: format_refused, and nothing of it is quoted."""
    (tmp_path / "model").write_bytes(content)
    assert codes(tmp_path, {"model": key()}) == ["output_format_refused"]


def test_every_failure_is_told_at_once(tmp_path: Path) -> None:
    """Reasons are collected over all outputs."""
    (tmp_path / "model").write_bytes(b"no")
    (tmp_path / "metrics.json").write_text('{"loss": "NaN"}')
    (tmp_path / SECRET).write_text("x")
    declared = {"model": key(), "metrics": key("json", fields=["loss"]), "table": key("csv")}
    assert codes(tmp_path, declared) == [
        "output_format_refused",
        "metrics_refused",
        "output_missing",
        "output_undeclared",
    ]


def test_sealed_output_opens_under_the_delivered_key(tmp_path: Path) -> None:
    """The manifest is signed by the session's key, carries the delivered asset id, and metrics leave as written anew."""
    out = tmp_path / "out"
    out.mkdir()
    (out / "metrics").write_text('{ "loss": [0.123456789, 1], "epoch": 2 }')
    signer = SigningKey.generate()
    declared = {"metrics": key("json", fields=["loss", "epoch"])}
    (found,) = outputs.collect(out, declared)
    envelope, store = outputs.seal(found, declared["metrics"], signer, tmp_path / "sealed")
    manifest = open_manifest(envelope, [signer.public])
    assert (manifest.asset_id, manifest.kind, manifest.name) == ("ab" * 16, "output", "metrics")
    with SealedReader(manifest, b"k" * 32, store) as reader:
        assert reader.read_file("metrics") == b'{"epoch":[2],"loss":[0.123457,1]}'
