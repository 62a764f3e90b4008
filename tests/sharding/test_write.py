from __future__ import annotations

import hashlib
import json
import multiprocessing
import os
import resource
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import ClassVar

import pytest
import webdataset

from ecopipe.datasets.corpus import RawSample, open_corpus
from ecopipe.datasets.shards import find_tars, index_tars, opened, verify_folder
from ecopipe.pipeline.bad_samples import BadSamples
from ecopipe.sharding.limits import Limits
from ecopipe.sharding.local import Note
from ecopipe.sharding.write import Progress, write_corpus
from ecopipe.sharding.writer import Record, ShardWriter
from ecopipe.storage import files
from ecopipe.vocabulary.errors import ConfigError, CorpusError, OutputError, WorkerError

from ..conftest import ROOT, real
from .texts import Texts


def tree(folder: Path) -> dict[str, str]:
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def test_the_same_input_gives_the_same_bytes(tmp_path: Path) -> None:
    for name in ("a", "b"):
        write_corpus(Texts(20), tmp_path / name, limits=Limits(max_count=6))
    assert tree(tmp_path / "a") == tree(tmp_path / "b")
    assert sorted(tree(tmp_path / "a")) == sorted(
        ["dataset.json"]
        + [
            f"{split}/{name}"
            for split in ("test", "train")
            for name in ["index.arrow", *(f"{split}-{n:06d}.tar" for n in range(4))]
        ]
    )


def test_shards_are_cut_by_count_and_by_size(tmp_path: Path) -> None:
    written = write_corpus(Texts(20), tmp_path / "a", limits=Limits(max_count=6))
    assert (written["train"].samples, written["train"].shards) == (20, 4)
    written = write_corpus(Texts(20), tmp_path / "b", limits=Limits(10_000))
    sizes = [path.stat().st_size for path in (tmp_path / "b" / "train").glob("*.tar")]
    assert written["train"].shards == len(sizes) > 2
    assert sum(sizes) == written["train"].bytes
    assert all(size <= 20_480 for size in sizes)  # 10,000 bytes and the end mark are padded to 20,480


def test_dataset_json_tells_what_is_there_and_keeps_earlier_splits(tmp_path: Path) -> None:
    write_corpus(Texts(3), tmp_path, splits=["test"])
    write_corpus(Texts(4), tmp_path, splits=["train"], source="texts.tar.gz")
    found = json.loads((tmp_path / "dataset.json").read_text())
    assert (found["name"], found["classes"], found["source"]) == ("texts", ["no", "yes"], "texts.tar.gz")
    assert {split: about["samples"] for split, about in found["splits"].items()} == {"test": 3, "train": 4}
    assert found["splits"]["train"]["labels"] == {"0": 2, "1": 2}
    assert found["splits"]["train"]["totals"]["tokens"] == 10


def test_a_damaged_sample_is_named_and_its_split_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(CorpusError, match=r"sample 'train-002': flac: .*Fetch its file again"):
        write_corpus(Texts(4, bad=(2,)), tmp_path)
    assert sorted(os.listdir(tmp_path)) == ["dataset.json", "test"]
    assert verify_folder(str(tmp_path / "test")).problems == []


def test_nothing_is_overwritten_unasked(tmp_path: Path) -> None:
    write_corpus(Texts(3), tmp_path, splits=["train"])
    before = tree(tmp_path)
    with pytest.raises(
        OutputError, match=r"exists \(other settings: none; the corpus has changed\)\. Replace it with --overwr"
    ):
        write_corpus(Texts(4), tmp_path)
    assert tree(tmp_path) == before
    write_corpus(Texts(4), tmp_path, overwrite=True)
    assert verify_folder(str(tmp_path / "train")).samples == 4


