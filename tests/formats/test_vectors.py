"""Word vectors in text."""

from __future__ import annotations

import gzip
import tracemalloc
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch

from ecopipe.formats.vectors import LONGEST_LINE, load_vectors
from ecopipe.vocabulary.errors import ConfigError, DataError

GLOVE = """the 0.5 -1 2e-1
film 1 2 3
. . . 7 8 9
Movie 4 5 6
0 0.25 0.5 0.75
\u0085 1 1 1
"""


def write(path: Path, text: str | bytes) -> Path:
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return path


@pytest.fixture
def glove(tmp_path: Path) -> Path:
    return write(tmp_path / "glove.txt", GLOVE)


def test_rows_follow_the_tokens(glove: Path) -> None:
    made = load_vectors(glove, ["<pad>", "film", "0", "absent", "the", "film"])
    assert made.matrix.dtype == np.float32
    assert made.matrix.tolist() == [
        [0, 0, 0], [1, 2, 3], [0.25, 0.5, 0.75], [0, 0, 0], np.float32([0.5, -1, 0.2]).tolist(), [1, 2, 3],
    ]  # fmt: skip
    assert made.known.tolist() == [False, True, True, False, True, True]
    assert made.found == 4
    embedding = torch.nn.Embedding.from_pretrained(torch.from_numpy(made.matrix))
    assert embedding(torch.tensor([1])).tolist() == [[1, 2, 3]]


def test_tokens_with_spaces_and_odd_line_ends(glove: Path) -> None:
    made = load_vectors(glove, [". . .", "\u0085", "."])
    assert made.matrix.tolist() == [[7, 8, 9], [1, 1, 1], [0, 0, 0]]
    assert made.known.tolist() == [True, True, False]


def test_a_first_token_with_spaces(tmp_path: Path) -> None:
    path = write(tmp_path / "v.txt", ". . . 7 8 9\nfilm 1 2 3\n")
    assert load_vectors(path, [". . .", "film"]).matrix.tolist() == [[7, 8, 9], [1, 2, 3]]
    path = write(tmp_path / "w.txt", "1 2 7 8 9\nfilm 1 2 3\n")  # nobody can tell that this token is '1 2'
    assert load_vectors(path, ["1 2"], dim=3).matrix.tolist() == [[7, 8, 9]]


def test_fasttext_has_a_header_and_spaces_at_the_ends_of_lines(tmp_path: Path) -> None:
    path = write(tmp_path / "wiki.vec", "2 3\nthe 1 2 3 \nфильм 4 5 6 \r\n")
    assert load_vectors(path, ["фильм", "the", "2"]).matrix.tolist() == [[4, 5, 6], [1, 2, 3], [0, 0, 0]]


@pytest.mark.parametrize("first", ["", "3 2\n", "3 2 \t\r\n"])
@pytest.mark.parametrize("mark", [b"", b"\xef\xbb\xbf"])
@pytest.mark.parametrize("end", ["\n", "\r\n", " \n", "  \t\r\n"])
@pytest.mark.parametrize("gap", [" ", "  ", "\t"])
@pytest.mark.parametrize("between", [" ", "  ", "\t"])
def test_spaces_line_ends_and_a_byte_order_mark(
    tmp_path: Path, first: str, mark: bytes, end: str, gap: str, between: str
) -> None:
    rows = [("the", "1", "2"), (". . .", "3", "4"), ("at me@a.b", "5", "6")]
    text = first + "".join(f"{token}{gap}{one}{between}{two}{end}" for token, one, two in rows)
    made = load_vectors(write(tmp_path / "v.txt", mark + text.encode()), ["at me@a.b", "the", ". . .", "at", "the "])
    assert made.matrix.tolist() == [[5, 6], [1, 2], [3, 4], [0, 0], [0, 0]]


def test_tokens_of_spaces_and_marks_alone(tmp_path: Path) -> None:
    path = write(tmp_path / "v.txt", "\ufeff 1 2\n 3 4\n\u00a0 5 6\n\ufeffa 7 8\nnan 9 10\n")
    made = load_vectors(path, ["\ufeff", "", "\u00a0", "\ufeffa", "a", "nan"])
    assert made.matrix.tolist() == [[1, 2], [3, 4], [5, 6], [7, 8], [0, 0], [9, 10]]  # a mark is one on the first line
    path = write(tmp_path / "w.txt", "  1.0 2.0\na 3 4\n")
    assert load_vectors(path, ["a", "", " "]).matrix.tolist() == [[3, 4], [1, 2], [0, 0]]


