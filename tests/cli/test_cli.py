"""The commands as a user runs them: real processes, real data where it is, and every misuse that the issue names."""

from __future__ import annotations

import contextlib
import gc
import io
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import webdataset
from pyarrow import feather

import ecopipe
from ecopipe.cli.main import main

from ..conftest import ROOT, SPLITS, real

ECOPIPE = [sys.executable, "-W", "error", "-m", "ecopipe"]


def run(*arguments: str | Path, code: int = 0, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(
        [*ECOPIPE, *map(str, arguments)], capture_output=True, text=True, check=False, cwd=cwd, timeout=120
    )
    assert done.returncode == code, done.stdout + done.stderr
    return done


def call(*arguments: str | Path, code: int = 0) -> tuple[str, str]:
    """The same in this process, which has torch already; gives what was printed and what was complained of."""
    out, err = io.StringIO(), io.StringIO()
    argv, sys.argv = sys.argv, ["ecopipe", *map(str, arguments)]
    try:
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err), pytest.raises(SystemExit) as left:
            main()
    finally:
        sys.argv = argv
    assert (left.value.code or 0) == code, out.getvalue() + err.getvalue()
    return out.getvalue(), err.getvalue()


def fails(*arguments: str | Path, message: str) -> None:
    """Exit code 2, one message and no traceback."""
    _, error = call(*arguments, code=2)
    assert error.startswith("ecopipe: ")
    assert "Traceback" not in error
    assert len(error.strip().splitlines()) == 1
    assert re.search(message, error), error


def stream(name: str, path: str | Path, *arguments: str | Path) -> dict[str, Any]:
    out, _ = call("stream", ROOT / "pipelines" / f"{name}.toml", "--set", f"source.path={path}", "--json", *arguments)
    found: dict[str, Any] = json.loads(out.splitlines()[-1])
    return found


