"""An agent installed on a machine that is there already, and taken away again: nothing of anybody else's is touched."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cli.kit import Party
from host.road import Road
from perunml.client.home import Home
from perunml.host.install import Wish, files, install, uninstall
from perunml.host.install.apply import RECORD
from perunml.host.install.ima_policy import DATA, ima_policy
from perunml.host.install.plan import CMDLINE, POLICY, TPM, UNIT, unit
from perunml.wire.errors import UsageError

WISH = Wish(Path("/var/lib/perunml/host"), Path("/etc/perunml/pin.json"))
PROJECT = Path(__file__).parents[2]


def tree(root: Path) -> dict[str, bytes | None]:
    return {str(p.relative_to(root)): p.read_bytes() if p.is_file() else None for p in sorted(root.rglob("*"))}


@pytest.fixture
def root(tmp_path: Path) -> Path:
    made = tmp_path / "root"
    for folder in ("etc/systemd/system", "etc/udev/rules.d", "etc/default", "var/lib"):
        (made / folder).mkdir(parents=True)
    (made / "etc/default/grub").write_text("GRUB_TIMEOUT=1\n")
    return made


def test_what_is_installed_is_taken_away_to_the_last_byte(root: Path) -> None:
    before = tree(root)
    assert {change.what for change in install(files(WISH), root).changes} == {"written"}
    assert {UNIT, POLICY, TPM, CMDLINE, RECORD} <= set(tree(root))
    assert {change.what for change in uninstall(root).changes} == {"removed"}
    assert tree(root) == before


def test_installing_again_changes_nothing_and_says_so(root: Path) -> None:
    install(files(WISH), root)
    before = tree(root)
    assert {change.what for change in install(files(WISH), root).changes} == {"there already"}
    assert tree(root) == before


def test_another_wish_replaces_what_was_installed(root: Path) -> None:
    install(files(WISH), root)
    other = Wish(WISH.folder, WISH.pin, services_listen="0.0.0.0:8443")
    done = {change.path: change.what for change in install(files(other), root).changes}
    assert done[f"/{UNIT}"] == "replaced"
    assert done[f"/{POLICY}"] == "there already"
    assert "0.0.0.0:8443" in (root / UNIT).read_text()


def test_a_dry_run_writes_nothing(root: Path) -> None:
    before = tree(root)
    assert install(files(WISH), root, dry_run=True).changed
    assert tree(root) == before
    install(files(WISH), root)
    before = tree(root)
    assert uninstall(root, dry_run=True).changed
    assert tree(root) == before


@pytest.mark.parametrize("path", [UNIT, POLICY, TPM, CMDLINE])
def test_somebody_elses_file_is_not_overwritten_and_nothing_else_is_written(root: Path, path: str) -> None:
    (root / path).parent.mkdir(parents=True, exist_ok=True)
    (root / path).write_text("mine\n")
    before = tree(root)
    with pytest.raises(UsageError) as found:
        install(files(WISH), root)
    assert (found.value.code, tree(root)) == ("install_conflict", before)
    assert path in found.value.reasons[0].message


def test_every_conflict_is_told_at_once(root: Path) -> None:
    for path in (UNIT, TPM):
        (root / path).write_text("mine\n")
    with pytest.raises(UsageError) as found:
        install(files(WISH), root)
    assert len(found.value.reasons) == 2


def test_a_file_that_was_changed_since_is_kept_and_not_replaced(root: Path) -> None:
    install(files(WISH), root)
    (root / UNIT).write_text("tuned by hand\n")
    with pytest.raises(UsageError):
        install(files(Wish(WISH.folder, WISH.pin, services_listen="h:1")), root)
    done = {change.path: change.what for change in uninstall(root).changes}
    assert done[f"/{UNIT}"] == "kept: changed since"
    assert (root / UNIT).read_text() == "tuned by hand\n"
    assert not (root / POLICY).exists()


def test_a_link_does_not_lead_out_of_the_root(root: Path, tmp_path: Path) -> None:
    """Neither a folder that is a link, nor a file that is one."""
    outside = tmp_path / "outside"
    outside.mkdir()
    (root / "etc/ima").symlink_to(outside)
    with pytest.raises(UsageError) as found:
        install(files(WISH), root)
    assert found.value.code == "install_conflict"
    (root / "etc/ima").unlink()
    (root / UNIT).symlink_to(outside / "unit")
    with pytest.raises(UsageError):
        install(files(WISH), root)
    assert list(outside.iterdir()) == []


def test_uninstalling_keeps_a_link_that_took_a_files_place(root: Path, tmp_path: Path) -> None:
    install(files(WISH), root)
    target = tmp_path / "target"
    shutil.copyfile(root / UNIT, target)
    (root / UNIT).unlink()
    (root / UNIT).symlink_to(target)
    done = {change.path: change.what for change in uninstall(root).changes}
    assert done[f"/{UNIT}"] == "kept: changed since"
    assert target.exists()


def test_what_a_crash_left_half_written_is_taken_away(root: Path) -> None:
    """The record comes first."""
    install(files(WISH), root)
    for path in (POLICY, CMDLINE):
        (root / path).unlink()
    assert {c.what for c in uninstall(root).changes} == {"removed", "gone already"}
    assert not (root / RECORD).exists()


def test_uninstalling_where_nothing_is_installed_says_so(root: Path) -> None:
    assert uninstall(root).changes == ()


def test_machine_images_have_the_same_policy() -> None:
    """One text: what a machine image loads is what an installed agent's machine loads, and its data disk."""
    assert (PROJECT / "images/base/files/etc/ima/ima-policy").read_text() == ima_policy([DATA])
    assert DATA in (PROJECT / "images/data.sh").read_text()


