"""`perunml agreement message|attach|withdraw|rotate-key`: decisions that several keys sign, here or elsewhere."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from perunml.cli.agreement import command
from perunml.cli.settings import Settings, dry_run_option, manager_option
from perunml.cli.voice import table

if TYPE_CHECKING:
    from perunml.wire.dsse import Envelope

out_option = click.option(
    "--out", type=click.Path(path_type=Path, dir_okay=False), help="Write the document to this file and send nothing."
)
existing = click.Path(path_type=Path, exists=True, dir_okay=False)


@command.command("message")
@click.argument("agreement")
@click.option("--party", default="", help="For this party [default: this identity's].")
@click.option("--until", default=None, help="The approval counts until then [default: as long as any job may run].")
@click.option("--withdraw", "withdraw", is_flag=True, help="Take back an approval, instead of giving one.")
@click.option("--key", default="", help="With --withdraw: whose approval [default: this identity's].")
@click.option("--out", type=click.Path(path_type=Path, dir_okay=False), required=True, help="Where the document goes.")
@manager_option
@click.pass_obj
def message(
    settings: Settings,
    /,
    agreement: str,
    party: str,
    until: str | None,
    withdraw: bool,
    key: str,
    out: Path,
    manager: str,
) -> None:
    """Write an approval of AGREEMENT that is to be signed elsewhere: the document, and beside it FILE.tosign, the very bytes to be
    signed. Ed25519 signs them as they are, P-384 with SHA-384 (raw or DER). `agreement attach` brings the signature back."""
    from perunml.client.signing import write_message
    from perunml.wire.timestamps import parse_time

    with settings.client(manager=manager) as client:
        expires = parse_time(until) if until else None
        made = client.approval_message(agreement, party=party, withdraw=withdraw, key=key, expires=expires)
    beside = write_message(made, out)
    value = {"file": str(out), "tosign": str(beside), "digest": made.digest, "bytes": len(made.signing_bytes())}
    settings.voice.answer(value, table([("document", out), ("to be signed", beside), ("digest", made.digest)]))


@command.command("attach")
@click.argument("file", type=existing)
@click.option(
    "--key",
    default="",
    metavar="KEY",
    help="Whose signature: ed25519:… or p384:… [default: sign here, with this identity].",
)
@click.option("--signature", type=existing, help="The file with the signature that was made elsewhere.")
@out_option
@dry_run_option
@manager_option
@click.pass_obj
def attach(
    settings: Settings, /, file: Path, key: str, signature: Path | None, out: Path | None, dry_run: bool, manager: str
) -> None:
    """Add a signature to the decision in FILE (a proposal, approval, withdrawal, suspension or condition) and send it, or with `--out`
    write it for the next one to sign. What was signed names all that it is about, so any party may carry it."""
    from perunml.wire.codes import MALFORMED
    from perunml.wire.errors import refuse

    if bool(key) != (signature is not None):
        raise refuse(MALFORMED, "a signature made elsewhere comes with its key", expected="--key KEY --signature FILE")
    with settings.client(manager=manager, dry_run=dry_run) as client:
        made = client.attach(file, key, signature.read_bytes() if signature else b"")
        if out is not None:
            written(settings, made, out)
            return
        client.send(made)
    _told(settings, made, None)


@command.command("withdraw")
@click.argument("agreement")
@dry_run_option
@manager_option
@click.pass_obj
def withdraw(settings: Settings, agreement: str, dry_run: bool, manager: str) -> None:
    """Take back this key's approval of AGREEMENT, while it is not in force."""
    from perunml.cli.agreement import show_view

    with settings.client(manager=manager, dry_run=dry_run) as client:
        view = client.withdraw(agreement)
    show_view(settings, view)


@command.command("rotate-key")
@click.argument("agreement")
@click.option("--member", required=True, help="The key's name in the agreement.")
@click.option(
    "--new-key",
    "key",
    default="",
    metavar="KEY",
    help="The key that replaces it: ed25519:… or p384:… [default: the one of `id rotate`, the receiving key with it].",
)
@click.option("--party", default="", help="Of this party [default: this identity's].")
@out_option
@dry_run_option
@manager_option
@click.pass_obj
def rotate_key(
    settings: Settings,
    /,
    agreement: str,
    member: str,
    key: str,
    party: str,
    out: Path | None,
    dry_run: bool,
    manager: str,
) -> None:
    """Propose the next version of AGREEMENT, in which one member's key is another one and all else is as it was. The party's old board
    approves it, and its new one; what the old key sealed stays in use. When this identity's own key is the one replaced, the new key
    signs the proposal: write it with `--out`, `agreement attach` it there, and send it from here."""
    from perunml.client.codes import NOT_CONFIRMED
    from perunml.wire.errors import refuse

    with settings.client(manager=manager, dry_run=dry_run) as client:
        made, proposal = client.rotate_key(agreement, member, key, party=party)
        if out is not None:
            written(settings, proposal, out)
            return
        if not proposal.signatures:
            raise refuse(
                NOT_CONFIRMED, "the new key must sign the proposal", expected="--out FILE",
                command=f"perunml agreement rotate-key {made.name} --member {member} --new-key {key} --out FILE",
            )  # fmt: skip
        client.send(proposal)
    _told(settings, proposal, None)


def written(settings: Settings, envelope: Envelope, out: Path) -> None:
    """Write a decision for others to sign, with the bytes to be signed beside it, and say so."""
    from perunml.client.signing import write_message

    write_message(envelope, out)
    _told(settings, envelope, out)


def _told(settings: Settings, envelope: Envelope, out: Path | None) -> None:
    from perunml.client.signing import kind_of

    signers = [key for key, _ in envelope.signatures]
    value = {"kind": kind_of(envelope), "digest": envelope.digest, "signers": signers, "file": str(out) if out else ""}
    done = f"written to {out}" if out else "sent"
    rows: list[tuple[str, object]] = [("decision", f"{value['kind']}, {done}"), ("digest", envelope.digest)]
    settings.voice.answer(value, table([*rows, *(("signed by", key) for key in signers)]))
