"""`perunml host install` and `perunml host uninstall`: an agent on a machine that is there already."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from perunml.cli.host import command, examination_lines, existing_file
from perunml.cli.settings import Settings, manager_option
from perunml.cli.voice import table

if TYPE_CHECKING:
    from perunml.host.install import Done

root_option = click.option("--root", default="/", show_default=True, type=click.Path(path_type=Path, exists=True, file_okay=False),
                           help="The machine's root, to prepare an image of it.")  # fmt: skip
dry_option = click.option("--dry-run", is_flag=True, help="Say what would be done, and do nothing.")


@command.command("install")
@click.option("--folder", default="/var/lib/perunml/host", show_default=True, type=click.Path(path_type=Path, file_okay=False),
              help="The agent's own folder.")  # fmt: skip
@click.option("--pin", "pin_file", type=existing_file, help="The pinned manager's file [default: this home's].")
@manager_option
@click.option("--attester", multiple=True, type=click.Choice(["auto", "tpm", "tdx", "snp", "sgx", "azure", "gpu"]),
              default=("tpm",), show_default=True, help="What proves this machine; again for each.")  # fmt: skip
@click.option("--services-listen", default="", metavar="HOST:PORT", help="Take services too, and let them listen here.")
@click.option("--metrics-listen", default="", metavar="HOST:PORT", help="Let services show their numbers here.")
@click.option("--data-fsuuid", "data", multiple=True, metavar="UUID",
              help="A file system of data alone, mounted noexec, that IMA is not to hash; again for each.")  # fmt: skip
@root_option
@dry_option
@click.pass_obj
def install(
    settings: Settings,
    /,
    folder: Path,
    pin_file: Path | None,
    manager: str,
    attester: tuple[str, ...],
    services_listen: str,
    metrics_listen: str,
    data: tuple[str, ...],
    root: Path,
    dry_run: bool,
) -> None:
    """Write what an agent needs on this Debian or Ubuntu machine: a systemd unit with hardening, an IMA policy, a udev rule for the
    TPM, words for the kernel's command line. Overwrites nothing that it did not write, and starts nothing.

    Then it says what is left to do, and examines the machine as `host doctor` does.
    """
    from perunml import operators
    from perunml.host.install import Wish, files
    from perunml.host.install import install as put

    pin = pin_file or settings.home.pin_path(manager)
    wish = Wish(folder.absolute(), pin.absolute(), attester, services_listen, metrics_listen, data)
    done = put(files(wish), root, dry_run=dry_run)
    left = (
        []
        if not done.changed
        else ["update-grub", "systemctl daemon-reload", "systemctl enable perunml-host", "reboot"]
    )
    examined = operators.doctor()
    value = {**_value(done, dry_run), "left": left, "doctor": examined.as_json()}
    lines = [*_lines(done, dry_run), *(f"left to do: {word}" for word in left), "", *examination_lines(examined)]
    settings.voice.answer(value, lines)


@command.command("uninstall")
@click.option("--delete-state", is_flag=True,
              help="Delete the agent's folder too: its certificate, and what a killed run left.")  # fmt: skip
@click.option("--folder", default="/var/lib/perunml/host", show_default=True, type=click.Path(path_type=Path, file_okay=False),
              help="The agent's own folder, for --delete-state.")  # fmt: skip
@root_option
@dry_option
@click.pass_obj
def uninstall(settings: Settings, /, delete_state: bool, folder: Path, root: Path, dry_run: bool) -> None:
    """Take away what `host install` wrote. What somebody changed since is kept, and said."""
    import shutil

    from perunml.host.install import uninstall as remove

    done = remove(root, dry_run=dry_run)
    state = root / str(folder).lstrip("/")
    deletes = delete_state and state.is_dir()
    if deletes and not dry_run:
        shutil.rmtree(state)
    left = (
        ["systemctl disable --now perunml-host", "systemctl daemon-reload", "update-grub", "reboot"]
        if done.changed
        else []
    )
    value = {**_value(done, dry_run), "left": left, "state_deleted": deletes and not dry_run}
    lines = [*_lines(done, dry_run), *([f"the agent's folder {state}: deleted"] if deletes and not dry_run else [])]
    settings.voice.answer(value, [*lines, *(f"left to do: {word}" for word in left)])


def _value(done: Done, dry_run: bool) -> dict[str, object]:
    return {"dry_run": dry_run, "files": [{"path": change.path, "what": change.what} for change in done.changes]}


def _lines(done: Done, dry_run: bool) -> list[str]:
    rows: list[tuple[str, object]] = [(change.path, change.what) for change in done.changes]
    if not rows:
        return ["nothing is installed here"]
    return [*(["would be:"] if dry_run else []), *table(rows)]
