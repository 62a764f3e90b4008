"""``ecopipe vocab`` and ``ecopipe train-tokenizer``."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from ecopipe.cli.progress import count_bar
from ecopipe.cli.streaming import open_source
from ecopipe.formats.vocab import SUFFIX, Vocab
from ecopipe.insight.training import Kind, train_tokenizer
from ecopipe.insight.vocabulary import CorpusText, words_of
from ecopipe.pipeline.toml import load, parse_override
from ecopipe.storage.publish import publish_file
from ecopipe.vocabulary.errors import ConfigError, OutputError

MOST_FREQUENT = 8
"""Words that the table shows."""


def build(
    file: Path,
    overrides: Sequence[str],
    *,
    out: Path,
    specials: Sequence[str],
    specials_last: bool,
    default: str,
    min_freq: int,
    max_tokens: int | None,
    max_size: int | None,
    workers: int,
    overwrite: bool,
) -> None:
    """Counts the words of a pipeline file's corpus, and writes their vocabulary."""
    _check_free(out, overwrite)
    if default and default not in specials:
        raise ConfigError(f"vocab: --default {default!r} is none of the specials {', '.join(specials)}. Add --special.")
    settings: dict[str, Any] = {
        "specials": tuple(specials), "special_first": not specials_last, "min_freq": min_freq,
        "max_tokens": max_tokens, "max_size": max_size,
    }  # fmt: skip
    Vocab.from_counts((), **settings)  # refuses wrong settings before the corpus is read
    pipeline = load(file, dict(parse_override(text) for text in overrides))
    split = words_of(pipeline).words
    shards = open_source(pipeline)
    with count_bar("counting words of samples", shards.rows) as advance:
        text = CorpusText(pipeline, workers=workers, shards=shards, advance=advance)
        counts = text.count(split)
    with counts:
        vocab = Vocab.from_counts(counts.items(), **settings).with_default(default or None)
        chosen = frozenset(vocab)
        different = known = 0
        for token, count in counts.items():
            different += 1
            known += count if token in chosen else 0
        total = counts.total
    _check_free(out, overwrite)
    if out.suffix == SUFFIX:
        with publish_file(out) as temporary:
            temporary.write_text(vocab.dumps(), encoding="utf-8")
    else:
        out.parent.mkdir(parents=True, exist_ok=True)
        vocab.save(out)
    words = [token for token in vocab if token not in specials]
    _show(
        [
            ("samples", f"{text.samples:,}"),
            *([("bad samples left out", f"{text.skipped:,}")] if text.skipped else []),
            ("words", f"{total:,}"),
            ("different ones", f"{different:,}"),
            ("in the vocabulary", f"{len(vocab):,} with {len(specials)} specials"),
            ("words known to it", f"{known / total:.2%}" if total else "none"),
            ("most frequent", " ".join(words[:MOST_FREQUENT])),
        ]
    )
    print(f"wrote {out}")


def train(
    file: Path,
    overrides: Sequence[str],
    *,
    kind: Kind,
    size: int,
    out: Path,
    specials: Sequence[str],
    lowercase: bool,
    workers: int,
    overwrite: bool,
) -> None:
    """Trains a tokenizer on the texts of a pipeline file's corpus, and writes it as JSON."""
    _check_free(out, overwrite)
    pipeline = load(file, dict(parse_override(text) for text in overrides))
    shards = open_source(pipeline)
    passes = 2 if kind == "wordpiece" else 1
    with count_bar("reading samples", shards.rows * passes) as advance:
        text = CorpusText(pipeline, workers=workers, shards=shards, advance=advance)
        tokenizer = train_tokenizer(text, kind, size, specials=specials, lowercase=lowercase)
    _check_free(out, overwrite)
    with publish_file(out) as temporary:
        temporary.write_text(tokenizer.to_str(pretty=True), encoding="utf-8")
    _show(
        [
            ("samples", f"{text.samples:,}"),
            *([("bad samples left out", f"{text.skipped:,}")] if text.skipped else []),
            ("kind", kind),
            ("tokens", f"{tokenizer.get_vocab_size():,}"),
        ]
    )
    print(f"wrote {out}")


def _check_free(out: Path, overwrite: bool) -> None:
    if out.exists() and not overwrite:
        raise OutputError(f"{out}: already exists. Choose another place with -o, or replace it with --overwrite.")


def _show(rows: Sequence[tuple[str, str]]) -> None:
    table = Table(show_header=False)
    for title, shown in rows:
        table.add_row(title, shown)
    Console(markup=False, highlight=False).print(table)
