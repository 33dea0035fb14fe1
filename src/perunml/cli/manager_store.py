"""`perunml manager store`: buckets in which assets' ciphertext may lie instead of the manager's folder."""

from __future__ import annotations

from pathlib import Path

import click

from perunml.cli.manager import command, existing_file, folder_option
from perunml.cli.settings import Settings, group
from perunml.cli.voice import table

store = group("Buckets in which assets' ciphertext may lie instead of the manager's folder.")
command.add_command(store, "store")


@store.command("add")
@folder_option
@click.argument("name")
@click.option("--s3", required=True, metavar="URL", help="The S3-compatible service: https://host[:port].")
@click.option("--bucket", required=True, help="The bucket, which is there.")
@click.option("--prefix", default="", help="Put everything under this prefix.")
@click.option("--region", default="us-east-1", show_default=True, help="The bucket's region.")
@click.option("--credentials", required=True, type=existing_file,
              help='JSON: {"key_id": "…", "secret": "…"}. Kept sealed by the manager\'s keys; the file may go.')  # fmt: skip
@click.option("--replace", is_flag=True, help="Replace the credentials of a store that is there.")
@click.option("--tcti", help="How the TPM is reached, where that is not as it was.")
@click.pass_obj
def add(
    settings: Settings, folder: Path, name: str, s3: str, bucket: str, prefix: str, region: str, credentials: Path,
    replace: bool, tcti: str | None,
) -> None:  # fmt: skip
    """Let owners bring ciphertext into a bucket under NAME (`perunml push --store`), after a look whether it answers; the manager may be running."""
    from perunml import operators
    from perunml.manager import stores

    passphrase = settings.passphrase("Passphrase of the manager") if operators.custody(folder) == "passphrase" else None
    made = stores.add(
        folder, name, passphrase, s3=s3, bucket=bucket, credentials=credentials, prefix=prefix, region=region, replace=replace, tcti=tcti
    )  # fmt: skip
    settings.voice.answer(made.as_json(), table([("store", name), ("bucket", _where(made.place.url, bucket, prefix))]))


@store.command("list")
@folder_option
@click.pass_obj
def show(settings: Settings, folder: Path) -> None:
    """The manager's stores, and how many assets lie in each."""
    from perunml.manager import stores

    found = stores.show(folder)
    rows = [(one.name, f"{_where(one.place.url, one.place.bucket, one.place.prefix)}, {one.assets} assets") for one in found]  # fmt: skip
    settings.voice.answer({"stores": [one.as_json() for one in found]}, table(rows))


@store.command("remove")
@folder_option
@click.argument("name")
@click.pass_obj
def remove(settings: Settings, folder: Path, name: str) -> None:
    """Forget the store NAME, in which no asset lies, and its credentials. The bucket stays as it is."""
    from perunml.manager import stores

    gone = stores.remove(folder, name)
    settings.voice.answer(gone.as_json(), table([("removed", name)]))


def _where(url: str, bucket: str, prefix: str) -> str:
    return "/".join(part for part in (url, bucket, prefix) if part)
