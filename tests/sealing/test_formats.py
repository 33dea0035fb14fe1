"""Outputs leave only as the declared format, and never as something that runs code when it is read."""

from __future__ import annotations

import io
import json
import os
import pickle
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from perunml.sealing.formats import check_format
from perunml.wire.errors import IntegrityError, LimitReached

MIB = 2**20


def safetensors(header: Any, body: bytes = b"", pad: int = 0) -> bytes:
    text = (header if isinstance(header, bytes) else json.dumps(header).encode()) + b" " * pad
    return len(text).to_bytes(8, "little") + text + body


def tensor(begin: int, end: int, shape: list[int], dtype: str = "F32") -> dict[str, Any]:
    return {"dtype": dtype, "shape": shape, "data_offsets": [begin, end]}


class Evil:
    def __reduce__(self) -> tuple[Any, ...]:
        return (os.system, ("true",))


def zipped(members: dict[str, bytes], compression: int = zipfile.ZIP_STORED, folder: str = "model/") -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", compression) as archive:
        for name, data in members.items():
            archive.writestr(folder + name, data)
    return out.getvalue()


def example(text: bytes) -> bytes:
    return zipped({"data.pkl": text, "version": b"3\n"}, folder="archive/")


def program(**more: bytes | None) -> dict[str, bytes]:
    """An archive's members as torch.export.save lays them out; `more` replaces by short name or takes away (None)."""
    config = {"config": {"0.weight": {"path_name": "weight_0", "use_pickle": False, "tensor_meta": {}}}}
    members: dict[str, bytes | None] = {
        "data/weights/weight_0": b"\x80\x02\x00\x00",  # numbers that happen to begin as a pickle does
        "data/weights/model_weights_config.json": json.dumps(config).encode(),
        "data/constants/model_constants_config.json": b'{"config": {}}',
        "models/model.json": b'{"target": "torch.ops.aten.relu.default", "inputs": [9223372036854775807]}',
        "data/sample_inputs/model.pt": example(pickle.dumps(([1, 2.5, None, True], {}), protocol=2)),
        "archive_format": b"pt2",
        "archive_version": b"0",
        **{name.replace("__", "/"): data for name, data in more.items()},
    }
    return {name: data for name, data in members.items() if data is not None}


