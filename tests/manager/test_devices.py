"""GPUs in receipts: as the host told them under its evidence, or not at all."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from manager.road import Road
from manager.world import World
from perunml.ledger.devices import Devices, Gpu
from perunml.ledger.receipts import open_receipt
from perunml.wire.errors import EvidenceRefusal, UsageError
from perunml.wire.identity import PublicKey

UUID = "GPU-11111111-2222-3333-4444-555555555555"
SHOWN = Devices("570.133.20", (Gpu("NVIDIA H200", UUID),))


@pytest.fixture
def road(own_world: World, tmp_path: Path) -> Road:
    return Road(own_world, tmp_path / "road")


def test_the_receipt_names_driver_and_gpu(road: Road) -> None:
    """For a run that ended well, and for one that failed; audits follow both (own_world's end)."""
    _, session, delivery = road.started()
    sealed = road.output(session, delivery)
    answer = session.finish({"model": sealed.digest}, devices=SHOWN)
    receipt = open_receipt(answer.receipt, PublicKey(road.world.pin.identity))
    assert receipt.devices == SHOWN
    _, session, _ = road.started()
    failed = session.finish({}, error="gpu_out_of_memory", devices=SHOWN)
    assert open_receipt(failed.receipt, PublicKey(road.world.pin.identity)).devices == SHOWN
    _, session, _ = road.started()
    without = session.finish({}, error="not_finite")
    assert "devices" not in without.receipt.open("Receipt", [PublicKey(road.world.pin.identity)])


def test_devices_that_the_evidence_does_not_name_are_refused(road: Road, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever changes them on the way has another binding."""
    from perunml.host import session as module

    monkeypatch.setattr(module, "finish_payload", lambda outputs, devices: module.digest_of(dict(outputs)))
    _, session, _ = road.started()
    with pytest.raises(EvidenceRefusal) as caught:
        session.finish({}, error="code_failed", devices=SHOWN)
    assert caught.value.code == "binding_mismatch"


@pytest.mark.parametrize(
    "told",
    [
        {}, [], "x", None, {"driver": "1.2", "gpus": []}, {"driver": "patient 17", "gpus": [{"name": "NVIDIA", "uuid": UUID}]},
        {"driver": "1.2", "gpus": [{"name": "N" * 64, "uuid": UUID}]}, {"driver": "1.2", "gpus": [{"name": "NVIDIA", "uuid": UUID}] * 2},
        {"driver": "1.2", "gpus": [{"name": "NVIDIA", "uuid": UUID.lower()}]}, {"driver": "1.2", "gpus": [{"name": "NVIDIA", "uuid": UUID, "x": 1}]},
        {"driver": 12, "gpus": [{"name": "NVIDIA", "uuid": UUID}]}, {"driver": "1.2", "gpus": [{"name": "\x1b[31m", "uuid": UUID}]},
        {"driver": "1.2", "gpus": {"name": "NVIDIA", "uuid": UUID}}, {"driver": "1.2", "gpus": [[]]},
    ],
)  # fmt: skip
def test_words_that_no_driver_says_are_refused(told: Any) -> None:
    """A receipt is no place for whatever a host likes to say."""
    with pytest.raises(UsageError) as caught:
        Devices.from_json(told)
    assert caught.value.code == "malformed"
