"""What tests share: real data where it is, small generated corpora where it is not, and shards of both."""

from __future__ import annotations

import multiprocessing.util
import os
import shutil
import tempfile
from pathlib import Path

import pytest

from ecopipe.datasets import synthetic
from ecopipe.datasets.corpus import open_corpus
from ecopipe.sharding.limits import Limits
from ecopipe.sharding.write import write_corpus

ROOT = Path(__file__).resolve().parents[1]
DATA = ROOT.parent / "shared" / "data"


def pytest_configure(config: pytest.Config) -> None:
    """Processes that test side by side share the cores, and leave nothing behind.

    The cores: torch's threads, of all of them, would wait for each other. Before torch is imported; the processes that
    tests start inherit it. A run without xdist has threads as users have.

    Nothing behind: what tests start (torchrun, Ray, multiprocessing, servers) puts its files into one folder, and some
    is ended by force. It goes with the run; ``tmp_path`` of what failed stays where pytest has it.
    """
    if workers := int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", 0)):
        os.environ.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // workers)))
        return
    os.environ.setdefault("PYTEST_DEBUG_TEMPROOT", tempfile.gettempdir())
    folder = tempfile.mkdtemp(prefix="eco-")  # short: paths of sockets are at most 107 bytes
    os.chmod(folder, 0o711)  # those who give up their rights pass through it
    os.environ["TMPDIR"], tempfile.tempdir = folder, None

    def leave() -> None:
        multiprocessing.util._exit_function()  # it removes a folder of its own there, and complains if it cannot
        shutil.rmtree(folder, ignore_errors=True)

    config.add_cleanup(leave)


def pytest_make_parametrize_id(val: object, argname: str) -> str | None:
    """Bytes are named by their argument, not by themselves: what is in a payload may differ from process to process."""
    return argname if isinstance(val, bytes) else None


def real(*parts: str) -> Path:
    """A path in the folder of real data; the test is skipped where it is absent."""
    path = DATA.joinpath(*parts)
    if not path.exists():
        pytest.skip(f"the real data is not there: {'/'.join(('..', 'shared', 'data', *parts))}")
    return path


@pytest.fixture(scope="session")
def corpora(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three small corpora in the upstream layouts: 24 utterances, 60 reviews a split, 12 images a batch file."""
    root = tmp_path_factory.mktemp("corpora")
    synthetic.write_librispeech(root / "librispeech", utterances=24, speakers=2, longest_s=6.0)
    synthetic.write_imdb(root / "imdb", reviews=60, median_words=60)
    synthetic.write_cifar10(root / "cifar10", rows=12)
    return root


@pytest.fixture(scope="session")
def shards(corpora: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The shards of :func:`corpora`: several a split, so that there is something to deal."""
    root = tmp_path_factory.mktemp("shards")
    for name, count in (("librispeech", 5), ("imdb", 16), ("cifar10", 13)):
        with open_corpus(name, corpora / name) as corpus:
            write_corpus(corpus, root / name, limits=Limits(max_count=count))
    return root


SPLITS = {"librispeech": "train-clean-100", "imdb": "train", "cifar10": "train"}
