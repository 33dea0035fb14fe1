"""`perunml agreement`: check, review, propose, approve, show and list."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from perunml.cli.settings import Settings, dry_run_option, files, group, manager_option
from perunml.cli.voice import columns, table

if TYPE_CHECKING:
    from perunml.agreements.review import Section
    from perunml.agreements.schema import Agreement
    from perunml.api.agreements import AgreementView

command = group("Agreements: which assets may be combined, how, where, and who gets what.")
file_argument = click.argument("file", type=click.Path(path_type=Path, exists=True, dir_okay=False))


@command.command("check")
@file_argument
@click.pass_obj
def check(settings: Settings, file: Path) -> None:
    """Check an agreement's form: keys, names, references, formats. Asks nobody, needs no passphrase."""
    from perunml.client.agreements import read_agreement

    found = read_agreement(file.read_bytes())
    value = {
        "digest": found.digest,
        "name": found.name,
        "version": found.metadata.version,
        "parties": list(found.parties),
        "assets": list(found.assets),
        "jobs": list(found.jobs),
    }
    rows = [
        ("digest", found.digest),
        ("name", f"{found.name}, version {found.metadata.version}"),
        ("parties", ", ".join(found.parties)),
        ("assets", ", ".join(found.assets)),
        ("jobs", ", ".join(found.jobs)),
    ]
    settings.voice.answer(value, table(rows))


@command.command("schema")
@click.pass_obj
def schema(settings: Settings) -> None:
    """Print the JSON Schema of agreements."""
    import json

    from perunml.agreements.document import json_schema

    found = json_schema()
    settings.voice.answer(found, json.dumps(found, indent=2).splitlines())


@command.command("review")
@click.argument("agreement", shell_complete=files)
@click.option("--party", help="Whose view; without it, the party of this home folder's identity.")
@manager_option
@click.pass_obj
def review(settings: Settings, agreement: str, party: str | None, manager: str) -> None:
    """Say in sentences what AGREEMENT (a file, a digest, or a name at the manager) means for this party, what its mode
    does not protect, what may leave, and what approving would sign."""
    _show_review(settings, *_read(settings, agreement, party, manager))


@command.command("propose")
@file_argument
@manager_option
@dry_run_option
@click.pass_obj
def propose(settings: Settings, file: Path, manager: str, dry_run: bool) -> None:
    """Sign the agreement in FILE as its proposer and send it. This approves nothing yet."""
    with settings.client(manager=manager, dry_run=dry_run) as client:
        view = client.propose(file)
    show_view(settings, view)


@command.command("approve")
@click.argument("agreement")
@click.option("--digest", help="Approve without asking, if this is the agreement's digest (for scripts).")
@manager_option
@dry_run_option
@click.pass_obj
def approve(settings: Settings, agreement: str, digest: str | None, manager: str, dry_run: bool) -> None:
    """Approve AGREEMENT (a digest or a name at the manager) for this party: show what it means, ask, sign, send.

    Without `--digest` it asks on the terminal; without a terminal it refuses.
    """
    from perunml.client.codes import NOT_CONFIRMED
    from perunml.wire.errors import refuse

    with settings.client(manager=manager, dry_run=dry_run) as client:
        _, found = client.agreement(agreement)
        party = client.voter_in(found)
        hint = f"perunml agreement approve {found.name} --digest {found.digest}"
        if digest is None and not sys.stdin.isatty():
            raise refuse(NOT_CONFIRMED, "there is no terminal to ask", expected="--digest", command=hint)
        if digest is None:
            _show_review(settings, found, party, client.before(found), client.about_baselines(found), beside=True)
            if not click.confirm(f"Approve {found.digest} for {party}?", err=True):
                raise refuse(NOT_CONFIRMED, "not approved", seen="no")
        elif digest != found.digest:
            raise refuse(NOT_CONFIRMED, "the agreement has another digest", expected=digest, seen=found.digest)
        view = client.approve(found.digest)
    show_view(settings, view)


