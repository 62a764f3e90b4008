"""CIFAR in both versions, MNIST and its kin, and folders of images: pixels, labels and classes as upstream has them."""

from __future__ import annotations

import gzip
import io
import os
import pickle
import struct
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ecopipe.datasets import synthetic
from ecopipe.datasets.cifar10 import Cifar10
from ecopipe.datasets.cifar100 import Cifar100
from ecopipe.datasets.corpus import open_corpus
from ecopipe.datasets.images import Images
from ecopipe.datasets.mnist import FashionMnist, KMnist, Mnist
from ecopipe.vocabulary.errors import ConfigError, CorpusError
from tests.conftest import real
from tests.datasets.streamed import round_trip, write


def npy(member: bytes) -> Any:
    return np.load(io.BytesIO(member))


def png(pixels: Any) -> bytes:
    from PIL import Image

    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


@pytest.fixture
def cifar(tmp_path: Path) -> Path:
    """CIFAR-10 in both versions, side by side, with the same images."""
    python = synthetic.write_cifar10(tmp_path, rows=6)
    binary = tmp_path / "cifar-10-batches-bin"
    binary.mkdir()
    for file in [*(f"data_batch_{number}" for number in range(1, 6)), "test_batch"]:
        fields = pickle.loads((python / file).read_bytes(), encoding="bytes")
        rows = np.hstack([np.array(fields[b"labels"], np.uint8)[:, None], fields[b"data"]])
        (binary / f"{file}.bin").write_bytes(rows.tobytes())
    (binary / "batches.meta.txt").write_text("\n".join(synthetic.CIFAR10_CLASSES) + "\n\n")
    return tmp_path


def test_both_versions_of_cifar10_are_the_same_images(cifar: Path, tmp_path: Path) -> None:
    python, binary = (Cifar10(cifar / f"cifar-10-batches-{end}", storage="raw") for end in ("py", "bin"))
    assert (python.binary, binary.binary, Cifar10(cifar).binary) == (False, True, False)
    assert binary.classes == python.classes == synthetic.CIFAR10_CLASSES
    for split in ("train", "test"):
        pairs = list(zip(python.samples(split), binary.samples(split), strict=True))
        assert all((one.key, one.members) == (two.key, two.members) for one, two in pairs)
        assert all(two.extras == {"name": None} for _, two in pairs)
    round_trip(binary, tmp_path / "out")


def test_cifar10_binary_from_its_archive_with_a_batch_missing(cifar: Path, tmp_path: Path) -> None:
    (cifar / "cifar-10-batches-bin" / "data_batch_4.bin").unlink()
    with tarfile.open(tmp_path / "cifar-10-binary.tar.gz", "w:gz") as tar:
        tar.add(cifar / "cifar-10-batches-bin", "cifar-10-batches-bin")
    corpus = Cifar10(tmp_path / "cifar-10-binary.tar.gz")
    assert corpus.report()[1:] == [
        "train: data_batch_4.bin missing.",
        "train: 24 of the 50,000 images of the full corpus.",
    ]


def test_a_damaged_binary_batch_is_refused(cifar: Path) -> None:
    file = cifar / "cifar-10-batches-bin" / "test_batch.bin"
    data = bytearray(file.read_bytes())
    data[3073] = 10
    file.write_bytes(data)
    with pytest.raises(
        CorpusError,
        match=r"test_batch\.bin is damaged: the label of row 1 is 10, .*Fetch cifar-10-binary\.tar\.gz again",
    ):
        Cifar10(file.parent).check("test")
    file.write_bytes(data[:-1])
    with pytest.raises(CorpusError, match=r"its 18,437 bytes are no whole number of rows of 3,073"):
        Cifar10(file.parent).check("test")


FINE = [f"fine_{number:03d}" for number in range(100)]
COARSE = [f"coarse_{number:02d}" for number in range(20)]


