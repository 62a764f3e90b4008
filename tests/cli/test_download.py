"""``ecopipe download`` as a user runs it, from a server on loopback; and the table of what is published."""

from __future__ import annotations

import hashlib
import shlex
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from ecopipe.datasets.addresses import PUBLICATIONS, Address, Publication
from ecopipe.datasets.corpus import CORPORA
from ecopipe.storage.fetch import checksum_of, hashing, part_of

from ..conftest import real
from ..storage.test_fetch import CHECKSUM, CONTENT, Site, serve
from .test_cli import call, fails

__all__ = ["serve"]

NAME = "x.tar"

RUN = """
import sys
from ecopipe.datasets.addresses import PUBLICATIONS, Address, Publication
file = Address(sys.argv[1], int(sys.argv[2]), sys.argv[3])
PUBLICATIONS["yesno"] = Publication("yesno", {"recordings": (file,)}, default=("recordings",))
sys.argv[:] = ["ecopipe", *sys.argv[4:]]
from ecopipe.cli.main import main
main()
"""


@pytest.fixture
def published(serve: Callable[..., Site], monkeypatch: pytest.MonkeyPatch) -> Site:
    """A corpus of two versions, of which the server has the first."""
    site = serve()
    parts = {
        "new": (Address(site.url, None, CHECKSUM),),
        "old": (Address(site.url.replace(NAME, "old.tar"), 7, "md5:7c2ac02c03563afcf9b574c7e56c153a"),),
    }
    monkeypatch.setitem(PUBLICATIONS, "yesno", Publication("yesno", parts, default=("new",), versions=True))
    return site


def test_the_table_is_in_order() -> None:
    for name, publication in PUBLICATIONS.items():
        assert name == publication.corpus and name in CORPORA
        assert set(publication.default) <= set(publication.parts)
        files = [file for part in publication.parts.values() for file in part]
        assert len({file.name for file in files}) == len(files)  # they lie in one folder
        for file in files:
            assert file.url.startswith(("https://", "http://"))
            assert file.size is None or file.size > 1000
            assert hashing(file.checksum).name in ("md5", "sha256")
            assert file.checksum == file.checksum.lower()


@pytest.mark.parametrize(
    ("name", "folder"), [("mnist", ("MNIST", "raw")), ("ag_news", ("ag_news_csv",))], ids=["mnist", "ag_news"]
)
def test_the_table_is_right_about_real_files(name: str, folder: tuple[str, ...]) -> None:
    seen = 0
    for file in [file for part in PUBLICATIONS[name].parts.values() for file in part]:
        path = real(*folder) / file.name
        if path.exists():
            assert (path.stat().st_size, checksum_of(path, file.checksum)) == (file.size, file.checksum)
            seen += 1
    assert seen


def test_what_there_is() -> None:
    out, _ = call("download")
    for shown in (*PUBLICATIONS, "train-clean-360: 23.0 GB, SHA256", "* python: 170.5 MB, MD5", "licence: CC BY 4.0"):
        assert shown in out
    assert "* train-clean-100" not in out  # never fetched without being named
    one, _ = call("download", "imdb", "--list")
    assert "84.1 MB" in one and "librispeech" not in one


def test_what_is_misspelt_or_must_be_named(tmp_path: Path) -> None:
    fails("download", "librispech", message="no address for a corpus named 'librispech'. Did you mean 'librispeech'")
    fails("download", "mnist", "tset", "--to", tmp_path, message="mnist has no part 'tset'. Did you mean 'test'")
    fails("download", "librispeech", "--to", tmp_path, message="Name the parts of librispeech.*train-clean-100.*or all")
    assert list(tmp_path.iterdir()) == []
    assert PUBLICATIONS["librispeech"].choose(["all"]) == tuple(PUBLICATIONS["librispeech"].parts)
    assert PUBLICATIONS["mnist"].choose(["test", "test"]) == ("test",)


