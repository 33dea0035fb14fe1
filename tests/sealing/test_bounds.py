"""Outputs made to cost their checker: the time and memory of a check are bounded by the text's length."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from perunml.sealing import formats, pt2_program
from perunml.sealing.formats import check_format
from perunml.sealing.pt2_program import ProgramRefused, parse
from perunml.wire.errors import IntegrityError


def safetensors(header: bytes) -> bytes:
    return len(header).to_bytes(8, "little") + header


def refused(path: Path, content: bytes, declared: str) -> str:
    path.write_bytes(content)
    with pytest.raises(IntegrityError) as caught:
        check_format(path, declared, 2**40)
    assert caught.value.code == "output_format_refused"
    return caught.value.reasons[0].message


def test_d4_a_shape_of_a_million_dimensions_is_never_multiplied(tmp_path: Path) -> None:
    """The product of such a shape has millions of digits and takes hours; the run's lease would be renewed all the while."""
    shape = b",".join([b"9007199254740991"] * 1_000_000)
    header = b'{"a":{"dtype":"F32","shape":[' + shape + b'],"data_offsets":[0,0]}}'
    assert "not of its form" in refused(tmp_path / "x", safetensors(header), "safetensors")


@pytest.mark.parametrize("dimensions", [64, 65])
def test_a_shape_has_as_many_dimensions_as_pytorch_reads(tmp_path: Path, dimensions: int) -> None:
    """The bound is PyTorch's own: what it can make passes."""
    header = b'{"a":{"dtype":"U8","shape":[' + b",".join([b"1"] * dimensions) + b'],"data_offsets":[0,1]}}'
    path = tmp_path / "x"
    if dimensions > 64:
        assert "not of its form" in refused(path, safetensors(header) + b"\0", "safetensors")
    else:
        path.write_bytes(safetensors(header) + b"\0")
        check_format(path, "safetensors", 2**40)


@pytest.mark.parametrize("shape", [b'""', b"{}", b"0", b"null"])
def test_a_shape_that_is_no_list_is_refused(tmp_path: Path, shape: bytes) -> None:
    """An empty text multiplies to 1 as an empty list does; other readers would see another file."""
    header = b'{"a":{"dtype":"U8","shape":' + shape + b',"data_offsets":[0,1]}}'
    assert "not of its form" in refused(tmp_path / "x", safetensors(header) + b"\0", "safetensors")


@pytest.mark.parametrize(
    ("declared", "make"),
    [
        ("json", lambda n: b"[" + b"[]," * n + b"[]]"),
        ("json", lambda n: b"{" + b",".join(b'"%x":0' % i for i in range(n)) + b"}"),
        ("safetensors", lambda n: safetensors(b'{"a":[' + b"{}," * n + b"{}]}")),
        ("safetensors", lambda n: safetensors(b'{"a":[' + b'"",' * n + b'""]}')),
    ],
)
def test_d3_text_that_grows_twentyfold_in_memory_is_refused_unread(
    tmp_path: Path, declared: str, make: Callable[[int], bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    """An empty list is three bytes of text and 64 of memory: 64 MiB of them took the host 1.4 GiB."""
    monkeypatch.setattr(formats, "MAX_VALUES", 1000)
    monkeypatch.setattr(formats, "load_json", lambda *_, **__: pytest.fail("the text was read"))
    assert "more than 1000 values" in refused(tmp_path / "x", make(1000), declared)


def test_d3_a_program_of_empty_lists_is_refused_unread(monkeypatch: pytest.MonkeyPatch) -> None:
    """The same in an exported program, which an engine reads too."""
    monkeypatch.setattr(pt2_program, "MAX_VALUES", 1000)
    monkeypatch.setattr(pt2_program.json, "loads", lambda *_, **__: pytest.fail("the text was read"))
    with pytest.raises(ProgramRefused, match="more than 1000 values"):
        parse(b'{"a":[' + b"[]," * 1000 + b"[]]}", dict)


@pytest.mark.parametrize("line", [b"," * 2000, b'"a\n",' * 2000])
def test_d3_a_row_of_a_million_columns_is_refused(tmp_path: Path, line: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    """A row is built whole before anybody can look at it, also one that quotes carry over many lines."""
    monkeypatch.setattr(formats, "MAX_COLUMNS", 1000)
    assert "more than 1000 columns" in refused(tmp_path / "x", line, "csv")


def test_long_tables_of_few_columns_pass(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Columns are counted by the row, not by the file; quotes and line ends are as before."""
    monkeypatch.setattr(formats, "MAX_COLUMNS", 10)
    path = tmp_path / "x"
    path.write_bytes(b'a,b,c\r\n"1\n2",3,"4,5"\r\n' * 500)
    check_format(path, "csv", 2**40)