def test_what_ecopipe_did_not_make_is_never_replaced(tmp_path: Path) -> None:
    write_corpus(Texts(3), tmp_path, splits=["train"])
    (tmp_path / "train" / "thesis.txt").write_text("years of work")
    with pytest.raises(OutputError, match=r"train: holds 'thesis\.txt', which ecopipe did not make"):
        write_corpus(Texts(3), tmp_path, overwrite=True)
    assert (tmp_path / "train" / "thesis.txt").read_text() == "years of work"


def test_a_tar_that_no_index_accounts_for_is_never_replaced(tmp_path: Path) -> None:
    write_corpus(Texts(3), tmp_path, splits=["train"])
    (tmp_path / "train" / "my-precious.tar").write_bytes(b"x")
    (tmp_path / "test").mkdir()
    (tmp_path / "test" / "unindexed.tar").write_bytes(b"x")
    for split in ("train", "test"):
        with pytest.raises(OutputError, match=r"which ecopipe did not make, and is not replaced"):
            write_corpus(Texts(3), tmp_path, splits=[split], overwrite=True)


def test_a_tar_is_not_ecopipes_because_it_was_indexed(tmp_path: Path) -> None:
    folder = tmp_path / "train"
    write_corpus(Texts(3), tmp_path, splits=["train"])
    write_corpus(Texts(3), tmp_path / "other", splits=["train"])
    shutil.copy(tmp_path / "other" / "train" / "train-000000.tar", folder / "my-precious.tar")
    index_tars(find_tars(str(folder)))
    with pytest.raises(OutputError, match=r"holds 'my-precious\.tar', which ecopipe did not make"):
        write_corpus(Texts(3), tmp_path, splits=["train"], overwrite=True)
    foreign = tmp_path / "foreign" / "train"
    foreign.mkdir(parents=True)
    shutil.copy(folder / "my-precious.tar", foreign / "train-000000.tar")
    index_tars(find_tars(str(foreign)))
    with pytest.raises(OutputError, match=r"holds 'train-000000\.tar', which ecopipe did not make"):
        write_corpus(Texts(3), tmp_path / "foreign", splits=["train"], overwrite=True)


def test_what_appears_while_shards_are_written_is_not_replaced(tmp_path: Path) -> None:
    write_corpus(Texts(3), tmp_path, splits=["train"])

    class Slow(Texts):
        def sample(self, split: str, place: int) -> RawSample:
            (tmp_path / "train" / "thesis.txt").write_text("years of work")
            return super().sample(split, place)

    with pytest.raises(OutputError, match=r"train: holds 'thesis\.txt', which ecopipe did not make"):
        write_corpus(Slow(4), tmp_path, splits=["train"], overwrite=True)
    assert (tmp_path / "train" / "thesis.txt").read_text() == "years of work"
    (tmp_path / "train" / "thesis.txt").rename(tmp_path / "thesis.txt")
    write_corpus(Texts(4), tmp_path, splits=["train"], overwrite=True)  # of what is finished nothing was lost
    assert not list(tmp_path.glob(".ecopipe-*"))


def test_two_corpora_do_not_share_a_place(tmp_path: Path, corpora: Path) -> None:
    write_corpus(Texts(3), tmp_path / "o", splits=["train"])
    with open_corpus("imdb", corpora / "imdb") as corpus, pytest.raises(OutputError, match="holds the shards of texts"):
        write_corpus(corpus, tmp_path / "o")
    (tmp_path / "o" / "dataset.json").write_text("{")
    with pytest.raises(OutputError, match=r"dataset\.json: is no readable JSON"):
        write_corpus(Texts(3), tmp_path / "o", splits=["test"])
    assert not (tmp_path / "o" / "test").exists()


@pytest.mark.parametrize("key", ["a.b", "train-000"])
def test_keys_that_would_not_come_back_are_refused(tmp_path: Path, key: str) -> None:
    writer = ShardWriter(tmp_path / "x.tar")
    writer.add(Record("train-000", {"txt": b""}, {}))
    with pytest.raises(CorpusError, match="the key holds a dot, or another sample has it. Rename the sample"):
        writer.add(Record(key, {"txt": b""}, {}))
    writer.finish()