PICKLED = json.dumps({"config": {"w": {"path_name": "weight_0", "use_pickle": True}}}).encode()
GOOD: list[tuple[str, bytes]] = [
    ("safetensors", safetensors({})),
    ("safetensors", safetensors({"__metadata__": {"a": "b"}, "w": tensor(0, 8, [2])}, bytes(8), pad=5)),
    ("safetensors", safetensors({"b": tensor(4, 8, []), "a": tensor(0, 4, [1]), "e": tensor(4, 4, [0])}, bytes(8))),
    ("json", b'{"loss": 0.5}'),
    ("csv", 'a,b\n1,2\n"x\ny",ü\n'.encode()),
    ("csv", b""),
    ("onnx", b"\x08\x09\x12\x01x\x3a\x00"),
    ("pt2", zipped(program())),
]
BAD: list[tuple[str, str, bytes]] = [
    ("safetensors", "empty", b""),
    ("safetensors", "a header of 2^63 bytes", (2**63).to_bytes(8, "little") + b"{}"),
    ("safetensors", "a header beyond the end", (100).to_bytes(8, "little") + b"{}"),
    ("safetensors", "no JSON", safetensors(b"nope")),
    ("safetensors", "a list", safetensors([])),
    ("safetensors", "blanks first", safetensors(b" {}")),
    ("safetensors", "a key twice", safetensors(b'{"__metadata__":{},"__metadata__":{}}')),
    ("safetensors", "numbers as metadata", safetensors({"__metadata__": {"a": 1}})),
    ("safetensors", "a gap", safetensors({"a": tensor(0, 4, [1]), "b": tensor(8, 12, [1])}, bytes(12))),
    ("safetensors", "an overlap", safetensors({"a": tensor(0, 8, [2]), "b": tensor(4, 12, [2])}, bytes(12))),
    ("safetensors", "bytes after the tensors", safetensors({"a": tensor(0, 4, [1])}, bytes(5))),
    ("safetensors", "tensors beyond the end", safetensors({"a": tensor(0, 8, [2])}, bytes(4))),
    ("safetensors", "another size than its shape", safetensors({"a": tensor(0, 4, [2])}, bytes(4))),
    ("safetensors", "an unknown type", safetensors({"a": tensor(0, 4, [1], "F31")}, bytes(4))),
    ("safetensors", "a type that is a list", safetensors({"a": {**tensor(0, 4, [1]), "dtype": []}}, bytes(4))),
    ("safetensors", "a negative shape", safetensors({"a": tensor(0, 4, [-1, -1])}, bytes(4))),
    ("safetensors", "a shape that is a number", safetensors({"a": {**tensor(0, 4, [1]), "shape": 1}}, bytes(4))),
    ("safetensors", "a pickle", pickle.dumps(Evil())),
    ("json", "NaN", b"NaN"),
    ("json", "a key twice", b'{"a":1,"a":2}'),
    ("json", "depth 10^5", b"[" * 100_000),
    ("json", "a pickle", pickle.dumps({"a": 1})),
    ("csv", "rows of different lengths", b"a,b\n1\n"),
    ("csv", "not UTF-8", b"\xff\xfe"),
    ("csv", "an open quote", b'"a'),
    ("onnx", "empty", b""),
    ("onnx", "no graph", b"\x08\x09"),
    ("onnx", "a length beyond the end", b"\x08\x09\x3a\x7f"),
    ("onnx", "an endless number", b"\x08" + b"\xff" * 20),
    ("onnx", "a group", b"\x08\x09\x3b"),
    ("onnx", "an unknown field", b"\x08\x09\x3a\x00\x4a\x00"),
    ("onnx", "too many fields", b"\x3a\x00" + b"\x08\x09" * 20_000),
    ("onnx", "a pickle", pickle.dumps(Evil())),
    ("pt2", "a pickle", pickle.dumps(Evil())),
    ("pt2", "empty", b""),
    ("pt2", "torch.save's archive", zipped({"data.pkl": b"x", "version": b"3"})),
    ("pt2", "compressed", zipped(program(), zipfile.ZIP_DEFLATED)),
    ("pt2", "a library", zipped(program(data__aotinductor__model__a=b"ELF"))),
    ("pt2", "a pickle beside", zipped(program() | {"data/weights/w.pkl": b"x"})),
    ("pt2", "a name that leads up", zipped(program(), folder="../")),
    ("pt2", "an absolute name", zipped({"/etc/x": b""} | program(), folder="")),
    ("pt2", "two folders", zipped({f"a/{n}": d for n, d in program().items()} | {"b/byteorder": b""}, folder="")),
    ("pt2", "pickled weights", zipped(program(**{"data__weights__model_weights_config.json": PICKLED}))),
    ("pt2", "weights not there", zipped(program(data__weights__weight_0=None))),
    ("pt2", "no program", zipped(program(**{"models__model.json": None}))),
    ("pt2", "a program that is not JSON", zipped(program(**{"models__model.json": b"{"}))),
    ("pt2", "a program without operators", zipped(program(**{"models__model.json": b"{}"}))),
    ("pt2", "a foreign operator", zipped(program(**{"models__model.json": b'{"target": "os.system", "inputs": []}'}))),
    ("pt2", "an expression that is code", zipped(program(**{"models__model.json": b'{"target": "torch.ops.aten.relu.default", "inputs": [{"expr_str": "__import__(1)"}]}'}))),
    ("pt2", "a name that is code", zipped(program(**{"models__model.json": b'{"target": "torch.ops.aten.relu.default", "inputs": [{"name": "x=(exit())"}]}'}))),
    ("pt2", "another version", zipped(program(archive_version=b"1"))),
    ("pt2", "code in the example inputs", zipped(program(**{"data__sample_inputs__model.pt": example(pickle.dumps(Evil(), 2))}))),
    ("pt2", "newer pickle", zipped(program(**{"data__sample_inputs__model.pt": example(pickle.dumps(Evil(), 4))}))),
    ("pt2", "a bare pickle as example", zipped(program(**{"data__sample_inputs__model.pt": pickle.dumps(([], {}), 2)}))),
    ("pt2", "two pickles in a row", zipped(program(**{"data__sample_inputs__model.pt": example(b"\x80\x02N." + pickle.dumps(Evil(), 2))}))),
    ("pt2", "bytes before", b"MZ" + zipped(program())),
    ("pt2", "bytes after", zipped(program()) + b"x"),
    ("pickle", "no format of ours", b""),
]  # fmt: skip


