"""Words counted over shards: exact, whoever counts them and however little fits into memory."""

from __future__ import annotations

import tarfile
from collections import Counter
from pathlib import Path

import pytest

import ecopipe
from ecopipe.formats.text import basic_english
from ecopipe.insight.vocabulary import CorpusText, count_words
from ecopipe.pipeline.bad_samples import BadSamples
from ecopipe.pipeline.pipeline import Pipeline
from ecopipe.stages.collate import Collate
from ecopipe.stages.foreign import Map
from ecopipe.stages.plan import Batch, Bucket, Shuffle, Take, Where
from ecopipe.stages.source import Items, Mix, TarShards
from ecopipe.stages.text import TokenizeBasicEnglish, TokenizeCharacters, TokenizeWhitespace
from ecopipe.vocabulary.errors import ConfigError, SampleError

from ..conftest import ROOT


def texts_in(folder: Path) -> dict[str, str]:
    found = {}
    for path in sorted(folder.glob("*.tar")):
        with tarfile.open(path) as tar:
            for member in tar:
                if member.name.endswith(".txt"):
                    found[member.name.removesuffix(".txt")] = tar.extractfile(member).read().decode()  # type: ignore[union-attr]
    return found


def reviews(shards: Path) -> Pipeline:
    return ecopipe.load(ROOT / "pipelines" / "imdb.toml", {"source.path": str(shards / "imdb" / "train")})


def test_no_worker_and_no_limit_has_a_say(shards: Path) -> None:
    expected = Counter(word for text in texts_in(shards / "imdb" / "train").values() for word in basic_english(text))
    assert len(expected) > 100
    for workers, limit in ((0, 1 << 20), (2, 1 << 20), (0, 50), (2, 7)):
        done: list[int] = []
        with count_words(reviews(shards), workers=workers, limit=limit, advance=done.append) as counts:
            found = list(counts.items())
            assert len(found) == len(expected)
            assert dict(found) == expected
            assert counts.total == sum(expected.values())
            assert (counts.spilled > 0) == (limit < 100)
        assert sum(done) == 60


def test_the_vocabulary_of_a_stage_may_be_what_is_to_be_made(shards: Path) -> None:
    pipe = reviews(shards)
    absent = Pipeline(pipe.source, *pipe.stages[:2], TokenizeBasicEnglish(vocabulary="absent.json"), *pipe.stages[3:])
    with count_words(absent) as counts, count_words(pipe) as expected:
        assert dict(counts.items()) == dict(expected.items())


def upper(text: bytes) -> str:
    return text.decode().upper()


def test_what_stands_before_the_tokenizer_counts(shards: Path) -> None:
    source = TarShards(str(shards / "imdb" / "train"))
    texts = texts_in(shards / "imdb" / "train")
    tokenizer = TokenizeWhitespace(ngrams=2, max_tokens=3, buckets=9)
    pipe = Pipeline(source, Where("chars", at_least=400), Shuffle(), Batch(4), Map(upper, field="txt"), tokenizer,
                    Collate("tokens"))  # fmt: skip
    chosen = [text.upper() for text in texts.values() if len(text) >= 400]
    assert 0 < len(chosen) < len(texts)
    with count_words(pipe) as counts:
        assert dict(counts.items()) == Counter(word for text in chosen for word in tokenizer.words(text))
    few = CorpusText(Pipeline(source, Take(7), Bucket("tokens", max_count=2), TokenizeCharacters(), Collate("tokens")))
    assert sorted(few.texts()) == sorted(list(texts.values())[:7])
    assert few.samples == 7


def test_mixtures_and_items(shards: Path) -> None:
    parts = [TarShards(str(shards / "imdb" / split)) for split in ("train", "test")]
    mixed = Pipeline(Mix(tuple(parts), weights=(1, 1), stop="all"), Batch(3), TokenizeWhitespace(), Collate("tokens"))
    delivered = Counter(key for batch in mixed for key in batch["keys"])
    texts = texts_in(shards / "imdb" / "train") | texts_in(shards / "imdb" / "test")
    expected: Counter[str] = Counter()
    for key, times in delivered.items():
        expected.update({word: times * count for word, count in Counter(texts[key].split()).items()})
    with count_words(mixed, workers=1) as counts:
        assert dict(counts.items()) == expected
    items = Items(lambda: ({"key": str(n), "txt": f"a{n % 2} b"} for n in range(10)), window=4)
    with count_words(Pipeline(items, Batch(2), TokenizeWhitespace(), Collate("tokens"))) as counts:
        assert dict(counts.items()) == {"a0": 5, "a1": 5, "b": 10}


def broken(tmp_path: Path) -> TarShards:
    folder = tmp_path / "s"
    folder.mkdir()
    with tarfile.open(folder / "a.tar", "w") as tar:
        for number, text in enumerate([b"a b", b"\xff", b"a", b"\xfe"]):
            (tmp_path / "m").write_bytes(text)
            tar.add(tmp_path / "m", f"{number}.review")
    return TarShards(str(folder))


@pytest.mark.parametrize("policy", ["skip", "substitute"])
def test_bad_samples_are_left_out_and_told(tmp_path: Path, policy: str) -> None:
    tolerance = BadSamples(policy, max_share=1.0)  # type: ignore[arg-type]
    pipe = Pipeline(
        broken(tmp_path), Batch(2), TokenizeWhitespace(field="review"), Collate("tokens"), bad_samples=tolerance
    )
    text = CorpusText(pipe)
    assert dict(text.count(str.split).items()) == {"a": 2, "b": 1}
    assert (text.samples, text.skipped) == (2, 2)
    with pytest.raises(SampleError, match="TokenizeWhitespace: sample '1' in .*: not UTF-8: byte 0xff at offset 0"):
        count_words(Pipeline(pipe.source, *pipe.stages))


def test_a_pipeline_without_words(shards: Path) -> None:
    source = TarShards(str(shards / "imdb" / "train"))
    with pytest.raises(
        ConfigError, match="^Pipeline: has no tokenizer, which says where the text is. Add TokenizeBasi"
    ):
        count_words(Pipeline(source, Batch(1), Collate("label", layout="stack")))
    with pytest.raises(ConfigError, match="^TokenizeCharacters: makes no words to count; its tokens are settled. Put "):
        count_words(Pipeline(source, Batch(1), TokenizeCharacters(), Collate("tokens")))