def test_unknown_splits_and_limits_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="texts has no split 'trian' here. Did you mean 'train'?"):
        write_corpus(Texts(3), tmp_path, splits=["trian"])
    with pytest.raises(ConfigError, match="max_bytes must be at least 1, got max_bytes=0"):
        write_corpus(Texts(3), tmp_path, limits=Limits(0))
    assert os.listdir(tmp_path) == []


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # webdataset leaves files open
def test_webdataset_opens_the_shards_of_every_corpus(shards: Path) -> None:
    for split, count in (("librispeech/train-clean-100", 24), ("imdb/train", 60), ("cifar10/train", 60)):
        tars = sorted(map(str, (shards / split).glob("*.tar")))
        assert len(tars) > 1
        dataset = webdataset.WebDataset(tars, shardshuffle=False)
        if split.startswith(("imdb", "cifar10")):
            dataset = dataset.decode("pil")
        found = list(dataset)
        assert len(found) == count
        if split == "imdb/train":
            assert {sample["cls"] for sample in found} == {0, 1}
            assert all(isinstance(sample["txt"], str) for sample in found)
        if split == "cifar10/train":
            assert all(sample["png"].size == (32, 32) for sample in found)


@pytest.mark.parametrize(
    ("name", "source", "counts"),
    [
        ("librispeech", "LibriSpeech", {"test-clean": 132}),
        ("imdb", "aclImdb_v1.tar.gz", {"train": 5000, "test": 5000}),
        ("cifar10", "cifar-10-python.tar.gz", {"train": 4660, "test": 932}),
    ],
)
def test_real_corpora_are_sharded_whole(name: str, source: str, counts: dict[str, int], tmp_path: Path) -> None:
    with open_corpus(name, real(source)) as corpus:
        written = write_corpus(corpus, tmp_path / name)
    assert {split: summary.samples for split, summary in written.items()} == counts
    for split in counts:
        found = verify_folder(str(tmp_path / name / split))
        assert (found.samples, found.problems) == (counts[split], [])
    if name == "imdb":
        assert all(summary.labels == {"0": 2500, "1": 2500} for summary in written.values())


def test_any_number_of_workers_writes_the_same_bytes(tmp_path: Path, corpora: Path) -> None:
    for name in ("librispeech", "imdb", "cifar10"):
        for workers in (0, 1, 3):
            with open_corpus(name, corpora / name) as corpus:
                write_corpus(corpus, tmp_path / name / str(workers), limits=Limits(max_count=7), workers=workers)
        found = tree(tmp_path / name / "0")
        assert len([path for path in found if path.endswith(".tar")]) > 3
        assert tree(tmp_path / name / "1") == tree(tmp_path / name / "3") == found


@pytest.mark.parametrize("packed", ["tar", "gztar", "zip"])
def test_an_archive_is_sharded_as_its_folder_is(packed: str, tmp_path: Path, corpora: Path) -> None:
    archive = shutil.make_archive(str(tmp_path / "packed"), packed, corpora / "librispeech")
    for place, source in (("folder", corpora / "librispeech"), ("archive", Path(archive))):
        with open_corpus("librispeech", source) as corpus:
            write_corpus(corpus, tmp_path / place, limits=Limits(max_count=5), workers=2)
    assert tree(tmp_path / "folder") == tree(tmp_path / "archive")


def keys(folder: Path) -> list[str]:
    with opened(str(folder / "index.arrow")) as index:
        return [
            key
            for number, shard in enumerate(index.shards)
            for key in index.read(number, 0, shard.rows)["key"].to_pylist()
        ]


