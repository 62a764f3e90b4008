"""The text of a pipeline file."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from ecopipe.pipeline.document import check_file, parse_text, read_text
from ecopipe.vocabulary.errors import ConfigError


def test_a_file_that_is_toml_is_let_through(tmp_path: Path) -> None:
    path = tmp_path / "x.toml"
    path.write_text('[source]\npath = "ü"\n', encoding="utf-8")
    assert check_file(path) == path
    assert parse_text(read_text(path), "x") == {"source": {"path": "ü"}}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "there is no such file. Name a pipeline file, such as pipelines/librispeech.toml."),
        (b"\xff\xfe", "cannot be read: it is no UTF-8 text. Name a pipeline file, such as"),
        (b"[source", "is no TOML: "),
    ],
)
def test_a_file_that_is_none_is_refused(tmp_path: Path, content: bytes | None, message: str) -> None:
    path = tmp_path / "x.toml"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ConfigError) as caught:
        check_file(path)
    assert str(caught.value).startswith(f"{path}: {message}")


def test_a_pipe_is_not_read_since_it_can_be_read_only_once() -> None:
    reader, writer = os.pipe()
    try:
        os.write(writer, b"[source")
        os.close(writer)
        assert check_file(Path(f"/dev/fd/{reader}")) == Path(f"/dev/fd/{reader}")
        assert os.read(reader, 100) == b"[source"
    finally:
        os.close(reader)
