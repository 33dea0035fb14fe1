"""Which protocol a service speaks: what its requests mean follows from what its engine computes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

from perunml.agreements.jobs import LANGUAGE
from perunml.serving.batching import Batching
from perunml.serving.engines import Engine
from perunml.serving.inner import Handler
from perunml.serving.language import LanguageEngine
from perunml.serving.limits import Limited
from perunml.serving.oip import OpenInference
from perunml.serving.openai_api import OpenAiApi


def handler_for(engine: Engine | LanguageEngine, job: Mapping[str, Any], name: str) -> Handler:
    """The handler of a service's requests, within what the agreement says of it: `job` as the document writes it, `name` the job's, which is the model's too."""
    if job.get("engine") in LANGUAGE:
        return OpenAiApi(cast("LanguageEngine", engine), name)
    return OpenInference(as_agreed(cast("Engine", engine), job), name)


def as_agreed(engine: Engine, job: Mapping[str, Any]) -> Engine:
    """An engine of tensors within what the agreement says."""
    if batching := job.get("batching"):
        engine = Batching(engine, batching["rows"], batching["delay_ms"] / 1000)
    limits = {
        name: value for name in ("batch", "top_k", "digits") if (value := job.get("limits", {}).get(name)) is not None
    }
    return Limited(engine, **limits) if limits else engine