@pytest.fixture
def cifar100(tmp_path: Path) -> tuple[Path, dict[str, Any]]:
    """CIFAR-100 in both versions, 9 images a split, and the pickled dicts."""
    draw = np.random.default_rng(0)
    splits = {
        split: {
            b"filenames": [f"{split}_{row}.png".encode() for row in range(9)],
            b"batch_label": b"",
            b"fine_labels": draw.integers(0, 100, 9).tolist(),
            b"coarse_labels": draw.integers(0, 20, 9).tolist(),
            b"data": draw.integers(0, 256, (9, 3072), dtype=np.uint8),
        }
        for split in ("train", "test")
    }
    names = {b"fine_label_names": [*map(str.encode, FINE)], b"coarse_label_names": [*map(str.encode, COARSE)]}
    write(tmp_path / "cifar-100-python", {"meta": synthetic._old_pickle(names)})
    write(
        tmp_path / "cifar-100-binary",
        {"fine_label_names.txt": "\n".join(FINE), "coarse_label_names.txt": "\n".join(COARSE)},
    )
    for split, fields in splits.items():
        labels = np.array([fields[b"coarse_labels"], fields[b"fine_labels"]], np.uint8).T
        write(tmp_path / "cifar-100-python", {split: synthetic._old_pickle(fields)})
        write(tmp_path / "cifar-100-binary", {f"{split}.bin": np.hstack([labels, fields[b"data"]]).tobytes()})
    return tmp_path, splits


@pytest.mark.parametrize("version", ["python", "binary"])
def test_cifar100(cifar100: tuple[Path, dict[str, Any]], tmp_path: Path, version: str) -> None:
    root, upstream = cifar100
    corpus = Cifar100(root / f"cifar-100-{version}", storage="raw")
    assert (corpus.splits(), corpus.classes, corpus.groups) == (("test", "train"), tuple(FINE), tuple(COARSE))
    found = round_trip(corpus, tmp_path / "out")
    for split, fields in upstream.items():
        for row in range(9):
            sample = found[split][f"{split}-{row:05d}"]
            planes = npy(sample["npy"]).reshape(-1)
            assert np.array_equal(planes, fields[b"data"][row])
            assert int(sample["cls"]) == sample["label"] == fields[b"fine_labels"][row]
            assert sample["coarse_label"] == fields[b"coarse_labels"][row]
            assert sample["coarse_name"] == COARSE[sample["coarse_label"]]
            assert sample.get("name") == (f"{split}_{row}.png" if version == "python" else None)
    assert corpus.report()[0] == "test: 9 of the 10,000 images of the full corpus."


def test_cifar100_incomplete_damaged_and_hostile(cifar100: tuple[Path, dict[str, Any]]) -> None:
    root = cifar100[0] / "cifar-100-python"
    (root / "test").unlink()
    assert Cifar100(root).report()[0] == "test: this split of the full corpus is missing."
    (root / "train").write_bytes(pickle.dumps({b"x": os.system}))
    with pytest.raises(CorpusError, match=r"train is refused: loading it would call (posix|nt)\.system"):
        Cifar100(root).check("train")
    fields = {**cifar100[1]["train"], b"coarse_labels": [20] * 9}
    (root / "train").write_bytes(synthetic._old_pickle(fields))
    with pytest.raises(CorpusError, match=r"train is damaged: the coarse label of row 0 is 20, not one of 0 to 19"):
        Cifar100(root).check("train")
    (root / "meta").unlink()
    with pytest.raises(CorpusError, match=r"neither the python version of CIFAR-100 nor the binary one: meta missing"):
        Cifar100(root)
    (cifar100[0] / "cifar-100-binary" / "train.bin").write_bytes(b"short")
    with pytest.raises(CorpusError, match=r"train\.bin is damaged: its 5 bytes are no whole number of rows of 3,074"):
        Cifar100(root.parent / "cifar-100-binary").count("train")


def idx(values: Any) -> bytes:
    return struct.pack(f">BBBB{values.ndim}I", 0, 0, 8, values.ndim, *values.shape) + values.tobytes()


