"""Word vectors in text: GloVe's and fastText's files, aligned to a list of tokens.

A line is a token and D numbers with a space before each; fastText puts a line with the count of vectors and D before
them. Lines are read one by one and as bytes: GloVe's files hold tokens with spaces in them (``. . .``), and with
characters that ``str.splitlines`` takes for the end of a line. A token ends where the spaces or tabs before its numbers
begin; those at the end of a line, its ``\\r``, and a byte order mark before the first line are no part of anything.
"""

from __future__ import annotations

import contextlib
import gzip
import zipfile
import zlib
from codecs import BOM_UTF8
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import takewhile
from pathlib import Path
from typing import IO, Literal, get_args

import numpy as np
import numpy.typing as npt

from ecopipe.vocabulary.errors import ConfigError, DataError, nearest
from ecopipe.vocabulary.randomness import Chance

Unknown = Literal["zero", "mean", "normal"]
Duplicates = Literal["error", "first", "last"]
Progress = Callable[[int], None]
Text = IO[bytes] | gzip.GzipFile

LONGEST_LINE = 1 << 20
"""Bytes. A longer line is a file of another kind."""

_LINES_PER_REPORT = 4096
_SPACE = ord(" ")


@dataclass(frozen=True)
class Vectors:
    """Vectors of V tokens.

    ``matrix`` is float32 [V, D], a row per token in their order, as ``torch.nn.Embedding.from_pretrained`` takes it
    (through ``torch.from_numpy``); ``known`` is bool [V]: whether the token's vector was in the file.
    """

    matrix: npt.NDArray[np.float32] = field(repr=False)
    known: npt.NDArray[np.bool_] = field(repr=False)

    @property
    def found(self) -> int:
        """Tokens whose vector was in the file."""
        return int(self.known.sum())


def load_vectors(
    path: str | Path,
    tokens: Sequence[str],
    *,
    unknown: Unknown = "zero",
    seed: int = 0,
    zeros: Collection[str] = (),
    case_fallback: bool = False,
    duplicates: Duplicates = "error",
    dim: int | None = None,
    member: str | None = None,
    progress: Progress | None = None,
) -> Vectors:
    """The vectors of some tokens, from a text file of GloVe's or fastText's, read once, line by line.

    Memory beyond the matrix does not grow with the file. Lines of other tokens are checked for having enough numbers,
    those of ``tokens`` for every number.

    Args:
        path: ``.txt`` or ``.vec``, or one of them as ``.gz`` or in a ``.zip``.
        tokens: The rows of the matrix, such as a vocabulary in its order.
        unknown: A token that is not in the file gets zeros; the mean of the vectors that were found; or numbers drawn
            from a normal distribution of their mean and standard deviation in each dimension (0 and 1 if none was),
            keyed by (seed, token): the same whatever other tokens there are, but for what was found.
        seed: Of ``"normal"``.
        zeros: Tokens whose row is zero whatever the file holds, such as that for padding.
        case_fallback: A token that is not in the file takes the vector of its lower case.
        duplicates: A token of ``tokens`` that the file holds twice is an error, or the first or last one counts.
        dim: D. None takes it from the first line, and then a line of more than D numbers is an error; give D if there
            are tokens of several words of which the last is a number.
        member: Which file of a ``.zip`` that holds several, such as ``"glove.6B.100d.txt"``.
        progress: Called with the number of bytes of the file (as it lies on disk) done since the last call.

    Raises:
        ConfigError: A setting cannot work; there is no such file, or no such member.
        DataError: The file is damaged; names the line.
    """
    for name, value, choices in (("unknown", unknown, Unknown), ("duplicates", duplicates, Duplicates)):
        if value not in get_args(choices):
            raise ConfigError(f"load_vectors: unknown {name} {value!r}. {nearest(str(value), get_args(choices))}")
    if dim is not None and dim < 1:
        raise ConfigError(f"load_vectors: dim must be at least 1, got {dim}.")
    if isinstance(tokens, str):
        raise ConfigError(f"load_vectors: tokens must be a list of tokens, got the text {tokens!r}.")
    exact, lower = _places(tokens, zeros, case_fallback)
    matrix: npt.NDArray[np.float32] | None = None
    taken = np.zeros(len(tokens), dtype=np.int8)  # 1: by its lower case, 2: itself
    seen: dict[bytes, int] = {}
    with _opened(Path(path), member, progress) as (name, lines):
        for number, token, line, width in _vectors(name, lines, dim):
            if matrix is None:
                matrix = np.zeros((len(tokens), width), dtype=np.float32)
            if token not in exact and token not in lower:
                continue
            if (before := seen.setdefault(token, number)) != number:
                if duplicates == "error":
                    raise _damaged(
                        name,
                        number,
                        f"{token.decode(errors='replace')!r} was in line {before} already",
                        "duplicates='first'",
                    )
                if duplicates == "first":
                    continue
            vector = _numbers(name, number, line, width)
            for place in exact.get(token, ()):
                matrix[place], taken[place] = vector, 2
            for place in lower.get(token, ()):
                if taken[place] < 2:
                    matrix[place], taken[place] = vector, 1
    if matrix is None:
        raise DataError(f"{name}: holds no vectors. Is it the right file?")
    absent = [place for place, token in enumerate(tokens) if not taken[place] and token not in zeros]
    _fill(matrix, taken > 0, [(place, tokens[place]) for place in absent], unknown, seed)
    return Vectors(matrix, taken > 0)


