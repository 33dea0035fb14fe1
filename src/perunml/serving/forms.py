"""What a model takes and gives, as its engine's process tells the service."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from perunml.serving.tensors import TensorForm


@dataclass(frozen=True, slots=True)
class ModelForm:
    """`platform` names the engine; outputs may be unknown before the first answer, and are then empty."""

    platform: str
    inputs: tuple[TensorForm, ...]
    outputs: tuple[TensorForm, ...]


def forms_json(form: ModelForm) -> dict[str, Any]:
    """As the Open Inference Protocol writes a model's metadata, without its name."""
    rows = {
        name: [{"name": each.name, "datatype": each.datatype, "shape": list(each.shape)} for each in found]
        for name, found in (("inputs", form.inputs), ("outputs", form.outputs))
    }
    return {"platform": form.platform, **rows}


def read_forms(value: Any) -> ModelForm:
    """Raises `KeyError`, `TypeError`, `AttributeError`: not what `forms_json` writes."""
    inputs, outputs = (
        tuple(
            TensorForm(str(row["name"]), str(row["datatype"]), tuple(int(n) for n in row["shape"]))
            for row in value[name]
        )
        for name in ("inputs", "outputs")
    )
    return ModelForm(str(value["platform"]), inputs, outputs)
