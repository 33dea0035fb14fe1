"""Conditions: an owner narrows what may be done with its asset, alone and at once.

A change is a DSSE document of kind "Condition" that names manager, asset (by digest), owner and the asset's newest change of
conditions (`previous`). Any one key of the owner's board adds; only the whole board drops. A condition is a closed form whose every
member forbids; there is no expression in it to be clever with. All conditions and the agreement are joined by AND.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Annotated, Any, Literal

from pydantic import Field, ValidationError, model_validator
from pydantic_core import PydanticCustomError

from perunml.agreements.boards import in_words, members, satisfied
from perunml.agreements.codes import CHANGE_OUT_OF_ORDER, INCONSISTENT, NOT_ON_BOARD, TOO_MANY_CONDITIONS
from perunml.agreements.forms import NAME_PATTERN, Duration, FieldName, Name, Part, Table, Time, Unique
from perunml.agreements.jobs import Parameter
from perunml.agreements.profiles import MachineName
from perunml.agreements.schema import Agreement
from perunml.wire.canonical import canonical, load_json
from perunml.wire.codes import MALFORMED
from perunml.wire.digests import parse_digest
from perunml.wire.dsse import Envelope
from perunml.wire.errors import refuse
from perunml.wire.identity import PublicKey

KIND = "Condition"
ACTIONS = ("add", "drop")
MAX_CONDITIONS = 64
"""In force on one asset: each is looked at in every decision."""
_FIELDS = frozenset({"apiVersion", "kind", "manager", "subject", "party", "action", "name", "condition", "previous"})


class Form(Part):
    """What a condition may say; each member that is there must be met.

    until       nothing at or after it
    runs        so many training runs that read the asset, counted since the condition was added, over all agreements
    wall, lease no run, and no lease, longer than this
    jobs, machines, profiles, operators   nothing but these jobs, on these machines, under these profiles, run by these parties
    parameters  values of these parameters; a job that has no such parameter does not meet it
    recipients  no output of what reads the asset goes to anybody else
    clients     no service of what was made from it answers anybody else
    """

    until: Time | None = None
    runs: Annotated[int, Field(ge=0, le=10**9)] | None = None
    wall: Annotated[Duration, Field(ge=1)] | None = None
    lease: Annotated[Duration, Field(ge=1)] | None = None
    jobs: Unique[Name] | None = None
    machines: Unique[MachineName] | None = None
    profiles: Unique[Literal["measured", "tee", "gpu-cc", "simulated"]] | None = None
    operators: Unique[Name] | None = None
    parameters: Table[FieldName, Parameter] | None = None
    recipients: Unique[Name] | None = None
    clients: Unique[Name] | None = None

    @model_validator(mode="after")
    def _says_something(self) -> Form:
        if not self.model_fields_set:
            raise PydanticCustomError("malformed", "a condition has at least one member")
        return self


@dataclass(frozen=True, slots=True)
class Condition:
    """A condition in force: its owner's name for it, who that is, what it says, and the change that added it."""

    name: str
    party: str
    form: Form
    digest: str


@dataclass(frozen=True, slots=True)
class ConditionChange:
    """A change as read. `form` is None where it drops; `digest` names the change itself, `previous` the one before it (empty for the
    first)."""

    subject: str
    party: str
    action: str
    name: str
    form: Form | None
    previous: str
    digest: str


@dataclass(frozen=True, slots=True)
class Conditions:
    """What the changes of one asset amount to: conditions by name, and the newest change's digest (empty: there is none)."""

    now: Mapping[str, Condition]
    head: str


NO_CONDITIONS = Conditions(MappingProxyType({}), "")


def form_from_json(value: Any) -> Form:
    """A condition as people write it. Raises `UsageError` (malformed) with the place that is wrong."""
    try:
        return Form.model_validate(load_json(canonical(value)))
    except ValidationError as exc:
        first = exc.errors(include_input=False, include_url=False)[0]
        where = ".".join(str(step) for step in first["loc"] if not str(step).startswith("<"))
        raise refuse(MALFORMED, f"{where or 'the condition'}: {first['msg']}") from None


