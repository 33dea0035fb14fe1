"""A party's keys are replaced, from making new ones to forgetting the old, with nothing sealed anew."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from cli.kit import PASSPHRASE, Party
from cli.world import World, living
from perunml.client import rotation
from perunml.client.home import Home
from perunml.client.identity import Identity, PublicIdentity
from perunml.manager import setup
from perunml.sealing.store import FolderStore
from perunml.wire.errors import PerunError


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    with living(tmp_path) as made:
        yield made


def renewed(world: World, name: str, agreement: str) -> str:
    """A version that names the party's next keys is in force; its digest."""
    party = world[name]
    key = party.ok("id", "rotate")["next"]["identity"]
    setup.admit(world.manager.folder, [key])
    digest = party.ok("agreement", "rotate-key", agreement, "--member", "main")["digest"]
    assert party.ok("agreement", "approve", digest, "--digest", digest)["state"] == "in_force"
    return str(digest)


def test_an_owner_rotates_and_what_it_sealed_before_is_released(world: World) -> None:
    """The hospital alone approves, by its old board and its new one; the run reads the scans that its former key sealed, under its new key's word."""
    owner = world["st-vitus"]
    first = world.agree("rotating")
    old = owner.ok("id", "show")["identity"]
    asset = owner.ok("asset", "show", "scans")["asset"]
    digest = renewed(world, "st-vitus", "rotating")
    made = owner.ok("id", "switch")
    assert made["former"] == [{"identity": old, "kept": True}]
    assert "next" not in made
    assert made["identity"] != old
    run = world.finished(digest)
    assert owner.ok("output", "approve", run, "model")["asset"]
    assert owner.ok("output", "pull", run, "metrics", "--to", world.folder / "metrics")["files"]
    assert owner.ok("asset", "suspend", "scans", "--agreement", "rotating")["suspended"]
    assert owner.ok("asset", "lift", "scans", "--agreement", "rotating")["suspended"] is False
    assert owner.ok("push", "scans")["asset"] == asset
    (again,) = owner.ok("recover")["assets"]
    assert (again["asset"], again["owner"]) == (asset, old)
    assert owner.ok("agreement", "show", first)["state"] == "superseded"


def test_nobody_switches_before_agreements_name_the_next_key(world: World, tmp_path: Path) -> None:
    """Which one does not is told; the option that asks nobody has a name that says what it does."""
    world.agree("early")
    owner = world["st-vitus"]
    assert owner.refused("id", "switch") == (2, "no_next_key")
    owner.ok("id", "rotate")
    code, reason = owner.refused("id", "switch")
    assert reason == "key_still_named"
    assert owner.ok("id", "show")["next"]
    made = owner.ok("id", "switch", "--while-agreements-may-name-the-former-key")
    assert made["former"]
    assert owner.refused("agreement", "show", "early")[1] == "not_admitted" or code


def test_new_keys_are_made_once(world: World) -> None:
    """A second `rotate` shows the same; they are of the same algorithm, and wait beside the ones in use."""
    owner = world["acme"]
    before = owner.ok("id", "show")
    first, second = owner.ok("id", "rotate"), owner.ok("id", "rotate")
    assert first == second
    assert (first["identity"], first["receive"]) == (before["identity"], before["receive"])
    assert owner.ok("id", "show") == first
    assert "next identity" in owner("id", "show").out


def test_another_version_after_a_rotation_is_sealed_under_the_new_key(world: World) -> None:
    """As an asset of its own, for an asset's versions have one key."""
    owner = world["st-vitus"]
    owner.ok("id", "rotate")
    owner.ok("id", "switch", "--while-agreements-may-name-the-former-key")
    setup.admit(world.manager.folder, [owner.ok("id", "show")["identity"]])
    sealed = owner.ok("seal", world.folder / "scans", "--name", "scans", "--kind", "dataset")
    assert sealed["version"] == 2
    assert owner.ok("push", "scans")["complete"]
    assert owner.ok("push", "scans", "--version", "1")["complete"]


def test_a_forgotten_key_opens_and_brings_nothing_any_more(world: World, tmp_path: Path) -> None:
    """Its wraps go with it; its manifests still verify, and the data key is there under the present one; but nobody else's manager takes the asset."""
    owner = world["st-vitus"]
    old = owner.ok("id", "show")["identity"]
    former = Identity.open(Home(owner.home), PASSPHRASE).receiving
    owner.ok("id", "rotate")
    assert owner.refused("id", "forget", old) == (2, "not_found")
    owner.ok("id", "switch", "--while-agreements-may-name-the-former-key")
    made = owner.ok("id", "forget", old)
    assert made["former"] == [{"identity": old, "kept": False}]
    assert "(forgotten)" in owner("id", "show").out
    assert owner.ok("id", "forget", old) == made
    home = Home(owner.home)
    with FolderStore(home.asset("scans")) as store:
        keys = store.keys()
    assert former.public.id not in {wrap.recipient for wrap in keys.wraps}
    assert len(keys.wraps) == 2  # the manager's and the present key's
    assert owner.refused("push", "scans") == (2, "key_forgotten")
    assert b"secret" not in home.identity.read_bytes()


