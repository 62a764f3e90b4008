"""Nothing here is collected where torchtext cannot be: everywhere but in the environment of ``make test-torchtext``."""

from __future__ import annotations

import csv
import importlib.util
import io
import tarfile

import pytest

from ..conftest import real

collect_ignore_glob = ["test_*.py"] if importlib.util.find_spec("torchtext") is None else []


@pytest.fixture(scope="session")
def reviews() -> list[str]:
    """Every review of the real IMDB."""
    with tarfile.open(real("aclImdb_v1.tar.gz")) as archive:
        files = [archive.extractfile(member) for member in archive if member.name.endswith(".txt")]
        found = [file.read().decode() for file in files if file is not None]
    assert len(found) >= 10_000
    return found


@pytest.fixture(scope="session")
def news() -> list[str]:
    """Title and description of every story of the real AG_NEWS."""
    text = real("ag_news_csv", "test.csv").read_text(encoding="utf-8")
    found = [f"{title} {description}" for _, title, description in csv.reader(io.StringIO(text))]
    assert len(found) == 7_600
    return found