def test_shuffled_when_written_each_sample_once_and_as_the_seed_says(tmp_path: Path) -> None:
    for name, seed, workers in (("a", 1, 0), ("b", 1, 2), ("c", 2, 0)):
        write_corpus(Texts(50), tmp_path / name, limits=Limits(max_count=9), shuffle=True, seed=seed, workers=workers)
    plain = sorted(keys(tmp_path / "a" / "train"))
    assert plain == [f"train-{place:03d}" for place in range(50)] != keys(tmp_path / "a" / "train")
    assert tree(tmp_path / "a") == tree(tmp_path / "b")
    assert sorted(keys(tmp_path / "c" / "train")) == plain
    assert keys(tmp_path / "c" / "train") != keys(tmp_path / "a" / "train")
    assert keys(tmp_path / "a" / "train") != [key.replace("test", "train") for key in keys(tmp_path / "a" / "test")]


def test_a_corpus_that_is_read_in_order_is_written_in_the_order_asked(tmp_path: Path) -> None:
    class Ordered(Texts):
        in_order = True
        read: ClassVar[list[int]] = []

        def sample(self, split: str, place: int) -> RawSample:
            self.read.append(place)
            return super().sample(split, place)

    for kind in (Texts, Ordered):
        write_corpus(kind(30), tmp_path / kind.__name__, splits=["train"], limits=Limits(max_count=10), shuffle=True)
    assert tree(tmp_path / "Texts") == tree(tmp_path / "Ordered")
    tasks = [Ordered.read[30 + start : 40 + start] for start in (0, 10, 20)]  # after the 30 that were tried
    assert all(task == sorted(task) for task in tasks)


def test_shards_come_out_nearly_equal(tmp_path: Path) -> None:
    write_corpus(Texts(400), tmp_path, splits=["train"], limits=Limits(60_000))
    sizes = [path.stat().st_size for path in sorted((tmp_path / "train").glob("*.tar"))]
    assert len(sizes) > 8
    assert max(sizes) - min(sizes) <= 10_240  # a record of a tar
    write_corpus(Texts(400), tmp_path / "b", splits=["train"], limits=Limits(shards=7))
    assert len(list((tmp_path / "b" / "train").glob("*.tar"))) == 7


def test_shards_are_cut_by_seconds(tmp_path: Path, corpora: Path) -> None:
    with open_corpus("librispeech", corpora / "librispeech") as corpus:
        written = write_corpus(corpus, tmp_path, limits=Limits(max_duration_s=15))
    total = written["train-clean-100"].totals["duration_s"]
    with opened(str(tmp_path / "train-clean-100" / "index.arrow")) as index:
        seconds = [
            sum(index.read(number, 0, shard.rows)["duration_s"].to_pylist())
            for number, shard in enumerate(index.shards)
        ]
    assert sum(seconds) == pytest.approx(total)
    assert len(seconds) >= total / 15
    assert max(seconds) < 15 + 6  # seconds are told of bytes, so one sample may be too many


def test_the_same_call_finds_what_it_finished(tmp_path: Path) -> None:
    write_corpus(Texts(20), tmp_path, limits=Limits(max_count=6))
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
    told = []
    again = write_corpus(
        Texts(20), tmp_path, limits=Limits(max_count=6), progress=lambda *begun: told.append(begun) or (lambda *_: None)
    )
    assert again["train"].samples == 20 and not told
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")} == before
    (tmp_path / "train" / "train-000001.tar").unlink()
    with pytest.raises(OutputError, match="already exists"):
        write_corpus(Texts(20), tmp_path, limits=Limits(max_count=6))


def test_bad_samples_are_left_out_and_listed(tmp_path: Path) -> None:
    for workers in (0, 2):
        written = write_corpus(
            Texts(40, bad=(3, 4, 21)), tmp_path / str(workers), limits=Limits(max_count=7), workers=workers,
            bad_samples=BadSamples("skip"),
        )  # fmt: skip
        assert (written["train"].samples, written["train"].bad, written["test"].bad) == (37, 3, 0)
    assert tree(tmp_path / "0") == tree(tmp_path / "2")
    listed = [json.loads(line) for line in (tmp_path / "0" / "train" / "quarantine.jsonl").read_text().splitlines()]
    assert [bad["key"] for bad in listed] == ["train-003", "train-004", "train-021"]
    assert "Fetch its file again, or leave it out" in listed[0]["error"]
    assert not set(keys(tmp_path / "0" / "train")) & {bad["key"] for bad in listed}
    assert not (tmp_path / "0" / "test" / "quarantine.jsonl").exists()
    assert verify_folder(str(tmp_path / "0" / "train")).problems == []
    write_corpus(Texts(4), tmp_path / "0", splits=["train"], overwrite=True)


