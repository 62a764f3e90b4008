"""A name holds the finished thing or nothing (law 8)."""

import fcntl
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from ecopipe.storage.publish import final_place, publish_file, publish_folder
from ecopipe.vocabulary.errors import OutputError


class Stop(Exception):
    pass


def test_a_file_appears_when_it_is_finished(tmp_path: Path) -> None:
    target = tmp_path / "deep" / "x.txt"
    with publish_file(target) as temporary:
        temporary.write_text("new")
        assert not target.exists()
    assert target.read_text() == "new"
    assert os.listdir(target.parent) == ["x.txt"]
    assert target.stat().st_mode & 0o444 == 0o444


def test_an_interrupted_file_leaves_the_old_one_and_nothing_else(tmp_path: Path) -> None:
    target = tmp_path / "x.txt"
    target.write_text("old")
    with pytest.raises(Stop), publish_file(target) as temporary:
        temporary.write_text("half")
        raise Stop
    assert target.read_text() == "old"
    assert os.listdir(tmp_path) == ["x.txt"]


def test_a_folder_appears_when_it_is_finished(tmp_path: Path) -> None:
    target = tmp_path / "d"
    with publish_folder(target) as temporary:
        (temporary / "a").write_text("1")
        assert not target.exists()
    assert os.listdir(target) == ["a"]
    with pytest.raises(OutputError, match="already exists.*--overwrite"), publish_folder(target):
        pass
    with publish_folder(target, replace=True) as temporary:
        (temporary / "b").write_text("2")
    assert os.listdir(target) == ["b"]
    assert os.listdir(tmp_path) == ["d"]


def test_an_interrupted_folder_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(Stop), publish_folder(tmp_path / "d") as temporary:
        (temporary / "a").write_text("1")
        raise Stop
    assert os.listdir(tmp_path) == []


def test_what_a_killed_run_left_is_swept_by_the_next(tmp_path: Path) -> None:
    code = (
        "import sys, time; from pathlib import Path; from ecopipe.storage.publish import publish_folder\n"
        "with publish_folder(Path(sys.argv[1])) as folder:\n"
        "    (folder / 'a').write_text('half'); print('ready', flush=True); time.sleep(60)\n"
    )
    child = subprocess.Popen([sys.executable, "-c", code, str(tmp_path / "d")], stdout=subprocess.PIPE)
    with child:
        assert child.stdout is not None
        assert child.stdout.readline() == b"ready\n"
        time.sleep(0.05)
        child.send_signal(signal.SIGKILL)
    left = os.listdir(tmp_path)
    assert len(left) == 1
    assert left[0].startswith(".ecopipe-")
    assert left[0].endswith("-d")
    with publish_folder(tmp_path / "d") as folder:
        (folder / "a").write_text("whole")
    assert os.listdir(tmp_path) == ["d"]


def test_a_killed_writer_of_a_file_is_swept_too(tmp_path: Path) -> None:
    code = (
        "import os, sys; from pathlib import Path; from ecopipe.storage.publish import publish_file\n"
        "with publish_file(Path(sys.argv[1])) as file:\n"
        "    file.write_text('half'); os.kill(os.getpid(), 9)\n"
    )
    subprocess.run([sys.executable, "-c", code, str(tmp_path / "x")], check=False)
    assert len(os.listdir(tmp_path)) == 1
    with publish_file(tmp_path / "x") as file:
        file.write_text("whole")
    assert os.listdir(tmp_path) == ["x"]


def test_a_sweep_takes_only_its_own_name_and_nothing_that_lives(tmp_path: Path) -> None:
    with publish_folder(tmp_path / "set-2026") as other:
        (other / "a").write_text("1")
        with publish_folder(tmp_path / "set") as folder:
            (folder / "b").write_text("2")
        with pytest.raises(Stop), publish_folder(tmp_path / "set-2026"):
            raise Stop
        assert other.exists()
    assert sorted(os.listdir(tmp_path)) == ["set", "set-2026"]


def test_where_there_are_no_locks_things_are_published_and_nothing_is_swept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_locks(descriptor: int, operation: int) -> None:
        raise OSError(9, "Bad file descriptor")

    monkeypatch.setattr(fcntl, "flock", no_locks)
    (tmp_path / ".ecopipe-abcdefgh-d").mkdir()
    with publish_folder(tmp_path / "d") as folder:
        (folder / "a").write_text("1")
    with publish_file(tmp_path / "f") as file:
        file.write_text("1")
    assert sorted(os.listdir(tmp_path)) == [".ecopipe-abcdefgh-d", "d", "f"]


