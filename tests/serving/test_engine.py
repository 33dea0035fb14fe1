"""The torch-export engine: what it computes, and which archives and inputs it does not touch."""

from __future__ import annotations

import contextlib
import io
import json
import math
import pickle
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from perunml.sealing import pt2
from perunml.sealing.formats import check_format
from perunml.serving import archive
from perunml.serving.archive import check_pt2
from perunml.serving.engines import TorchExport, load_engine
from perunml.testing.service import predict
from perunml.testing.story.data import patient
from perunml.wire.errors import AgreementRefusal, IntegrityError, JobFailed, UsageError

pytestmark = pytest.mark.torch


@pytest.fixture(scope="module")
def engine(model: Path) -> TorchExport:
    return TorchExport(model.read_bytes())


def test_predicts(engine: TorchExport, model: Path) -> None:
    """A model of the story answers for one patient and for many, by file or by folder."""
    (one,) = predict(engine, patient())["probabilities"]
    assert math.isclose(sum(one), 1, abs_tol=1e-5)
    assert predict(engine, {"features": patient()["features"] * 40})["probabilities"][39] == pytest.approx(one)
    assert predict(load_engine("torch-export", model), patient()) == {"probabilities": [one]}


def test_an_engine_of_another_name_is_refused(model: Path) -> None:
    """An agreement's engine that is not here is refused, never replaced."""
    with pytest.raises(AgreementRefusal) as refused:
        load_engine("vllm", model)
    assert refused.value.code == "engine_unknown"


ROW = [0.5] * 30


@pytest.mark.parametrize(
    "inputs",
    [
        {},
        {"other": [ROW]},
        {"features": [ROW], "more": 1},
        {"features": ROW},
        {"features": []},
        {"features": [[]]},
        {"features": [ROW[1:]]},
        {"features": [ROW, ROW[1:]]},
        {"features": [[[1.0]] * 30]},
        {"features": [[*ROW[1:], [1]]]},
        {"features": [[*ROW[1:], "1"]]},
        {"features": [[*ROW[1:], True]]},
        {"features": [[*ROW[1:], None]]},
        {"features": [[*ROW[1:], float("nan")]]},
        {"features": [[*ROW[1:], 1e39]]},
        {"features": {"0": ROW}},
        {"features": 1.0},
        {"features": [ROW] * 4097},
    ],
    ids=lambda inputs: f"{str(inputs)[:30]}…{str(inputs)[-12:]}",
)
def test_inputs_of_another_form_are_refused(engine: TorchExport, inputs: dict[str, Any]) -> None:
    """Wrong names, ranks, lengths, types and values are told by their form, without a value."""
    with pytest.raises(UsageError) as refused:
        predict(engine, inputs)
    assert refused.value.code == "inputs_refused"
    assert "0.5" not in str(refused.value)


_json = st.recursive(
    st.none() | st.booleans() | st.floats() | st.integers() | st.text(max_size=3),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=12,
)


@given(_json)
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_junk_inputs_are_refused(engine: TorchExport, junk: Any) -> None:
    """Whatever JSON comes as an input, the engine refuses it in its own words."""
    with pytest.raises(UsageError):
        predict(engine, {"features": junk})


def exported(forward: Callable[..., Any], *example: Any) -> TorchExport:
    """An engine of a module that does `forward`."""
    import torch

    class Module(torch.nn.Module):  # type: ignore[misc]  # torch is not read by the type checker
        def forward(self, x: Any) -> Any:
            return forward(x)

    out = io.BytesIO()
    torch.export.save(torch.export.export(Module().eval(), example), out)
    return TorchExport(out.getvalue(), threads=1)


def test_outputs_that_are_no_real_numbers_are_refused() -> None:
    """Infinite and complex results are the model's failure, told without a value."""
    import torch

    for forward in (lambda x: x / 0, lambda x: torch.complex(x, x)):
        with pytest.raises(JobFailed) as refused:
            predict(exported(forward, torch.ones(2)), {"x": [0.25, 1.0]})
        assert refused.value.code == "inference_failed"
        assert "0.25" not in str(refused.value)