def test_tokens_that_end_in_a_number_need_dim(tmp_path: Path) -> None:
    path = write(tmp_path / "v.txt", "a 1 2\nroute 66 3 4\n")
    with pytest.raises(DataError, match="line 2: it holds 3 numbers, and the first line 2. Give dim=2 if some of them"):
        load_vectors(path, ["a"])
    assert load_vectors(path, ["route 66"], dim=2).matrix.tolist() == [[3, 4]]


@pytest.mark.parametrize("kind", ["gz", "zip"])
def test_compressed(tmp_path: Path, glove: Path, kind: str) -> None:
    path = tmp_path / f"glove.txt.{kind}"
    if kind == "gz":
        path.write_bytes(gzip.compress(GLOVE.encode()))
    else:
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
            archive.writestr("README.md", "no vectors")
            archive.writestr("glove.txt", GLOVE)
    tokens = ["film", "the", ". . ."]
    np.testing.assert_array_equal(load_vectors(path, tokens).matrix, load_vectors(glove, tokens).matrix)


def test_the_member_of_a_zip(tmp_path: Path) -> None:
    path = tmp_path / "glove.6B.zip"
    with zipfile.ZipFile(path, "w") as archive:
        for dim in (1, 2):
            archive.writestr(f"glove.6B.{dim}d.txt", "the" + " 5" * dim + "\n")
    assert load_vectors(path, ["the"], member="glove.6B.2d.txt").matrix.tolist() == [[5, 5]]
    with pytest.raises(ConfigError, match=r"holds 2 files of vectors. Choose one by member=: glove.6B.1d.txt, glove"):
        load_vectors(path, ["the"])
    with pytest.raises(ConfigError, match=r"has no member 'glove.6B.3d.txt'. Did you mean 'glove.6B"):
        load_vectors(path, ["the"], member="glove.6B.3d.txt")


def test_case_fallback(glove: Path) -> None:
    tokens = ["Film", "THE", "movie", "Movie", "film"]
    assert load_vectors(glove, tokens).known.tolist() == [False, False, False, True, True]
    made = load_vectors(glove, tokens, case_fallback=True)
    assert made.known.tolist() == [True, True, False, True, True]
    assert made.matrix[0].tolist() == [1, 2, 3]
    for lines in ("Film 1\nfilm 2\n", "film 2\nFilm 1\n"):  # a token itself goes before its lower case
        path = write(glove.parent / "both.txt", lines)
        assert load_vectors(path, ["Film", "film"], case_fallback=True).matrix.tolist() == [[1], [2]]


def test_unknown_by_the_mean_of_what_was_found(glove: Path) -> None:
    made = load_vectors(glove, ["film", "Movie", "absent", "<pad>"], unknown="mean", zeros=("<pad>",))
    assert made.matrix.tolist() == [[1, 2, 3], [4, 5, 6], [2.5, 3.5, 4.5], [0, 0, 0]]
    assert made.found == 2


def test_unknown_by_a_normal_distribution_keyed_by_the_token(tmp_path: Path) -> None:
    path = write(tmp_path / "v.txt", "a" + " 1" * 4000 + "\nb" + " 5" * 4000 + "\n")
    made = load_vectors(path, ["a", "b", "x", "y"], unknown="normal")
    drawn = made.matrix[2:]
    assert abs(drawn.mean() - 3) < 0.1
    assert abs(drawn.std() - 2) < 0.1
    assert abs(np.corrcoef(drawn)[0, 1]) < 0.1
    other = load_vectors(path, ["y", "b", "z", "a"], unknown="normal")
    np.testing.assert_array_equal(other.matrix[0], made.matrix[3])
    assert (load_vectors(path, ["a", "b", "x"], unknown="normal", seed=1).matrix[2] != made.matrix[2]).any()
    nothing = load_vectors(path, ["x"], unknown="normal").matrix
    assert abs(nothing.mean()) < 0.1
    assert abs(nothing.std() - 1) < 0.1


