"""A service from end to end: real manager, real agent and runner in processes of their own, real sandbox, real clients."""

from __future__ import annotations

import os
import shutil
import textwrap
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from perunml.api.inference import ReceiptFile
from perunml.client.receipts import verify_receipt
from perunml.serving.engines import TorchExport
from perunml.testing.service import predict
from perunml.wire.errors import PerunError
from serving.roads import LEASE, Road, Sealed, road

pytestmark = [
    pytest.mark.torch,
    pytest.mark.sandbox,
    pytest.mark.e2e,
    pytest.mark.skipif(os.geteuid() != 0, reason="the runner makes mounts, so it runs as root, here and in CI"),
    pytest.mark.skipif(shutil.which("bwrap") is None, reason="bubblewrap is not installed; `make setup` installs it"),
]
REQUESTS = 6
INPUTS = {"features": [[0.5] * 30]}


@pytest.fixture
def served(model: Path, tmp_path: Path) -> Iterator[Road]:
    """The story's model."""
    (tmp_path / "net").mkdir()
    shutil.copy(model, tmp_path / "net")
    with road(tmp_path, {"net": Sealed("owner", "model", tmp_path / "net")}, "engine: torch-export", REQUESTS) as made:
        yield made


def test_a_service_from_release_to_suspension(served: Road, model: Path, tmp_path: Path) -> None:
    """Predictions with receipts, across renewals; a stranger refused; the agreed count kept; a suspension ends it all (C14)."""
    people, host, run = served.people, served.host, served.run
    clinic = people["clinic"]
    found = clinic.infer(run, INPUTS)
    first = found.receipt
    assert found.outputs == predict(TorchExport(model.read_bytes()), INPUTS)
    told = verify_receipt(ReceiptFile.decode(first.encode()), clinic.pin, answer=found.answer)
    assert told["simulated"] is True
    assert told["imitates"] == "tee"

    agreement = clinic.run(run).agreement
    assert people["cloud"].serve(agreement).run == run  # one answers already
    assert clinic.infer(f"{agreement}/serve", INPUTS).outputs == found.outputs
    for job in ("train", "net"):
        with pytest.raises(PerunError) as refused:
            people["cloud"].serve(agreement, job)
        assert refused.value.code == "not_found"
    with pytest.raises(PerunError) as refused:
        clinic.infer(f"{agreement}/other", INPUTS)
    assert refused.value.code == "not_found"

    endpoint = clinic.run(run).endpoint
    with pytest.raises(PerunError) as refused:
        people["stranger"].infer(run, INPUTS, endpoint=endpoint)
    assert refused.value.code == "client_not_in_agreement"

    host.wait_for("renewed")
    host.wait_for("renewed")
    time.sleep(0.5)
    second = clinic.infer(run, INPUTS).receipt
    assert second.certificate.digest != first.certificate.digest

    for _ in range(REQUESTS - 3):
        clinic.infer(run, INPUTS)
    with pytest.raises(PerunError) as refused:
        clinic.infer(run, INPUTS)
    assert refused.value.code == "quota_exhausted"

    numbers = httpx.get(f"{served.metrics}/metrics").text
    assert 'requests_total{kind="request",status="200",code=""}' in numbers
    assert "perunml_service_engine_starts_total 1" in numbers

    people["owner"].suspend("net", agreement=clinic.run(run).agreement)
    lost = host.wait_for("lease_lost", 3 * LEASE)
    assert lost["reasons"][0]["code"] == "asset_suspended"
    host.wait_for("keys_wiped")
    with pytest.raises(PerunError) as refused:
        clinic.infer(run, INPUTS, endpoint=endpoint)
    assert refused.value.code == "unreachable"
    sealed = tmp_path / "host/agent"
    assert not [path for path in sealed.rglob("*") if path.is_file() and b"archive/models" in path.read_bytes()]


ARCHITECTURE = """
import torch
from layers import Doubled

INPUTS = {"x": ("FP32", [-1, 3])}
OUTPUTS = {"y": ("FP32", [-1, 2])}


class Net(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = torch.nn.Linear(3, 2)
        self.last = Doubled()

    def forward(self, x):
        return {"y": self.last(self.linear(x))}


def build():
    return Net()
"""
LAYERS = """
import torch


class Doubled(torch.nn.Module):
    def forward(self, x):
        return 2 * x
"""


def test_weights_of_one_and_code_of_another_make_a_service(tmp_path: Path) -> None:
    """Neither reads the other's; and whoever owns the code can stop it as the weights' owner can."""
    import torch
    from safetensors.torch import save_file

    (tmp_path / "weights").mkdir()
    (tmp_path / "source").mkdir()
    linear = torch.nn.Linear(3, 2)
    save_file(
        {"linear.weight": linear.weight.detach(), "linear.bias": linear.bias.detach()},
        tmp_path / "weights/w.safetensors",
    )
    (tmp_path / "source/net.py").write_text(textwrap.dedent(ARCHITECTURE))
    (tmp_path / "source/layers.py").write_text(textwrap.dedent(LAYERS))
    assets = {
        "net": Sealed("owner", "model", tmp_path / "weights"),
        "source": Sealed("coder", "code", tmp_path / "source", "net.py"),
    }
    with road(tmp_path, assets, "engine: safetensors, code: source") as made:
        x = [[1.0, 2.0, 3.0], [0.5, 0.0, -1.0]]
        found = made.people["clinic"].infer(made.run, {"x": x}).outputs["y"]
        wanted = (2 * linear(torch.tensor(x))).tolist()
        assert [pytest.approx(row, abs=1e-6) for row in wanted] == found
        made.people["coder"].suspend("source", agreement=made.people["clinic"].run(made.run).agreement)
        lost = made.host.wait_for("lease_lost", 3 * LEASE)
        assert lost["reasons"][0]["code"] == "asset_suspended"


def test_a_language_model_from_a_sealed_folder_to_a_stream(tmp_path: Path) -> None:
    """Its owner brought it sealed; a client of OpenAI's protocol hears it word by word, across a renewal of the lease."""
    openai: Any = pytest.importorskip("perunml.openai", reason="openai is not installed; `make setup` installs it")
    pytest.importorskip("transformers", reason="Transformers is not installed; `make setup` installs it")
    from serving.tiny import write_model

    assets = {"net": Sealed("owner", "model", write_model(tmp_path / "tiny"))}
    with road(tmp_path, assets, "engine: transformers") as made:
        receipts: list[ReceiptFile] = []
        with openai.OpenAI("served/serve", client=made.people["clinic"], on_receipt=receipts.append) as client:
            asked: dict[str, Any] = {
                "model": "serve",
                "messages": [{"role": "user", "content": "hello"}],
                "temperature": 0,
                "max_tokens": 40,
            }
            whole = client.chat.completions.create(**asked).choices[0].message.content
            made.host.wait_for("renewed")
            stream = client.chat.completions.create(**asked, stream=True)
            assert "".join(piece.choices[0].delta.content or "" for piece in stream) == whole
        assert len(receipts) == 2
        assert all(verify_receipt(kept, made.people["clinic"].pin)["simulated"] for kept in receipts)
