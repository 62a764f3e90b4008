"""The benchmark's own parts, without its peers: what is delivered is compared, what fails says why, figures add up."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from benchmarks.bench import corpus, decoders, goals, limits, measurements, report, resources, runner
from benchmarks.bench.measurements import Measured, Results
from ecopipe.datasets.shards import find_tars, index_tars

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def data(corpora: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """48 utterances as files: a small corpus, twice."""
    folder = tmp_path_factory.mktemp("bench") / "data"
    told = corpus.make_files(corpora / "librispeech", folder / "files", 2)
    assert (told["utterances"], told["copies"]) == (48, 2)
    assert told["bytes"] == sum(path.stat().st_size for path in corpus.files_of(folder))
    corpus.make_tars(folder, folder / "tars")
    index_tars(find_tars(str(folder / "tars")))
    return folder


def test_tars_give_the_same_files_as_the_tree(data: Path, tmp_path: Path) -> None:
    corpus.make_files(data / "tars", tmp_path / "files", 1)
    again = {path.name.replace("-c000.flac", ""): path.read_bytes() for path in corpus.files_of(tmp_path)}
    assert again == {path.stem: path.read_bytes() for path in corpus.files_of(data)}


def test_a_source_without_flac_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match="no FLAC found"):
        corpus.make_files(tmp_path, tmp_path / "files", 1)


@pytest.mark.parametrize("name", decoders.BY_NAME)
def test_every_decoder_gives_what_the_files_hold_in_any_batches(data: Path, name: str) -> None:
    found = corpus.Sum()
    audios = [decoders.BY_NAME[name](path.read_bytes()) for path in reversed(corpus.files_of(data))]
    for at in range(0, len(audios), 7):
        audio, lengths = decoders.padded(audios[at : at + 7])
        assert audio.dtype == torch.float32
        found.add(audio, lengths)
    assert found.figures() == corpus.truth(data)


def test_the_sum_sees_a_lost_a_repeated_and_a_changed_utterance_and_dirty_padding() -> None:
    rows = np.array([[1, 2, 0], [3, 4, 5]], dtype=np.int16)

    def of(rows: Any, lengths: list[int]) -> dict[str, int]:
        found = corpus.Sum()
        found.add(rows, lengths)
        return found.figures()

    whole = of(rows, [2, 3])
    assert of(rows[::-1], [3, 2]) == whole
    assert of(rows / np.float32(32768), [2, 3]) == whole
    assert of(rows[:1], [2]) != whole
    assert of(rows[[0, 1, 1]], [2, 3, 3]) != whole
    assert of(rows + np.array([[0, 0, 0], [0, 0, 1]], dtype=np.int16), [2, 3])["crcs"] != whole["crcs"]
    with pytest.raises(ValueError, match="not zero behind the end"):
        of(rows, [1, 3])


def test_ecopipe_is_measured_in_a_process_of_its_own(data: Path, tmp_path: Path) -> None:
    asked = {"peer": "ecopipe", "folder": str(data), "workers": 1, "decoder": "dr_flac"}
    about = runner.run({"kind": "prepare", **asked}, tmp_path, 100)
    assert about.figures is not None, about.reason
    assert about.figures["name"] == "ecopipe"
    checked = runner.run({"kind": "check", **asked}, tmp_path, 100)
    assert checked.figures is not None, checked.reason
    assert checked.figures["sum"] == checked.figures["truth"] == corpus.truth(data)
    measured = runner.run({"kind": "speech", **asked, "seconds": 0.01}, tmp_path, 100)
    assert measured.figures is not None, measured.reason
    assert measured.figures["dtype"] == "float32"
    assert measured.figures["rate"] > 0
    assert measured.figures["cpu_ms"] > 0
    assert not list(tmp_path.iterdir())


def test_a_loader_that_is_not_installed_or_fails_says_why(data: Path, tmp_path: Path) -> None:
    broken = runner.run({"kind": "limits", "folder": str(data / "nowhere"), "way": "tar", "seconds": 1}, tmp_path, 100)
    assert broken.figures is None
    assert "FileNotFoundError" in broken.reason
    assert "exit status 1" in broken.reason


def test_what_takes_too_long_is_ended_with_what_it_began(tmp_path: Path) -> None:
    left = tmp_path / "left"
    code = f"import subprocess, time; p = subprocess.Popen(['sleep', '60']); open({str(left)!r}, 'w').write(str(p.pid))"
    process = subprocess.Popen([sys.executable, "-c", f"{code}; time.sleep(60)"], start_new_session=True)
    deadline = time.monotonic() + 30
    while not (left.exists() and left.read_text()) and time.monotonic() < deadline:
        time.sleep(0.01)
    assert not runner._ended(process, tmp_path / "never", 0.1)
    pid = int(left.read_text())
    while _runs(pid) and time.monotonic() < deadline:
        time.sleep(0.01)
    assert not _runs(pid)


def _runs(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


@pytest.mark.parametrize("way", limits.WAYS)
def test_every_limit_is_a_rate(data: Path, way: str) -> None:
    task = {"folder": str(data), "way": way, "workers": 2, "seconds": 0.05}
    assert limits.run(task)["rate"] > 0


def test_cpu_time_is_that_of_children_too() -> None:
    before = resources.cpu_s()
    burn = "import time\nwhile time.process_time() < 0.3: pass"
    subprocess.run([sys.executable, "-c", burn], check=True)
    assert resources.cpu_s() - before >= 0.25
    assert resources.own_bytes(os.getpid()) > 1e6
    with open(__file__, "rb"):
        more = resources.open_files(os.getpid())
    assert more == resources.open_files(os.getpid()) + 1


def made_up() -> Results:
    """Two loaders, of which one was not measured with 2 workers."""

    def speech(peer: str, decoder: str, workers: int, *rates: float, padding: float = 0.02) -> Measured:
        runs = [
            {"rate": rate, "useful_s_per_s": 7 * rate, "padding": padding, "cold_rate": rate / 2, "cpu_ms": 1.0,
             "dtype": "float32", "cold_first_batch_s": 0.1, "epochs": 1}
            for rate in rates
        ]  # fmt: skip
        return Measured("speech", {"kind": "speech", "peer": peer, "decoder": decoder, "workers": workers}, runs)

    limit = {"kind": "limits", "way": "dr_flac, threads", "workers": 2}
    twice = {"sum": {"utterances": 9}, "truth": {"utterances": 8}}
    told = {"use": "so", "workers": [0, 2]}
    about: dict[str, dict[str, Any]] = {
        "ecopipe": {"name": "ecopipe", "decoders": ["dr_flac"], "versions": {"ecopipe": "1"}, **told},
        "webdataset": {"name": "webdataset", "decoders": ["soundfile", "dr_flac"], "versions": {"w": "2"}, **told},
        "spdl": {"name": "spdl", "reason": "ModuleNotFoundError: No module named 'spdl' (exit status 1)"},
    }
    found = [
        speech("ecopipe", "dr_flac", 0, 500, 400, 600),
        speech("ecopipe", "dr_flac", 2, 900, 850, 950),
        speech("webdataset", "soundfile", 2, 300, 310, 290, padding=0.6),
        speech("webdataset", "dr_flac", 2, 450, padding=0.6),
        Measured("limits", limit, [{"rate": 1000.0}]),
        Measured("check", {"kind": "check", "peer": "webdataset"}, [twice]),
    ]  # fmt: skip
    settings = {"repeats": 3, "seconds": 1.0, "quick": False, "cores": 2, "python": "3.11", "command": "python -m b"}
    return Results(settings, {"utterances": 8, "bytes": 10, "copies": 1, "source": "x"}, about, found)


def test_goals_say_reached_or_not_with_the_figure_and_what_was_not_measured() -> None:
    said = list(goals.lines(Results.of_json(json.loads(json.dumps(made_up().to_json())))))
    assert all(line.startswith("goal ") for line in said)

    def of(begins: str) -> str:
        return next(line for line in said if line.startswith(f"goal {begins}"))

    assert "at least 0.9: reached (0.9; ecopipe, 2 workers)" in of("speech, best mode, of the decoder alone")
    assert ": reached (3; ecopipe, 2 workers against webdataset, 2 workers)" in of("speech, best mode, times every")
    assert ": not measured" in of("speech, best mode, times DALI")
    assert ": reached (2.0%" in of("speech, padding")
    assert ": not measured" in of("CIFAR-10 raw")
    worse = made_up()
    worse.of("speech", peer="ecopipe", workers=2)[0].runs = []
    line = next(line for line in goals.lines(worse) if line.startswith("goal speech, best mode, of the decoder"))
    assert ": not reached (0.5; ecopipe, 0 workers)" in line


def test_runs_of_another_time_are_further_rounds() -> None:
    one, other = made_up(), made_up()
    other.settings["command"] = "python -m c"
    faster = other.of("speech", peer="ecopipe", workers=2)[0]
    faster.runs = [{**faster.runs[0], "rate": 2000.0}] * 2
    other.measured.append(Measured("images", {"way": "ecopipe, raw"}, [{"rate": 7.0}]))
    both = one.joined(other)
    (ours,) = both.of("speech", peer="ecopipe", workers=2)
    assert ours.values("rate") == [900, 850, 950, 2000, 2000]
    assert one.of("speech", peer="ecopipe", workers=2)[0].values("rate") == [900, 850, 950]
    assert len(both.of("check", peer="webdataset")[0].runs) == 1
    assert both.settings["repeats"] == 6
    assert "`python -m b`; and `python -m c`" in report.conditions(both)
    assert both.joined(other).settings["command"] == both.settings["command"]
    assert "| ecopipe, raw | 7 |" in report.full(both)


def test_the_table_has_medians_ranges_reasons_and_what_was_delivered_wrong() -> None:
    rows = {line.split(" | ")[0].strip("| "): line for line in report.speech(made_up()).splitlines()}
    assert "900 (850-950)" in rows["ecopipe 1"]
    assert "500 (400-600)" in rows["ecopipe 1"]
    assert "6,300" in rows["ecopipe 1"]
    assert "yes" not in rows["ecopipe 1"], "nothing was compared"
    assert "450" in rows["webdataset 2"]
    assert "60.0%" in rows["webdataset 2"]
    assert "9 of 8" in rows["webdataset 2"]
    assert "left out: ModuleNotFoundError" in rows["spdl"]
    assert len({line.count("|") for line in rows.values()}) == 1


def test_a_readme_gets_the_tables_between_its_markers_and_nowhere_else(tmp_path: Path) -> None:
    readme = tmp_path / "README.md"
    readme.write_text(f"before\n{report.BEGIN}\nformer\n{report.END}\nafter\n")
    for _ in range(2):
        report.into_readme(readme, report.summary(made_up(), "chart.svg"))
    text = readme.read_text()
    assert text.startswith(f"before\n{report.BEGIN}\n![utterances per second of each loader](chart.svg)\n")
    assert text.endswith(f"\n{report.END}\nafter\n")
    assert "former" not in text
    assert text.count("| ecopipe 1 |") == 1
    readme.write_text("no markers")
    with pytest.raises(SystemExit, match="needs one line"):
        report.into_readme(readme, "x")
    assert readme.read_text() == "no markers"


def test_measurements_take_turns_and_one_that_failed_is_not_tried_again(data: Path, tmp_path: Path) -> None:
    good = Measured("limits", {"kind": "limits", "way": "memcpy", "seconds": 0.01})
    bad = Measured("limits", {"kind": "limits", "way": "none, such", "workers": 1, "seconds": 0.01})
    told: list[str] = []
    corpus.truth(data)
    measurements.measure([good, bad], 2, 100, tmp_path, {"limits": {"folder": str(data)}}, told.append)
    assert len(good.runs) == 2
    assert bad.runs == []
    assert "KeyError" in bad.reason
    assert [line.split(":")[0] for line in told] == [
        "round 1, limits memcpy", "round 1, limits none, such 1", "round 2, limits memcpy"
    ]  # fmt: skip


def test_nothing_is_planned_for_a_loader_that_could_not_be_prepared() -> None:
    found = measurements.planned(made_up().about, ["speech", "start"], [0, 1, 2], 1.0, 10)
    assert {one.task["peer"] for one in found} == {"ecopipe", "webdataset"}
    asked = [one.task for one in found if one.group == "speech" and one.task["peer"] == "webdataset"]
    assert {(task["decoder"], task["workers"]) for task in asked} == {
        ("soundfile", 0), ("soundfile", 2), ("dr_flac", 0), ("dr_flac", 2)
    }  # fmt: skip
