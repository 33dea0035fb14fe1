"""Which protocol a service speaks: what its requests mean follows from what its engine computes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from perunml.serving.batching import Batching
from perunml.serving.engines import Engine
from perunml.serving.inner import Handler
from perunml.serving.oip import OpenInference


def handler_for(engine: Engine, job: str) -> Handler:
    """The handler of a service's requests; `job` is the agreement's name of it, and the model's."""
    return OpenInference(engine, job)


def as_agreed(engine: Engine, job: Mapping[str, Any]) -> Engine:
    """The engine within what the agreement says of its service: `job` as the document writes it."""
    if batching := job.get("batching"):
        engine = Batching(engine, batching["rows"], batching["delay_ms"] / 1000)
    return engine
