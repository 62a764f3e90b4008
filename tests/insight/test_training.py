"""Tokenizers trained on shards: the same file from the same corpus, in any process and any number of workers."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import ecopipe
from ecopipe.insight.training import Kind, train_tokenizer
from ecopipe.insight.vocabulary import CorpusText
from ecopipe.pipeline.pipeline import Pipeline
from ecopipe.stages.collate import Collate
from ecopipe.stages.plan import Batch
from ecopipe.stages.source import Items
from ecopipe.stages.subwords import TokenizeJson
from ecopipe.stages.text import TokenizeWhitespace
from ecopipe.vocabulary.errors import ConfigError, DataError, MissingDependency

from ..conftest import ROOT

pytest.importorskip("tokenizers")
pytest.importorskip("sentencepiece")

KINDS: tuple[Kind, ...] = ("bpe", "wordpiece", "unigram")
TEXT = "The film was not <unk> a na\u0308i\u0308ve one<cls>; \u65e5\u672c!"


def pipeline(shards: Path) -> Pipeline:
    return ecopipe.load(ROOT / "pipelines" / "imdb.toml", {"source.path": str(shards / "imdb" / "train")})


def trained(shards: Path, kind: Kind, size: int = 400, **settings: Any) -> Any:
    return train_tokenizer(CorpusText(pipeline(shards)), kind, size, **settings)


def test_the_same_file_from_any_process_and_workers(shards: Path, tmp_path: Path) -> None:
    code = (
        "import sys, ecopipe\n"
        "from ecopipe.insight.training import train_tokenizer; from ecopipe.insight.vocabulary import CorpusText\n"
        "if __name__ == '__main__':\n"
        "    pipe = ecopipe.load(sys.argv[1], {'source.path': sys.argv[2]})\n"
        "    for kind in sys.argv[3:]:\n"
        "        print(train_tokenizer(CorpusText(pipe, workers=1), kind, 400).to_str())\n"
    )
    (tmp_path / "train.py").write_text(code)
    given = [str(ROOT / "pipelines" / "imdb.toml"), str(shards / "imdb" / "train"), *KINDS]
    made = [
        subprocess.run(
            [sys.executable, tmp_path / "train.py", *given], capture_output=True, text=True, check=True
        ).stdout
        for _ in "12"
    ]
    assert made[0] == made[1] == "".join(trained(shards, kind).to_str() + "\n" for kind in KINDS)


@pytest.mark.parametrize("kind", KINDS)
def test_what_was_trained_is_a_stage(shards: Path, tmp_path: Path, kind: Kind) -> None:
    tokenizer = trained(shards, kind, specials=("<cls>",), lowercase=True)
    path = tmp_path / "tokenizer.json"
    tokenizer.save(str(path))
    stage = TokenizeJson(str(path))
    numbers = stage.encode(TEXT).tolist()
    assert numbers == tokenizer.encode(TEXT).ids
    assert [tokenizer.id_to_token(number) for number in range(3)] == ["<pad>", "<unk>", "<cls>"]
    assert numbers.count(2) == 1 and max(numbers) < stage.vocabulary_size <= 400
    assert (kind == "bpe") == (numbers.count(1) == 1)  # bytes know every character
    assert stage.encode("").tolist() == []
    assert "film" in tokenizer.decode(stage.encode("A FILM").tolist())
    if kind == "bpe":
        assert tokenizer.decode(stage.encode("Na\u0308ive \u65e5\u672c").tolist()) == "n\u00e4ive \u65e5\u672c"
    known = set(tokenizer.get_vocab())
    assert len(known) > 300 or kind == "unigram"
    assert not any(token != token.lower() for token in known if kind != "bpe")


def test_wordpiece_knows_every_character_and_no_more_specials(shards: Path) -> None:
    tokenizer = trained(shards, "wordpiece", 300)
    saved = json.loads(tokenizer.to_str())
    assert [token["content"] for token in saved["added_tokens"]] == ["<pad>", "<unk>"]
    assert sorted(saved["model"]["vocab"].values()) == list(range(300))
    for text in CorpusText(pipeline(shards)).texts():
        assert 1 not in tokenizer.encode(text).ids


@pytest.mark.parametrize(
    ("kind", "size", "settings", "message"),
    [
        (
            "word",
            300,
            {},
            "train-tokenizer: unknown kind 'word'. Did you mean 'wordpiece'? Known: bpe, unigram, wordpiece.",
        ),
        ("bpe", 258, {}, "train-tokenizer: size must be above 258 for 2 special tokens and 256 bytes, got 258."),
        ("wordpiece", 9, {}, "train-tokenizer: size must be above "),
        ("unigram", 9, {}, "train-tokenizer: size=7 beside the special tokens: "),
        ("unigram", 2, {}, "train-tokenizer: size leaves no room beside the special tokens."),
        ("bpe", 300, {"specials": ("<pad>",)}, "train-tokenizer: the special tokens <pad>, <unk>, <pad> are not all"),
    ],
)
def test_wrong_settings(shards: Path, kind: Any, size: int, settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        trained(shards, kind, size, **settings)
    assert str(caught.value).startswith(message)


def test_no_text() -> None:
    source = Items(lambda: [{"key": "a", "txt": ""}, {"key": "b", "txt": b" "}], window=2)
    text = CorpusText(Pipeline(source, Batch(2), TokenizeWhitespace(), Collate("tokens")))
    for kind in ("wordpiece", "unigram"):
        with pytest.raises(
            DataError, match="^train-tokenizer: the texts of the pipeline hold no word. Check its source"
        ):
            train_tokenizer(text, kind, 300)  # type: ignore[arg-type]
    assert train_tokenizer(text, "bpe", 300).get_vocab_size() == 258


def test_missing_packages(shards: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setitem(sys.modules, "sentencepiece", None)
        with pytest.raises(
            MissingDependency, match="^Unigram is trained by sentencepiece. Install it: pip install sent"
        ):
            trained(shards, "unigram")
    monkeypatch.setitem(sys.modules, "tokenizers", None)
    with pytest.raises(MissingDependency, match="^Training needs tokenizers. Install it: pip install tokenizers$"):
        trained(shards, "bpe")
