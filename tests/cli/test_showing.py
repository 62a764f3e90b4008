"""``ecopipe show``, as it is read in a terminal and in a pipe."""

from __future__ import annotations

import json
import os
import pty
import subprocess
import sys

import pytest

from ecopipe.cli.showing import bar, printable
from ecopipe.datasets.shards import index_folder
from ecopipe.formats.tar import TarWriter

SHOW = [sys.executable, "-W", "error", "-m", "ecopipe", "show"]


def show(*arguments, width=80, code=0):
    environment = {**os.environ, "COLUMNS": str(width)}
    done = subprocess.run([*SHOW, *map(str, arguments)], capture_output=True, text=True, env=environment, timeout=120)
    assert done.returncode == code, done.stdout + done.stderr
    return done.stdout if code == 0 else done.stderr


@pytest.mark.parametrize("width", [80, 140])
def test_what_is_shown_fits_and_has_no_colours_in_a_pipe(shards, width):
    told = show(shards / "cifar10", width=width)
    assert "\x1b" not in told
    assert max(map(len, told.splitlines())) <= width
    assert "cifar10 in" in told and "█" in told and "32 x 32 pixels" in told
    assert "10 labels" in told and "9 truck" in told


def test_speech_has_hours_and_text(shards):
    told = show(shards / "librispeech", "--samples", 1)
    assert "seconds of audio:" in told and "at 16,000 Hz" in told and "txt: " in told
    assert "speaker" in told and "flac" in told


def test_json_is_one_object(shards):
    found = json.loads(show(shards / "imdb", "--json", "--samples", 0))
    assert [split["name"] for split in found["splits"]] == ["test", "train"]
    assert found["splits"][0]["samples"] == 60 and found["samples"] == []
    assert found["description"]["classes"] == ["neg", "pos"]


def test_in_a_terminal_there_are_colours(shards):
    master, slave = pty.openpty()
    environment = {**os.environ, "COLUMNS": "80", "TERM": "xterm-256color"}
    environment.pop("NO_COLOR", None)
    process = subprocess.Popen([*SHOW, str(shards / "imdb" / "train")], stdout=slave, stderr=slave, env=environment)
    os.close(slave)
    seen = b""
    while True:
        try:
            piece = os.read(master, 65536)
        except OSError:  # what was at the other end has left
            break
        seen += piece
    os.close(master)
    assert process.wait(60) == 0
    assert b"\x1b[36m" in seen


def test_what_the_data_hold_cannot_steer_the_terminal(tmp_path):
    with open(tmp_path / "a.tar", "wb") as file:
        tar = TarWriter(file)
        tar.add("a\x1b[2J[red]", {"txt": b"\x1b]0;owned\x07[bold]hello[/bold]\r\n\x9bmore", "x\x1by": b""})
        tar.finish()
    index_folder(str(tmp_path), [str(tmp_path / "a.tar")])
    (tmp_path / "dataset.json").write_text(
        json.dumps(
            {
                "name": "n\x1b[1m",
                "source": "[link=x]s\u202e",
                "splits": {"s\x07": {"provenance": {"a\x07": ["\x1b", {"b": "\x08"}]}}},
            }
        )
    )
    told = show(tmp_path)
    assert not any(mark in told for mark in "\x1b\x07\x08\x9b\r\u202e")
    assert "[bold]hello[/bold]" in told and "[red]" in told and r"\x1b[2J" in told and "[link=x]s" in told
    assert r"s\x07 made by: a\x07=\x1b, b=\x08" in told


def test_errors_are_told_in_a_line(tmp_path):
    assert "ecopipe: " in show(tmp_path, code=2)


def test_bars_and_texts():
    assert bar(0, 4) == "    " and bar(1, 4) == "████" and bar(1e-9, 4) == "▏   " and bar(0.5, 3) == "█▌ "
    assert printable("a\x1b[31mb\n\tc\u200fé") == "a\\x1b[31mb c\\u200fé"
