"""Agreements whose parts do not fit together, each broken once."""

from __future__ import annotations

from typing import Any

import pytest

from agreements.sample import DROP, document, edit, key, receiving, sha, simulated
from perunml.agreements.document import agreement_from_json
from perunml.agreements.flows import affected, ancestors, owners
from perunml.wire.errors import PerunError

INCONSISTENT: list[tuple[str, Any, str]] = [
    ("jobs/serve/engine", "transformers", "cannot load"),
    ("jobs/serve/engine", "onnx", "cannot load"),
    ("parties/st-vitus/approve", {"all": ["dpo", "dr-c"]}, "dr-c"),
    ("parties/st-vitus/approve", {"at_least": 2, "of": ["dpo", "dpo"]}, "stands twice"),  # P4
    ("parties/st-vitus/approve", {"at_least": 2, "of": ["dpo", {"all": ["dpo"]}]}, "stands twice"),  # P4
    ("parties/st-vitus/keys/dr-b", key("st-vitus/dr-a").public.text, "belongs to one place"),  # P4
    ("parties/acme/keys/ml", key("st-vitus/dr-a").public.text, "belongs to one place"),  # P4
    ("parties/acme/keys/ml", key("manager").public.text, "belongs to one place"),
    ("parties/acme/receive", receiving("st-vitus").public.text, "belongs to one place"),
    ("parties/acme/receive", DROP, "no receiving key"),
    ("assets/scans/owner", "nobody", "none of the parties"),  # P10
    ("assets/scans/digest", sha("b"), "the same asset"),
    ("witnesses", {"waived_because_simulated": True}, "simulated"),
    ("witnesses/of", ["st-vitus", "nobody"], "none of the parties"),
    ("witnesses/of", ["st-vitus", "gpu-cloud"], "no witness"),
    ("jobs/train/code", "scans", "kind code"),
    ("jobs/train/code", "nothing", "kind code"),
    ("jobs/train/inputs", {"scan": "/in/scans"}, "no asset"),
    ("jobs/train/inputs", {"unet": "/in/unet"}, "kind dataset or model"),
    ("jobs/train/inputs", {"train.outputs.metrics": "/in/m"}, "use"),
    ("jobs/train/hosts", "nowhere", "none of the hosts"),
    ("jobs/train/operator", "nobody", "none of the parties"),
    ("jobs/train/outputs/model/to", ["nobody"], "none of the parties"),
    ("jobs/train/outputs/model/to", "gpu-cloud", "no receiving key"),
    ("jobs/train/outputs/model/use", ["train"], "reads this output"),
    ("jobs/train/outputs/model/use", ["nothing"], "reads this output"),
    ("jobs/train/outputs/model/use", DROP, "`use`"),
    ("jobs/train/outputs/model/release", {"approve": ["nobody"]}, "none of the parties"),
    ("jobs/train/outputs/model/format", "onnx", "cannot load"),
    ("jobs/serve/model", "train.outputs.nothing", "no output"),
    ("jobs/serve/model", "serve.outputs.model", "no output"),
    ("jobs/serve/model", "scans", "kind model"),
    ("jobs/serve/clients", ["nobody"], "none of the parties"),
]


@pytest.mark.parametrize(("path", "value", "words"), INCONSISTENT, ids=lambda v: str(v)[:30])
def test_parts_that_do_not_fit_are_refused(path: str, value: Any, words: str) -> None:
    """P4, P10 and every reference: refused, and the message says what."""
    with pytest.raises(PerunError) as caught:
        agreement_from_json(edit(document(), path, value))
    assert {reason.code for reason in caught.value.reasons} == {"agreement_inconsistent"}
    assert any(words in reason.message for reason in caught.value.reasons)


def _weights(**changes: Any) -> dict[str, Any]:
    """A service of weights with an architecture; `changes` of its job."""
    made = edit(edit(document(), "jobs/train/outputs/model/format", "safetensors"), "jobs/serve/engine", "safetensors")
    for name, value in {"code": "unet", **changes}.items():
        made = made if value is DROP else edit(made, f"jobs/serve/{name}", value)
    return made