def test_too_many_bad_samples_end_the_run(tmp_path: Path) -> None:
    with pytest.raises(CorpusError, match=r"11 of 60 samples are bad, over max_share 0.01. The last: sample 'train-"):
        write_corpus(
            Texts(60, bad=tuple(range(0, 22, 2))), tmp_path, splits=["train"], bad_samples=BadSamples("skip"),
            limits=Limits(max_count=60),
        )  # fmt: skip
    with pytest.raises(CorpusError, match="6 bad samples in a row, over max_consecutive 5"):
        write_corpus(
            Texts(60, bad=tuple(range(20, 30))), tmp_path / "b", splits=["train"],
            bad_samples=BadSamples("skip", max_consecutive=5),
        )  # fmt: skip
    with pytest.raises(ConfigError, match="cannot be substituted when sharding"):
        write_corpus(Texts(3), tmp_path, bad_samples=BadSamples("substitute"))


def test_what_was_finished_before_an_error_is_kept_and_the_same_bytes_come_of_it(tmp_path: Path) -> None:
    limits = Limits(max_count=5)
    with pytest.raises(CorpusError):
        write_corpus(Texts(40, bad=(33,)), tmp_path / "a", splits=["train"], limits=limits)
    assert not (tmp_path / "a" / "train").exists()
    staged = tmp_path / "a" / ".ecopipe-unfinished-train" / "shards"
    kept = {path.name: path.stat().st_ino for path in staged.iterdir()}
    assert sorted(kept) == [f"train-{number:06d}.tar" for number in range(6)]
    told = []
    write_corpus(
        Texts(40), tmp_path / "a", splits=["train"], limits=limits,
        progress=lambda *begun: told.append(begun) or (lambda *_: None),
    )  # fmt: skip
    assert told == [("train", 40, 30)]
    assert all((tmp_path / "a" / "train" / name).stat().st_ino == number for name, number in kept.items())
    write_corpus(Texts(40), tmp_path / "b", splits=["train"], limits=limits)
    assert tree(tmp_path / "a") == tree(tmp_path / "b")
    assert sorted(path.name for path in (tmp_path / "a").iterdir()) == ["dataset.json", "train"]


def test_an_unfinished_run_is_gone_on_with_by_its_own_call_only(tmp_path: Path) -> None:
    with pytest.raises(CorpusError):
        write_corpus(Texts(40, bad=(33,)), tmp_path, splits=["train"], limits=Limits(max_count=5))
    with pytest.raises(OutputError, match=r"an unfinished run wrote here with other settings.*--overwrite"):
        write_corpus(Texts(40), tmp_path, splits=["train"], limits=Limits(max_count=6))
    write_corpus(Texts(40), tmp_path, splits=["train"], limits=Limits(max_count=6), overwrite=True)
    assert verify_folder(str(tmp_path / "train")).problems == []
    assert sorted(path.name for path in tmp_path.iterdir()) == ["dataset.json", "train"]


def test_an_unfinished_shard_that_was_damaged_is_written_anew(tmp_path: Path) -> None:
    with pytest.raises(CorpusError):
        write_corpus(Texts(40, bad=(33,)), tmp_path / "a", splits=["train"], limits=Limits(max_count=5))
    staged = tmp_path / "a" / ".ecopipe-unfinished-train"
    os.truncate(staged / "shards" / "train-000002.tar", 512)
    (staged / "shards" / "train-000004.tar").unlink()
    (staged / "task-000007-left").mkdir()
    write_corpus(Texts(40), tmp_path / "a", splits=["train"], limits=Limits(max_count=5))
    write_corpus(Texts(40), tmp_path / "b", splits=["train"], limits=Limits(max_count=5))
    assert tree(tmp_path / "a") == tree(tmp_path / "b")