@pytest.fixture(scope="module")
def sharded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The real corpora, sharded by the command line as the README says."""
    out = tmp_path_factory.mktemp("real")
    for name, source in (
        ("librispeech", "LibriSpeech"),
        ("imdb", "aclImdb_v1.tar.gz"),
        ("cifar10", "cifar-10-python.tar.gz"),
    ):
        run("shard", name, real(source), out / name)
    return out


REAL = {"librispeech": ("test-clean", 132), "imdb": ("train", 5000), "cifar10": ("train", 4660)}


@pytest.mark.parametrize("name", REAL)
def test_real_corpora_stream_whole_and_alike_for_any_workers_and_ranks(
    name: str, sharded: Path, tmp_path: Path
) -> None:
    split, count = REAL[name]
    path = sharded / name / split
    runs = [stream(name, path, "--workers", str(workers), "--ledger", tmp_path / f"{workers}") for workers in (0, 1, 2)]
    assert [found["samples"] for found in runs] == [count] * 3
    assert len({found["digest"] for found in runs}) == 1
    assert all(found["padding_fraction"] <= 0.05 for found in runs)
    assert runs[0]["digest"] == stream(name, path)["digest"]
    first, other = (stream(name, path, "--seed", seed, "--limit-batches", "2")["digest"] for seed in "01")
    assert first != other
    if name == "librispeech":
        assert runs[0]["padding_fraction"] <= 0.03
        assert runs[0]["audio_s"] == pytest.approx(968.5, abs=0.1)
    ranks = []
    for rank in range(2):
        stream(name, path, "--rank", str(rank), "--world-size", "2", "--ledger", tmp_path / f"r{rank}")
        ranks += delivered(tmp_path / f"r{rank}")
    places = sorted((row for row in ranks if not row["repeat"]), key=lambda row: (row["batch"], row["position"]))
    alone = delivered(tmp_path / "0")
    changing = ("rank", "step", "time_ns")
    assert [less(row, changing) for row in places] == [less(row, changing) for row in alone]
    assert {row["rank"] for row in places} == {0, 1}
    assert len({row["key"] for row in alone}) == count


def delivered(ledger: Path) -> list[dict[str, Any]]:
    """The samples of a ledger."""
    return [row for row in ecopipe.read_ledger(ledger).to_pylist() if row["event"] == 0]


def less(row: dict[str, Any], names: tuple[str, ...]) -> dict[str, Any]:
    return {name: value for name, value in row.items() if name not in names}


def test_stream_json_has_the_promised_keys(shards: Path) -> None:
    promised = {
        "samples", "batches", "wall_s", "first_batch_s", "samples_per_s", "padding_fraction", "digest",
    }  # fmt: skip
    for name, split in SPLITS.items():
        found = stream(name, shards / name / split, "--limit-batches", "2")
        assert promised | {"librispeech": {"audio_s_per_s"}, "imdb": {"tokens_per_s"}, "cifar10": set()}[name] <= set(
            found
        )
        assert found["batches"] <= 2


def test_epochs_and_a_table_for_people(shards: Path) -> None:
    path = shards / "imdb" / "train"
    two = stream("imdb", path, "--epochs", "2")
    assert two["samples"] == 120
    one, other = (stream("imdb", path, "--epoch", epoch)["digest"] for epoch in "01")
    assert len({two["digest"], one, other}) == 3
    shown, _ = call("stream", ROOT / "pipelines" / "imdb.toml", "--set", f"source.path={path}")
    for word in ("samples", "tokens/s", "padding", "time to the first batch"):
        assert word in shown


def test_archive_and_folder_give_the_same_bytes(tmp_path: Path) -> None:
    archive = real("aclImdb_v1.tar.gz")
    shutil.unpack_archive(archive, tmp_path / "raw", filter="data")
    call("shard", "imdb", archive, tmp_path / "a")
    call("shard", "imdb", tmp_path / "raw" / "aclImdb", tmp_path / "b")
    for split in ("train", "test"):
        for file in sorted(os.listdir(tmp_path / "a" / split)):
            assert (tmp_path / "a" / split / file).read_bytes() == (tmp_path / "b" / split / file).read_bytes()


def test_foreign_tars_become_first_class(tmp_path: Path) -> None:
    with webdataset.ShardWriter(str(tmp_path / "x-%02d.tar"), maxcount=5, verbose=0) as sink:
        for number in range(12):
            sink.write({"__key__": f"{number:03d}", "txt": "so it goes " * (number + 1), "cls": number % 2})
    tars = sorted(tmp_path.glob("*.tar"))
    assert "12 samples in 3 shards" in call("index", *tars)[0]
    assert "all right" in call("verify", tmp_path)[0]
    assert stream("imdb", tmp_path)["samples"] == 12
    assert stream("imdb", tmp_path / "x-0[01].tar")["samples"] == 10


def test_verify_exits_with_1_and_a_list(shards: Path, tmp_path: Path) -> None:
    shutil.copytree(shards / "imdb", tmp_path / "imdb")
    assert call("verify", tmp_path / "imdb")[0].count("all right") == 2
    tar = next((tmp_path / "imdb" / "train").glob("*.tar"))
    data = bytearray(tar.read_bytes())
    data[data.index(b"ustar") + 255] ^= 0xFF  # the payload begins 255 bytes after the magic of its header
    tar.write_bytes(data)
    out, _ = call("verify", tmp_path / "imdb", code=1)
    assert "1 problem\n" in out
    assert re.search(r"sample '[^']+' member '\w+' has CRC-32 [0-9a-f]{8}, the index says [0-9a-f]{8}", out)


def test_an_error_in_a_process_of_its_own(tmp_path: Path) -> None:
    done = run("stream", tmp_path / "x.toml", code=2)
    assert done.stdout == ""
    assert re.fullmatch(r"ecopipe: .*x\.toml: there is no such file\..*\n", done.stderr)


def test_help_is_fast_and_version_is_told() -> None:
    began = time.perf_counter()
    assert "stream" in run("--help").stdout
    assert time.perf_counter() - began < 10  # it imports no torch; a bound against hanging only
    assert re.fullmatch(r"ecopipe \d+\.\d+\.\d+\n", run("--version").stdout)
    for command in ("shard", "index", "verify", "stream", "demo"):
        assert "Usage" in call(command, "--help")[0]


def test_misuse_of_shard(tmp_path: Path, corpora: Path) -> None:
    fails("shard", "imbd", tmp_path, tmp_path / "o", message="'imbd'. Did you mean 'imdb'?")
    fails("shard", "imdb", tmp_path / "nowhere", tmp_path / "o", message=r"nowhere")
    (tmp_path / "empty").mkdir()
    for name in SPLITS:
        fails("shard", name, tmp_path / "empty", tmp_path / "o", message=r"empty")
    fails(
        "shard",
        "imdb",
        corpora / "imdb",
        tmp_path / "o",
        "--max-bytes",
        "lots",
        message="--max-bytes: 'lots' is no size in bytes",
    )
    fails("shard", "imdb", corpora / "imdb", tmp_path / "o", "--split", "trian", message="Did you mean 'train'?")
    fails("shard", "imdb", corpora / "imdb", tmp_path / "o", "--storage", "raw", message="--storage is for cifar10")
    assert not (tmp_path / "o").exists()
    (tmp_path / "file").write_text("")
    fails("shard", "imdb", corpora / "imdb", tmp_path / "file", message="file")
    call("shard", "imdb", corpora / "imdb", tmp_path / "o")
    again = ("shard", "imdb", corpora / "imdb", tmp_path / "o")
    assert "Nothing was to do" in call(*again)[0]
    fails(
        *again,
        "--max-count",
        "7",
        message=r"exists \(other settings: limits.max_count was None and is 7\)\. Replace it with",
    )
    call(*again, "--max-count", "7", "--overwrite")


def test_damaged_corpora_are_refused_with_the_file_named(tmp_path: Path, corpora: Path) -> None:
    raw = tmp_path / "raw"
    shutil.copytree(corpora / "librispeech", raw)
    flac = sorted(raw.rglob("*.flac"))[3]
    whole = flac.read_bytes()
    flac.write_bytes(whole[:20])
    fails("shard", "librispeech", raw, tmp_path / "o", message=flac.stem)
    flac.unlink()
    fails("shard", "librispeech", raw, tmp_path / "o", message=flac.stem)
    assert not (tmp_path / "o" / "train-clean-100").exists()
    assert (
        not [name for name in os.listdir(tmp_path / "o") if name.startswith(".")] if (tmp_path / "o").exists() else True
    )
    archive = real("aclImdb_v1.tar.gz").read_bytes()
    (tmp_path / "half.tar.gz").write_bytes(archive[: len(archive) // 2])
    fails("shard", "imdb", tmp_path / "half.tar.gz", tmp_path / "o", message=r"half\.tar\.gz")


def test_misuse_of_index_verify_and_stream(tmp_path: Path, shards: Path) -> None:
    pipeline = ROOT / "pipelines" / "imdb.toml"
    fails("index", tmp_path / "nowhere", message="there is no such file or folder")
    (tmp_path / "x.dat").write_bytes(b"")
    (tmp_path / "d.tar").mkdir()
    fails("index", tmp_path / "x.dat", message=r"x\.dat: is no \.tar file")
    fails("index", tmp_path / "d.tar", message=r"d\.tar: the folder holds no \.tar files")
    (tmp_path / "d.tar").rmdir()
    fails("verify", tmp_path, message="holds no shards")
    fails("stream", tmp_path / "x.toml", message=r"x\.toml: there is no such file")
    fails("stream", pipeline, "--set", f"source.path={tmp_path}", message=r"the folder holds no \.tar files")
    fails("stream", pipeline, "--set", f"source.path={shards / 'imdb'}", message="Choose one or more of: .*imdb/test")
    fails("stream", pipeline, "--set", "Bukket.max_padded=3", message="no such stage. Did you mean 'Bucket'?")
    good = f"source.path={shards / 'imdb' / 'train'}"
    fails(
        "stream", pipeline, "--set", good, "--set", "Bucket.max_padded=3", message="over max_padded 3. Raise max_padded"
    )
    fails("stream", pipeline, "--set", good, "--device", "gpu", message="unknown device 'gpu'")
    fails("stream", pipeline, "--set", good, "--rank", "1", message="Give both .--rank and --world-size., or neither")
    fails(
        "stream", pipeline, "--set", good, "--ledger", "/dev/null/x", message="a file stands where a folder is needed"
    )
    (tmp_path / "notes.txt").write_text("mine")
    fails(
        "stream",
        pipeline,
        "--set",
        good,
        "--ledger",
        tmp_path / "notes.txt",
        message="a file stands where a folder is needed",
    )
    assert (tmp_path / "notes.txt").read_text() == "mine"
    fails("stream", pipeline, "--set", "source.path=2024", message="It takes .* Write it in quotes: '\"2024\"'")
    fails("stream", pipeline, "--set", good, "--set", "Bucket.max_padded=nan", message="must be finite")
    fails(
        "stream", pipeline, "--set", good, "--set", "Bucket.measure=txt", message="Bucket needs 'txt', which the index"
    )
    fails(
        "stream", pipeline, "--set", good, "--set", "Bucket.measure=key", message="key holds string, which is no length"
    )
    fails("stream", pipeline, "--set", good, "--workers", "-1", message="workers must be at least 0, got -1")
    wrong = f"source.path={shards / 'cifar10' / 'train'}"
    fails("stream", pipeline, "--set", wrong, message="Bucket needs 'tokens', which the index does not hold there")


@pytest.mark.parametrize("workers", ["0", "2"])
def test_a_flac_that_does_not_decode_is_named(tmp_path: Path, shards: Path, workers: str) -> None:
    shutil.copytree(shards / "librispeech" / "train-clean-100", tmp_path / "s")
    index = feather.read_table(tmp_path / "s" / "index.arrow").to_pylist()
    member = next(member for member in index[7]["members"] if member["extension"] == "flac")
    tar = tmp_path / "s" / index[7]["shard"]
    data = bytearray(tar.read_bytes())
    middle = member["offset"] + member["size"] // 2
    data[middle : middle + 64] = bytes(64)
    tar.write_bytes(data)
    arguments = (
        "stream",
        ROOT / "pipelines" / "librispeech.toml",
        "--set",
        f"source.path={tmp_path / 's'}",
        "--workers",
        workers,
    )
    fails(*arguments, message=f"{index[7]['shard']}: sample '{index[7]['key']}' member 'flac' is not what was indexed")
    call("index", tar)
    fails(*arguments, message=f"DecodeAudio: sample '{index[7]['key']}' in {index[7]['shard']}: damaged flac")
    _, shown = call(*arguments, "--traceback", code=2)
    assert "Traceback" in shown
    assert "in _decode_flac16" in shown or "audio.py" in shown


def test_a_truncated_tar_is_named(tmp_path: Path, shards: Path) -> None:
    shutil.copytree(shards / "imdb" / "train", tmp_path / "s")
    tar = sorted((tmp_path / "s").glob("*.tar"))[1]
    tar.write_bytes(tar.read_bytes()[:5000])
    fails(
        "stream",
        ROOT / "pipelines" / "imdb.toml",
        "--set",
        f"source.path={tmp_path / 's'}",
        message=f"{tar.name}: holds 5,000 bytes",
    )
    fails("index", tar, message=tar.name)
    (tmp_path / "s" / "index.arrow").unlink()
    fails("stream", ROOT / "pipelines" / "imdb.toml", "--set", f"source.path={tmp_path / 's'}", message=tar.name)


def test_ctrl_c_ends_at_once_and_leaves_nothing(tmp_path: Path, corpora: Path, shards: Path) -> None:
    path = shards / "imdb" / "train"
    arguments = ["stream", ROOT / "pipelines" / "imdb.toml", "--set", f"source.path={path}"]
    child = subprocess.Popen(
        [*ECOPIPE, *map(str, arguments), "--workers", "2", "--epochs", "100000",
         "--ledger", str(tmp_path / "ledger")],
        stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True, start_new_session=True,
    )  # fmt: skip
    deadline = time.monotonic() + 60
    while not list(tmp_path.iterdir()) and time.monotonic() < deadline:
        time.sleep(0.05)
    time.sleep(1)
    os.killpg(child.pid, signal.SIGINT)
    _, error = child.communicate(timeout=60)
    assert child.returncode == 130
    assert error.strip().endswith("ecopipe: interrupted.")
    assert "Traceback" not in error
    assert os.listdir(tmp_path) == ["ledger"]
    assert ecopipe.read_ledger(tmp_path / "ledger").num_rows > 0


def test_demo_shows_a_table_and_can_be_run_again(tmp_path: Path) -> None:
    for shown in (run("demo", "--out", tmp_path / "demo").stdout, call("demo", "--out", tmp_path / "demo")[0]):
        for word in ("LibriSpeech", "IMDB", "CIFAR-10", "audio hours/s", "padding", "first batch after"):
            assert word in shown
    assert sorted(os.listdir(tmp_path / "demo")) == ["cifar10", "corpora", "imdb", "librispeech"]
    (tmp_path / "mine" / "corpora").mkdir(parents=True)
    fails("demo", "--out", tmp_path / "mine", message="was not made by the demo")


def test_a_full_disk_is_one_clear_error(small_disk: Path, corpora: Path, shards: Path) -> None:
    imdb = ROOT / "pipelines" / "imdb.toml"
    fails("demo", "--out", small_disk / "demo", message="no space left on the device. Free some")
    fails("shard", "cifar10", corpora / "cifar10", small_disk / "o", message="no space left on the device")
    assert not (small_disk / "demo").exists() or not list((small_disk / "demo").iterdir())
    assert not list(small_disk.rglob(".ecopipe-*"))
    gc.collect()
    filling = small_disk / "filling"
    with contextlib.suppress(OSError), filling.open("wb") as file:
        while True:
            file.write(bytes(4096))
            file.flush()
    source = f"source.path={shards / 'imdb' / 'train'}"
    fails("stream", imdb, "--set", source, "--ledger", small_disk / "ledger", message="no space left on the device")
    assert not list(small_disk.rglob(".ecopipe-*"))


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 96 kB."""
    folder = tmp_path / "small"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=96k", "tmpfs", str(folder)]
    if subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("a small disk can be mounted by root only")
    yield folder
    gc.collect()  # a writer that could not write may still be open
    subprocess.run(["umount", "--lazy", str(folder)], check=True)