def test_the_policy_names_no_user() -> None:
    """`ima_policy=tcb` measures what root reads, so an unprivileged user's scripts stay out of it."""
    rules = [line.split() for line in ima_policy().splitlines() if not line.startswith("#")]
    assert all(rule[0] in ("measure", "dont_measure") for rule in rules)
    words = {word.partition("=")[0] for rule in rules for word in rule[1:]}
    assert words == {"func", "mask", "fsmagic"}
    assert ["measure", "func=FILE_CHECK", "mask=MAY_READ"] in rules
    first_left_out = next(i for i, rule in enumerate(rules) if rule[0] == "dont_measure")
    assert rules.index(["measure", "func=BPRM_CHECK"]) < first_left_out


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd is not installed; it is where units run")
def test_systemd_takes_the_unit(tmp_path: Path) -> None:
    path = tmp_path / "perunml-host.service"
    wish = Wish(tmp_path / "with space", tmp_path / "100%.json")
    path.write_text(unit(wish))
    done = subprocess.run(["systemd-analyze", "verify", "--man=no", path], capture_output=True, text=True, check=False)
    ours = [line for line in done.stderr.splitlines() if "perunml-host" in line]
    assert (done.returncode, ours) == (0, []), done.stderr


@given(st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=40))
def test_no_path_escapes_its_quotes(name: str) -> None:
    """One line, whatever an operator calls a folder."""
    text = unit(Wish(Path("/srv") / (name.strip("/") or "x"), Path("/pin")))
    lines = [line for line in text.split("\n") if line.startswith("ExecStart=")]
    assert len(lines) == 1
    assert text.count("\n") == unit(WISH).count("\n")


def test_install_and_uninstall_speak_json(root: Path, road: Road, tmp_path: Path) -> None:
    """From the command line: a dry run, the real one, the doctor after it, and away again with the agent's folder."""
    party = Party(tmp_path / "home")
    Home(party.home).create()
    Home(party.home).save_pin(road.pin)
    said = party("host", "install", "-o", "json", "--root", str(root), "--dry-run")
    assert (said.code, said.json["dry_run"]) == (0, True)
    assert not (root / UNIT).exists()
    done = party.ok("host", "install", "--root", str(root))
    assert {each["what"] for each in done["files"]} == {"written"}
    assert done["left"][0] == "update-grub"
    assert any(finding["name"] == "tpm" for finding in done["doctor"]["findings"])
    assert str(party.home) in (root / UNIT).read_text()
    state = root / "var/lib/perunml/host"
    state.mkdir(parents=True)
    said = party("host", "uninstall", "-o", "json", "--root", str(root), "--delete-state")
    assert said.json["state_deleted"]
    assert not state.exists()
    assert not (root / UNIT).exists()
