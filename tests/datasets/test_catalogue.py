"""What readers say of themselves, their settings as text, and the commands that use both."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from ecopipe.datasets.catalogue import entries, entry, parse_options
from ecopipe.datasets.corpus import CORPORA, reader_of, settings_of
from ecopipe.formats.measures import MEASURES
from ecopipe.vocabulary.errors import ConfigError
from tests.cli.test_cli import call
from tests.datasets.streamed import write


def run(*words: object, code: int = 0) -> str:
    """What ``ecopipe`` prints, errors too, 80 columns wide."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("COLUMNS", "80")
        return "".join(call(*map(str, words), code=code))


@pytest.mark.parametrize("name", CORPORA)
def test_every_reader_says_what_it_takes_and_gives(name: str) -> None:
    found = entry(name)
    assert found.title and found.expects and found.members
    assert "\n" not in found.title + found.expects + found.licence
    assert set(reader_of(name).options) == set(settings_of(reader_of(name))) == {each.name for each in found.options}
    assert not set(found.columns) & set(MEASURES)
    assert found.licence or name in ("csv", "folder", "images", "jsonl", "parquet")


def test_options_are_typed_by_the_reader() -> None:
    texts = ["header=False", "text=a=b", "rows=train=0:5,test=5:", "rows=more=1:2", "delimiter=,"]
    assert parse_options("csv", texts) == {
        "header": False,
        "text": "a=b",
        "rows": ("train=0:5", "test=5:", "more=1:2"),
        "delimiter": ",",
    }
    assert parse_options("mnist", ["storage=raw"]) == {"storage": "raw"}
    assert parse_options("librispeech", ["only=a,b"]) == {"only": ("a", "b")}


@pytest.mark.parametrize(
    ("name", "text", "found"),
    [
        ("csv", "header", "--option 'header' is not of the form KEY=VALUE"),
        ("csv", "heder=1", "The csv corpus has no option 'heder'. Did you mean 'header'?"),
        ("csv", "header=maybe", "--option header=maybe: write true or false"),
        ("cifar100", "storage=rwa", "--option storage=rwa is not known. Did you mean 'raw'?"),
        ("imdb", "storage=raw", "The imdb corpus has no option 'storage'. Known: none."),
        ("jason", "a=b", "no reader for a corpus named 'jason'"),
    ],
)
def test_wrong_options_are_explained(name: str, text: str, found: str) -> None:
    with pytest.raises(ConfigError) as error:
        parse_options(name, [text])
    assert found in str(error.value)


def test_an_option_that_takes_one_value_is_given_once() -> None:
    with pytest.raises(ConfigError, match=r"--option text is given twice, and takes one value\."):
        parse_options("csv", ["text=a", "text=b"])


def test_the_command_lists_all() -> None:
    shown = run("datasets")
    assert max(map(len, shown.splitlines())) <= 80
    for name in CORPORA:
        assert f"│ {name} " in shown
    listed = json.loads(run("datasets", "--json"))
    assert [each["name"] for each in listed] == sorted(CORPORA) == [each.name for each in entries()]
    assert set(listed[0]) == {"name", "title", "expects", "members", "columns", "options", "licence"}
    assert "storage (png|raw, png unless given)" in run("datasets", "mnist")
    assert "Did you mean 'mnist'" in run("datasets", "mnits", code=2)


def test_options_reach_the_reader_and_the_shards_stream(tmp_path: Path) -> None:
    rows = "".join(f'"text {number}, with a comma",{"ab"[number % 2]}\n' for number in range(10))
    write(tmp_path, {"x.csv": "t,l\n" + rows})
    options = [word for text in ("text=t", "label=l", "rows=train=0:8,test=8:") for word in ("--option", text)]
    shown = run("shard", "csv", tmp_path / "x.csv", tmp_path / "out", *options)
    assert "train" in shown and "a 4, b 4" in shown
    pipeline = f"""
        source = {{ path = "{tmp_path}/out/train" }}
        stages = [
            {{ stage = "Shuffle" }},
            {{ stage = "Batch", size = 4 }},
            {{ stage = "TokenizeBasicEnglish" }},
            {{ stage = "Collate", input = "tokens", target = "label", keep = ["class_name"] }},
        ]
    """
    (tmp_path / "x.toml").write_text(pipeline)
    streamed = json.loads(run("stream", tmp_path / "x.toml", "--json").splitlines()[-1])
    assert streamed["samples"] == 8
    assert "no option 'txt'. Did you mean 'text'" in run(
        "shard", "csv", tmp_path / "x.csv", tmp_path / "no", "--option", "txt=t", code=2
    )
    assert "--storage is for cifar10, cifar100, fashion-mnist, kmnist, mnist; csv is stored as it is" in run(
        "shard", "csv", tmp_path / "x.csv", tmp_path / "no", "--storage", "raw", code=2
    )
    assert not (tmp_path / "no").exists()