def test_an_interruption_between_the_renames_leaves_the_old_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with publish_folder(tmp_path / "d") as folder:
        (folder / "a").write_text("old")

    def stop(_: Path) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt), publish_folder(tmp_path / "d", replace=True, check=stop):
        pass
    assert (tmp_path / "d" / "a").read_text() == "old"
    assert os.listdir(tmp_path) == ["d"]


def test_when_the_last_rename_fails_the_old_folder_stands(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with publish_folder(tmp_path / "d") as folder:
        (folder / "a").write_text("old")
    rename = os.rename

    def fail(source: Path, target: Path) -> None:
        if target == tmp_path / "d" and ".ecopipe-old-" not in str(source):
            raise OSError(5, "Input/output error")
        rename(source, target)

    monkeypatch.setattr(os, "rename", fail)
    with pytest.raises(OutputError, match="Input/output error"), publish_folder(tmp_path / "d", replace=True):
        pass
    assert (tmp_path / "d" / "a").read_text() == "old"
    assert os.listdir(tmp_path) == ["d"]


def test_of_two_runs_the_first_to_finish_counts_and_the_other_says_so(tmp_path: Path) -> None:
    with (
        pytest.raises(OutputError, match="appeared while it was being written"),
        publish_folder(tmp_path / "d") as first,
    ):
        with publish_folder(tmp_path / "d") as second:
            (second / "a").write_text("second")
        assert first.exists()
    assert os.listdir(tmp_path) == ["d"]
    assert os.listdir(tmp_path / "d") == ["a"]


def test_a_file_in_the_way_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with (
        pytest.raises(OutputError, match="file stands where a folder is needed"),
        publish_folder(tmp_path / "file" / "d"),
    ):
        pass
    with (
        pytest.raises(OutputError, match="file stands where a folder is needed"),
        publish_file(tmp_path / "file" / "x"),
    ):
        pass


def test_a_full_disk_is_one_clear_error(tmp_path: Path) -> None:
    with (
        pytest.raises(OutputError, match="no space left"),
        publish_file(tmp_path / "x"),
        open("/dev/full", "wb") as full,
    ):
        full.write(b"x" * 100_000)
        full.flush()
    assert os.listdir(tmp_path) == []


def test_a_link_stays_and_the_file_that_it_leads_to_is_replaced(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    target, link, loose = tmp_path / "real" / "x.txt", tmp_path / "link", tmp_path / "loose"
    target.write_text("old")
    link.symlink_to(target)
    loose.symlink_to("real/y.txt")  # which is not there yet
    for path in (link, loose):
        with publish_file(path) as temporary:
            temporary.write_text("new")
            assert temporary.parent == target.parent
            assert target.read_text() == ("old" if path == link else "new")
        assert path.is_symlink()
        assert path.read_text() == "new"
    assert sorted(os.listdir(target.parent)) == ["x.txt", "y.txt"]


@pytest.mark.parametrize("linked", [False, True])
def test_a_device_is_written_to_and_stays(tmp_path: Path, linked: bool) -> None:
    ours, theirs = os.openpty()
    try:
        path = device = Path(os.ttyname(theirs))
        if linked:  # as /dev/stdout is
            path = tmp_path / "link"
            path.symlink_to(device)
        with publish_file(path) as place:
            place.write_text("new\n")
        assert os.read(ours, 100).strip() == b"new"
        assert device.is_char_device()
        assert final_place(path) == path
    finally:
        os.close(ours)
        os.close(theirs)


def test_what_is_no_file_is_refused_and_stays(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "folder").mkdir()
    (tmp_path / "link").symlink_to("fifo")
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(tmp_path / "socket"))
    for name, kind in (("fifo", "a pipe"), ("link", "a pipe"), ("folder", "a folder"), ("socket", "a socket")):
        with pytest.raises(OutputError) as caught, publish_file(tmp_path / name):
            pytest.fail("there is nothing to write to")
        assert str(caught.value) == f"{tmp_path / name}: is {kind}. Name a file."
    assert (tmp_path / "fifo").is_fifo()
    assert (tmp_path / "socket").is_socket()
    assert sorted(os.listdir(tmp_path)) == ["fifo", "folder", "link", "socket"]


def test_a_link_to_itself_is_explained(tmp_path: Path) -> None:
    (tmp_path / "x").symlink_to("x")
    with pytest.raises(OutputError, match=r"x: cannot be written: Too many levels of symbolic links"):
        final_place(tmp_path / "x")
