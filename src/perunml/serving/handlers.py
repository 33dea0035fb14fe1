"""Which protocol a service speaks: what its requests mean follows from what its engine computes."""

from __future__ import annotations

from perunml.serving.engines import Engine
from perunml.serving.inner import Handler
from perunml.serving.oip import OpenInference


def handler_for(engine: Engine, job: str) -> Handler:
    """The handler of a service's requests; `job` is the agreement's name of it, and the model's."""
    return OpenInference(engine, job)
