"""``perunml://`` through the libraries that people use: what they read is what was sealed, byte by byte."""

from __future__ import annotations

import io
import json
import pickle
import shutil
import tarfile
import threading
from pathlib import Path

import fsspec
import numpy as np
import pytest

from perunml.client import assets
from perunml.client.home import Home
from perunml.client.identity import Identity
from perunml.fs import SealedFileSystem, sealed
from perunml.wire.errors import PerunError
from views.conftest import PASSPHRASE, Sealed


@pytest.fixture(autouse=True)
def registered() -> None:
    """As the package's entry point does where it is installed."""
    fsspec.register_implementation("perunml", SealedFileSystem, clobber=True)
    SealedFileSystem.clear_instance_cache()


@pytest.fixture
def options(scans: Sealed) -> dict[str, str]:
    return {"home": str(scans.home), "passphrase_file": str(scans.passphrase_file)}


@pytest.fixture
def fs(options: dict[str, str]) -> SealedFileSystem:
    return SealedFileSystem(**options)


def test_every_file_is_what_was_sealed(scans: Sealed, fs: SealedFileSystem) -> None:
    """Whole, in part, from the end, line by line; folders are folders, an empty file is one."""
    found = fs.find("perunml://scans")
    plain = {f"scans/{p.relative_to(scans.plain).as_posix()}": p for p in scans.plain.rglob("*") if p.is_file()}
    assert set(found) == set(plain)
    for name, path in plain.items():
        data = path.read_bytes()
        assert fs.cat_file(name) == data
        assert fs.info(name)["size"] == len(data)
        with fs.open(name) as file:
            assert file.read() == data
            file.seek(-min(10, len(data)), io.SEEK_END)
            assert file.read() == data[-10:]
        assert fs.cat_file(name, 100, -100) == data[100:-100]
        assert fs.cat_file(name, -7) == data[-7:]
    with fs.open("scans/table.csv", "r") as file:
        assert file.readline() == "id,score\n"
    assert fs.ls("scans/deep", detail=False) == ["scans/deep/empty", "scans/deep/er"]
    assert fs.isdir("scans/deep/er")
    assert not fs.exists("scans/none")
    assert fs.cat_ranges(["scans/raw.bin"] * 2, [0, 4], [4, 8])[0] == b"HEAD"
    for name in ("scans/none", "scans/deep/none/x"):
        with pytest.raises(FileNotFoundError):
            fs.open(name)
        with pytest.raises(FileNotFoundError):
            fs.ls(name)
        with pytest.raises(FileNotFoundError):
            fs.cat_file(name)
    with pytest.raises(PerunError, match="file_missing"):
        fs.ls("perunml://")


def test_it_is_not_written(fs: SealedFileSystem) -> None:
    """By no way that there is."""
    for work in (
        lambda: fs.open("scans/new", "wb"), lambda: fs.pipe_file("scans/new", b"1"), lambda: fs.rm("scans/x.npy"),
        lambda: fs.mkdir("scans/folder"), lambda: fs.touch("scans/x.npy"), lambda: fs.mv("scans/x.npy", "scans/z"),
    ):  # fmt: skip
        with pytest.raises(PermissionError, match="read_only"):
            work()


def test_pandas_reads_it(scans: Sealed, options: dict[str, str]) -> None:
    pandas = pytest.importorskip("pandas", reason="pandas is not installed")
    found = pandas.read_csv("perunml://scans/table.csv", storage_options=options)
    assert found.equals(pandas.read_csv(scans.plain / "table.csv"))


def test_pyarrow_reads_it(scans: Sealed, fs: SealedFileSystem, options: dict[str, str], tmp_path: Path) -> None:
    """Parquet by columns and row groups, out of an asset of many."""
    pandas = pytest.importorskip("pandas", reason="pandas is not installed")
    pytest.importorskip("pyarrow", reason="pyarrow is not installed")
    import pyarrow.dataset
    import pyarrow.parquet

    frame = pandas.DataFrame({"a": np.arange(50_000), "b": np.random.default_rng(1).random(50_000)})
    (tmp_path / "tables").mkdir()
    frame.to_parquet(tmp_path / "tables" / "one.parquet", row_group_size=10_000)
    home = Home(tmp_path / "home")
    assets.seal(
        home,
        Identity.create(home, "nova", PASSPHRASE),
        tmp_path / "tables",
        name="tables",
        kind="dataset",
        chunk_size=65536,
    )
    sealed("tables", home=home.folder, passphrase=PASSPHRASE)
    mine = SealedFileSystem(home=str(home.folder))
    with mine.open("tables/one.parquet") as file:
        parquet = pyarrow.parquet.ParquetFile(file)
        assert (
            parquet.read_row_group(3, columns=["b"])
            .to_pandas()
            .equals(frame[["b"]][30_000:40_000].reset_index(drop=True))
        )
    whole = pyarrow.dataset.dataset("tables", filesystem=mine).to_table(filter=pyarrow.dataset.field("a") < 10)
    assert whole["a"].to_pylist() == list(range(10))
    assert pandas.read_parquet("perunml://tables/one.parquet", storage_options={"home": str(home.folder)}).equals(frame)


