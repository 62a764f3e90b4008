from __future__ import annotations

import contextlib
import gc
import json
import os
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

import ecopipe
from ecopipe.formats.checks import checks_of
from ecopipe.run.ledger import BEGIN, END, METADATA, SAMPLE, SCHEMA, Ledger, LedgerFile, ledger_files, read_ledger
from ecopipe.vocabulary.errors import DataError, OutputError
from ecopipe.vocabulary.sample import Fault, Place

HEADER = {"pipeline": {"source": {}, "stages": []}, "index": "f", "seed": 3, "rank": 1, "world_size": 4, "tail": "drop"}


def rows(*samples: tuple[str, list[int]], source: str | None = None) -> pa.Table:
    """Index rows: a key, and the CRC-32s of the members."""
    members = [
        [{"extension": f"m{n}", "offset": 0, "size": 1, "crc32": crc} for n, crc in enumerate(s[1])] for s in samples
    ]
    kind = pa.list_(
        pa.struct([("extension", pa.string()), ("offset", pa.int64()), ("size", pa.int64()), ("crc32", pa.uint32())])
    )
    table = {"key": [s[0] for s in samples], "shard": ["s.tar"] * len(samples), "members": pa.array(members, kind)}
    return pa.table(table | ({"source": [source] * len(samples)} if source else {}))


def written(folder: Path, batches: int = 3, **header: Any) -> Path:
    ledger = Ledger(folder, HEADER | header)
    ledger.begin(0, 0, 0)
    for number in range(batches):
        ledger.add(Place(0, number, step=number, rank=1), rows((f"a{number}", [1, 2]), (f"b{number}", [7])))
    ledger.close()
    return ledger.path


def test_a_row_tells_what_was_handed_out_to_whom_and_when(tmp_path: Path) -> None:
    before = time.time_ns()
    ledger = Ledger(tmp_path / "runs" / "ledger", HEADER)
    ledger.begin(2, 5, 3)
    faults = (Fault(0, "a", "s.tar", "DecodeImage", "broken"), Fault(1, "b", "s.tar", "DecodeImage", "broken", "z"))
    samples = rows(("a", [6, 3]), ("b", [5]), ("c", []), ("d", [2**32 - 1, 1, 1]), source="clean")
    ledger.add(Place(2, 5, step=3, rank=1, repeat=True, faults=faults), samples)
    ledger.end(2, 6, 4)
    ledger.close()
    begin, *entered, end = ecopipe.read_ledger(tmp_path / "runs" / "ledger").to_pylist()
    times = [row.pop("time_ns") for row in (begin, *entered, end)]
    assert before <= times[0] <= times[1] == times[4] <= times[5] <= time.time_ns()
    nothing = dict.fromkeys(("position", "key", "shard", "source", "crc", "repeat", "skipped", "substitute"))
    nothing |= {"part_start": None, "part_stop": None}
    assert begin == nothing | {"event": BEGIN, "epoch": 2, "step": 3, "batch": 5, "rank": 1}
    assert end == nothing | {"event": END, "epoch": 2, "step": 4, "batch": 6, "rank": 1}
    assert entered[0] == {
        "event": SAMPLE, "epoch": 2, "step": 3, "batch": 5, "rank": 1, "position": 0, "key": "a", "shard": "s.tar",
        "source": "clean", "crc": 6 ^ 3, "repeat": True, "skipped": True, "substitute": None,
        "part_start": None, "part_stop": None,
    }  # fmt: skip
    assert [row["crc"] for row in entered] == [5, 5, 0, 2**32 - 1]
    assert [row["skipped"] for row in entered] == [True, False, False, False]
    assert [row["substitute"] for row in entered] == [None, "z", None, None]
    assert [row["position"] for row in entered] == [0, 1, 2, 3]


def test_the_crc_of_a_sample_is_that_of_its_own_members_wherever_others_have_none(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path, HEADER)
    for samples in ([("a", []), ("b", [])], [("a", []), ("b", [3, 9])], [("b", [3, 9]), ("a", [])]):
        ledger.add(Place(0, 0), rows(*samples))
    table = pa.concat_tables([rows(("x", [1])), rows(("a", []), ("b", [3, 9]), ("c", [4]))])
    ledger.add(Place(0, 0), table.slice(1, 2))
    ledger.close()
    assert read_ledger(tmp_path)["crc"].to_pylist() == [0, 0, 0, 10, 10, 0, 0, 10]


def test_checks_that_are_known_are_entered_as_they_are(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path, HEADER)
    samples = rows(("a", [1, 6]), ("b", [9]))
    ledger.add(Place(0, 0), samples)
    ledger.add(Place(0, 1), samples, checks_of(samples["members"].combine_chunks()))
    ledger.add(Place(0, 2), samples, np.array([3, 4], np.uint32))
    ledger.close()
    assert read_ledger(tmp_path)["crc"].to_pylist() == [7, 9, 7, 9, 3, 4]


