"""The two datasets as arrays: read from DATA (the mosaics of shared/data, or the official archives), or made up for a look at the machinery.

CIFAR-10: cifar10/ with mosaics, or cifar-10-binary.tar.gz (md5 c32a1d4ab5d03f1284b67883e8d87530). Brain MRI: lgg128/. See `WANTED`.
"""

from __future__ import annotations

import hashlib
import json
import tarfile
from pathlib import Path
from typing import Any

import numpy as np

CIFAR_ARCHIVE, CIFAR_MD5 = "cifar-10-binary.tar.gz", "c32a1d4ab5d03f1284b67883e8d87530"
WANTED = f"""\
make bench-paper DATA=FOLDER wants in FOLDER:
  cifar10/   mosaics of 1,000 images each (train_NN.webp, test_NN.webp), labels.npz; or {CIFAR_ARCHIVE}
             (md5 {CIFAR_MD5}) from https://www.cs.toronto.edu/~kriz/cifar.html
  lgg128/    mosaics of 256 slices each (img_NN.webp), labels.npz, meta.json, made of the Kaggle dataset mateuszbuda/lgg-mri-segmentation"""
Arrays = dict[str, np.ndarray[Any, Any]]


def cifar(data: Path, train: int, test: int) -> tuple[str, Arrays]:
    """What it is called, and the first images of each part (n, 32, 32, 3)."""
    folder = data / "cifar10"
    if folder.is_dir():
        labels = np.load(folder / "labels.npz")
        parts = {
            name: _mosaics(folder, f"{name}_*.webp", 32, 50, count)
            for name, count in (("train", train), ("test", test))
        }
        name = "CIFAR-10 (rebuilt, 97 images JPEG)"
        return name, _split(parts["train"], labels["train"][:train], parts["test"], labels["test"][:test], "labels")
    archive = data / CIFAR_ARCHIVE
    if not archive.is_file():
        raise FileNotFoundError(WANTED)
    if hashlib.md5(archive.read_bytes(), usedforsecurity=False).hexdigest() != CIFAR_MD5:
        raise ValueError(f"{archive} is not the official file: its md5 is another")
    with tarfile.open(archive) as tar:
        files = {Path(m.name).name: tar.extractfile(m).read() for m in tar if m.name.endswith(".bin")}  # type: ignore[union-attr]
    rows = [
        np.frombuffer(b"".join(files[f"data_batch_{n}.bin"] for n in range(1, 6)), np.uint8),
        np.frombuffer(files["test_batch.bin"], np.uint8),
    ]
    (train_rows, test_rows) = (part.reshape(-1, 3073) for part in rows)

    def images(part: Any) -> Any:
        return np.ascontiguousarray(part[:, 1:].reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1))

    return "CIFAR-10", _split(
        images(train_rows[:train]), train_rows[:train, 0], images(test_rows[:test]), test_rows[:test, 0], "labels"
    )


def mri(data: Path, train: int, test: int, pool: int) -> tuple[str, Arrays]:
    """What it is called, and the first slices of the training's and the test's patients, pooled `pool` times `pool`."""
    folder = data / "lgg128"
    if not folder.is_dir():
        raise FileNotFoundError(WANTED)
    labels = np.load(folder / "labels.npz")
    images = _mosaics(folder, "img_*.webp", 128, 16, len(labels["split"]))
    masks = np.unpackbits(labels["mask_bits"], axis=1).reshape(-1, 128, 128)
    picked = {
        part: np.flatnonzero(labels["split"] == number)[:count]
        for part, number, count in (("train", 0, train), ("test", 2, test))
    }

    def small(some: Any) -> Any:
        pixels = images[some]
        shape = (len(some), 128 // pool, pool, 128 // pool, pool, 3)
        return pixels.reshape(shape).mean(axis=(2, 4)).astype(np.uint8)

    def mask(some: Any) -> Any:
        return masks[some][:, pool // 2 :: pool, pool // 2 :: pool]

    name = f"brain MRI (LGG, {128 // pool}x{128 // pool})"
    return name, _split(
        small(picked["train"]), mask(picked["train"]), small(picked["test"]), mask(picked["test"]), "masks"
    )


def made_up(seed: int, size: int, truth: str, train: int, test: int) -> Arrays:
    """Noise of the same form, for a look at the machinery."""
    rng = np.random.default_rng(seed)

    def part(count: int) -> tuple[Any, Any]:
        pixels = rng.integers(0, 256, (count, size, size, 3), np.uint8)
        return pixels, rng.integers(0, 10, count, np.uint8) if truth == "labels" else (pixels[..., 0] > 200).astype(
            np.uint8
        )

    return _split(*part(train), *part(test), truth)


def save(arrays: Arrays, folder: Path) -> None:
    folder.mkdir(parents=True)
    for name, array in arrays.items():
        np.save(folder / f"{name}.npy", np.ascontiguousarray(array))


def _split(images: Any, truth: Any, test_images: Any, test_truth: Any, name: str) -> Arrays:
    return {"images": images, name: truth, "test_images": test_images, f"test_{name}": test_truth}


def _mosaics(folder: Path, pattern: str, size: int, across: int, count: int) -> Any:
    from PIL import Image  # type: ignore[import-not-found] # of requirements/bench.txt

    found: list[Any] = []
    have = 0
    for path in sorted(folder.glob(pattern)):
        if have >= count:
            break
        pixels = np.asarray(Image.open(path).convert("RGB"))
        tiles = pixels.reshape(-1, size, across, size, 3).swapaxes(1, 2).reshape(-1, size, size, 3)
        found.append(tiles)
        have += len(tiles)
    if have < count:
        raise ValueError(f"{folder} holds {have} images, not {count}: {json.dumps(WANTED)}")
    return np.concatenate(found)[:count]
