"""A manager's machine, by its operator's settings."""

from __future__ import annotations

from pathlib import Path

import pytest

from cli.kit import Party
from perunml.manager.boot import SETTINGS, read
from perunml.wire.errors import UsageError

GOOD = "apiVersion: perunml/v1\nkind: Manager\nurl: https://m.example:7443\nattester: tpm\n"


def folder(path: Path, text: str) -> Path:
    (path / SETTINGS).write_text(text)
    return path


def test_settings_are_read(tmp_path: Path) -> None:
    """By default it listens everywhere at its url's port, and who attests keeps the root key."""
    (tmp_path / "ek-chain").mkdir()
    (tmp_path / "ek-chain" / "ca.pem").write_text("x")
    found = read(folder(tmp_path, GOOD))
    assert (found.listen, found.custody, found.device.kind) == (("0.0.0.0", 7443), "tpm", "tpm")
    assert found.device.ek_chain == (str(tmp_path / "ek-chain" / "ca.pem"),)
    assert read(folder(tmp_path, GOOD.replace("attester: tpm", "attester: snp"))).custody == "tee"
    assert read(folder(tmp_path, GOOD + "listen: 127.0.0.1:1\n")).listen == ("127.0.0.1", 1)


@pytest.mark.parametrize(
    "more",
    [
        "tcti: cmd:sh",
        "custody: passphrase",
        "passphrase: x",
        "ima_log: /x",
        "folder: /x",
        "admit: x",
        "listen: h:p",
        "- x",
    ],
)
def test_settings_that_an_operator_may_not_make_are_refused(tmp_path: Path, more: str) -> None:
    """A passphrase on a disk, a device or a log of the operator's own among them."""
    with pytest.raises(UsageError) as found:
        read(folder(tmp_path, f"{GOOD}{more}\n"))
    assert found.value.code == "settings_odd"


def test_a_simulated_manager_is_not_booted(tmp_path: Path) -> None:
    with pytest.raises(UsageError) as found:
        read(folder(tmp_path, GOOD.replace("attester: tpm", "attester: simulated")))
    assert found.value.code == "settings_odd"


def test_boot_says_what_is_missing_in_json(tmp_path: Path) -> None:
    party = Party(tmp_path / "home")
    assert party("manager", "boot", "-o", "json", str(tmp_path)).reasons == ["settings_odd"]
