"""Sharding on a real Ray cluster: the bytes of the local engine, whoever dies on the way."""

from __future__ import annotations

import contextlib
import hashlib
import logging
import os
import secrets
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from ecopipe.datasets import synthetic
from ecopipe.datasets.corpus import open_corpus
from ecopipe.pipeline.bad_samples import BadSamples
from ecopipe.pipeline.toml import load_stages
from ecopipe.sharding import on_ray
from ecopipe.sharding.limits import Limits
from ecopipe.sharding.planning import list_split, plan_shards
from ecopipe.sharding.recipe import Recipe
from ecopipe.sharding.staging import LocalStaging
from ecopipe.sharding.tasks import Job
from ecopipe.sharding.versions import library_versions
from ecopipe.sharding.write import write_corpus
from ecopipe.vocabulary.errors import ConfigError, MissingDependency
from tests.servers import ACCESS, SECRET, s3_server

pytestmark = [
    pytest.mark.filterwarnings("ignore::ResourceWarning:ray"),  # Ray leaves the logs of its processes open
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),  # which the collector finds later
    pytest.mark.filterwarnings("ignore::FutureWarning:ray"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning:ray"),
]

UTTERANCES = 120
GIVE_UP_S = 60.0
SPLIT = "train-clean-100"
UNFINISHED = f".ecopipe-unfinished-{SPLIT}"
STORE = 80 * 2**20

STAGES = """
[[stages]]
stage = "DecodeAudio"

[[stages]]
stage = "Resample"
rate_hz = 22050

[[stages]]
stage = "EncodeAudio"
"""