def test_ranks_may_be_threads_of_one_process(tmp_path: Path) -> None:
    samples = rows(*((f"{at}", [at]) for at in range(50)))

    def work(rank: int) -> None:
        ledger = Ledger(tmp_path, HEADER | {"rank": rank})
        for number in range(400):
            ledger.add(Place(rank, number, step=number + rank, rank=rank), samples)
        ledger.close()

    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        with ThreadPoolExecutor(4) as pool:
            list(pool.map(work, range(4)))
    finally:
        sys.setswitchinterval(interval)
    for rank, path in enumerate(ledger_files(tmp_path)):
        found = read_ledger(path)
        assert found["epoch"].unique().to_pylist() == found["rank"].unique().to_pylist() == [rank]
        assert found["batch"].to_pylist() == [number for number in range(400) for _ in range(50)]
        assert found["step"].to_pylist() == [number + rank for number in range(400) for _ in range(50)]


def test_every_loader_has_a_file_of_its_own_with_a_header(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    first, second = written(tmp_path), written(tmp_path, rank=3)
    assert sorted(os.listdir(tmp_path)) == sorted(["notes.txt", first.name, second.name])
    assert first.name.startswith("rank00001-of-00004-") and first.suffix == ".arrows"
    header = LedgerFile(first).header
    started = datetime.fromisoformat(header.pop("started"))
    assert abs(datetime.now(timezone.utc) - started) < timedelta(hours=1)
    assert header == HEADER | {"version": 2}
    assert read_ledger(tmp_path).num_rows == 14
    assert ledger_files(tmp_path) == [first, second]
    assert json.loads(read_ledger(second).schema.metadata[METADATA])["rank"] == 3
    with pa.OSFile(str(first)) as file, pa.ipc.open_stream(file) as stream:
        assert stream.read_all().equals(read_ledger(first))
    assert (tmp_path / "notes.txt").read_text() == "mine"


@pytest.mark.parametrize("batches", [0, 3])
def test_wherever_a_file_is_cut_it_is_read_up_to_its_last_whole_batch(tmp_path: Path, batches: int) -> None:
    path = written(tmp_path, batches=batches)
    whole = path.read_bytes()
    ends = [at for at, _ in LedgerFile(path).batches()] + [len(whole)]
    table = read_ledger(path)
    near = {end + by for end in (0, *ends) for by in range(-9, 18)}
    for size in sorted((near | set(range(0, len(whole), 97))) & set(range(len(whole)))):
        path.write_bytes(whole[:size])
        file = LedgerFile(path)
        found = list(file.batches())
        assert len(found) == max(0, sum(end <= size for end in ends) - 1)
        assert file.torn == (size not in (0, *ends))
        assert (file.header is None) == (size < ends[0])
        if file.header is not None:
            assert read_ledger(path).equals(table.slice(0, sum(batch.num_rows for _, batch in found)))


def test_a_batch_may_be_larger_than_what_is_read_at_a_time(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path, HEADER)
    counts = [1, 9000, 2, 1, 20000]
    for number, count in enumerate(counts):
        ledger.add(Place(0, number), rows(*((f"key {number} {at}", [at]) for at in range(count))))
    assert [batch.num_rows for _, batch in LedgerFile(ledger.path).batches()] == counts  # while it is written
    ledger.close()
    offsets = [at for at, _ in LedgerFile(ledger.path).batches()]
    assert [at for at, _ in LedgerFile(ledger.path).batches(offsets[2])] == offsets[2:]


def test_damage_is_an_error_that_names_file_and_place(tmp_path: Path) -> None:
    path = written(tmp_path)
    whole = path.read_bytes()
    offsets = [at for at, _ in LedgerFile(path).batches()]
    for at, value, reason in (
        (offsets[2], b"abcd", "no message begins there"),
        (offsets[2] + 4, b"\x02\0\0\0", "metadata cannot have 2 bytes"),
        (offsets[2] + 4, b"\xff\xff\xff\x7f", "metadata cannot have 2147483647 bytes"),
        (offsets[2] + 8, b"\xff\xff\xff\0", "a message's metadata is none"),
    ):
        path.write_bytes(whole[:at] + value + whole[at + len(value) :])
        with pytest.raises(DataError, match=rf"{path.name}: is damaged at byte {offsets[2]:,}: .*{reason}. Restore it"):
            read_ledger(path)
    generator = np.random.default_rng(0)
    for _ in range(300):  # whatever is damaged, it is told, is the torn end, or is a value
        at = int(generator.integers(len(whole)))
        path.write_bytes(whole[:at] + bytes([int(generator.integers(256))]) + whole[at + 1 :])
        with contextlib.suppress(DataError):
            assert read_ledger(path).num_rows <= 7


def test_what_is_no_ledger_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="nope: there is no such file or folder. Name the ledger's folder or files"):
        read_ledger(tmp_path / "nope")
    with pytest.raises(DataError, match=r"the folder holds no ledger \(rank\*-of-\*\.arrows\)"):
        read_ledger(tmp_path)
    other = tmp_path / "rank0-of-1.arrows"
    with pa.OSFile(str(other), "wb") as sink, pa.ipc.new_stream(sink, pa.schema([("x", pa.int8())])):
        pass
    with pytest.raises(DataError, match="is no ledger of ecopipe"):
        read_ledger(tmp_path)
    other.write_bytes(SCHEMA.with_metadata({METADATA: json.dumps(HEADER | {"version": 9})}).serialize())
    with pytest.raises(DataError, match="has version 9, this ecopipe reads 2"):
        read_ledger(tmp_path)
    other.write_bytes(SCHEMA.with_metadata({METADATA: json.dumps({"version": 2, "pipeline": {}})}).serialize())
    with pytest.raises(DataError, match="is damaged at byte 0: its header lacks index"):
        read_ledger(tmp_path)
    less = SCHEMA.remove(3).with_metadata({METADATA: json.dumps(HEADER | {"version": 2})})
    other.write_bytes(less.serialize())
    with pytest.raises(DataError, match="is damaged at byte 0: its columns are others"):
        read_ledger(tmp_path)


