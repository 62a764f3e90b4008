"""Batches made by columns: the same as those made sample by sample, whatever is in the shards."""

from __future__ import annotations

import io
import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from ecopipe.formats.index import IndexWriter
from ecopipe.formats.measures import measure
from ecopipe.insight.digest import Digest
from ecopipe.pipeline.pipeline import Pipeline
from ecopipe.run.columns import Gathered
from ecopipe.sharding.writer import Record, ShardWriter
from ecopipe.stages.collate import Collate
from ecopipe.stages.columns import Columns
from ecopipe.stages.foreign import Map
from ecopipe.stages.image import DecodeImage
from ecopipe.stages.memory import Memory
from ecopipe.stages.plan import Batch, Shuffle
from ecopipe.stages.source import TarShards
from ecopipe.vocabulary.errors import SampleError, ShardError

PIXELS = np.random.default_rng(0).integers(0, 256, (60, 8, 6, 3), dtype=np.uint8)


def png(image):
    stream = io.BytesIO()
    Image.fromarray(image).save(stream, format="PNG")
    return stream.getvalue()


def npy(image):
    stream = io.BytesIO()
    np.save(stream, image)
    return stream.getvalue()


STORED = {
    "png": ("png", lambda number: png(PIXELS[number])),
    "npy": ("npy", lambda number: npy(PIXELS[number])),
    "planar": ("npy", lambda number: npy(PIXELS[number].transpose(2, 0, 1).copy())),
    "grey": ("npy", lambda number: npy(PIXELS[number, :, :, 0])),
    "column order": ("npy", lambda number: npy(np.asfortranarray(PIXELS[number]))),
    "bitmap": ("png", lambda number: png(PIXELS[number][:, :, 0] > 100)),  # one that no fast decoder takes
}


def write(folder: Path, stored: str, *, count=60, odd=None) -> Path:
    """Shards of 20 images each; those in ``odd`` have other members."""
    folder.mkdir()
    index = IndexWriter(folder / "index.arrow", extras={"name": "string", "weight": "float32"})
    extension, encode = STORED[stored]
    for first in range(0, count, 20):
        writer = ShardWriter(folder / f"images-{first // 20:06d}.tar")
        for number in range(first, min(first + 20, count)):
            members = {extension: encode(number), "cls": b"%d" % (number % 10)}
            members = (odd or {}).get(number, members)
            own = {"name": f"name {number}", "weight": number / 3}
            writer.add(Record(f"image-{number:02d}", members, {**measure(members), **own}))
        shard, _ = writer.finish()
        index.add(shard.name, shard.size, writer.rows)
    index.finish()
    return folder


def as_is(image):
    return image


def pipeline(folder, *, by_columns=True, mode="rgb", keep=("name", "weight", "width"), bad_samples="raise"):
    """Map has no columns, so a pipeline with it makes batches sample by sample."""
    slow = [] if by_columns else [Map(as_is, field="image")]
    return Pipeline(
        TarShards(str(folder)),
        Shuffle(),
        Batch(7),
        DecodeImage(mode=mode),
        *slow,
        Collate("image", target="label", layout="stack", keep=keep),
        bad_samples=bad_samples,
    )


def delivered(pipe, **settings):
    """What two epochs give, as one digest with the dtypes, and the faults."""
    with pipe.loader(**settings) as loader:
        return _two_epochs(loader)


def _two_epochs(loader):
    digest, faults, strides = Digest(), [], set()
    for _ in range(2):
        for batch in loader:
            assert list(batch) == ["keys", "image", "targets", *loader.pipeline.collate.keep]
            digest.add(batch)
            faults.append(batch.place.faults)
            strides.add(batch["image"].is_contiguous())
    assert strides == {True}
    return digest.hexdigest(), faults


def refuse(self, *_):
    raise RuntimeError("sample by sample")


@pytest.mark.parametrize("mode", ["rgb", "grey"])
@pytest.mark.parametrize("stored", STORED)
def test_the_same_as_sample_by_sample(tmp_path, monkeypatch, stored, mode):
    folder = write(tmp_path / "shards", stored)
    slow = delivered(pipeline(folder, by_columns=False, mode=mode))
    fast = pipeline(folder, mode=mode)
    assert delivered(fast, workers=1) == slow
    if stored != "column order":
        monkeypatch.setattr(DecodeImage, "apply", refuse)
    for verify in ("crc", "off"):
        assert delivered(fast, verify=verify) == slow