@pytest.fixture(autouse=True, scope="module")
def quiet() -> Iterator[None]:
    """No reports to Ray's makers, and a token of these tests, so that none is written to the home folder."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        patch.setenv("RAY_AUTH_MODE", "token")
        patch.setenv("RAY_AUTH_TOKEN", secrets.token_hex(32))
        patch.setenv("RAY_memory_monitor_refresh_ms", "0")
        patch.delenv("RAY_ADDRESS", raising=False)
        before = logging.getLogger("ray").level
        yield
        logging.getLogger("ray").setLevel(before)


class TwoNodes:
    """A Ray cluster of two nodes with one CPU each on this machine."""

    def __init__(self) -> None:
        from ray.cluster_utils import Cluster

        # Ray's drivers take 127.0.0.1 for the machine's address in its network
        node = {"num_cpus": 1, "object_store_memory": STORE, "node_ip_address": "127.0.0.2"}
        self.cluster = Cluster(initialize_head=True, head_node_args={**node, "include_dashboard": False})
        self._node = node
        self.other = self.cluster.add_node(**node)
        self.cluster.wait_for_nodes(GIVE_UP_S)
        self.address = self.cluster.address

    def kill_node(self) -> None:
        """SIGKILL to the raylet of the second node and to all that it began."""
        (raylet,) = (info.process.pid for info in self.other.all_processes["raylet"])
        for pid in [raylet, *descendants(raylet)]:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self.cluster.remove_node(self.other, allow_graceful=False)

    def add_node(self) -> None:
        """The second node again."""
        self.other = self.cluster.add_node(**self._node)
        self.cluster.wait_for_nodes(GIVE_UP_S)


def descendants(pid: int) -> list[int]:
    """The processes that a process began, and theirs."""
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return [one for child in map(int, children) for one in (child, *descendants(child))]


@pytest.fixture(scope="module")
def two_nodes(quiet: None) -> Iterator[TwoNodes]:
    pytest.importorskip("ray")
    nodes = TwoNodes()
    yield nodes
    nodes.cluster.shutdown()


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A corpus with a damaged FLAC in it."""
    root = tmp_path_factory.mktemp("source") / "librispeech"
    synthetic.write_librispeech(root, utterances=UTTERANCES, speakers=3, longest_s=6.0)
    damaged = sorted(root.rglob("*.flac"))[UTTERANCES // 2]
    damaged.write_bytes(damaged.read_bytes()[:-2000])
    return root


@pytest.fixture(scope="module")
def stages(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("stages") / "stages.toml"
    path.write_text(STAGES)
    return path


@pytest.fixture(scope="module")
def expected(source: Path, stages: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """What the local engine writes, with no worker and with two."""
    found = []
    for workers in (0, 2):
        out = tmp_path_factory.mktemp(f"local-{workers}") / "out"
        write(source, out, stages, workers=workers)
        found.append(tree(out))
    assert found[0] == found[1]
    assert len(found[0]) == UTTERANCES // 2 + 3  # and the index, the description, the quarantine
    return found[0]


def write(source: Path, out: str | Path, stages: Path, **settings: Any) -> None:
    with open_corpus("librispeech", source) as corpus:
        write_corpus(
            corpus,
            out,
            limits=Limits(max_count=2),
            recipe=Recipe(load_stages(stages)),
            bad_samples=BadSamples("skip"),
            source="librispeech",
            **settings,
        )


def command(source: Path, out: Path | str, stages: Path, *more: str) -> list[str]:
    return [
        *(sys.executable, "-m", "ecopipe", "shard", "librispeech", str(source), str(out), "--stages", str(stages)),
        *("--max-count", "2", "--bad-samples", "skip", *more),
    ]


@contextlib.contextmanager
def started(arguments: list[str]) -> Iterator[subprocess.Popen[str]]:
    """A process, ended with the block."""
    run = subprocess.Popen(arguments, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        yield run
    finally:
        if run.poll() is None:
            run.kill()
            run.communicate(timeout=GIVE_UP_S)


def tree(folder: Path) -> dict[str, str]:
    """The digest of each file, by its path; none is hidden."""
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def kept(out: Path) -> int:
    """How many shards of an unfinished run are done."""
    return len(list((out / UNFINISHED / "tasks").glob("*.json")))


def wait_until_kept(out: Path, count: int, process: subprocess.Popen[str]) -> None:
    give_up = time.monotonic() + GIVE_UP_S
    while kept(out) < count and time.monotonic() < give_up and process.poll() is None:
        time.sleep(0.02)
    assert process.poll() is None, process.communicate()[1]
    assert count <= kept(out) < UTTERANCES // 2


def test_a_cluster_that_is_not_there(corpora: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("ray")
    with open_corpus("librispeech", corpora / "librispeech") as corpus:
        for address, reason in (("127.0.0.1:1", "refused"), ("ray://127.0.0.1:1", "refused"), ("there", "Invalid")):
            with pytest.raises(ConfigError, match=f"no Ray cluster can be used at {address!r}: .*{reason}"):
                write_corpus(corpus, tmp_path / "out", engine="ray", ray_address=address)
        monkeypatch.setenv("RAY_ADDRESS", "127.0.0.1:2")
        with pytest.raises(ConfigError, match=r"127\.0\.0\.1:2"):
            write_corpus(corpus, tmp_path / "out", engine="ray")
    assert not list((tmp_path / "out").iterdir())


def test_ray_is_not_installed(corpora: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with (
        open_corpus("librispeech", corpora / "librispeech") as corpus,
        pytest.raises(MissingDependency, match=r"pip install 'ecopipe\[ray\]'"),
    ):
        write_corpus(corpus, tmp_path / "out", engine="ray")


def test_a_fresh_cluster(corpora: Path, tmp_path: Path) -> None:
    """It is quiet, ends what it began, and takes relative paths."""
    pytest.importorskip("ray")
    with open_corpus("librispeech", corpora / "librispeech") as corpus:
        write_corpus(corpus, tmp_path / "local", limits=Limits(max_count=8), source="librispeech")
    shutil.copytree(corpora / "librispeech", tmp_path / "librispeech")
    options = ["--max-count", "8", "--engine", "ray", "--workers", "1"]
    done = subprocess.run(
        [sys.executable, "-m", "ecopipe", "shard", "librispeech", "librispeech", "out", *options],
        capture_output=True, text=True, check=False, cwd=tmp_path, timeout=GIVE_UP_S,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    assert tree(tmp_path / "out") == tree(tmp_path / "local")
    assert [path for path in (tmp_path / "out").iterdir() if path.name.startswith(".")] == []


@pytest.mark.long
def test_a_node_dies_in_mid_run(
    source: Path, stages: Path, expected: dict[str, str], two_nodes: TwoNodes, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    with started(command(source, out, stages, "--engine", "ray", "--ray-address", two_nodes.address)) as run:
        wait_until_kept(out, 4, run)
        two_nodes.kill_node()
        assert kept(out) < UTTERANCES // 2
        told = run.communicate(timeout=GIVE_UP_S)[1]
        assert run.returncode == 0, told
    two_nodes.add_node()
    assert tree(out) == expected


@pytest.mark.long
@pytest.mark.parametrize(
    ("number", "code"),
    [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGKILL, -signal.SIGKILL)],
    ids=["SIGINT", "SIGTERM", "SIGKILL"],
)
def test_the_run_is_ended_and_gone_on_with_by_the_other_engine(
    source: Path, stages: Path, expected: dict[str, str], two_nodes: TwoNodes, tmp_path: Path,
    number: signal.Signals, code: int,
) -> None:  # fmt: skip
    out = tmp_path / "out"
    ray = ["--engine", "ray", "--ray-address", two_nodes.address]
    with started(command(source, out, stages, *ray)) as run:
        wait_until_kept(out, 4, run)
        run.send_signal(number)
        told = run.communicate(timeout=GIVE_UP_S)[1]
        assert run.returncode == code, told
        assert "Traceback" not in told
    before = kept(out)
    write(source, out, stages, workers=2)
    assert 4 <= before < UTTERANCES // 2
    assert tree(out) == expected


@pytest.mark.long
def test_ray_goes_on_with_what_the_local_engine_left(
    source: Path, stages: Path, expected: dict[str, str], two_nodes: TwoNodes, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    with started(command(source, out, stages, "--workers", "2")) as run:
        wait_until_kept(out, 4, run)
        run.kill()
    made = {path.name: path.stat().st_ino for path in (out / UNFINISHED / "tasks").glob("*.json")}
    notes: list[int] = []
    write(
        source, out, stages, engine="ray", ray_address=two_nodes.address,
        progress=lambda _split, _samples, before: lambda samples, _size, _bad: notes.append(samples),
    )  # fmt: skip
    assert sum(notes) <= UTTERANCES - 2 * len(made)
    assert tree(out) == expected


@pytest.mark.long
def test_a_session_of_others_is_left_as_it_was(
    source: Path, stages: Path, expected: dict[str, str], two_nodes: TwoNodes, tmp_path: Path
) -> None:
    """An interrupted run takes back what it has asked for, and no more."""
    import ray

    def interrupt(samples: int, _size: int, _bad: int) -> None:
        told.append(samples)
        if len(told) == 3:
            raise KeyboardInterrupt

    told: list[int] = []
    out = tmp_path / "out"
    ray.init(address=two_nodes.address, log_to_driver=False, configure_logging=False)
    try:
        with pytest.raises(KeyboardInterrupt):
            write(source, out, stages, engine="ray", progress=lambda *_: interrupt)
        before, give_up = kept(out), time.monotonic() + GIVE_UP_S
        while ray.available_resources().get("CPU", 0) < 2 and time.monotonic() < give_up:
            time.sleep(0.1)
        assert ray.available_resources()["CPU"] == 2
        assert kept(out) <= before + 2  # the two that were at work; those behind them were taken back
        assert ray.get(ray.remote(lambda: 3).remote()) == 3
        write(source, out, stages, engine="ray")
        assert ray.is_initialized()
    finally:
        ray.shutdown()
    assert tree(out) == expected


def test_what_a_node_does_not_see(corpora: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A node says so before it writes anything."""
    monkeypatch.setattr(on_ray, "SEEN_S", 0.1)
    monkeypatch.chdir(tmp_path)
    shutil.copytree(corpora / "librispeech", tmp_path / "here")
    with open_corpus("librispeech", tmp_path / "here") as corpus:
        how = {"recipe": Recipe(), "limits": Limits()}
        plan = plan_shards(corpus, list_split(corpus, SPLIT, **how), **how)
        staging = LocalStaging(tmp_path / "out" / SPLIT)
        held = on_ray._Held(Job(corpus, plan, Recipe(), staging), str(tmp_path), library_versions())
        with pytest.raises(ConfigError, match=rf"{SPLIT}: is not seen by the node .* share under the same path"):
            on_ray._check_node(held)
        with staging.begun(plan.fingerprint):
            on_ray._check_node(held)
            (tmp_path / "here").rename(tmp_path / "away")
            with pytest.raises(ConfigError, match=r"here: is not seen by the node .* share under the same path"):
                on_ray._check_node(held)


@pytest.mark.long
def test_an_object_store(
    source: Path, stages: Path, expected: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("ray")
    with s3_server(tmp_path / "s3") as url:
        monkeypatch.setenv("AWS_ENDPOINT_URL", url)
        monkeypatch.setenv("AWS_ACCESS_KEY_ID", ACCESS)
        monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", SECRET)
        monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
        from ecopipe.storage import remote

        remote._used.clear()
        store, _ = remote.filesystem("s3://corpora")
        store.mkdir("corpora")
        write(source, "s3://corpora/out", stages, engine="ray")
        store.get("corpora/out", str(tmp_path / "got"), recursive=True)
    assert tree(tmp_path / "got") == expected


def test_a_node_of_other_versions(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """What a node says that has another numpy."""
    held = on_ray._Held(None, str(tmp_path), {**library_versions(), "numpy": "1.0"})  # type: ignore[arg-type]
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError, match=r"has numpy [\d.]+ instead of 1\.0\. Install on each node"):
        on_ray._check_node(held)
