"""An honest world in which every decision is yes, to be broken in one place at a time."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

from agreements.sample import MACHINE, document, key, sha
from perunml.agreements.conditions import Condition, form_from_json
from perunml.agreements.document import agreement_from_json
from perunml.agreements.schema import Agreement
from perunml.evidence.types import Appraisal
from perunml.release.decide import decide
from perunml.release.types import Refusal, Release, Run, State, Usage
from perunml.testing.appraisals import appraisal

NOW = 1_800_000_000
BINDING = bytes(range(48))
AGREEMENT = agreement_from_json(document())
IN_FORCE = State(True, {}, frozenset(), cosigned=True)
OPERATOR = key("gpu-cloud/ops").public.text
PARAMETERS = {"epochs": 5, "batch_size": 16, "rate": 0.01}


@dataclass(frozen=True)
class World:
    """Everything that `decide` is told; `broken` changes parts of it."""

    agreement: Agreement = AGREEMENT
    state: State = IN_FORCE
    run: Run = field(
        default_factory=lambda: Run(
            AGREEMENT.digest, "train", "00" * 16, PARAMETERS, {"scans": sha("a")}, "release", BINDING, OPERATOR
        )
    )
    appraisal: dict[str, Any] = field(
        default_factory=lambda: {
            "profile": "measured",
            "imitates": "",
            "machine": MACHINE,
            "binding": BINDING,
            "baseline": sha("c"),
        }
    )
    usage: Usage = field(default_factory=lambda: Usage.none(AGREEMENT))
    now: int = NOW

    def broken(self, **parts: Any) -> World:
        """`run`, `state`, `usage`, `appraisal` take dicts of fields to change; the others whole values."""
        made: dict[str, Any] = {}
        for name, value in parts.items():
            if name == "appraisal":
                made[name] = self.appraisal | value
            elif name in ("run", "state", "usage"):
                made[name] = replace(getattr(self, name), **value)
            else:
                made[name] = value
        return replace(self, **made)

    def under(self, changed: dict[str, Any]) -> World:
        """The same run under another agreement, requested under it."""
        agreement = agreement_from_json(changed)
        return self.broken(agreement=agreement, run={"agreement_digest": agreement.digest})

    def judged(self) -> Appraisal:
        return appraisal(**self.appraisal)

    def decide(self) -> Release | Refusal:
        return decide(
            self.agreement,
            state=self.state,
            run=self.run,
            appraisal=self.judged(),
            usage=self.usage,
            now=self.now,
        )

    def release(self) -> Release:
        found = self.decide()
        assert isinstance(found, Release), found
        return found

    def codes(self) -> list[str]:
        """Codes of the refusal's reasons, in order, each once."""
        found = self.decide()
        assert isinstance(found, Refusal), found
        return list(dict.fromkeys(reason.code for reason in found.reasons))


def on(asset: str, **form: Any) -> dict[str, tuple[Condition, ...]]:
    """One condition on an asset, for `State.conditions`."""
    return {asset: (Condition("c", "owner", form_from_json(form), sha("7")),)}
