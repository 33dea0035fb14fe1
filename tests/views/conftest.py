"""A home with one sealed dataset, beside the plain files that it was sealed from."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from perunml.client import assets
from perunml.client.home import Home
from perunml.client.identity import Identity
from perunml.fs import PlainFolder, sealed
from perunml.sealing.views.source import Where

PASSPHRASE = b"correct horse battery staple"
RECORDS = 3000


@dataclass(frozen=True)
class Sealed:
    home: Path
    plain: Path
    passphrase_file: Path

    def where(self, kind: str = "sealed") -> Where:
        if kind == "plain":
            return PlainFolder(self.plain)
        return sealed("scans", home=self.home, passphrase=PASSPHRASE)


@pytest.fixture(scope="session")
def scans(tmp_path_factory: pytest.TempPathFactory) -> Sealed:
    """``x.npy`` (floats, rows of 5x7), ``y.npy`` (numbers), raw records, a table, some text in folders; chunks of 64 KiB."""
    top = tmp_path_factory.mktemp("views")
    plain, rng = top / "plain", np.random.default_rng(7)
    (plain / "deep" / "er").mkdir(parents=True)
    np.save(plain / "x.npy", rng.standard_normal((RECORDS, 5, 7)).astype(np.float32))
    np.save(plain / "y.npy", np.arange(RECORDS, dtype=np.int64))
    (plain / "raw.bin").write_bytes(b"HEAD" + rng.bytes(RECORDS * 30))
    (plain / "table.csv").write_text("id,score\n" + "".join(f"{i},{i * i}\n" for i in range(20_000)))
    (plain / "deep" / "er" / "a.txt").write_text("β" * 1000)
    (plain / "deep" / "empty").write_bytes(b"")
    home = Home(top / "home")
    identity = Identity.create(home, "st-vitus", PASSPHRASE)
    assets.seal(home, identity, plain, name="scans", kind="dataset", chunk_size=64 * 1024)
    file = top / "passphrase"
    file.write_bytes(PASSPHRASE + b"\n")
    return Sealed(home.folder, plain, file)