@pytest.mark.parametrize(
    ("changes", "words"),
    [({"code": DROP}, "comes with other code"), ({"code": "scans"}, "no asset of kind code"), ({"code": "nothing"}, "no asset of kind code"),
     ({"engine": "torch-export"}, "comes with other code")],
)  # fmt: skip
def test_weights_alone_want_their_code_and_others_none(changes: dict[str, Any], words: str) -> None:
    """An engine that has a program of its own takes no other beside it."""
    assert agreement_from_json(_weights())
    with pytest.raises(PerunError) as caught:
        agreement_from_json(_weights(**changes))
    assert any(words in reason.message for reason in caught.value.reasons)


def test_code_flows_into_the_service_that_it_serves() -> None:
    """Its owner is touched by what changes there, and its suspension ends it."""
    made = edit(_weights(code="lib"), "assets/lib", {"kind": "code", "owner": "clinic", "digest": "sha256:" + "7" * 64, "entry": "net.py"})  # fmt: skip
    agreement = agreement_from_json(made)
    assert ancestors(agreement, "serve") == {"lib", "scans", "unet"}
    assert "clinic" in owners(agreement, "serve")
    assert "lib" not in ancestors(agreement, "train")


def test_a_language_model_has_no_batching() -> None:
    """Its engine orders answers itself."""
    made = edit(document(), "assets/chat", {"kind": "model", "owner": "acme", "digest": "sha256:" + "7" * 64})
    made = edit(edit(made, "jobs/serve/model", "chat"), "jobs/serve/engine", "transformers")
    made = edit(made, "jobs/train/outputs/model/use", DROP)
    assert agreement_from_json(made)
    with pytest.raises(PerunError) as caught:
        agreement_from_json(edit(made, "jobs/serve/batching", {"rows": 8, "delay_ms": 5}))
    assert "orders its answers itself" in str(caught.value)
    for name in ("batch", "top_k", "digits"):
        with pytest.raises(PerunError) as caught:
            agreement_from_json(edit(made, f"jobs/serve/limits/{name}", 3))
        assert "with text, not with scores" in str(caught.value)


def test_two_inputs_at_one_place_are_refused() -> None:
    """One of them would hide the other."""
    made = edit(document(), "assets/more", {"kind": "dataset", "owner": "acme", "digest": sha("9")})
    made["jobs"]["train"]["inputs"]["more"] = "/in/scans"
    with pytest.raises(PerunError, match="mounted at"):
        agreement_from_json(made)


def test_a_board_nested_too_deep_is_refused() -> None:
    """Nobody can follow it."""
    board: Any = "dpo"
    for _ in range(9):
        board = {"all": [board]}
    with pytest.raises(PerunError, match="nested deeper"):
        agreement_from_json(edit(document(), "parties/st-vitus/approve", board))


def second_training(source: str) -> dict[str, Any]:
    """A second training that starts from the first one's model, and may feed it."""
    made = document()
    again: dict[str, Any] = made["jobs"]["train"] | {"inputs": {"train.outputs.model": "/in/model"}, "parameters": {}}
    again["outputs"] = {"model": {"to": "acme", "format": "pt2", "max_size": "1MiB", "use": ["train"]}}
    if source == "line":
        del again["outputs"]["model"]["use"]
    else:
        made["jobs"]["train"]["inputs"]["again.outputs.model"] = "/in/again"
    made["jobs"]["train"]["outputs"]["model"]["use"].append("again")
    made["jobs"]["again"] = again
    return made


def test_outputs_that_feed_each_other_are_refused() -> None:
    """Neither job could ever start."""
    with pytest.raises(PerunError, match=r"circle: (again -> train -> again|train -> again -> train)"):
        agreement_from_json(second_training("circle"))


def test_what_flows_into_a_job_is_found_through_others() -> None:
    """The scans flow, by way of two trainings, into the service."""
    a = agreement_from_json(second_training("line"))
    assert ancestors(a, "again.outputs.model") == {"scans", "unet"}
    assert ancestors(a, "again") == {"scans", "unet"}
    assert ancestors(a, "scans") == {"scans"}
    assert owners(a, "serve") == {"st-vitus", "acme"}
    assert affected(a, "train") == {"st-vitus", "acme", "gpu-cloud", "clinic"}
    with pytest.raises(KeyError):
        ancestors(a, "nothing")


def test_every_host_must_be_simulated_to_waive_witnesses() -> None:
    """One real host among them is enough to need witnesses."""
    made = simulated()
    made["hosts"]["inference"] = {"any_of": [{"profile": "simulated"}, {"profile": "tee", "tdx": {"mrtd": "0"}}]}
    with pytest.raises(PerunError, match="waived"):
        agreement_from_json(made)
