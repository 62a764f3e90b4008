"""CIFAR-10: images as upstream has them, and pickles that may not run anything."""

from __future__ import annotations

import builtins
import importlib
import io
import os
import pickle
import pickletools
import shutil
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ecopipe.datasets import synthetic
from ecopipe.datasets.cifar10 import Cifar10
from ecopipe.vocabulary.errors import ConfigError, CorpusError, MissingDependency

REAL = Path(__file__).resolve().parents[3] / "shared" / "data" / "cifar-10-python.tar.gz"
real = pytest.mark.skipif(not REAL.is_file(), reason="the real part of CIFAR-10 is not beside the project")
BATCH = "data_batch_3"


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return synthetic.write_cifar10(tmp_path_factory.mktemp("made"), rows=20)


@pytest.fixture
def copy(made: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(made, tmp_path / made.name))


def plain(path: Path) -> dict[bytes, Any]:
    with open(path, "rb") as file:
        fields: dict[bytes, Any] = pickle.load(file, encoding="bytes")
    return fields


def pixels(member: bytes) -> Any:
    image = pytest.importorskip("PIL.Image")
    return np.asarray(image.open(io.BytesIO(member)))


@real
def test_the_real_one(tmp_path: Path) -> None:
    with tarfile.open(REAL) as tar:
        tar.extractall(tmp_path, filter="data")
    folder = tmp_path / "cifar-10-batches-py"
    corpus = Cifar10(REAL)
    assert corpus.splits() == ("test", "train")
    assert (corpus.count("train"), corpus.count("test")) == (5 * 932, 932)
    assert corpus.classes[0] == "airplane" and corpus.classes[9] == "truck" and len(corpus.classes) == 10
    assert corpus.report() == [
        "test: 932 of the 10,000 images of the full corpus.",
        "train: 4,660 of the 50,000 images of the full corpus.",
    ]
    raw = Cifar10(folder, storage="raw")
    for split, files in (("train", [f"data_batch_{n}" for n in range(1, 6)]), ("test", ["test_batch"])):
        batches = [plain(folder / file) for file in files]
        rows = np.concatenate([batch[b"data"] for batch in batches])
        labels = [label for batch in batches for label in batch[b"labels"]]
        names = [name.decode() for batch in batches for name in batch[b"filenames"]]
        samples = list(raw.samples(split))
        assert [int(sample.members["cls"]) for sample in samples] == labels
        assert [sample.extras["name"] for sample in samples] == names
        images = np.stack([np.load(io.BytesIO(sample.members["npy"])) for sample in samples])
        assert images.dtype == np.uint8 and images.shape == (len(rows), 3, 32, 32)
        assert np.array_equal(images[:, 1].reshape(len(rows), -1), rows[:, 1024:2048])  # the green plane
        assert np.array_equal(images.reshape(len(rows), -1), rows)
        for sample, packed, image in zip(samples, corpus.samples(split), images, strict=True):
            assert packed.key == sample.key
            assert packed.members["cls"] == sample.members["cls"]
            assert np.array_equal(pixels(packed.members["png"]).transpose(2, 0, 1), image)
    assert next(corpus.samples("train")).key == "train-1-00000"
    assert [sample.key for sample in Cifar10(tmp_path).samples("test")][-1] == "test-00931"


def test_png_bytes_are_the_same_every_time(made: Path) -> None:
    assert list(Cifar10(made).samples("test")) == list(Cifar10(made.parent).samples("test"))


def test_storage_is_checked(made: Path) -> None:
    with pytest.raises(ConfigError, match=r"storage='jpg' is no way to store images\. .*Known: png, raw\."):
        Cifar10(made, storage="jpg")  # type: ignore[arg-type]