def idx_files(rows: int = 10) -> dict[str, bytes]:
    draw = np.random.default_rng(1)
    files = {}
    for prefix in ("train", "t10k"):
        files[f"{prefix}-images-idx3-ubyte"] = idx(draw.integers(0, 256, (rows, 28, 28), dtype=np.uint8))
        files[f"{prefix}-labels-idx1-ubyte"] = idx(draw.integers(0, 10, rows, dtype=np.uint8))
    return files


def zipped(files: dict[str, bytes]) -> dict[str, bytes]:
    return {f"{name}.gz": gzip.compress(payload) for name, payload in files.items()}


@pytest.mark.parametrize("reader", [Mnist, FashionMnist, KMnist])
@pytest.mark.parametrize("packed", [False, True])
def test_idx_files(tmp_path: Path, reader: type[Mnist], packed: bool) -> None:
    files = idx_files()
    write(tmp_path / reader.folder / "raw", zipped(files) if packed else files)
    corpus = reader(tmp_path, storage="raw")
    found = round_trip(corpus, tmp_path / "out")
    for split, prefix in (("train", "train"), ("test", "t10k")):
        pixels = np.frombuffer(files[f"{prefix}-images-idx3-ubyte"], np.uint8, offset=16).reshape(-1, 1, 28, 28)
        labels = files[f"{prefix}-labels-idx1-ubyte"][8:]
        samples = [found[split][f"{split}-{row:05d}"] for row in range(10)]
        assert np.array_equal(np.stack([npy(sample["npy"]) for sample in samples]), pixels)
        assert bytes(sample["label"] for sample in samples) == labels
        assert {(sample["height"], sample["width"]) for sample in samples} == {(28, 28)}
    assert corpus.report() == [
        "test: 10 of the 10,000 images of the full corpus.",
        "train: 10 of the 60,000 images of the full corpus.",
    ]
    flat = reader(tmp_path / reader.folder / "raw", storage="png")
    grey = np.asarray(pytest.importorskip("PIL.Image").open(io.BytesIO(next(flat.samples("test")).members["png"])))
    assert np.array_equal(grey, npy(found["test"]["test-00000"]["npy"])[0])
    assert len(reader.classes) == 10


def test_the_real_mnist() -> None:
    folder = real("MNIST", "raw")
    corpus = Mnist(folder.parent.parent, storage="raw")
    assert corpus.splits() == ("test",)
    assert corpus.report() == ["train: train-images-idx3-ubyte is missing, so the split is left out."]
    samples = list(corpus.samples("test"))
    raw = gzip.decompress((folder / "t10k-images-idx3-ubyte.gz").read_bytes())
    assert len(samples) == 10_000
    assert b"".join(npy(sample.members["npy"]).tobytes() for sample in samples) == raw[16:]
    assert [int(sample.members["cls"]) for sample in samples[:5]] == [7, 2, 1, 0, 4]


@pytest.mark.parametrize(
    ("name", "payload", "found"),
    [
        ("t10k-labels-idx1-ubyte", b"\0\0\x08\x01\0\0\0\x09" + bytes(8), "it has 8 values, where its header says 9"),
        ("t10k-labels-idx1-ubyte", idx(np.full(10, 10, np.uint8)), "the label of row 0 is 10, not one of 0 to 9"),
        ("t10k-labels-idx1-ubyte", b"<html>", r"it begins with b'<htm', where an idx file of labels begins with"),
        ("t10k-labels-idx1-ubyte", idx(np.zeros(9, np.uint8)), "it has 10 images, and there are 9 labels"),
        ("t10k-images-idx3-ubyte", idx(np.zeros((10, 27, 28), np.uint8)), "its images are 27 x 28, not 28 x 28"),
        ("t10k-images-idx3-ubyte", gzip.compress(bytes(999), mtime=0)[:-9], "its gzip cannot be decompressed"),
    ],
)
def test_damaged_idx_files_are_refused(tmp_path: Path, name: str, payload: bytes, found: str) -> None:
    write(tmp_path, {**idx_files(), name: payload})
    with pytest.raises(CorpusError, match=rf"idx\d-ubyte is damaged: {found}.*Fetch this file again"):
        list(Mnist(tmp_path).samples("test"))