def test_integers_in_and_tuples_out() -> None:
    """Other types and forms than the story's: 64-bit integers in, two unnamed outputs."""
    import torch

    engine = exported(lambda x: (x + 1, x > 1), torch.ones(2, dtype=torch.int64))
    assert predict(engine, {"x": [1, 2]}) == {"output_0": [2, 3], "output_1": [False, True]}
    for wrong in ([1.0, 2], [True, 1], [2**63, 1]):
        with pytest.raises(UsageError):
            predict(engine, {"x": wrong})


def test_a_model_of_two_files_is_refused(model: Path, tmp_path: Path) -> None:
    """Which of two files is the model is not guessed; an empty folder is no model either."""
    with pytest.raises(IntegrityError):
        load_engine("torch-export", tmp_path)
    for name in ("a.pt2", "b.pt2"):
        (tmp_path / name).write_bytes(model.read_bytes())
    with pytest.raises(IntegrityError) as refused:
        load_engine("torch-export", tmp_path)
    assert refused.value.code == "model_refused"


# --- archives that would run something when loaded -------------------------------------------------------------------


def rebuilt(data: bytes, change: Callable[[dict[str, bytes]], object], compression: int = zipfile.ZIP_STORED) -> bytes:
    """The archive with its members changed by `change`."""
    with zipfile.ZipFile(io.BytesIO(data)) as old:
        members = {info.filename: old.read(info) for info in old.infolist()}
    change(members)
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", compression) as new:
        for name, content in members.items():
            new.writestr(name, content)
    return out.getvalue()


class _Bomb:
    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return exec, ("raise SystemExit('the bomb went off')",)


def _program(change: Callable[[dict[str, Any]], object]) -> Callable[[dict[str, bytes]], None]:
    def apply(members: dict[str, bytes]) -> None:
        program = json.loads(members["archive/models/model.json"])
        change(program)
        members["archive/models/model.json"] = json.dumps(program).encode()

    return apply


def _replaced(old: str, new: str) -> Callable[[dict[str, bytes]], None]:
    def apply(members: dict[str, bytes]) -> None:
        before = members["archive/models/model.json"]
        members["archive/models/model.json"] = before.replace(old.encode(), new.encode())
        assert members["archive/models/model.json"] != before

    return apply


def _weights(old: str, new: str) -> Callable[[dict[str, bytes]], None]:
    def apply(members: dict[str, bytes]) -> None:
        name = "archive/data/weights/model_weights_config.json"
        before = members[name]
        members[name] = before.replace(old.encode(), new.encode(), 1)
        assert members[name] != before

    return apply


