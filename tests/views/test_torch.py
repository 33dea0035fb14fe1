"""PyTorch datasets over a sealed asset and over plain files: the same bytes, each once, in any number of processes."""

from __future__ import annotations

import itertools
import pickle
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="PyTorch is not installed")

from torch.utils.data import DataLoader  # noqa: E402

from perunml.fs import PlainFolder, sealed  # noqa: E402 # after torch was looked for
from perunml.torch import SealedDataset, SealedIterable, SealedLoader  # noqa: E402
from perunml.wire.errors import PerunError  # noqa: E402
from views.conftest import PASSPHRASE, RECORDS, Sealed  # noqa: E402

BOTH = pytest.mark.parametrize("kind", ["sealed", "plain"])
SMALL = {"batch_size": 64, "window": 200_000}


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Many blocks and windows of few records."""
    from perunml.sealing.views import pytorch

    monkeypatch.setattr(pytorch, "READ", 10_000)


def code(work: Any) -> str:
    with pytest.raises(PerunError) as caught:
        work()
    return caught.value.code


def numbers(batches: Any) -> list[int]:
    return [int(number) for batch in batches for number in batch]


@BOTH
def test_records_by_number_are_the_files_rows(scans: Sealed, kind: str) -> None:
    """One by one, from the end, several at once and out of order, several files side by side, raw ones."""
    x, raw = np.load(scans.plain / "x.npy"), (scans.plain / "raw.bin").read_bytes()
    rows = SealedDataset(scans.where(kind), "x.npy")
    assert len(rows) == RECORDS
    assert np.array_equal(rows[17].numpy(), x[17])
    assert np.array_equal(rows[-1].numpy(), x[-1])
    some = [5, 2999, 6, 7, 0, 5]
    assert np.array_equal(np.stack([row.numpy() for row in rows.__getitems__(some)]), x[some])
    pairs = SealedDataset(scans.where(kind), ("x.npy", "y.npy"))
    first, second = pairs[1234]
    assert (np.array_equal(first.numpy(), x[1234]), int(second)) == (True, 1234)
    records = SealedDataset(scans.where(kind), "raw.bin", record_size=30, header=4)
    assert bytes(records[9].numpy()) == raw[4 + 270 : 4 + 300]
    with pytest.raises(IndexError):
        rows[RECORDS]


@BOTH
@pytest.mark.parametrize("workers", [0, 2])
def test_a_loader_over_records_by_number(scans: Sealed, kind: str, workers: int) -> None:
    """PyTorch's own sampler and workers on top."""
    loader = DataLoader(SealedDataset(scans.where(kind), "y.npy"), batch_size=100, shuffle=True, num_workers=workers)
    found = numbers(loader)
    assert sorted(found) == list(range(RECORDS))
    assert found != sorted(found)


@BOTH
@pytest.mark.parametrize("workers", [0, 1, 2])
def test_an_epoch_gives_each_record_once(scans: Sealed, kind: str, workers: int) -> None:
    """With its label beside it; whole batches, but for each worker's last."""
    x = np.load(scans.plain / "x.npy")
    loader = SealedLoader(SealedIterable(scans.where(kind), ("x.npy", "y.npy"), **SMALL), num_workers=workers)
    batches = list(loader)
    assert len(batches) == sum(loader.dataset.plan.batches(0, 0, 1, max(1, workers)))
    assert sorted(numbers(labels for _, labels in batches)) == list(range(RECORDS))
    for rows, labels in batches:
        assert np.array_equal(rows.numpy(), x[labels.numpy()])
    assert sum(len(labels) < 64 for _, labels in batches) <= max(1, workers)
    again = numbers(labels for _, labels in loader)
    assert sorted(again) == list(range(RECORDS))
    assert again != numbers(labels for _, labels in batches), "another epoch, another order"


def test_sealed_and_plain_come_in_the_same_order(scans: Sealed) -> None:
    """A script does the same in both places, given blocks of one size."""
    plain = PlainFolder(scans.plain)
    plain.chunk_size = scans.where().chunk_size  # type: ignore[misc] # of this one
    found = [numbers(SealedIterable(where, "y.npy", seed=4, **SMALL)) for where in (plain, scans.where())]
    assert found[0] == found[1]


@pytest.mark.parametrize("workers", [0, 2])
def test_a_loader_goes_on_where_another_stopped(scans: Sealed, workers: int) -> None:
    """At each position: what follows is what would have followed, into the next epoch."""

    def loader() -> SealedLoader:
        return SealedLoader(SealedIterable(scans.where(), "y.npy", seed=2, **SMALL), num_workers=workers)

    whole = loader()
    first, second = [batch.tolist() for batch in whole], [batch.tolist() for batch in whole]
    for stop in (0, 1, 2, 7, len(first) - 1, len(first)):
        before = loader()
        for _ in itertools.islice(before, stop):
            pass
        state = pickle.loads(pickle.dumps(before.state_dict()))
        after = loader()
        after.load_state_dict(state)
        assert [batch.tolist() for batch in after] == first[stop:]
        assert [batch.tolist() for batch in after] == second
    with pytest.raises(ValueError, match="as many workers"):
        loader().load_state_dict({"epoch": 0, "delivered": 1, "seed": 2, "workers": workers + 1})
    with pytest.raises(ValueError, match="whole batches"):
        SealedLoader(whole.dataset, shuffle=True)