def test_idx_files_without_a_whole_split_are_refused(tmp_path: Path) -> None:
    write(tmp_path, {"train-labels-idx1-ubyte": b""})
    with pytest.raises(CorpusError, match=r"holds no split of KMNIST with both .* It holds: train-labels-idx1-ubyte"):
        KMnist(tmp_path)
    with pytest.raises(ConfigError, match=r"storage='jpeg' is no way to store images\. .*Known: png, raw"):
        Mnist(tmp_path, storage="jpeg")  # type: ignore[arg-type]


PICTURES = {
    "dog/b.PNG": png(np.full((3, 5, 3), 9, np.uint8)),
    "dog/deeper/a.png": png(np.zeros((2, 2, 3), np.uint8)),
    "cat/x.1.png": png(np.zeros((4, 4), np.uint8)),
    "cat/y.ppm": b"P6 1 1 255\n\0\0\0",
}


def test_folders_of_images_are_counted_as_torchvision_does(tmp_path: Path) -> None:
    root = write(tmp_path / "in", PICTURES)
    corpus = Images(root)
    found = round_trip(corpus, tmp_path / "out")["all"]
    assert set(found) == {"dog/b", "dog/deeper/a", "cat/x_1", "cat/y"}
    assert found["dog/b"]["png"] == PICTURES["dog/b.PNG"] and found["cat/y"]["ppm"] == PICTURES["cat/y.ppm"]
    assert (found["dog/b"]["height"], found["dog/b"]["width"]) == (3, 5)
    theirs = pytest.importorskip("torchvision.datasets").ImageFolder(str(root))
    assert list(corpus.classes) == theirs.classes
    wanted = sorted((Path(path).read_bytes(), label) for path, label in theirs.samples)
    assert sorted((sample.get("png") or sample["ppm"], sample["label"]) for sample in found.values()) == wanted
    assert {sample["class_name"] for sample in found.values()} == {"cat", "dog"}
    assert corpus.report() == []


def test_folders_of_images_with_splits(tmp_path: Path) -> None:
    files = {f"{split}/{name}": data for split in ("train", "val") for name, data in PICTURES.items()}
    del files["val/cat/x.1.png"], files["val/cat/y.ppm"]
    root = write(tmp_path / "in", {**files, "train/notes.txt": "x", "train/loose.png": b"x"})
    corpus = Images(root)
    assert {split: len(found) for split, found in round_trip(corpus, tmp_path / "out").items()} == {
        "train": 4,
        "val": 2,
    }
    assert corpus.classes == ("cat", "dog")
    assert {int(sample.members["cls"]) for sample in corpus.samples("val")} == {1}
    assert corpus.report() == [
        "1 images lie in no folder of a class, such as train/loose.png.",
        "1 files are no images and are left out, such as train/notes.txt.",
        "val: 1 of the classes have no image, such as cat.",
    ]
    assert Images(root, splits="one").classes == ("train", "val")
    assert Images(write(tmp_path / "odd", {"a/c/1.png": b"x"}), splits="folders").splits() == ("a",)


def test_images_that_cannot_be_told_apart_or_read(tmp_path: Path) -> None:
    root = write(tmp_path / "in", {"cat/1.png": b"x", "cat/1.jpg": b"x"})
    with pytest.raises(CorpusError, match=r"1\.jpg and .*1\.png would both be the sample 'cat/1'\. Rename one"):
        Images(root).check("all")
    (root / "cat" / "1.jpg").unlink()
    (root / "cat" / "1.png").write_bytes(b"")
    with pytest.raises(CorpusError, match=r"1\.png is empty"):
        list(Images(root).samples("all"))
    (root / "top.png").write_bytes(b"x")
    (root / "cat" / "1.png").unlink()
    with pytest.raises(CorpusError, match=r"holds no images in folders of classes .* It holds: top\.png"):
        Images(root)
    with pytest.raises(ConfigError, match=r"splits='two' is not known"):
        open_corpus("images", root, splits="two")