def test_without_pillow_the_remedy_is_named(made: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def absent(name: str) -> Any:
        raise ImportError(name)

    monkeypatch.setattr(importlib, "import_module", absent)
    with pytest.raises(MissingDependency, match=r'pip install pillow", or choose storage="raw"'):
        next(Cifar10(made).samples("test"))
    assert next(Cifar10(made, storage="raw").samples("test")).members["npy"].startswith(b"\x93NUMPY")


def test_missing_batches_are_read_round_and_reported(copy: Path) -> None:
    (copy / "data_batch_2").unlink()
    (copy / "data_batch_5").unlink()
    (copy / "test_batch").unlink()
    corpus = Cifar10(copy)
    assert corpus.splits() == ("train",)
    assert [sample.key for sample in corpus.samples("train")][::20] == [
        "train-1-00000",
        "train-3-00000",
        "train-4-00000",
    ]
    assert corpus.report() == [
        "test: test_batch missing.",
        "train: data_batch_2, data_batch_5 missing.",
        "train: 60 of the 50,000 images of the full corpus.",
    ]


@pytest.mark.parametrize("protocol", [3, 4, 5])
@pytest.mark.parametrize("text_keys", [False, True])
def test_pickles_of_newer_numpy_and_python_are_read_too(copy: Path, protocol: int, text_keys: bool) -> None:
    wanted = list(Cifar10(copy).samples("train"))
    fields: dict[Any, Any] = {key.decode() if text_keys else key: value for key, value in plain(copy / BATCH).items()}
    (copy / BATCH).write_bytes(pickle.dumps(fields, protocol=protocol))
    assert list(Cifar10(copy).samples("train")) == wanted


class Hostile:
    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> Any:
        return os.mkdir, (str(self.target),)


class HostileCode:
    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> Any:
        return builtins.exec, (f"open({str(self.target)!r}, 'w').close()",)


@pytest.mark.parametrize("protocol", [0, 2, 4, 5])
@pytest.mark.parametrize("hostile", [Hostile, HostileCode])
@pytest.mark.parametrize("file", [BATCH, "batches.meta"])
def test_a_hostile_pickle_is_refused(copy: Path, tmp_path: Path, hostile: Any, file: str, protocol: int) -> None:
    target = tmp_path / "made-by-the-pickle"
    fields: dict[str, Any] = {"data": np.zeros((1, 3072), np.uint8).tolist(), "labels": [0], "x": hostile(target)}
    payload = pickle.dumps(fields, protocol=protocol)
    (copy / file).write_bytes(payload)
    with pytest.raises(
        CorpusError, match=rf"{file} is refused: loading it would call \w+\.(mkdir|exec), .*It may be hostile"
    ):
        Cifar10(copy).count("train")
    assert not target.exists()
    pickle.loads(payload)  # it does what it threatens
    assert target.exists()


def test_an_array_of_objects_is_refused(copy: Path, tmp_path: Path) -> None:
    target = tmp_path / "made-by-the-pickle"
    array = np.empty(1, dtype=object)
    array[0] = Hostile(target)
    for value in (array, np.array([None])):
        (copy / BATCH).write_bytes(pickle.dumps({b"data": value}, protocol=4))
        with pytest.raises(CorpusError, match=rf"{BATCH} is (refused|damaged)"):
            Cifar10(copy).count("train")
    assert not target.exists()


def test_every_global_of_an_upstream_pickle_is_one_that_makes_arrays(made: Path) -> None:
    called = {arg for code, arg, _ in pickletools.genops((made / BATCH).read_bytes()) if code.name == "GLOBAL"}
    assert called == {"numpy.core.multiarray _reconstruct", "numpy ndarray", "numpy dtype"}


def spoil(change: Callable[[dict[bytes, Any]], None]) -> Callable[[Path], None]:
    def run(root: Path) -> None:
        fields = plain(root / BATCH)
        change(fields)
        (root / BATCH).write_bytes(pickle.dumps(fields, protocol=4))

    return run


def set_label(value: Any) -> Callable[[Path], None]:
    return spoil(lambda fields: fields[b"labels"].__setitem__(4, value))


def write(payload: bytes) -> Callable[[Path], None]:
    def run(root: Path) -> None:
        (root / BATCH).write_bytes(payload)

    return run


def truncate(root: Path) -> None:
    (root / BATCH).write_bytes((root / BATCH).read_bytes()[:-5000])


@pytest.mark.parametrize(
    ("damage", "found"),
    [
        (truncate, r"its [\d,]+ bytes are no whole pickle \(.+\)"),
        (write(b""), r"its 0 bytes are no whole pickle"),
        (write(b"<html>"), r"its 6 bytes are no whole pickle"),
        (write(pickle.dumps([1, 2])), "it holds a list, not a dict"),
        (write(pickle.dumps({})), r"its data are missing, not uint8 \[N, 3072\]"),
        (
            spoil(lambda f: f.update({b"data": f[b"data"][:, :-1]})),
            r"its data are uint8 \[20, 3071\], not uint8 \[N, 3072\]",
        ),
        (spoil(lambda f: f.update({b"data": f[b"data"].astype(float)})), r"its data are float64 \[20, 3072\], not"),
        (spoil(lambda f: f[b"labels"].pop()), "its labels are a list of 19, not a list of 20"),
        (spoil(lambda f: f[b"filenames"].append(b"x")), "its filenames are a list of 21, not a list of 20"),
        (spoil(lambda f: f.pop(b"labels")), "its labels are missing, not a list of 20"),
        (set_label(10), "the label of row 4 is 10, not one of 0 to 9"),
        (set_label(-1), "the label of row 4 is -1, not one of 0 to 9"),
        (set_label("cat"), "the label of row 4 is 'cat', not one of 0 to 9"),
        (set_label(True), "the label of row 4 is True, not one of 0 to 9"),
    ],
)
def test_a_damaged_batch_is_refused(copy: Path, damage: Callable[[Path], None], found: str) -> None:
    damage(copy)
    corpus = Cifar10(copy)
    with pytest.raises(CorpusError, match=rf"{BATCH} is damaged: {found}.*\. Fetch cifar-10-python\.tar\.gz again\."):
        corpus.check("train")
    with pytest.raises(CorpusError, match=BATCH):
        list(corpus.samples("train"))
    assert corpus.count("test") == 20


def test_batches_meta_is_needed(copy: Path) -> None:
    (copy / "batches.meta").write_bytes(pickle.dumps({b"label_names": []}))
    with pytest.raises(CorpusError, match=r"batches\.meta is damaged: its label_names are a list of 0"):
        Cifar10(copy)
    (copy / "batches.meta").unlink()
    with pytest.raises(
        CorpusError, match=r"is neither the python version of CIFAR-10 nor .*: batches\.meta is missing\. It holds: "
    ):
        Cifar10(copy)


def test_something_else_is_refused(tmp_path: Path) -> None:
    (tmp_path / "data_batch_1.mat").write_bytes(b"Matlab version")
    with pytest.raises(
        CorpusError, match=r"data_batch_1 and so on is missing\. It holds: data_batch_1\.mat\. Give the"
    ):
        Cifar10(tmp_path)