def test_a_source_that_vanishes_is_no_bad_sample(tmp_path: Path, corpora: Path) -> None:
    source = tmp_path / "source"
    shutil.copytree(corpora / "librispeech", source)

    def vanish(*_: object) -> Note:
        def note(samples: int, size: int, bad: int) -> None:
            if source.exists():
                source.rename(tmp_path / "elsewhere")

        return note

    def write(progress: Progress | None = None) -> None:
        with open_corpus("librispeech", source) as corpus:
            write_corpus(
                corpus, tmp_path / "out", limits=Limits(max_count=5), bad_samples=BadSamples("skip"), progress=progress
            )

    with pytest.raises(OutputError, match=r"source: the source is gone; it was there when the run began. Put it back"):
        write(vanish)
    (tmp_path / "elsewhere").rename(source)
    write()
    assert verify_folder(str(tmp_path / "out" / "train-clean-100")).samples == 24


def test_provenance_and_checksums_are_written_down(tmp_path: Path) -> None:
    write_corpus(
        Texts(20),
        tmp_path,
        limits=Limits(max_count=6),
        source="texts.tar.gz",
        options={"only": ["x"]},
        shuffle=True,
        seed=3,
        sha256=True,
    )
    told = json.loads((tmp_path / "dataset.json").read_text())["splits"]["train"]["provenance"]
    assert {name: told[name] for name in ("source", "options", "limits", "shuffle", "bad_samples", "recipe")} == {
        "source": "texts.tar.gz", "options": {"only": ["x"]}, "limits": {"max_bytes": 2**28, "max_count": 6},
        "shuffle": 3, "bad_samples": "raise", "recipe": None,
    }  # fmt: skip
    with opened(str(tmp_path / "train" / "index.arrow")) as index:
        assert told["digests"] == {shard.name: shard.digest for shard in index.shards}
    assert told["sha256"] == {
        path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in (tmp_path / "train").glob("*.tar")
    }


SLOW = """
import sys
from ecopipe.sharding.limits import Limits
from ecopipe.sharding.write import write_corpus
from tests.sharding.texts import Texts

write_corpus(Texts(60, wait_s=0.02), sys.argv[1], splits=["train"], limits=Limits(max_count=5), workers=2)
"""


def start(script: str, *arguments: object) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-c", script, *map(str, arguments)]
    return subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE, start_new_session=True)


def wait_for(found: Callable[[], bool], seconds: float = 60.0) -> None:
    end = time.monotonic() + seconds
    while not found():
        assert time.monotonic() < end, "it did not come"
        time.sleep(0.01)


def test_killed_at_any_time_the_same_call_goes_on_to_the_same_bytes(tmp_path: Path) -> None:
    staged = tmp_path / "a" / ".ecopipe-unfinished-train"
    for wanted in (2, 6):
        process = start(SLOW, tmp_path / "a")
        wait_for(lambda wanted=wanted: len(list(staged.glob("tasks/*.json"))) >= wanted)
        os.kill(process.pid, signal.SIGKILL)
        process.wait(30)
        assert process.stderr is not None
        process.stderr.close()
        assert not (tmp_path / "a" / "train").exists()
    done = len(list(staged.glob("tasks/*.json")))
    assert done >= 6
    told = []
    write_corpus(
        Texts(60, wait_s=0.02), tmp_path / "a", splits=["train"], limits=Limits(max_count=5),
        progress=lambda *begun: told.append(begun) or (lambda *_: None),
    )  # fmt: skip
    assert told[0][2] >= 30
    write_corpus(Texts(60), tmp_path / "b", splits=["train"], limits=Limits(max_count=5))
    assert tree(tmp_path / "a") == tree(tmp_path / "b")