def test_a_full_standard_output_is_told(shards: Path) -> None:
    arguments = [
        "stream",
        ROOT / "pipelines" / "imdb.toml",
        "--set",
        f"source.path={shards / 'imdb' / 'train'}",
        "--json",
    ]
    with open("/dev/full", "wb") as full:
        done = subprocess.run(
            [*ECOPIPE, *map(str, arguments)], stdout=full, stderr=subprocess.PIPE, text=True, check=False
        )
    assert done.returncode == 2
    assert done.stderr == "ecopipe: No space left on device. Check the disk, the paths and where the output goes.\n"


def test_a_file_behind_a_folder_without_permission(tmp_path: Path) -> None:
    without = ["setpriv", "--bounding-set", "-dac_override,-dac_read_search"] if os.geteuid() == 0 else []
    if without and shutil.which("setpriv") is None:
        pytest.skip("root may read everything, and setpriv is not there")
    folder = tmp_path / "shut"
    folder.mkdir(mode=0)
    command = [*without, *ECOPIPE, "stream", str(folder / "a.toml")]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
    folder.chmod(0o755)
    assert done.returncode == 2
    assert f"{folder / 'a.toml'}: Permission denied. Give yourself permission to it" in done.stderr


def test_a_terminated_shard_leaves_nothing(tmp_path: Path) -> None:
    source = real("aclImdb_v1.tar.gz")
    child = subprocess.Popen([*ECOPIPE, "shard", "imdb", str(source), str(tmp_path / "o")], stdout=subprocess.DEVNULL)
    deadline = time.monotonic() + 60
    while not list(tmp_path.glob("o/.ecopipe-unfinished-test/task-*/*.tar")) and time.monotonic() < deadline:
        time.sleep(0.01)
    child.terminate()
    assert child.wait(60) == 143
    assert list((tmp_path / "o").iterdir()) == []


