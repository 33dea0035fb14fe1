"""Tell the whole story in a folder, and clean up after it."""

from __future__ import annotations

import importlib.util
import shutil
from pathlib import Path
from typing import Any

from perunml.testing.story.codes import STORY_BROKEN
from perunml.testing.story.data import check
from perunml.testing.story.processes import StoryError
from perunml.testing.story.report import Report
from perunml.testing.story.script import Story
from perunml.testing.story.troubles import go_wrong
from perunml.testing.story.world import World
from perunml.wire.errors import refuse

PROGRAMS = ("bwrap", "swtpm", "swtpm_setup", "swtpm_localca")
PACKAGES = ("torch", "tpm2_pytss", "sklearn", "safetensors", "sqlalchemy", "starlette", "uvicorn")


def missing_programs() -> list[str]:
    """Programs and Python packages that the story needs and this machine lacks."""
    packages = [name for name in PACKAGES if importlib.util.find_spec(name) is None]
    return [name for name in PROGRAMS if shutil.which(name) is None] + packages


def tell(folder: Path, *, data: Path | None = None, quiet: bool = False) -> dict[str, Any]:
    """The story, told in `folder`. Returns its steps, refusals and seconds. Raises `UsageError` (data_unusable), `JobFailed`
    (story_broken) at the first step that does not end as it must."""
    if data is not None:
        check(data)
    report = Report(quiet)
    world = World(folder)
    story = Story(world, report, data)
    try:
        story.tell()
        go_wrong(story)
    except StoryError as exc:
        raise refuse(STORY_BROKEN, str(exc)[:400], seen=str(exc)[400:2000]) from None
    finally:
        world.close()
    table = rows(story)
    report.table(table)
    report.note(
        f"{report.seconds:.0f} seconds. Every machine here was simulated: it proves how Perun works, not that these machines are safe."
    )
    return {
        "simulated": True,
        "agreement": story.agreement,
        "weights_identical": story.found["weights_identical"],
        "answer": story.found["answer"],
        "table": [dict(zip(("party", "put_in", "got", "never_saw"), row, strict=True)) for row in table],
        "steps": report.steps,
        "seconds": round(report.seconds, 1),
    }


def rows(story: Story) -> list[tuple[str, str, str, str]]:
    """For each party: what it put in, what it got, what it never saw."""
    accuracy = story.found["accuracy"]
    return [
        ("st-vitus\n(hospital)", "scans, sealed", f"metrics (accuracy {accuracy:.3f}), receipt", "code, initial weights, the model, the clinic's questions"),
        ("acme\n(start-up)", "training code, sealed", "the model, metrics, receipt", "scans, initial weights, the clinic's questions"),
        ("modelworks\n(weights)", "initial weights, sealed", "receipt", "scans, code, the model, the clinic's questions"),
        ("gpu-cloud\n(operator)", "two hosts", "nothing to read", "scans, code, weights, the model, questions and answers (on these simulated hosts, root could)"),
        ("clinic", "a sealed question", "a prediction and a receipt", "scans, code, weights, the model"),
    ]  # fmt: skip