def _places(
    tokens: Sequence[str], zeros: Collection[str], case_fallback: bool
) -> tuple[dict[bytes, list[int]], dict[bytes, list[int]]]:
    """The rows that a token of the file goes to: as itself, and as the lower case of another."""
    exact: dict[bytes, list[int]] = {}
    lower: dict[bytes, list[int]] = {}
    for place, token in enumerate(tokens):
        if token in zeros:
            continue
        exact.setdefault(token.encode("utf-8", "surrogatepass"), []).append(place)
        if case_fallback and token != token.lower():
            lower.setdefault(token.lower().encode("utf-8", "surrogatepass"), []).append(place)
    return exact, lower


def _vectors(name: str, lines: Iterator[bytes], dim: int | None) -> Iterator[tuple[int, bytes, bytes, int]]:
    """(line number, token, line without its end, D) of every vector; the header, if any, is held against them."""
    promised, width, count, number = None, 0, 0, 0
    for number, raw in enumerate(lines, 1):
        line = raw.rstrip()
        if number == 1:
            if line.startswith(BOM_UTF8) and not line.startswith(BOM_UTF8 + b" "):  # else it is the token
                line = line[len(BOM_UTF8) :]
            promised, width = _header(name, line, dim)
            if promised is not None:
                continue
        count += 1
        end = line.find(b" ")
        plain = end > 0 and line.count(b" ") == width and line[end + 1] != _SPACE and b"\t" not in line
        yield number, line[:end] if plain else _token(name, number, line, width, dim), line, width
    if promised not in (None, count):
        raise _damaged(name, number, f"the file ends there with {count} vectors, and its header says {promised}")


def _token(name: str, number: int, line: bytes, width: int, dim: int | None) -> bytes:
    """The token of a line that is not just D + 1 parts with one space between them."""
    words, bare = line.split(), _is_bare(line)
    if (count := len(words) - (not bare)) < width:
        raise _damaged(name, number, f"it holds {max(count, 0)} numbers, and the first line {width}")
    if dim is None and len(words) > width + 1 and _is_number(words[-width - 1]):
        count = width + sum(1 for _ in takewhile(_is_number, reversed(words[1:-width])))
        found = f"it holds {count} numbers, and the first line {width}"
        raise _damaged(name, number, found, f"dim={width} if some of them are of the token, else fetch the file again")
    parts = line.rsplit(None, width)
    return parts[0] if len(parts) > width else b""


def _is_bare(line: bytes) -> bool:
    """Whether the token of a line is empty: it begins with a space and then a number."""
    return line[:1].isspace() and _is_number(line.split(None, 1)[0])


def _header(name: str, line: bytes, dim: int | None) -> tuple[int | None, int]:
    """The count of vectors if the first line is a header, and D."""
    if b"\r" in line:
        raise _damaged(name, 1, "its lines end with a lone '\\r'", "a file whose lines end with '\\n'")
    parts = line.split()
    if len(parts) == 2 and all(part.isdigit() for part in parts):
        count, width = map(int, parts)
        if width < 1 or dim not in (None, width):
            raise _damaged(name, 1, f"its header says {width} numbers a vector" + (f", and dim {dim}" if dim else ""))
        return count, width
    width = len(parts) - (not _is_bare(line))
    while width > 0 and not _is_number(parts[-width]):  # a token with spaces in it
        width -= 1
    if width < 1:
        raise _damaged(name, 1, "it holds no numbers")
    _numbers(name, 1, line, dim or width)
    return None, dim or width