SYMBOL = "integer=True)"
ATTACKS: dict[str, Callable[[dict[str, bytes]], object]] = {
    "pickled_weight": _weights('"use_pickle": false', '"use_pickle": true'),
    "weight_outside": _weights('"weight_0"', '"../weight_0"'),
    "custom_object": lambda m: m.update(
        {"archive/data/constants/model_constants_config.json": b'{"config": {"a": {"path_name": "custom_obj_0"}}}'}
    ),
    "native_library": lambda m: m.update({"archive/data/aotinductor/model/a.so": b"\x7fELF"}),
    "sample_is_a_pickle": lambda m: m.update({"archive/data/sample_inputs/model.pt": pickle.dumps(_Bomb())}),
    "expression_is_code": _replaced(SYMBOL, "integer=True).__class__"),
    "expression_imports": _replaced("Symbol('s", "__import__('s"),
    "expression_calls": _replaced("Symbol(", "exec("),
    "expression_power": _replaced(SYMBOL, "integer=True)**9**9**9"),
    "operator_of_torch": _replaced("torch.ops.aten.relu.default", "torch.serialization.os.system"),
    "operator_of_python": _replaced("torch.ops.aten.relu.default", "_operator.methodcaller"),
    "operator_reads_files": _replaced("torch.ops.aten.relu.default", "torch.ops.aten.from_file.default"),
    "operator_of_a_library": _replaced("torch.ops.aten.relu.default", "torch.ops.prim.device.default"),
    "extension": _replaced("torch.ops.aten.relu.default", "#mine:relu"),
    "foreign_tree": _replaced("builtins.tuple", "collections.deque"),
    "second_program": lambda m: m.update({"archive/models/other.json": m["archive/models/model.json"]}),
    "no_program": lambda m: m.pop("archive/models/model.json"),
    "two_prefixes": lambda m: m.update({"b/archive_version": b"0"}),
    "old_format": lambda m: (m.clear(), m.update({"version": b"8.9", "serialized_exported_program.json": b"{}"})),
    "operator_argument": _program(
        lambda p: p["graph_module"]["graph"]["nodes"][0]["inputs"][0].update(arg={"as_operator": "x"})
    ),
    "subgraph": _program(
        lambda p: p["graph_module"]["graph"]["nodes"][0]["inputs"][0].update(arg={"as_graph": {"name": "x"}})
    ),
    "code_as_an_argument's_name": _program(
        lambda p: p["graph_module"]["module_call_graph"][0]["signature"].update(
            forward_arg_names=["x='''+str(exec('raise SystemExit(1)'))):\n    pass #"]
        )
    ),
    "code_as_an_input's_name": _replaced('"features"', "\"features=exec('raise SystemExit(1)')\""),
    "code_as_a_keyword's_name": _replaced('\\"context\\": \\"[]\\"', '\\"context\\": \\"[\\\\\\"x=exec(1)\\\\\\"]\\"'),
    "code_after_a_comment": _program(
        lambda p: p["graph_module"]["graph"]["nodes"][0].update(metadata={"stack_trace": "x\rexec(1)"})
    ),
    "no_nodes": _program(lambda p: p["graph_module"]["graph"].update(nodes=[])),
    "deep": lambda m: m.update({"archive/models/model.json": b"[" * 100_000}),
    "archive_version": lambda m: m.update({"archive/archive_version": b"1"}),
    "config_is_a_list": lambda m: m.update({"archive/data/weights/model_weights_config.json": b'{"config": []}'}),
    "config_has_more": lambda m: m.update(
        {"archive/data/constants/model_constants_config.json": b'{"config": {}, "x": 1}'}
    ),
    "expression_long": _replaced(SYMBOL, SYMBOL + " + 1" * 2000),
    "tree_version": _replaced('[1, {\\"type', '[2, {\\"type'),
    "key_twice": _replaced('{"graph_module"', '{"graph_module": {}, "graph_module"'),
    "list": lambda m: m.update({"archive/models/model.json": b"[]"}),
}


@pytest.mark.parametrize("attack", ATTACKS)
def test_an_archive_that_would_run_something_is_refused(model: Path, attack: str) -> None:
    """Each way to make PyTorch's reader act is refused before or instead of acting."""
    assert ATTACKS
    changed = rebuilt(model.read_bytes(), ATTACKS[attack])
    for load in (check_pt2, TorchExport):  # the check alone must do: what the reader refuses, it may have acted on
        with pytest.raises(IntegrityError) as refused:
            load(changed)
        assert refused.value.code == "model_refused"


@pytest.mark.parametrize("attack", ATTACKS)
def test_an_output_that_would_run_something_is_not_sealed(model: Path, tmp_path: Path, attack: str) -> None:
    """The same archives never become outputs: a recipient would load them on a machine of its own."""
    check_format(model, "pt2", 2**30)
    (tmp_path / "model.pt2").write_bytes(rebuilt(model.read_bytes(), ATTACKS[attack]))
    with pytest.raises(IntegrityError) as refused:
        check_format(tmp_path / "model.pt2", "pt2", 2**30)
    assert refused.value.code == "output_format_refused"