def test_webdataset_reads_it(tmp_path: Path) -> None:
    """Shards, as it opens any other."""
    webdataset = pytest.importorskip("webdataset", reason="webdataset is not installed")
    from perunml.fs import open_shard

    (tmp_path / "shards").mkdir()
    for shard in range(2):
        with tarfile.open(tmp_path / "shards" / f"{shard:03}.tar", "w") as tar:
            for number in range(20):
                data = json.dumps({"n": shard * 20 + number}).encode()
                member = tarfile.TarInfo(f"{number:04}.json")
                member.size = len(data)
                tar.addfile(member, io.BytesIO(data))
    home = Home(tmp_path / "home")
    assets.seal(home, Identity.create(home, "nova", PASSPHRASE), tmp_path / "shards", name="shards", kind="dataset")
    file = tmp_path / "passphrase"
    file.write_bytes(PASSPHRASE)
    webdataset.gopen_schemes["perunml"] = open_shard(home=str(home.folder), passphrase_file=str(file))
    found = webdataset.WebDataset(
        [f"perunml://shards/{shard:03}.tar" for shard in range(2)], shardshuffle=False
    ).decode()
    assert [sample["json"]["n"] for sample in found] == list(range(40))


def test_hugging_face_datasets_read_it(scans: Sealed, options: dict[str, str], tmp_path: Path) -> None:
    datasets = pytest.importorskip(
        "datasets", reason="Hugging Face datasets is not installed: pip install 'perunml[test-views]'"
    )
    found = datasets.load_dataset(
        "csv", data_files="perunml://scans/table.csv", storage_options=options, split="train", cache_dir=str(tmp_path)
    )
    assert found[77] == {"id": 77, "score": 77 * 77}


def test_what_goes_to_other_processes_holds_no_secret(scans: Sealed, fs: SealedFileSystem) -> None:
    """Nor does what is shown; there it opens for itself."""
    sealed("scans", home=scans.home, passphrase=PASSPHRASE)
    there = pickle.loads(pickle.dumps(fs))
    assert there.cat_file("scans/raw.bin")[:4] == b"HEAD"
    for shown in (pickle.dumps(fs), fs.to_json().encode(), repr(fs).encode(), repr(fs.storage_options).encode()):
        assert PASSPHRASE not in shown


def test_many_threads_read_one_asset(scans: Sealed, fs: SealedFileSystem) -> None:
    """Each what it asked for."""
    data, wrong = (scans.plain / "raw.bin").read_bytes(), []

    def work(start: int) -> None:
        for offset in range(start, len(data) - 50, 997):
            if fs.cat_file("scans/raw.bin", offset, offset + 50) != data[offset : offset + 50]:
                wrong.append(offset)

    threads = [threading.Thread(target=work, args=(n * 13,)) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


def test_an_altered_chunk_is_no_file_contents(scans: Sealed, tmp_path: Path) -> None:
    """pandas raises an OSError, and its cause says what was altered."""
    home = tmp_path / "home"
    shutil.copytree(scans.home, home)
    for blob in (home / "assets" / "scans" / "v1" / "blobs").iterdir():
        data = bytearray(blob.read_bytes())
        if len(data) > 100_000:
            data[len(data) // 2] ^= 1
            blob.write_bytes(data)
    fs = SealedFileSystem(home=str(home), passphrase_file=str(scans.passphrase_file))
    with pytest.raises(OSError, match="chunk_altered") as caught:
        [fs.cat_file(name) for name in fs.find("scans")]
    assert isinstance(caught.value.__cause__, PerunError)


def test_nobody_without_the_passphrase_reads_it(scans: Sealed, tmp_path: Path) -> None:
    """A process in which nobody unlocked it; a wrong passphrase; an asset that is not there."""
    home = tmp_path / "home"
    shutil.copytree(scans.home, home)
    with pytest.raises(PerunError, match="passphrase_missing"):
        SealedFileSystem(home=str(home)).ls("scans")
    (tmp_path / "wrong").write_bytes(b"something else")
    with pytest.raises(PerunError, match="unseal_failed"):
        SealedFileSystem(home=str(home), passphrase_file=str(tmp_path / "wrong")).ls("scans")
    with pytest.raises(PerunError, match="not_found"):
        SealedFileSystem(home=str(home)).ls("atlas")


def test_in_a_job_it_reads_the_plain_input(scans: Sealed, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same path, no home, no passphrase."""
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "scans").symlink_to(scans.plain)
    monkeypatch.setenv("PERUNML_IN", str(tmp_path / "in"))
    with fsspec.open("perunml://scans/raw.bin") as file:
        assert file.read(4) == b"HEAD"
