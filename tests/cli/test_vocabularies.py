"""``ecopipe vocab`` and ``ecopipe train-tokenizer`` as a user runs them, and the pipeline that uses what they wrote."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import pytest

import ecopipe
from ecopipe.formats.text import basic_english
from ecopipe.formats.vocab import Vocab

from ..conftest import ROOT
from ..insight.test_vocabulary import texts_in
from .test_cli import call, fails, run

REVIEWS = ROOT / "pipelines" / "imdb.toml"


def source(shards: Path) -> list[str]:
    return ["--set", f"source.path={shards / 'imdb' / 'train'}"]


@pytest.fixture(scope="module")
def counts(shards: Path) -> Counter[str]:
    return Counter(word for text in texts_in(shards / "imdb" / "train").values() for word in basic_english(text))


def test_a_vocabulary_from_shards_to_batches(shards: Path, counts: Counter[str], tmp_path: Path) -> None:
    done = run("vocab", REVIEWS, *source(shards), "--min-freq", "3", cwd=tmp_path)  # vocab.json by default
    vocab = Vocab.load(tmp_path / "vocab.json")
    assert vocab == Vocab.from_counts(counts.items(), specials=("<pad>", "<unk>"), min_freq=3).with_default("<unk>")
    assert 10 < len(vocab) < len(counts)
    known = sum(counts[word] for word in vocab) / sum(counts.values())
    told = ("60", f"{sum(counts.values()):,}", f"{len(counts):,}", f"{len(vocab):,} with 2 specials", f"{known:.2%}")
    for shown in (*told, vocab.lookup_token(2), "wrote vocab.json"):
        assert shown in done.stdout
    assert done.stderr == ""
    setting = f"TokenizeBasicEnglish.vocabulary={tmp_path / 'vocab.json'}"
    call("stream", REVIEWS, *source(shards), "--set", setting)
    pipe = ecopipe.load(REVIEWS, {"source.path": str(shards / "imdb" / "train"), **dict([setting.split("=", 1)])})
    texts = texts_in(shards / "imdb" / "train")
    for batch in pipe:
        for key, row, length in zip(batch["keys"], batch["tokens"].tolist(), batch["lengths"].tolist(), strict=True):
            assert row[:length] == vocab(basic_english(texts[key]))
            assert set(row[length:]) <= {0}


def test_workers_and_limits(shards: Path, counts: Counter[str], tmp_path: Path) -> None:
    def made(name: str, *options: str) -> Vocab:
        call("vocab", REVIEWS, *source(shards), "-o", tmp_path / name, *options)
        return Vocab.load(tmp_path / name)

    assert made("a.json") == made("b.json", "--workers", "2")
    assert (tmp_path / "a.json").read_bytes() == (tmp_path / "b.json").read_bytes()
    assert made("tokens.json", "--max-tokens", "20").tokens == made("a2.json").tokens[:20]
    assert len(made("size.json", "--max-size", "20")) == 22
    last = made("last.json", "--special", "<eos>", "--default", "", "--specials-last", "--max-size", "3")
    assert last == Vocab((*(word for word, _ in sorted(counts.items(), key=lambda p: (-p[1], p[0]))[:3]), "<eos>"))
    text = made("new/words.txt", "--max-size", "5", "--special", "<unk>")
    assert (tmp_path / "new" / "words.txt").read_text().splitlines() == list(text)


def test_a_file_is_not_replaced_unasked_and_mistakes_are_told_first(shards: Path, tmp_path: Path) -> None:
    out = tmp_path / "vocab.json"
    given = [REVIEWS, *source(shards), "-o", out]
    call("vocab", *given)
    before = out.read_bytes()
    taken = r"vocab\.json: already exists\. Choose another place with -o, or replace it with --overwrite"
    fails("vocab", *given, "--max-size", "3", message=taken)
    fails("train-tokenizer", *given, message=taken)
    assert out.read_bytes() == before
    call("vocab", *given, "--max-size", "3", "--overwrite")
    assert len(Vocab.load(out)) == 5
    absent = [REVIEWS, "--set", "source.path=absent", "-o", tmp_path / "x.json"]
    fails(
        "vocab", *absent, "--max-size", "3", "--max-tokens", "3", message="max_tokens counts the specials and max_size"
    )
    fails("vocab", *absent, "--default", "<oov>", message="--default '<oov>' is none of the specials <pad>, <unk>")
    fails("vocab", *absent, message="absent: there is no such file or folder")
    fails("vocab", ROOT / "pipelines" / "cifar10.toml", "-o", tmp_path / "x.json", message="has no tokenizer")
    assert [left.name for left in tmp_path.iterdir()] == ["vocab.json"]


def test_a_tokenizer_from_shards_to_batches(shards: Path, tmp_path: Path) -> None:
    pytest.importorskip("tokenizers")
    out = tmp_path / "tokenizer.json"
    done = run("train-tokenizer", REVIEWS, *source(shards), "--size", "400", "--special", "<cls>", "-o", out)
    for shown in ("60", "bpe", "400", f"wrote {out}"):
        assert shown in done.stdout
    assert [token["content"] for token in json.loads(out.read_text())["added_tokens"]] == ["<pad>", "<unk>", "<cls>"]
    call("train-tokenizer", REVIEWS, *source(shards), "--size", "400", "--special", "<cls>", "-o", tmp_path / "again",
         "--workers", "1")  # fmt: skip
    assert (tmp_path / "again").read_bytes() == out.read_bytes()
    file = tmp_path / "bpe.toml"
    file.write_text(
        REVIEWS.read_text().replace('stage = "TokenizeBasicEnglish"', f'stage = "TokenizeJson"\npath = "{out}"')
    )
    texts = texts_in(shards / "imdb" / "train")
    for batch in ecopipe.load(file, {"source.path": str(shards / "imdb" / "train")}):
        assert batch["lengths"].tolist() == [
            len(ecopipe.TokenizeJson(str(out)).encode(texts[key])) for key in batch["keys"]
        ]
    call(
        "train-tokenizer", file, *source(shards), "--size", "300", "-o", out, "--overwrite"
    )  # any tokenizer's pipeline
    fails(
        "train-tokenizer",
        REVIEWS,
        *source(shards),
        "--size",
        "9",
        "-o",
        tmp_path / "x",
        message="size must be above 258",
    )
    assert not (tmp_path / "x").exists()