KILLED = """
import sys
from ecopipe.run.ledger import Ledger
from ecopipe.vocabulary.sample import Place
from tests.run.test_ledger import HEADER, rows

ledger = Ledger(sys.argv[1], HEADER)
ledger.begin(0, 0, 0)
for number in range(10**9):
    ledger.add(Place(0, number), rows(*((f"{number} {at}", [at]) for at in range(number % 50 + 1))))
    print(number, flush=True)
"""


@pytest.mark.parametrize("moment", range(3))
def test_a_killed_process_leaves_every_batch_that_it_handed_out(tmp_path: Path, moment: int) -> None:
    command = [sys.executable, "-c", textwrap.dedent(KILLED), str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=Path(__file__).parents[2]) as child:
        handed_out = [int(child.stdout.readline()) for _ in range(3 + 40 * moment)]
        child.send_signal(signal.SIGKILL)
        handed_out += [int(line) for line in child.stdout if line.endswith("\n")]
    (file,) = (LedgerFile(path) for path in ledger_files(tmp_path))
    found = [batch.column("batch")[0].as_py() for _, batch in file.batches()][1:]
    assert found[: len(handed_out)] == handed_out
    assert len(found) - len(handed_out) in (0, 1)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 64 kB."""
    folder = tmp_path / "small"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(folder)]
    if subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("a small disk can be mounted by root only")
    yield folder
    gc.collect()
    subprocess.run(["umount", "--lazy", str(folder)], check=True)


def test_a_full_disk_is_told_and_the_ledger_goes_on_when_there_is_room(small_disk: Path) -> None:
    (small_disk / "filling").write_bytes(bytes(40_000))
    ledger = Ledger(small_disk, HEADER)
    entered = 0
    with pytest.raises(OutputError, match=rf"{ledger.path}: no space left on the device. Free some, or write"):
        for number in range(100):
            ledger.add(Place(0, number), rows(*((f"{number} {at}", [at]) for at in range(20))))
            entered += 1
    assert 2 <= entered < 100
    file = LedgerFile(ledger.path)
    assert len(list(file.batches())) == entered and not file.torn
    (small_disk / "filling").unlink()
    ledger.add(Place(0, entered), rows(("a", [1])))
    ledger.close()
    assert read_ledger(small_disk)["batch"].to_pylist() == [n for n in range(entered) for _ in range(20)] + [entered]


def test_a_disk_without_room_for_a_header_is_left_without_a_file(small_disk: Path) -> None:
    with contextlib.suppress(OSError), (small_disk / "filling").open("wb", buffering=0) as file:
        while True:
            file.write(bytes(4096))
    with pytest.raises(OutputError, match="no space left on the device"):
        Ledger(small_disk, HEADER)
    assert os.listdir(small_disk) == ["filling"]


def test_a_place_that_cannot_be_written_is_told_before_anything_streams(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    with pytest.raises(OutputError, match="a file stands where a folder is needed. Choose another place"):
        Ledger(tmp_path / "file", HEADER)
    with pytest.raises(OutputError, match="a file stands where a folder is needed"):
        Ledger(tmp_path / "file" / "below", HEADER)
    with pytest.raises(OutputError, match=r"/proc/ledger/rank.*: cannot be written"):
        Ledger("/proc/ledger", HEADER)
    assert (tmp_path / "file").read_text() == "mine"


def test_a_closed_or_forgotten_ledger_holds_no_file_open(tmp_path: Path) -> None:
    before = len(os.listdir("/proc/self/fd"))
    ledger = Ledger(tmp_path, HEADER)
    ledger.close()
    ledger.close()
    with open(os.devnull, "wb"), pytest.raises(OutputError, match="cannot be written: Bad file descriptor"):
        ledger.begin(0, 0, 0)
    ledger = Ledger(tmp_path, HEADER)
    del ledger
    gc.collect()
    assert len(os.listdir("/proc/self/fd")) == before
