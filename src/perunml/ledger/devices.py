"""GPUs that a run's job was shown, as its host told them at the end: bounded words and numbers for a receipt.

What that proves is what the host's profile proves: under `measured` a measured agent read it from the driver; under `gpu-cc` the GPU's own evidence says it
too; a `simulated` host may say anything.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

from perunml.wire.codes import MALFORMED
from perunml.wire.errors import refuse

MAX_GPUS = 64
_DRIVER = re.compile(r"[0-9]{1,5}(\.[0-9]{1,5}){1,3}")
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9 ._/()+-]{0,62}")
_UUID = re.compile(r"GPU-[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")


@dataclass(frozen=True, slots=True)
class Gpu:
    """`name` as the driver calls the model, `uuid` the device's own."""

    name: str
    uuid: str


@dataclass(frozen=True, slots=True)
class Devices:
    """The driver's version (550.54.14) and the GPUs, sorted by UUID."""

    driver: str
    gpus: tuple[Gpu, ...]

    def as_json(self) -> dict[str, Any]:
        return {"driver": self.driver, "gpus": [{"name": gpu.name, "uuid": gpu.uuid} for gpu in self.gpus]}

    @classmethod
    def from_json(cls, data: Any) -> Devices:
        """Raises `UsageError` (malformed): other members, or words that no driver says."""
        try:
            if set(data) != {"driver", "gpus"} or any(set(row) != {"name", "uuid"} for row in data["gpus"]):
                raise TypeError
            made = cls(data["driver"], tuple(Gpu(row["name"], row["uuid"]) for row in data["gpus"]))
            words = [
                (_DRIVER, made.driver),
                *((_NAME, gpu.name) for gpu in made.gpus),
                *((_UUID, gpu.uuid) for gpu in made.gpus),
            ]
            uuids = [gpu.uuid for gpu in made.gpus]
            if not all(form.fullmatch(word) for form, word in words) or not 0 < len(uuids) <= MAX_GPUS:
                raise ValueError
            if uuids != sorted(set(uuids)):
                raise ValueError
        except (TypeError, ValueError, KeyError):
            raise refuse(
                MALFORMED, "not a driver's version with its GPUs by UUID", expected="driver, gpus: name, uuid"
            ) from None
        return made
