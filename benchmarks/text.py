"""Tokenizing real reviews: basic_english against its twelve substitutions, and a saved tokenizer alone and in batches.

Every figure is the median of interleaved rounds over the same reviews, in one process.
"""

from __future__ import annotations

import argparse
import itertools
import os
import re
import statistics
import tarfile
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

os.environ["TOKENIZERS_PARALLELISM"] = "false"

from ecopipe.formats.text import basic_english
from ecopipe.formats.vocab import Vocab
from ecopipe.stages.subwords import TokenizeJson
from ecopipe.stages.text import TokenizeBasicEnglish, TokenizeWhitespace

RULES = (
    (r"\'", " '  "), (r"\"", ""), (r"\.", " . "), (r"<br \/>", " "), (r",", " , "), (r"\(", " ( "), (r"\)", " ) "),
    (r"\!", " ! "), (r"\?", " ? "), (r"\;", " "), (r"\:", " "), (r"\s+", " "),
)  # fmt: skip
CHAIN = [(re.compile(pattern), replacement) for pattern, replacement in RULES]
BATCH = 64


def twelve(text: str) -> list[str]:
    """The chain of substitutions that torchtext makes."""
    text = text.lower()
    for pattern, replacement in CHAIN:
        text = pattern.sub(replacement, text)
    return text.split()


def batches(texts: Sequence[str]) -> Iterator[Sequence[str]]:
    return (texts[start : start + BATCH] for start in range(0, len(texts), BATCH))


def measured(ways: dict[str, Callable[[], object]], texts: int, repeats: int) -> None:
    found: dict[str, list[float]] = {name: [] for name in ways}
    for _, (name, way) in itertools.product(range(repeats), ways.items()):
        began = time.perf_counter()
        way()
        found[name].append(texts / (time.perf_counter() - began))
    first = statistics.median(next(iter(found.values())))
    print("| | texts/s, median (range) | |\n|---|---|---|")
    for name, rates in found.items():
        median = statistics.median(rates)
        print(f"| {name} | {median:,.0f} ({min(rates):,.0f}-{max(rates):,.0f}) | {median / first:.2f} |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("archive", type=Path, help="aclImdb_v1.tar.gz")
    parser.add_argument("--texts", type=int, default=4000)
    parser.add_argument("--repeats", type=int, default=7)
    settings = parser.parse_args()
    texts: list[str] = []
    with tarfile.open(settings.archive) as archive:
        for member in archive:
            file = archive.extractfile(member) if "/train/" in member.name and member.name.endswith(".txt") else None
            if file is not None and len(texts) < settings.texts:
                texts.append(file.read().decode())
    if any(basic_english(text) != twelve(text) for text in texts):
        raise SystemExit("basic_english differs from its twelve substitutions")
    vocab = Vocab.build(map(basic_english, texts), specials=("<pad>", "<unk>")).with_default("<unk>")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder)
        vocab.save(path / "vocab.json")
        ours = TokenizeBasicEnglish(vocabulary=str(path / "vocab.json"))
        hashed, plain = TokenizeBasicEnglish(), TokenizeWhitespace(vocabulary=str(path / "vocab.json"))
        numbers = vocab.lookup_indices
        print(f"{len(texts):,} reviews, {sum(map(len, texts)):,} characters\n")
        measured(
            {
                "twelve substitutions": lambda: [twelve(text) for text in texts],
                "twelve substitutions, and a vocabulary": lambda: [numbers(twelve(text)) for text in texts],
                "basic_english": lambda: [basic_english(text) for text in texts],
                "TokenizeBasicEnglish, vocabulary": lambda: [ours.encode(text) for text in texts],
                "TokenizeBasicEnglish, hashed": lambda: [hashed.encode(text) for text in texts],
                "TokenizeWhitespace, vocabulary": lambda: [plain.encode(text) for text in texts],
            },
            len(texts),
            settings.repeats,
        )
        _subwords(path, texts, settings.repeats)


def _subwords(path: Path, texts: Sequence[str], repeats: int) -> None:
    import tokenizers

    words = Counter(itertools.chain.from_iterable(map(basic_english, texts)))
    level = tokenizers.Tokenizer(tokenizers.models.WordLevel({word: at for at, word in enumerate(words)}, "the"))
    level.pre_tokenizer = tokenizers.pre_tokenizers.BertPreTokenizer()
    bpe = tokenizers.Tokenizer(tokenizers.models.BPE())
    bpe.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.train_from_iterator(texts, tokenizers.trainers.BpeTrainer(vocab_size=8000, show_progress=False))
    level.save(str(path / "level.json"))
    bpe.save(str(path / "bpe.json"))
    stage, by_words = TokenizeJson(str(path / "bpe.json")), TokenizeJson(str(path / "level.json"))

    def fast() -> None:
        for batch in batches(texts):
            bpe.encode_batch_fast(list(batch))

    def batched() -> None:
        for batch in batches(texts):
            bpe.encode_batch(list(batch))

    def threaded() -> None:
        os.environ["TOKENIZERS_PARALLELISM"] = "true"
        batched()
        os.environ["TOKENIZERS_PARALLELISM"] = "false"

    print()
    measured(
        {
            "TokenizeJson, BPE, one by one": lambda: [stage.encode(text) for text in texts],
            f"encode_batch of {BATCH}, one thread": batched,
            f"encode_batch_fast of {BATCH}, one thread": fast,
            f"encode_batch of {BATCH}, all threads": threaded,
            "TokenizeJson, WordLevel, one by one": lambda: [by_words.encode(text) for text in texts],
        },
        len(texts),
        repeats,
    )


if __name__ == "__main__":
    main()