def test_a_sample_with_a_bomb_inside_torch_s_own_format_is_refused(model: Path) -> None:
    """Example inputs that only the full unpickler reads are refused: torch's fallback to it never runs."""
    import torch

    bomb = io.BytesIO()
    torch.save(((_Bomb(),), {}), bomb)
    with pytest.raises(IntegrityError) as refused:
        TorchExport(
            rebuilt(model.read_bytes(), lambda m: m.update({"archive/data/sample_inputs/model.pt": bomb.getvalue()}))
        )
    assert refused.value.code == "model_refused"


@pytest.mark.parametrize("zip64", [False, True])
def test_an_archive_with_two_directories_is_refused(model: Path, zip64: bool) -> None:
    """One directory for the check, and one with a pickled weight for PyTorch's reader, which looks for it elsewhere."""
    honest = rebuilt(model.read_bytes(), lambda m: None)
    evil = rebuilt(model.read_bytes(), _weights('"use_pickle": false', '"use_pickle": true'))
    _, _, _, _, count, length, offset, _ = struct.unpack("<4s4H2IH", evil[-22:])
    if zip64:
        first = evil[:-22] + struct.pack("<4sQ2H2I4Q", b"PK\6\6", 44, 45, 45, 0, 0, count, count, length, offset)
        _, _, _, _, count, length, good, _ = struct.unpack("<4s4H2IH", honest[-22:])
        second = struct.pack("<4sQ2H2I4Q", b"PK\6\6", 44, 45, 45, 0, 0, count, count, length, good + len(first))
        end = struct.pack("<4sIQI", b"PK\6\7", 0, len(evil) - 22, 1)
        end += struct.pack("<4s4H2IH", b"PK\5\6", 0, 0, 0xFFFF, 0xFFFF, 0xFFFFFFFF, 0xFFFFFFFF, 0)
        both = first + honest[:-22] + second + end
    else:  # the record names the first; who counts back from the end finds the second
        both = evil[:-22] + honest[:-22] + struct.pack("<4s4H2IH", b"PK\5\6", 0, 0, count, count, length, offset, 0)
    with pytest.raises(IntegrityError) as refused:
        TorchExport(both)
    assert refused.value.code == "model_refused"
    assert "directory" in str(refused.value) or "Zip64" in str(refused.value)


def test_a_compressed_archive_is_refused(model: Path) -> None:
    """No member can be larger than the archive."""
    with pytest.raises(IntegrityError):
        check_pt2(rebuilt(model.read_bytes(), lambda m: None, zipfile.ZIP_DEFLATED))


@pytest.mark.parametrize(
    ("module", "bound"),
    [(archive, "MAX_ARCHIVE"), *((pt2, name) for name in ("MAX_MEMBERS", "MAX_TEXT", "MAX_EXAMPLE", "MAX_PICKLE"))],
    ids=lambda value: value if isinstance(value, str) else value.__name__,
)
def test_archives_past_a_bound_are_refused(
    model: Path, monkeypatch: pytest.MonkeyPatch, module: ModuleType, bound: str
) -> None:
    """Each bound is held: with it set to a little, an honest archive is too large."""
    check_pt2(model.read_bytes())
    monkeypatch.setattr(module, bound, 5)
    with pytest.raises(IntegrityError):
        check_pt2(model.read_bytes())


def test_a_pickle_is_no_model(tmp_path: Path) -> None:
    """A pickled model, whatever its name, is refused without being read."""
    (tmp_path / "model.pt2").write_bytes(pickle.dumps(_Bomb()))
    with pytest.raises(IntegrityError) as refused:
        load_engine("torch-export", tmp_path)
    assert refused.value.code == "model_refused"


@given(st.data())
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_cut_or_flipped_archives_do_not_crash_the_check(model: Path, data: st.DataObject) -> None:
    """Truncation is refused; a flipped bit is refused or leaves an archive that the check calls harmless."""
    whole = bytearray(model.read_bytes())
    with pytest.raises(IntegrityError):
        check_pt2(bytes(whole[: data.draw(st.integers(0, len(whole) - 1))]))
    bit = data.draw(st.integers(0, 8 * len(whole) - 1))
    whole[bit // 8] ^= 1 << bit % 8
    with contextlib.suppress(IntegrityError):
        check_pt2(bytes(whole))