def test_what_is_stored_as_it_is_to_be_is_copied_once(tmp_path, monkeypatch):
    folder = write(tmp_path / "shards", "planar")
    slow = [delivered(pipeline(folder, by_columns=False), epoch=epoch) for epoch in (0, 2)]
    with pipeline(folder).loader() as loader:
        assert _two_epochs(loader) == slow[0]
        monkeypatch.setattr(DecodeImage, "_by_rows", refuse)
        monkeypatch.setattr(Gathered, "__getitem__", refuse)  # by now nothing but pixels is looked at
        assert _two_epochs(loader) == slow[1]


def test_shards_by_path_in_a_cache_give_the_same(tmp_path):
    folder = write(tmp_path / "shards", "planar")
    expected = delivered(pipeline(folder))
    for workers in (0, 1):
        assert delivered(pipeline(folder), cache=tmp_path / "cache", workers=workers) == expected
    assert any(path.is_file() for path in (tmp_path / "cache").rglob("*"))


def test_the_pixels_are_those_of_the_key(tmp_path):
    batch = next(iter(pipeline(write(tmp_path / "shards", "npy"))))
    for key, image, target in zip(batch["keys"], batch["image"], batch["targets"], strict=True):
        number = int(key.removeprefix("image-"))
        np.testing.assert_array_equal(image, PIXELS[number].transpose(2, 0, 1))
        assert target == number % 10


@pytest.mark.parametrize("policy", ["raise", "skip", "substitute"])
@pytest.mark.parametrize(
    ("odd", "says"),
    [
        ({31: {"npy": npy(PIXELS[31, :4]), "cls": b"1"}}, "its image has shape"),  # of another size
        ({31: {"npy": npy(PIXELS[31].reshape(6, 8, 3)), "cls": b"1"}}, "its image has shape"),  # of the same size
        ({31: {"npy": npy(PIXELS[31]), "cls": b"1", "json": b"{}"}}, None),
        ({31: {"npy": npy(PIXELS[31])}}, "no field 'label'"),
        ({31: {"png": png(PIXELS[31]), "cls": b"1"}}, None),
        ({31: {"npy": npy(np.zeros((8, 6, 2), np.uint8)), "cls": b"1"}}, "2 channels"),
    ],
)
def test_what_differs_from_the_others_is_treated_as_sample_by_sample(tmp_path, odd, says, policy):
    folder = write(tmp_path / "shards", "npy", odd=odd)
    pipes = [pipeline(folder, by_columns=fast, bad_samples=policy, keep=("name",)) for fast in (True, False)]
    if says is None or policy != "raise":
        fast, slow = map(delivered, pipes)
        assert fast == slow
        assert any(fault for faults in fast[1] for fault in faults) == (says is not None)
        return
    messages = []
    for pipe in pipes:
        with pytest.raises(SampleError, match=says) as caught:
            delivered(pipe)
        messages.append(str(caught.value))
    assert messages[0] == messages[1] and "image-" in messages[0]


def damage(shard: Path, needle: bytes, *, later_ns=1):
    """Changes one byte of a member in place."""
    content = shard.read_bytes()
    at = content.index(needle) + len(needle) // 2
    before = shard.stat().st_mtime_ns
    with open(shard, "r+b") as file:
        file.seek(at)
        file.write(bytes([content[at] ^ 1]))
    os.utime(shard, ns=(before + later_ns, before + later_ns))


@pytest.mark.parametrize("stored", ["npy", "png"])
def test_damage_is_found_also_in_a_shard_that_was_checked_before(tmp_path, stored):
    folder = write(tmp_path / "shards", stored)
    shard = folder / "images-000001.tar"
    with pipeline(folder).loader() as loader:
        assert sum(len(batch["keys"]) for batch in loader) == 60
        damage(shard, STORED[stored][1](25))
        with pytest.raises(ShardError, match=r"images-000001.tar: sample 'image-25' member '...' is not what was"):
            list(loader)
    with pipeline(folder).loader(verify="off") as loader:
        if stored == "npy":
            assert sum(len(batch["keys"]) for batch in loader) == 60
    outcomes = [delivered(pipeline(folder, by_columns=fast, bad_samples="substitute")) for fast in (True, False)]
    assert outcomes[0] == outcomes[1]
    assert {fault.key for faults in outcomes[0][1] for fault in faults} == {"image-25"}