def test_ranks_share_an_epoch(scans: Sealed) -> None:
    """Each record once over three of them; evenly, as many batches from each, and none twice."""
    shares = [SealedIterable(scans.where(), "y.npy", rank=rank, ranks=3, **SMALL) for rank in range(3)]
    assert sorted(itertools.chain(*map(numbers, shares))) == list(range(RECORDS))
    even = [SealedIterable(scans.where(), "y.npy", rank=rank, ranks=3, even=True, **SMALL) for rank in range(3)]
    batches = [list(share) for share in even]
    assert len({len(found) for found in batches}) == 1
    assert [len(share) for share in even] == [len(found) for found in batches]
    found = list(itertools.chain(*map(numbers, batches)))
    assert len(set(found)) == len(found)
    with pytest.raises(ValueError, match="go together"):
        SealedIterable(scans.where(), "y.npy", rank=1, **SMALL)
    with pytest.raises(ValueError, match="from 0"):
        SealedIterable(scans.where(), "y.npy", rank=3, ranks=3, **SMALL)


def test_workers_that_start_anew_want_a_passphrase_file(scans: Sealed) -> None:
    """What goes to them holds no key; with the file they open for themselves."""
    dataset = SealedIterable(scans.where(), "y.npy", **SMALL)
    assert PASSPHRASE not in pickle.dumps(dataset)
    named = sealed("scans", home=scans.home, passphrase_file=scans.passphrase_file)
    spawned = SealedLoader(SealedIterable(named, "y.npy", **SMALL), num_workers=1, multiprocessing_context="spawn")
    assert sorted(numbers(spawned)) == list(range(RECORDS))
    refused = SealedLoader(dataset, num_workers=1, multiprocessing_context="spawn")
    with pytest.raises(Exception, match="passphrase_missing"):
        list(refused)


def test_batches_can_be_transformed_and_are_contiguous(scans: Sealed) -> None:
    """By a function of the batch, in the worker; pinned memory wants contiguous tensors."""
    found = SealedIterable(scans.where(), "x.npy", transform=lambda rows: rows.mean(dim=(1, 2)), **SMALL)
    assert next(iter(found)).shape == (64,)
    assert next(iter(SealedIterable(scans.where(), "x.npy", **SMALL))).is_contiguous()


def test_files_that_are_no_records_are_refused(scans: Sealed, tmp_path: Path) -> None:
    """Each with its reason; nothing is unpickled."""
    folder = tmp_path / "odd"
    folder.mkdir()
    np.save(folder / "objects.npy", np.array([{}, {}], dtype=object), allow_pickle=True)
    np.save(folder / "columns.npy", np.asfortranarray(np.ones((4, 5))))
    np.save(folder / "single.npy", np.float64(3))
    (folder / "cut.npy").write_bytes((scans.plain / "x.npy").read_bytes()[:500])
    (folder / "text.npy").write_text("no numbers")
    (folder / "three").write_bytes(b"123")
    for name in ("objects.npy", "columns.npy", "single.npy", "cut.npy", "text.npy"):
        assert code(lambda name=name: SealedDataset(PlainFolder(folder), name)) == "no_records"
    assert code(lambda: SealedDataset(PlainFolder(folder), "three", record_size=2)) == "no_records"
    assert code(lambda: SealedDataset(PlainFolder(folder), "three", record_size=2, header=9)) == "no_records"
    assert code(lambda: SealedDataset(PlainFolder(folder), "none.npy")) == "file_missing"
    assert code(lambda: SealedDataset(scans.where(), ("x.npy", "raw.bin"))) == "no_records"
    np.save(folder / "short.npy", np.arange(3))
    shutil.copy(scans.plain / "y.npy", folder / "y.npy")
    assert code(lambda: SealedDataset(PlainFolder(folder), ("short.npy", "y.npy"))) == "no_records"
    with pytest.raises(ValueError, match="a byte at least"):
        SealedDataset(PlainFolder(folder), "three", record_size=0)


def test_an_altered_chunk_ends_the_epoch(scans: Sealed, tmp_path: Path) -> None:
    """With the coded reason, in the main process and out of a worker."""
    home = tmp_path / "home"
    shutil.copytree(scans.home, home)
    blob = max((home / "assets" / "scans" / "v1" / "blobs").iterdir(), key=lambda path: path.stat().st_size)
    data = bytearray(blob.read_bytes())
    data[len(data) * 3 // 4] ^= 1
    blob.write_bytes(data)
    dataset = SealedIterable(sealed("scans", home=home, passphrase=PASSPHRASE), "x.npy", **SMALL)
    assert code(lambda: list(dataset)) == "chunk_altered"
    with pytest.raises(Exception, match="chunk_altered"):
        list(SealedLoader(dataset, num_workers=1))


def test_in_a_job_the_same_name_is_its_plain_input(
    scans: Sealed, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No passphrase, no home; an input that is not there is told."""
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "scans").symlink_to(scans.plain)
    monkeypatch.setenv("PERUNML_IN", str(tmp_path / "in"))
    assert sorted(numbers(SealedIterable(sealed("scans"), "y.npy", **SMALL))) == list(range(RECORDS))
    assert code(lambda: sealed("atlas")) == "file_missing"
