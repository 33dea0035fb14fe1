"""What a manager judges TEEs and GPUs with: bundles in its folder, and the newest it ever judged by (T5)."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from manager.world import code_of
from perunml.evidence.endorsements import KIND, MAX_NUMBER, Collateral, Seen
from perunml.manager import setup
from perunml.manager.collateral import LOOK_EVERY, CollateralStore
from perunml.manager.config import Config
from perunml.manager.store.database import Database
from perunml.testing.intelca import IntelCa
from perunml.wire.dsse import signed
from perunml.wire.identity import SigningKey

OPERATOR = SigningKey.generate()
MADE = 1_790_000_000


class Clock:
    """Seconds that go by only when the test says so."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def put(folder: Path, name: str, collateral: Collateral, signer: SigningKey = OPERATOR, kind: str = KIND) -> Path:
    """A signed bundle in the manager's folder."""
    path = folder / f"{name}.json"
    path.write_bytes(signed(kind, collateral.as_json(), signer).encode())
    return path


@pytest.fixture
def database(tmp_path: Path) -> Iterator[Database]:
    made = Database.create(tmp_path / "manager.sqlite")
    yield made
    made.close()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = tmp_path / "collateral"
    made.mkdir()
    return made


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def store(folder: Path, clock: Clock) -> CollateralStore:
    return CollateralStore(folder, [OPERATOR.public.text], (), clock)


def held(store: CollateralStore, database: Database) -> Collateral:
    with database.read() as connection:
        return store.endorsements(connection).collateral


def test_an_empty_or_missing_folder_holds_nothing(folder: Path, store: CollateralStore, database: Database) -> None:
    """No bundle is no error here: evidence that needs one is refused for that."""
    assert held(store, database) == Collateral()
    folder.rmdir()
    assert held(CollateralStore(folder, [], (), Clock()), database) == Collateral()


def test_bundles_are_joined_the_newest_first(folder: Path, store: CollateralStore, database: Database) -> None:
    """Whatever a file is named, what was made last comes first, and nothing is held twice."""
    put(folder, "a-new", Collateral(MADE + 60, certificates=(b"new", b"both")))
    put(folder, "z-old", Collateral(MADE, certificates=(b"old", b"both"), crls=(b"list",)))
    assert held(store, database) == Collateral(MADE + 60, certificates=(b"new", b"both", b"old"), crls=(b"list",))


def test_a_new_bundle_needs_no_restart(folder: Path, store: CollateralStore, database: Database, clock: Clock) -> None:
    """The folder is looked at again, and not at each question."""
    put(folder, "one", Collateral(MADE, crls=(b"one",)))
    assert held(store, database).crls == (b"one",)
    path = put(folder, "two", Collateral(MADE + 1, crls=(b"two",)))
    clock.now += LOOK_EVERY / 2
    assert held(store, database).crls == (b"one",)
    clock.now += LOOK_EVERY
    assert held(store, database).crls == (b"two", b"one")
    path.unlink()
    clock.now += LOOK_EVERY
    assert held(store, database).crls == (b"one",)


@pytest.mark.parametrize("fault", ["stranger", "kind", "altered", "torn", "form", "none"])
def test_a_bundle_that_no_admitted_key_signed_stops_judging(
    folder: Path, store: CollateralStore, database: Database, clock: Clock, fault: str
) -> None:
    """One bad file, and nothing is judged by the rest, until it is taken out or replaced."""
    put(folder, "good", Collateral(MADE, crls=(b"good",)))
    path = put(folder, "bad", Collateral(MADE), SigningKey.generate() if fault == "stranger" else OPERATOR)
    data = path.read_bytes()
    if fault == "kind":
        path = put(folder, "bad", Collateral(MADE), kind="Baseline")
    elif fault == "altered":
        path.write_bytes(data.replace(b'"payload":"ey', b'"payload":"eY'))
    elif fault == "torn":
        path.write_bytes(data[:-9])
    elif fault == "form":
        path.write_bytes(signed(KIND, {"made": "2026-09-01T00:00:00Z", "urls": []}, OPERATOR).encode())
    elif fault == "none":
        path.unlink()
        path.mkdir()
    assert code_of(lambda: held(store, database)) == "collateral_unsigned"
    clock.now += LOOK_EVERY
    assert code_of(lambda: held(store, database)) == "collateral_unsigned"
    if fault == "none":
        path.rmdir()
    put(folder, "bad", Collateral(MADE + 1))
    clock.now += LOOK_EVERY
    assert held(store, database).crls == (b"good",)


def test_without_an_admitted_signer_no_bundle_is_believed(folder: Path, database: Database, clock: Clock) -> None:
    """A manager that was told of no signer admits none."""
    put(folder, "own", Collateral(MADE))
    assert code_of(lambda: held(CollateralStore(folder, [], (), clock), database)) == "collateral_unsigned"


def fails(store: CollateralStore, database: Database) -> None:
    """A verdict that is not written after all."""
    with database.write() as connection:
        store.remember(connection, {"qe:tdx": Seen(1, 1)})
        raise RuntimeError


def test_t5_what_was_judged_by_is_kept_and_only_rises(store: CollateralStore, database: Database) -> None:
    """T5: a lower number, or the same with an earlier date, never replaces what was seen; a failed transaction keeps nothing."""
    steps = [
        (Seen(17, 100), Seen(17, 100)),
        (Seen(16, 900), Seen(17, 100)),
        (Seen(17, 99), Seen(17, 100)),
        (Seen(17, 101), Seen(17, 101)),
        (Seen(18, 50), Seen(18, 50)),
        (Seen(2**90, 1), Seen(MAX_NUMBER, 1)),
    ]
    for given, kept in steps:
        with database.write() as connection:
            store.remember(connection, {"tdx:50806F000000": given})
        with database.read() as connection:
            assert store.endorsements(connection).seen == {"tdx:50806F000000": kept}
    with pytest.raises(RuntimeError):
        fails(store, database)
    with database.read() as connection:
        assert set(store.endorsements(connection).seen) == {"tdx:50806F000000"}


def test_development_roots_and_signers_are_only_those_that_were_given(tmp_path: Path) -> None:
    """`manager init` keeps both, and a manager that was given none has none."""
    ca = IntelCa()
    root = tmp_path / "root.der"
    root.write_bytes(ca.root)
    for name, roots, signers in (("told", [root], [OPERATOR.public.text]), ("plain", [], [])):
        setup.init(
            tmp_path / name,
            b"passphrase",
            url="https://127.0.0.1:1",
            simulated_tee_roots=roots,
            collateral_signers=signers,
        )
        config = Config.load(tmp_path / name)
        assert config.simulated_tee_roots == ((ca.root,) if roots else ())
        assert list(config.collateral_signers) == signers
        assert config.collateral.is_dir()
    assert (
        code_of(
            lambda: setup.init(tmp_path / "bad", b"p", url="https://127.0.0.1:1", collateral_signers=["ed25519:no"])
        )
        == "malformed"
    )


def test_a_root_that_is_no_certificate_is_refused_at_init(tmp_path: Path) -> None:
    """Said when the manager is made, not when the first TEE is judged; the folder is no manager's afterwards."""
    garbage = tmp_path / "garbage"
    garbage.write_bytes(bytes(range(256)) * 12)
    made = tmp_path / "manager"

    def init() -> object:
        return setup.init(made, b"a passphrase", url="https://127.0.0.1:1", simulated_tee_roots=[garbage])

    assert code_of(init) == "non_canonical"
    assert not (made / "manager.json").exists()