def test_from_the_server_to_shards(serve: Callable[..., Site], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    raw = real("MNIST", "raw")
    files = {file.name: (raw / file.name).read_bytes() for file in PUBLICATIONS["mnist"].parts["test"]}
    site = serve(files=files, cuts=[1_000_000])
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("ECOPIPE_RETRY_WAIT_S", "0.01")
    out, err = call("download", "mnist", "test", "--mirror", site.url.removesuffix(f"/{NAME}"))
    before, after = out.split("licence:")
    for shown in ("mnist: 2 files to fetch, 1.7 MB, from http://127.0.0.1", "to corpora/mnist", "1.6 MB, SHA256"):
        assert shown in before
    assert "t10k-images-idx3-ubyte.gz: 1.6 MB, SHA256 as published." in after
    assert err == "t10k-images-idx3-ubyte.gz: interrupted at 1,000,000 bytes; trying again.\n"
    assert after.splitlines()[-2] == "mnist: 2 files complete in corpora/mnist. Next:"
    call(*shlex.split(after.splitlines()[-1])[1:])
    assert list((tmp_path / "shards" / "mnist" / "test").glob("*.tar"))


def test_it_is_quiet_when_complete(published: Site, tmp_path: Path) -> None:
    out, _ = call("download", "yesno", "--to", tmp_path)
    assert "x.tar: 300.0 kB, SHA256\n" in out
    assert [method for method, _ in published.asked] == ["HEAD", "GET"]
    assert out.endswith(f"Next:\n  ecopipe shard yesno {tmp_path}/x.tar shards/yesno\n")
    assert call("download", "yesno", "--to", tmp_path) == (f"yesno: 1 file complete in {tmp_path}.\n", "")
    assert len(published.asked) == 2


def test_what_is_there_is_verified(published: Site, tmp_path: Path) -> None:
    fails("download", "yesno", "--verify", "--to", tmp_path, message="holds nothing of yesno. Fetch it")
    call("download", "yesno", "--to", tmp_path)
    assert call("download", "yesno", "--verify", "--to", tmp_path)[0] == f"{tmp_path}/x.tar: as published (SHA256).\n"
    assert f"{tmp_path}/old.tar: missing." in call("download", "yesno", "all", "--verify", "--to", tmp_path, code=1)[0]
    (tmp_path / NAME).write_bytes(b"other")
    found = f"sha256:{hashlib.sha256(b'other').hexdigest()}"
    told, _ = call("download", "yesno", "--verify", "--to", tmp_path, code=1)
    assert f"its checksum is {found}, where {CHECKSUM} was expected" in told
    assert len(published.asked) == 2


def test_what_the_server_has_not_is_an_error(published: Site, tmp_path: Path) -> None:
    fails("download", "yesno", "old", "--to", tmp_path, message="old.tar: there is no such file.*404")
    published.files["old.tar"] = b"seven b"
    fails("download", "yesno", "old", "--to", tmp_path, message="not the published one: its checksum is md5:")
    assert [path.name for path in tmp_path.iterdir()] == []


def test_space_is_looked_for_before_anything_is_fetched(
    published: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    huge = Publication("yesno", {"new": (Address(published.url, 1 << 60, CHECKSUM),)}, default=("new",))
    monkeypatch.setitem(PUBLICATIONS, "yesno", huge)
    fails("download", "yesno", "--to", tmp_path / "deep" / "er", message=r"1\.2 EB are to be fetched, and the disk has")
    assert published.asked == [] and list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT, signal.SIGTERM])
def test_interrupted_in_the_middle_and_continued(
    serve: Callable[..., Site], tmp_path: Path, number: signal.Signals
) -> None:
    gate = threading.Event()
    site = serve(gate=gate)
    table = [site.url, str(len(CONTENT)), CHECKSUM]
    command = [sys.executable, "-c", RUN, *table, "download", "yesno", "--to", str(tmp_path)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    part = part_of(tmp_path / NAME)
    end = time.monotonic() + 60
    while not (part.exists() and part.stat().st_size == len(CONTENT) // 2):
        assert process.poll() is None and time.monotonic() < end
        time.sleep(0.01)
    process.send_signal(number)
    _, error = process.communicate(timeout=60)
    assert process.returncode == {signal.SIGKILL: -9, signal.SIGINT: 130, signal.SIGTERM: 143}[number]
    assert "Traceback" not in error
    if number != signal.SIGKILL:
        assert "What has come is kept; the same command goes on from there." in error
    assert not (tmp_path / NAME).exists()
    gate.set()
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60)
    assert "x.tar: 300.0 kB, SHA256, 150.0 kB of it came before" in done.stdout
    assert done.stderr == ""
    assert site.asked == [("GET", 0), ("GET", len(CONTENT) // 2)]
    assert (tmp_path / NAME).read_bytes() == CONTENT
    assert [path.name for path in tmp_path.iterdir()] == [NAME]