def test_a_shard_that_was_replaced_or_cut_is_read_anew(tmp_path):
    folder = write(tmp_path / "shards", "npy")
    shard = folder / "images-000002.tar"
    whole = shard.read_bytes()
    with pipeline(folder).loader() as loader:
        first = [batch["image"].clone() for batch in loader]
        os.truncate(shard, 4096)
        with pytest.raises(ShardError, match=r"images-000002.tar: wanted .* the shard is truncated or was replaced"):
            list(loader)
        copy = tmp_path / "copy"
        copy.write_bytes(whole)
        os.replace(copy, shard)
        loader.set_epoch(1)
        loader.set_epoch(0)
        again = [batch["image"] for batch in loader]
        assert len(again) == len(first) and all(map(torch.equal, again, first))


CUT = """
import os, sys
from ecopipe.run.columns import ColumnReader
from ecopipe.storage.files import RangeReader
from ecopipe.stages.source import TarShards
from ecopipe.plan.blocks import Slice
folder, shard = sys.argv[1:]
rows = TarShards(folder).open().read([Slice(2, 0, 20)]).combine_chunks().to_batches()[0]
columns = ColumnReader(None, verify=True, reader=RangeReader()).read(rows)
print(len(columns.fields["npy"]))
os.truncate(shard, 4096)
try:
    columns.fields["npy"][0:20]
except Exception as error:
    print(type(error).__name__)
"""


def test_a_shard_that_is_cut_after_it_was_mapped_is_an_error_and_not_the_end_of_the_process(tmp_path):
    folder = write(tmp_path / "shards", "npy")
    command = [sys.executable, "-c", CUT, str(folder), str(folder / "images-000002.tar")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "20\nShardError\n"), done.stderr


def test_a_shard_that_is_cut_under_workers_is_named(tmp_path):
    folder = write(tmp_path / "shards", "npy")
    with pipeline(folder).loader(workers=2) as loader:
        assert sum(len(batch["keys"]) for batch in loader) == 60
        os.truncate(folder / "images-000002.tar", 4096)
        with pytest.raises(ShardError, match=r"images-000002.tar: wanted .* the shard is truncated or was replaced"):
            list(loader)


def test_threads_do_not_get_the_same_memory():
    memory, wrong = Memory(), []

    def fill(mine):
        for _ in range(1000):
            arrays = [memory.empty((8,), np.int64) for _ in range(2)]
            for array in arrays:
                array[:] = mine
            time.sleep(0)
            if any((array != mine).any() for array in arrays):
                wrong.append(mine)
            del arrays, array

    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        threads = [threading.Thread(target=fill, args=(number,)) for number in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    finally:
        sys.setswitchinterval(before)
    assert wrong == []


def test_memory_is_used_again_only_when_nothing_looks_at_it():
    memory = Memory()
    first = memory.empty((4, 5), np.int32)
    place = first.ctypes.data
    tensor = torch.from_numpy(first)
    view = tensor[1:, 2].numpy()
    row = first[2]
    view[:] = 7
    del first, tensor
    assert memory.empty((4, 5), np.int32).ctypes.data != place
    del view
    second = memory.empty((4, 5), np.int32)
    assert second.ctypes.data != place and row[2] == 7
    del row
    assert memory.empty((5, 4), np.float32).ctypes.data == place
    assert memory.empty((1,), np.uint8).ctypes.data != place  # not for what is much smaller


def test_batches_that_are_kept_stay_as_they_were(tmp_path):
    folder = write(tmp_path / "shards", "npy")
    kept, copies = [], []
    with pipeline(folder).loader() as loader:
        for _ in range(3):
            for batch in loader:
                kept.append(batch["image"])
                copies.append(batch["image"].clone())
    assert all(map(torch.equal, kept, copies))


def test_columns_are_replaced_and_not_changed():
    columns = Columns(["a", "b"], {"png": [b"", b""], "label": np.array([1, 2])})
    made = columns.replaced("png", image=np.zeros(2))
    assert set(columns.fields) == {"png", "label"}
    assert set(made.fields) == {"image", "label"} and made.memory is columns.memory and len(made) == 2


@pytest.mark.parametrize("name", ["weight", "width"])
def test_a_number_of_the_index_as_input_is_the_same_either_way(tmp_path, name):
    source = TarShards(str(write(tmp_path / "shards", "npy")))
    slow = [DecodeImage(), Map(as_is, field="image")]
    made = [
        next(iter(Pipeline(source, Batch(7), *stages, Collate(name, layout="stack"))))[name]
        for stages in ([DecodeImage()], slow)
    ]
    assert made[0].dtype == made[1].dtype
    assert torch.equal(made[0], made[1])