def test_a_key_that_an_agreement_in_force_needs_is_not_forgotten(world: World) -> None:
    """Neither the one that signs, nor the one to which its outputs are sealed; the option that asks nobody has a name that says so."""
    digest = world.agree("needed")
    acme = world["acme"]
    old = acme.ok("id", "show")["identity"]
    acme.ok("id", "rotate")
    acme.ok("id", "switch", "--while-agreements-may-name-the-former-key")
    told = acme("id", "forget", old)
    assert "key_still_named" in told.err
    assert "perunml agreement rotate-key needed --member MEMBER" in told.err
    assert acme.ok("id", "show")["former"] == [{"identity": old, "kept": True}]
    assert Identity.open(Home(acme.home), PASSPHRASE).signer(old)
    made = acme.ok("id", "forget", old, "--while-agreements-may-still-need-it")
    assert made["former"] == [{"identity": old, "kept": False}]
    assert digest


def test_a_receiving_key_to_which_outputs_are_sealed_is_not_forgotten(world: World) -> None:
    """The agreement names the new key that signs, and still the former one to which its outputs are sealed."""
    world.agree("received")
    acme = world["acme"]
    old = acme.ok("id", "show")["identity"]
    key = acme.ok("id", "rotate")["next"]["identity"]
    setup.admit(world.manager.folder, [key])
    digest = acme.ok("agreement", "rotate-key", "received", "--member", "main", "--new-key", key)["digest"]
    assert acme.ok("agreement", "approve", digest, "--digest", digest)["state"] == "in_force"
    acme.ok("id", "switch")
    assert acme.refused("id", "forget", old)[1] == "key_still_named"
    run = world.finished(digest)
    assert acme.ok("output", "pull", run, "metrics", "--to", world.folder / "metrics")["files"]


def test_shares_that_are_sealed_to_a_key_keep_it(world: World) -> None:
    """They are fetched anew first, under a version that names the present receiving key."""
    owner = world["st-vitus"]
    world.finished(world.agree("shared"))
    assert len(owner.ok("recovery", "keep", "shared")["shares"]) == 2
    old = owner.ok("id", "show")["identity"]
    renewed(world, "st-vitus", "shared")
    owner.ok("id", "switch")
    assert owner.refused("id", "forget", old)[1] == "key_still_named"
    assert [found["fresh"] for found in owner.ok("recovery", "keep", "shared")["shares"]] == [True, True]
    assert owner.ok("id", "forget", old)["former"] == [{"identity": old, "kept": False}]


def test_a_receiver_rotates_and_pulls_what_was_agreed_before_and_after(world: World) -> None:
    """The agreement names its new receiving key; the former one still opens what was sealed to it."""
    acme = world["acme"]
    before = world.finished(world.agree("received"))
    digest = renewed(world, "acme", "received")
    acme.ok("id", "switch")
    after = world.finished(digest)
    for run in (before, after):
        assert acme.ok("output", "pull", run, "metrics", "--to", world.folder / f"m-{run}")["files"]


class Died(Exception):
    """Where a process was killed."""


@pytest.mark.parametrize("at", range(1, 8))
def test_a_switch_that_is_killed_anywhere_goes_on(world: World, monkeypatch: pytest.MonkeyPatch, at: int) -> None:
    """After each file that it writes: the home opens, every data key in it opens, and doing it again ends it."""
    owner, left = world["st-vitus"], at
    owner.ok("seal", world.folder / "unet", "--name", "more", "--kind", "code")
    owner.ok("id", "rotate")
    home = Home(owner.home)
    from perunml.client import home as homes
    from perunml.client import identity as identities
    from perunml.sealing import store as stores

    def dying(write: object) -> object:
        def work(*args: object, **kwargs: object) -> None:
            nonlocal left
            left -= 1
            if left == 0:
                raise Died
            write(*args, **kwargs)  # type: ignore[operator] # one of two functions

        return work

    with monkeypatch.context() as patch:
        patch.setattr(identities, "write_file", dying(homes.write_file))
        patch.setattr(stores, "write_file", dying(stores.write_file))
        with contextlib.suppress(Died):
            rotation.switch(home, PASSPHRASE, ())
    identity = Identity.open(home, PASSPHRASE)
    assert PublicIdentity.load(home) == identity.public
    for name in ("scans", "more"):
        with FolderStore(home.asset(name)) as store:
            sealed, _ = rotation.assets.load_sealed(home, identity, name)
            assert identity.data_key(store.keys(), sealed.manifest)
    if identity.next is not None:
        identity = rotation.switch(home, PASSPHRASE, ())
    assert [former.pair is not None for former in identity.former] == [True]


def test_a_home_of_before_opens(tmp_path: Path) -> None:
    """Neither file says anything of other keys then."""
    party = Party(tmp_path / "home")
    made = party.ok("id", "create", "--name", "nova")
    assert set(json.loads((tmp_path / "home" / "identity.public.json").read_text())) == {
        "apiVersion", "kind", "name", "identity", "receive",
    }  # fmt: skip
    (tmp_path / "home" / "identity.public.json").write_text("{}")
    with pytest.raises(PerunError, match="malformed"):
        PublicIdentity.load(Home(tmp_path / "home"))
    Identity.open(Home(tmp_path / "home"), PASSPHRASE)
    assert PublicIdentity.load(Home(tmp_path / "home")).identity == made["identity"]