@pytest.mark.parametrize(("declared", "data"), GOOD)
def test_honest_files_pass(tmp_path: Path, declared: str, data: bytes) -> None:
    """What the formats allow, in its corners."""
    (tmp_path / "f").write_bytes(data)
    check_format(tmp_path / "f", declared, MIB)


@pytest.mark.parametrize(("declared", "fault", "data"), BAD, ids=[f"{d}: {f}" for d, f, _ in BAD])
def test_files_of_another_form_are_refused(tmp_path: Path, declared: str, fault: str, data: bytes) -> None:
    """Each fault alone, output_format_refused."""
    (tmp_path / "f").write_bytes(data)
    with pytest.raises(IntegrityError, match="output_format_refused"):
        check_format(tmp_path / "f", declared, MIB)


def test_a_zip_with_one_member_over_another_is_refused(tmp_path: Path) -> None:
    """Two names for one place: readers may see different archives."""
    data = zipped(program())
    first, second = data.index(b"PK\x01\x02"), data.index(b"PK\x01\x02", data.index(b"PK\x01\x02") + 4)
    bad = bytearray(data)
    bad[second + 42 : second + 46] = bad[first + 42 : first + 46]
    (tmp_path / "f").write_bytes(bad)
    with pytest.raises(IntegrityError, match="output_format_refused"):
        check_format(tmp_path / "f", "pt2", MIB)


def test_an_output_that_is_too_large_or_no_file_is_refused(tmp_path: Path) -> None:
    """output_too_large from the size alone, nothing is read; a link to elsewhere is no output."""
    with (tmp_path / "f").open("wb") as file:
        file.truncate(2**40)
    with pytest.raises(LimitReached, match="output_too_large"):
        check_format(tmp_path / "f", "safetensors", MIB)
    (tmp_path / "l").symlink_to("/etc/hostname")
    with pytest.raises(IntegrityError, match="output_format_refused"):
        check_format(tmp_path / "l", "csv", MIB)


def mutations(draw: Callable[[st.SearchStrategy[Any]], Any], data: bytes) -> bytes:
    bad = bytearray(data)
    for _ in range(draw(st.integers(1, 3))):
        if bad:
            bad[draw(st.integers(0, len(bad) - 1))] = draw(st.integers(0, 255))
    return bytes(bad[: draw(st.integers(len(bad) // 2, len(bad)))])


@settings(max_examples=300, deadline=None)
@given(data=st.data())
def test_d9_altered_files_pass_or_are_refused_by_code(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    """D9: bytes changed, ends cut: no exception but the coded one."""
    declared, good = data.draw(st.sampled_from(GOOD))
    path = tmp_path_factory.getbasetemp() / "mutated"
    path.write_bytes(mutations(data.draw, good))
    code = "output_format_refused"
    try:
        check_format(path, declared, MIB)
    except IntegrityError as exc:
        code = exc.code
    assert code == "output_format_refused"


@pytest.mark.torch
def test_what_torch_writes_passes(tmp_path: Path) -> None:
    """ACCEPT: a real exported program and a real safetensors file, with tensors of several types as example inputs."""
    pytest.importorskip("torch", reason="runs where the train extra is installed")
    code = f"""
import torch
from safetensors.torch import save_file
class M(torch.nn.Module):
    def __init__(self):
        super().__init__(); self.l = torch.nn.Linear(4, 3); self.register_buffer("n", torch.ones(1))
    def forward(self, x, *, scale): return self.l(x) * scale * self.n + torch.tensor([1.0, 2.0, 3.0])
m = M().eval()
torch.export.save(torch.export.export(m, (torch.zeros(2, 4),), {{"scale": torch.ones(1, dtype=torch.int64)}}), {str(tmp_path / "m.pt2")!r})
save_file(m.state_dict(), {str(tmp_path / "m.safetensors")!r}, metadata={{"format": "pt"}})
"""
    subprocess.run([sys.executable, "-W", "ignore", "-c", code], check=True, timeout=120)
    check_format(tmp_path / "m.pt2", "pt2", MIB)
    check_format(tmp_path / "m.safetensors", "safetensors", MIB)