def _is_number(text: bytes) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _numbers(name: str, number: int, line: bytes, width: int) -> npt.NDArray[np.float32]:
    parts = line.split()[-width:]
    try:
        with np.errstate(over="ignore"):
            vector = np.array([float(part) for part in parts], dtype=np.float32)
    except ValueError:
        wrong = next(part for part in parts if not _is_number(part))
        raise _damaged(name, number, f"{wrong[:40]!r} is no number") from None
    if not np.isfinite(vector).all():
        raise _damaged(name, number, "it holds a number that is not finite in float32")
    return vector


def _fill(
    matrix: npt.NDArray[np.float32],
    known: npt.NDArray[np.bool_],
    absent: Sequence[tuple[int, str]],
    unknown: Unknown,
    seed: int,
) -> None:
    """The rows of tokens that were not found."""
    if unknown == "zero" or not absent:
        return
    width = matrix.shape[1]
    mean, deviation = np.zeros(width), np.ones(width)
    if known.any():
        mean = matrix.mean(axis=0, dtype=np.float64, where=known[:, None])
        deviation = matrix.std(axis=0, dtype=np.float64, where=known[:, None])
    for place, token in absent:
        if unknown == "mean":
            matrix[place] = mean
            continue
        radius, angle = Chance(seed, 0, "load_vectors").draws(token).uniform(2 * width).reshape(2, width)
        matrix[place] = mean + deviation * np.sqrt(-2 * np.log1p(-radius)) * np.cos(2 * np.pi * angle)


@contextlib.contextmanager
def _opened(path: Path, member: str | None, progress: Progress | None) -> Iterator[tuple[str, Iterator[bytes]]]:
    """The name of what is read, and its lines."""
    if not path.is_file():
        raise ConfigError(f"load_vectors: there is no file {str(path)!r}.")
    if member is not None and path.suffix != ".zip":
        raise ConfigError(f"load_vectors: {path} is no .zip, and has no member {member!r}. Leave member out.")
    with contextlib.ExitStack() as stack:
        raw = stack.enter_context(path.open("rb"))
        text: Text = raw
        name = str(path)
        if path.suffix == ".gz":
            text = stack.enter_context(gzip.open(raw))
        elif path.suffix == ".zip":
            try:
                archive = stack.enter_context(zipfile.ZipFile(raw))
                chosen = _member(path, archive, member)
                name, text = f"{path}:{chosen}", stack.enter_context(archive.open(chosen))
            except zipfile.BadZipFile as error:
                raise DataError(f"{path}: is no whole zip file: {error}. Fetch it again.") from error
        yield name, _lines(name, text, raw, path.stat().st_size, progress)


def _member(path: Path, archive: zipfile.ZipFile, member: str | None) -> str:
    names = [info.filename for info in archive.infolist() if not info.is_dir()]
    texts = [name for name in names if name.endswith((".txt", ".vec"))]
    if member is not None:
        if member not in names:
            raise ConfigError(f"load_vectors: {path} has no member {member!r}. {nearest(member, names)}")
        return member
    if len(texts) != 1:
        raise ConfigError(
            f"load_vectors: {path} holds {len(texts)} files of vectors. Choose one by member=: {', '.join(names)}."
        )
    return texts[0]


def _lines(name: str, text: Text, raw: IO[bytes], size: int, progress: Progress | None) -> Iterator[bytes]:
    """Lines, with reports of how far the file has been read; of the whole file at its end."""
    number, done = 0, 0
    try:
        while line := text.readline(LONGEST_LINE):
            number += 1
            if len(line) == LONGEST_LINE:
                raise _damaged(name, number, f"it has over {LONGEST_LINE:,} bytes", "a file of vectors in text")
            yield line
            if progress is not None and number % _LINES_PER_REPORT == 0:
                now = max(done, min(raw.tell(), size))
                progress(now - done)
                done = now
    except (EOFError, zlib.error, zipfile.BadZipFile, gzip.BadGzipFile) as error:
        raise DataError(f"{name}: is damaged behind line {number}: {error}. Fetch it again.") from error
    if progress is not None:
        progress(size - done)


def _damaged(name: str, line: int, found: str, remedy: str = "") -> DataError:
    return DataError(f"{name}: line {line}: {found}. {f'Give {remedy}' if remedy else 'Fetch the file again'}.")