def test_a_token_that_the_file_holds_twice(tmp_path: Path) -> None:
    path = write(tmp_path / "v.txt", "a 1\nb 2\na 3\nb 2\n")
    with pytest.raises(DataError, match=r"v.txt: line 3: 'a' was in line 1 already. Give duplicates='first'"):
        load_vectors(path, ["a"])
    assert load_vectors(path, ["a"], duplicates="first").matrix.tolist() == [[1]]
    assert load_vectors(path, ["a"], duplicates="last").matrix.tolist() == [[3]]
    assert load_vectors(path, ["c"]).found == 0  # nobody asked for a


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a 1 2\nb 1\n", "line 2: it holds 1 numbers, and the first line 2. Fetch the file again."),
        ("a 1 2\nb 1 2\n\n", "line 3: it holds 0 numbers"),
        ("a 1 2\nb 1 x2\n", "line 2: b'x2' is no number"),
        ("a 1 2\nb 1 nan\n", "line 2: it holds a number that is not finite"),
        ("a 1 2\nb 1 1e99\n", "line 2: it holds a number that is not finite"),
        ("a\n", "line 1: it holds no numbers"),
        ("a 1 2\nc  1\n", "line 2: it holds 1 numbers, and the first line 2. Fetch the file again."),
        ("a 1 2\n c 1\n", "line 2: it holds 1 numbers, and the first line 2. Fetch the file again."),
        ("a 1 2\nc 1 2 3 4\n", "line 2: it holds 4 numbers, and the first line 2. Give dim=2 if some of them"),
        ("a 1 2\n1 2 3 4\n", "line 2: it holds 3 numbers, and the first line 2. Give dim=2"),
        ("2 2\na 1 2 3\nb 1 2 3\n", "line 2: it holds 3 numbers, and the first line 2. Give dim=2"),
        ("a nan nan\nb 1 2\n", "line 1: it holds a number that is not finite"),
        ("nan nan\nb 1\n", "line 1: it holds a number that is not finite"),
        ("a 1 inf 2\nb 1 2 3\n", "line 1: it holds a number that is not finite"),
        ("a 1 2\rb 3 4\r", "line 1: its lines end with a lone '\\r'. Give a file whose lines end with '\\n'."),
        ("3 2\na 1 2\nb 1 2\n", "line 3: the file ends there with 2 vectors, and its header says 3"),
        ("1 2\na 1 2\nb 1 2\n", "line 3: the file ends there with 2 vectors, and its header says 1"),
        ("", "holds no vectors. Is it the right file?"),
        (b"\0" * (LONGEST_LINE + 1), "line 1: it has over 1,048,576 bytes"),
    ],
)
def test_damaged_files_name_the_line(tmp_path: Path, text: str | bytes, message: str) -> None:
    with pytest.raises(DataError) as caught:
        load_vectors(write(tmp_path / "v.txt", text), ["b"])
    assert str(caught.value).startswith(str(tmp_path / "v.txt"))
    assert message in str(caught.value)


def test_a_truncated_archive(tmp_path: Path) -> None:
    whole = gzip.compress("".join(f"w{n} {n} {n + 1}\n" for n in range(5000)).encode())
    with pytest.raises(DataError, match=r"v.txt.gz: is damaged behind line \d+: .*Fetch it again"):
        load_vectors(write(tmp_path / "v.txt.gz", whole[:-2000]), ["w1"])
    with pytest.raises(DataError, match=r"v.zip: is no whole zip file"):
        load_vectors(write(tmp_path / "v.zip", whole), ["w1"])


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"unknown": "means"}, "unknown unknown 'means'. Did you mean 'mean'?"),
        ({"duplicates": "all"}, "unknown duplicates 'all'"),
        ({"dim": 0}, "dim must be at least 1, got 0"),
        ({"dim": 2}, None),
        ({"member": "x"}, "is no .zip, and has no member 'x'"),
    ],
)
def test_wrong_settings(glove: Path, settings: dict[str, object], message: str | None) -> None:
    if message is None:
        assert load_vectors(glove, ["film 1"], **settings).matrix.tolist() == [[2, 3]]
        return
    with pytest.raises(ConfigError) as caught:
        load_vectors(glove, ["film"], **settings)
    assert message in str(caught.value)
    with pytest.raises(ConfigError, match="tokens must be a list of tokens, got the text 'film'"):
        load_vectors(glove, "film")
    with pytest.raises(ConfigError, match="there is no file '/nowhere/v.txt'"):
        load_vectors("/nowhere/v.txt", ["film"])


def test_a_header_of_another_width(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="line 1: its header says 2 numbers a vector, and dim 3"):
        load_vectors(write(tmp_path / "v.vec", "1 2\na 1 2\n"), ["a"], dim=3)


@pytest.mark.parametrize("kind", ["txt", "gz", "zip"])
def test_progress_adds_up_to_the_file_and_memory_does_not(tmp_path: Path, kind: str) -> None:
    rng = np.random.default_rng(0)
    lines = [f"w{n} " + " ".join(map(str, rng.random(10).round(4))) + "\n" for n in range(20_000)]
    text = "".join(lines).encode()
    path = tmp_path / f"v.{kind}"
    if kind == "zip":
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
            archive.writestr("v.txt", text)
    else:
        path.write_bytes(gzip.compress(text) if kind == "gz" else text)
    done: list[int] = []
    tracemalloc.start()
    try:
        made = load_vectors(path, ["w7", "w19999"], progress=done.append)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert made.found == 2
    assert sum(done) == path.stat().st_size
    assert len(done) > 3
    assert min(done) >= 0
    assert peak < len(text) / 2