def test_terminating_the_whole_group_keeps_the_ledger(tmp_path: Path, shards: Path) -> None:
    path = shards / "imdb" / "train"
    arguments = ["stream", ROOT / "pipelines" / "imdb.toml", "--set", f"source.path={path}", "--workers", "2"]
    more = ["--epochs", "100000", "--ledger", str(tmp_path / "ledger")]
    child = subprocess.Popen([*ECOPIPE, *map(str, arguments), *more], stderr=subprocess.PIPE, start_new_session=True)
    deadline = time.monotonic() + 60
    while not list(tmp_path.iterdir()) and time.monotonic() < deadline:
        time.sleep(0.05)
    time.sleep(1)
    os.killpg(child.pid, signal.SIGTERM)
    _, error = child.communicate(timeout=60)
    assert child.returncode == 143, error
    assert ecopipe.read_ledger(tmp_path / "ledger").num_rows > 0


def test_an_interrupted_dataset_says_how_to_go_on(tmp_path: Path, corpora: Path) -> None:
    call("shard", "imdb", corpora / "imdb", tmp_path / "o", "--split", "test", code=0)
    arguments = ("shard", "imdb", corpora / "imdb", tmp_path / "o")
    fails(*arguments, "--max-count", "9", message="write what is missing with --split train")
    told, _ = call(*arguments)
    assert "60 samples" in told and "Nothing was to do" not in told
    assert "Nothing was to do" in call(*arguments)[0]


def test_a_truncated_flac_is_refused_when_sharding(tmp_path: Path, corpora: Path) -> None:
    raw = shutil.copytree(corpora / "librispeech", tmp_path / "raw")
    flac = sorted(raw.rglob("*.flac"))[2]
    flac.write_bytes(flac.read_bytes()[:-500])
    fails("shard", "librispeech", raw, tmp_path / "o", message=f"sample '{flac.stem}': flac: damaged flac: .*truncated")