def test_the_workers_of_a_killed_run_end(tmp_path: Path) -> None:
    process = start(SLOW, tmp_path / "a")
    wait_for(lambda: any(tmp_path.glob("a/.ecopipe-unfinished-train/tasks/*.json")))
    children = [int(pid) for pid in Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()]
    assert len(children) >= 2
    os.kill(process.pid, signal.SIGKILL)
    process.wait(30)
    assert process.stderr is not None
    process.stderr.close()
    wait_for(lambda: not any(Path(f"/proc/{pid}").exists() for pid in children))


def test_two_runs_do_not_write_one_split(tmp_path: Path) -> None:
    process = start(SLOW, tmp_path / "a")
    wait_for(lambda: any(tmp_path.glob("a/.ecopipe-unfinished-train/tasks/*.json")))
    with pytest.raises(OutputError, match="another run is writing it"):
        write_corpus(Texts(60), tmp_path / "a", splits=["train"], limits=Limits(max_count=5))
    assert process.wait(60) == 0
    assert process.stderr is not None
    process.stderr.close()
    assert verify_folder(str(tmp_path / "a" / "train")).samples == 60


def test_a_worker_that_dies_is_told(tmp_path: Path) -> None:
    class Deadly(Texts):
        def sample(self, split: str, place: int) -> RawSample:
            if place == 25 and multiprocessing.parent_process():
                os.kill(os.getpid(), signal.SIGKILL)
            return super().sample(split, place)

    with pytest.raises(WorkerError, match="a worker process died .*run the same command again"):
        write_corpus(Deadly(40, wait_s=0.01), tmp_path, splits=["train"], limits=Limits(max_count=5), workers=2)
    write_corpus(Texts(40), tmp_path, splits=["train"], limits=Limits(max_count=5))
    assert verify_folder(str(tmp_path / "train")).samples == 40


def test_a_full_disk_is_one_error_and_the_run_goes_on_later(tmp_path: Path) -> None:
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (30_000, before[1]))  # a file that cannot grow, as on a full disk
    try:
        with pytest.raises(OutputError, match=r"train: .*(too large|no space)"):
            write_corpus(Texts(60), tmp_path / "a", splits=["train"], limits=Limits(40_000))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)
    write_corpus(Texts(60), tmp_path / "a", splits=["train"], limits=Limits(40_000))
    write_corpus(Texts(60), tmp_path / "b", splits=["train"], limits=Limits(40_000))
    assert tree(tmp_path / "a") == tree(tmp_path / "b")


def test_to_an_object_store_and_from_there(tmp_path: Path) -> None:
    url = f"memory://{tmp_path.name}-{os.getpid()}"
    with pytest.raises(CorpusError):
        write_corpus(Texts(40, bad=(33,)), url, splits=["train"], limits=Limits(max_count=5))
    assert not files.exists(f"{url}/train/index.arrow")
    told = []
    write_corpus(
        Texts(40), url, splits=["train"], limits=Limits(max_count=5),
        progress=lambda *begun: told.append(begun) or (lambda *_: None),
    )  # fmt: skip
    assert told == [("train", 40, 30)]
    write_corpus(Texts(40), tmp_path, splits=["train"], limits=Limits(max_count=5))
    for name in ("dataset.json", "train/index.arrow", *(f"train/train-{number:06d}.tar" for number in range(8))):
        with files.open_binary(f"{url}/{name}") as file:
            assert file.read() == (tmp_path / name).read_bytes()
    found = {files.base_name(path) for path in files.find(f"{url}/train/**") if not files.is_folder(path)}
    assert found == set(os.listdir(tmp_path / "train"))
    with pytest.raises(OutputError, match="What lies in an object store is not replaced"):
        write_corpus(Texts(41), url, splits=["train"])