def condition_change(
    agreement: Agreement, asset: str, action: str, name: str, condition: Mapping[str, Any] | None, previous: str
) -> dict[str, Any]:
    """The body of a change of the asset of this name, to be signed as kind "Condition" by its owner; `condition` as people write it,
    None to drop. Raises `UsageError` (agreement_inconsistent, malformed), `ValueError` for an unknown action."""
    if action not in ACTIONS or (action == "drop") != (condition is None):
        raise ValueError(f"an action is one of {ACTIONS}, and drop has no condition")
    if asset not in agreement.assets:
        raise refuse(
            INCONSISTENT, f"the agreement has no asset {asset!r}", expected=", ".join(agreement.assets), seen=asset
        )
    if condition is not None:
        form_from_json(condition)
    found = agreement.assets[asset]
    return {
        "manager": agreement.manager.key,
        "subject": found.digest,
        "party": found.owner,
        "action": action,
        "name": name,
        "condition": dict(condition or {}),
        "previous": previous,
    }


def read_change(envelope: Envelope) -> ConditionChange:
    """A change, whose signatures are NOT checked. Raises `UsageError` (malformed)."""
    body = envelope.unverified(KIND)
    texts = {name: body.get(name) for name in _FIELDS - {"condition"}}
    if set(body) != _FIELDS or not all(isinstance(text, str) for text in texts.values()):
        raise refuse(MALFORMED, "not a condition's change", expected=", ".join(sorted(_FIELDS)))
    if body["action"] not in ACTIONS or not isinstance(body["condition"], dict):
        raise refuse(MALFORMED, "not a condition's change", expected=" or ".join(ACTIONS), seen=body["action"])
    if (body["action"] == "drop") != (body["condition"] == {}):
        raise refuse(MALFORMED, "what is added has a condition, what is dropped has none")
    parse_digest(body["subject"])
    if not re.fullmatch(NAME_PATTERN, body["name"]):
        raise refuse(MALFORMED, "not a condition's name", expected=NAME_PATTERN)
    form = form_from_json(body["condition"]) if body["action"] == "add" else None
    return ConditionChange(
        body["subject"], body["party"], body["action"], body["name"], form, body["previous"], envelope.digest
    )


def open_condition(agreement: Agreement, envelope: Envelope, *, named: bool = True) -> ConditionChange:
    """The change, signed by whoever may make it under this agreement's boards; `named` as in `changes.open_change`. Raises `UsageError`
    (malformed), `AgreementRefusal` (not_on_board), `IntegrityError` (bad_signature)."""
    change = read_change(envelope)
    if envelope.unverified(KIND)["manager"] != agreement.manager.key:
        raise refuse(MALFORMED, "not a change for this manager", expected=agreement.manager.key)
    asset = next((a for a in agreement.assets.values() if a.digest == change.subject), None)
    if asset is None or (named and asset.owner != change.party):
        raise refuse(NOT_ON_BOARD, "only an asset's owner puts conditions on it", seen=change.party)
    party = agreement.parties[asset.owner]
    board = {name: party.keys[name] for name in members(party.board)}
    signed = {key.text for key in envelope.verify(KIND, [PublicKey(text) for text in board.values()])}
    if change.action == "drop" and not satisfied(party.board, {n for n, text in board.items() if text in signed}):
        raise refuse(NOT_ON_BOARD, "dropping a condition needs the owner's whole board", expected=in_words(party.board))
    return change


def fold_conditions(changes: Iterable[ConditionChange], start: Conditions = NO_CONDITIONS) -> Conditions:
    """The state after changes of one asset, oldest first. Raises `AgreementRefusal` (change_out_of_order): a change that does not
    name the one before it, adds a name that is there, or drops one that is not; `LimitReached` (too_many_conditions)."""
    now, head = dict(start.now), start.head
    for change in changes:
        if change.previous != head or (change.name in now) == (change.action == "add"):
            raise refuse(
                CHANGE_OUT_OF_ORDER,
                f"the change ({change.action} {change.name}) does not follow the newest one",
                expected=head or "the first change",
                seen=change.previous or "a first change",
                command="perunml condition list",
            )
        if change.form is None:
            del now[change.name]
        elif len(now) >= MAX_CONDITIONS:
            raise refuse(TOO_MANY_CONDITIONS, "the asset has too many conditions", expected=f"at most {MAX_CONDITIONS}")
        else:
            now[change.name] = Condition(change.name, change.party, change.form, change.digest)
        head = change.digest
    return Conditions(MappingProxyType(now), head)