@command.command("show")
@click.argument("agreement")
@manager_option
@click.pass_obj
def show(settings: Settings, agreement: str, manager: str) -> None:
    """Show AGREEMENT (a digest or a name) as the manager holds it: its state, who approved, what is missing."""
    with settings.client(manager=manager) as client:
        view, _ = client.agreement(agreement)
    show_view(settings, view)


@command.command("list")
@manager_option
@click.pass_obj
def list_(settings: Settings, manager: str) -> None:
    """List the agreements that the manager shows this party."""
    with settings.client(manager=manager) as client:
        views = client.agreements()
    rows = [(view.name, view.version, view.state, view.digest) for view in views]
    value = {"agreements": [_brief(view) for view in views]}
    settings.voice.answer(value, columns(("NAME", "VERSION", "STATE", "DIGEST"), rows))


def _brief(view: AgreementView) -> dict[str, object]:
    return view.model_dump(mode="json", exclude={"agreement", "approvals", "withdrawals"})


def show_view(settings: Settings, view: AgreementView) -> None:
    rows: list[tuple[str, object]] = [
        ("digest", view.digest),
        ("name", f"{view.name}, version {view.version}"),
        ("state", view.state.replace("_", " ")),
        ("approved", ", ".join(view.approved) or "nobody yet"),
        *((f"missing {party}", what) for party, what in view.missing.items()),
    ]
    if view.suspended:
        rows.append(("suspended", ", ".join(view.suspended)))
    settings.voice.answer(_brief(view), table(rows))


def _read(
    settings: Settings, agreement: str, party: str | None, manager: str
) -> tuple[Agreement, str, Agreement | None, Section | None]:
    """The agreement from a file (offline) or from the manager, the party whose view is wanted, the version before, and what the
    manager holds of its baselines."""
    from perunml.client.agreements import predecessor_at_home, read_agreement
    from perunml.client.identity import PublicIdentity

    baselines = None
    if Path(agreement).is_file():
        found = read_agreement(Path(agreement).read_bytes())
        before = predecessor_at_home(settings.home, found)
        key = "" if party else PublicIdentity.load(settings.home).identity
    else:
        with settings.client(manager=manager) as client:
            _, found = client.agreement(agreement)
            key = client.identity.signing.public.text
            baselines, before = client.about_baselines(found), client.before(found)
            party = party or client.voter_in(found)
    party = party or found.party_of(key)
    if party is None or party not in found.parties:
        from perunml.client.codes import NO_KEY_OF_A_PARTY
        from perunml.wire.errors import refuse

        expected = ", ".join(found.parties)
        raise refuse(NO_KEY_OF_A_PARTY, "no party of this agreement", expected=expected, seen=party or key)
    return found, party, before, baselines


def _show_review(
    settings: Settings,
    agreement: Agreement,
    party: str,
    before: Agreement | None,
    baselines: Section | None,
    *,
    beside: bool = False,
) -> None:
    """The review as the command's answer, or beside it (on stderr) before a question."""
    from perunml.agreements.review import review as review_for

    sections = review_for(agreement, party, predecessor=before) + ([baselines] if baselines is not None else [])
    lines = [f"{agreement.name}, version {agreement.metadata.version}, for {party}", ""]
    for section in sections:
        lines += [section.title, *(f"  {sentence}" for sentence in section.sentences), ""]
    lines.append(f"Approving signs exactly this document: {agreement.digest}")
    if beside:
        for line in lines:
            settings.voice.note(line)
        return
    value = {
        "digest": agreement.digest,
        "name": agreement.name,
        "version": agreement.metadata.version,
        "party": party,
        "sections": [{"title": section.title, "sentences": list(section.sentences)} for section in sections],
    }
    settings.voice.answer(value, lines)


# these modules hang their verbs on `command`
from perunml.cli import agreement_diff, agreement_sign  # noqa: E402, F401 - below what it uses of this module
