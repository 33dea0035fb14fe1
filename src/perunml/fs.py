"""Sealed data as files: ``perunml://asset/path`` for pandas, pyarrow, Hugging Face datasets, webdataset, and whatever else reads through `fsspec`.

    import pandas, perunml.fs
    frame = pandas.read_csv("perunml://scans/a.csv", storage_options={"passphrase_file": "/run/secrets/perunml"})

In a job the same path is the job's plain input of that name, and no passphrase is asked for.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from perunml.client.located import located
from perunml.sealing.views.filesystem import AssetFileSystem
from perunml.sealing.views.source import PlainFolder, Where, of_job

__all__ = ["PlainFolder", "SealedFileSystem", "open_shard", "sealed"]


def sealed(
    name: str,
    *,
    home: str | Path | None = None,
    version: int | None = None,
    passphrase: bytes | None = None,
    passphrase_file: str | Path | None = None,
) -> Where:
    """Where an asset lies: in a job its input of that name, else the newest `version` in a home folder. What is made of it opens it: with the `passphrase`
    in this process and those forked from it, with a `passphrase_file` in any. Raises `UsageError` (file_missing, not_found), `IntegrityError`."""
    return of_job(name) or located(
        name,
        home=Path(home).expanduser() if home is not None else None,
        version=version,
        passphrase=passphrase,
        passphrase_file=Path(passphrase_file) if passphrase_file is not None else None,
    )


class SealedFileSystem(AssetFileSystem):
    """The file system behind ``perunml://``. `storage_options` are ``home`` and ``passphrase_file``; without the second an asset is open that
    ``sealed(…, passphrase=…)`` opened in this process. A passphrase is no option: options are shown, compared and pickled."""

    def __init__(
        self,
        *,
        home: str | Path | None = None,
        passphrase_file: str | Path | None = None,
        **options: Any,
    ) -> None:
        super().__init__(lambda name: sealed(name, home=home, passphrase_file=passphrase_file), **options)


def open_shard(**options: Any) -> Callable[..., Any]:
    """For webdataset, which keeps openers by scheme: ``webdataset.gopen_schemes["perunml"] = perunml.fs.open_shard(passphrase_file=…)``."""

    def opened(url: str, mode: str = "rb", bufsize: int = 8192, **_: Any) -> Any:
        return SealedFileSystem(**options).open(url, mode)

    return opened
