"""AG_NEWS, CSV, JSON lines, Parquet and folders of files."""

from __future__ import annotations

import csv
import gzip
import json
from collections import Counter
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from ecopipe.datasets.ag_news import AgNews
from ecopipe.datasets.csv_files import CsvFiles
from ecopipe.datasets.folder import Folder
from ecopipe.datasets.jsonl_files import JsonlFiles
from ecopipe.datasets.parquet_files import ParquetFiles
from ecopipe.vocabulary.errors import ConfigError, CorpusError
from tests.conftest import real
from tests.datasets.streamed import read_all, round_trip, wav, write


def test_the_real_ag_news() -> None:
    folder = real("ag_news_csv")
    corpus = AgNews(folder)
    assert corpus.classes == ("World", "Sports", "Business", "Sci/Tech")
    assert corpus.report() == ["train: this split of the full corpus is missing."]
    samples = list(corpus.samples("test"))
    with open(folder / "test.csv", encoding="utf-8", newline="") as file:
        upstream = list(csv.reader(file))
    assert len(samples) == len(upstream) == 7600
    for sample, (label, title, description) in zip(samples, upstream, strict=True):
        assert sample.members["txt"].decode() == f"{title} {description}"
        assert sample.members["title.txt"].decode() == title
        assert int(sample.members["cls"]) + 1 == int(label) == sample.extras["upstream_label"]
    assert Counter(sample.extras["class_name"] for sample in samples) == dict.fromkeys(corpus.classes, 1900)


NEWS = '"3","A ""quoted"", title","first, second\\line"\n"1","B","C"\n'


def test_ag_news(tmp_path: Path) -> None:
    write(tmp_path / "ag_news_csv", {"train.csv": NEWS, "test.csv": NEWS.splitlines()[0], "readme.txt": "x"})
    corpus = AgNews(tmp_path)
    found = round_trip(corpus, tmp_path / "out")
    assert found["train"]["train-000000"]["txt"] == b'A "quoted", title first, second\\line'
    assert [found["train"][f"train-00000{row}"]["label"] for row in (0, 1)] == [2, 0]
    assert found["train"]["train-000000"]["class_name"] == "Business"
    assert found["train"]["train-000001"]["upstream_label"] == 1
    assert corpus.report()[1] == "train: 2 of the 120,000 articles of the full corpus."


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ('"5","a","b"\n', "row 1: .* is not a class from 1 to 4, a title and a description"),
        ('"1","a"\n', "row 1: .* is not a class from 1 to 4, a title and a description"),
        ('"1","a","b"\n"2","a","b', r"row 2 or later: is no CSV \(unexpected end of data\)"),
        (b'"1","\xe9","b"\n', r"is not text in UTF-8"),
    ],
)
def test_damaged_ag_news_is_refused(tmp_path: Path, text: Any, found: str) -> None:
    with pytest.raises(CorpusError, match=rf"test\.csv.*{found}.*Fetch"):
        AgNews(write(tmp_path, {"test.csv": text})).check("test")
    (tmp_path / "test.csv").rename(tmp_path / "x.csv")
    with pytest.raises(CorpusError, match=r"holds neither train\.csv nor test\.csv\. It holds: x\.csv"):
        AgNews(tmp_path)


REVIEWS = 'review,sentiment,stars\n"Café, ""good""\r\nand more",positive,9\nbad,negative,\n\nodd,positive,7\n'


def test_csv_in_latin_1_with_quoted_line_breaks_split_by_rows(tmp_path: Path) -> None:
    write(tmp_path, {"IMDB Dataset.csv": REVIEWS.encode("latin-1")})
    corpus = CsvFiles(
        tmp_path / "IMDB Dataset.csv",
        text="review",
        label="sentiment",
        columns=("stars:int64",),
        encoding="latin-1",
        rows=("train=0:2", "test=2:"),
    )
    found = round_trip(corpus, tmp_path / "out")
    first, second = (found["train"][f"train-00000000{row}"] for row in (0, 1))
    assert first["txt"].decode() == 'Café, "good"\r\nand more'
    assert (first["label"], first["class_name"], first["stars"]) == (1, "positive", 9)
    assert (second["label"], second["class_name"], second.get("stars")) == (0, "negative", None)
    assert found["test"]["test-000000000"]["txt"] == b"odd"
    assert corpus.classes == ("negative", "positive") and corpus.report() == []
    assert CsvFiles(corpus.path, encoding="latin-1").splits() == ("IMDB-Dataset",)
    with pytest.raises(CorpusError, match=r"line 2: is not text in utf-8-sig.*set encoding, such as encoding=latin"):
        CsvFiles(corpus.path).check("IMDB-Dataset")


def test_a_row_of_csv_without_settings_is_json(tmp_path: Path) -> None:
    path = write(tmp_path, {"x.csv": REVIEWS}) / "x.csv"
    assert [json.loads(sample.members["json"]) for sample in CsvFiles(path).samples("x")] == [
        {"review": 'Café, "good"\r\nand more', "sentiment": "positive", "stars": "9"},
        {"review": "bad", "sentiment": "negative", "stars": ""},
        {"review": "odd", "sentiment": "positive", "stars": "7"},
    ]


def test_a_field_of_csv_may_be_long(tmp_path: Path) -> None:
    path = write(tmp_path, {"x.csv": "t\n" + "a" * 300_000 + "\n"}) / "x.csv"
    csv.field_size_limit(131_072)  # as a new process has it
    (sample,) = CsvFiles(path, text="t").samples("x")
    assert len(sample.members["txt"]) == 300_000


def test_csv_without_a_header_of_numbers_with_gzip_and_tabs(tmp_path: Path) -> None:
    files: dict[str, Any] = {
        "train.tsv.gz": gzip.compress(b'1\ta "x\n4\tb\n'),
        "test.tsv": "4\tc\n\t\n",
        "notes.md": "x",
    }
    corpus = CsvFiles(write(tmp_path, files), header=False, names=("n", "t"), label="n", text="t", quote="")
    found = round_trip(corpus, tmp_path / "out")
    assert [sample["label"] for sample in found["train"].values()] == [1, 4]
    assert found["train"]["train-000000000"]["txt"] == b'a "x'
    assert "cls" not in found["test"]["test-000000001"]
    assert corpus.classes == () and corpus.report() == ["1 rows have no label."]
    unnamed = CsvFiles(tmp_path / "test.tsv", header=False, members=("b.txt=1",), delimiter="tab")
    assert next(unnamed.samples("test")).members == {"b.txt": b"c"}


def test_csv_of_files(tmp_path: Path) -> None:
    audio = wav(100, 8000)
    root = write(
        tmp_path / "in", {"clips/a.WAV": audio, "t.csv": "path,text\nclips/a.WAV,hello\n", "up.csv": "path\n../x\n"}
    )
    found = round_trip(CsvFiles(root / "t.csv", file="path", text="text"), tmp_path / "out")["t"]
    assert found["t-000000000"]["wav"] == audio and found["t-000000000"]["frames"] == 100
    with pytest.raises(CorpusError, match=r"up\.csv, line 2: '\.\./x' lies outside of .*Set root"):
        list(CsvFiles(root / "up.csv", file="path").samples("up"))
    (root / "clips" / "a.WAV").unlink()
    with pytest.raises(CorpusError, match=r"t\.csv, line 2: .*a\.WAV cannot be read: No such file"):
        list(CsvFiles(root / "t.csv", file="path").samples("t"))
    write(tmp_path / "else", {"clips/a.WAV": b"x"})
    (sample,) = CsvFiles(root / "t.csv", file="path", root=str(tmp_path / "else")).samples("t")
    assert sample.members == {"wav": b"x"}


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("a,b\n1,2\n3\n", r"line 3: has 1 fields, where 2 are wanted \(a, b\)"),
        ('a,b\n1,2\n"x,3\n', r"is no CSV \(unexpected end of data\)"),
        ("a,b\n", r"holds no rows"),
        ("", r"holds no rows"),
        ("t,t,l\n1,2,3\n", r"x\.csv, line 1: two columns are named 't'\. Rename one of them"),
    ],
)
def test_damaged_csv_is_refused(tmp_path: Path, text: str, found: str) -> None:
    with pytest.raises(CorpusError, match=found):
        CsvFiles(write(tmp_path, {"x.csv": text}) / "x.csv").check("x")


@pytest.mark.parametrize(
    ("settings", "found"),
    [
        ({"text": "revue"}, r"has no column 'revue'\. Did you mean 'review'\? Known: review, sentiment, stars"),
        ({"rows": ("train=0:9",)}, r"rows: train is 0:9, and .* has 3 rows"),
        ({"rows": ("train=0:2", "test=1:")}, r"rows: train and test overlap"),
        ({"rows": ("train=2:1",)}, r"rows: 'train=2:1' is not of the form SPLIT=FROM:TO"),
        ({"rows": "train=0:2"}, r'rows is a list, and .* Write rows=\("train=0:2",\)'),
        ({"columns": ("label=stars",)}, r"columns: 'label' has a meaning of its own in the index\. Rename it"),
        ({"members": ("txt",)}, r"members: 'txt' is not of the form EXT=COLUMN"),
        ({"encoding": "latin-one"}, r"encoding='latin-one' is not known"),
        ({"delimiter": "||"}, r"delimiter='\|\|' is more than one character"),
        ({"names": ("a",)}, r"names are for a file without a header"),
        ({"header": False, "names": ("t", "t", "l")}, r"names: 't' is there twice\. Give each column a name"),
        ({"members": ("a=review", "a=stars")}, r"members: 'a' is given twice"),
        ({"members": ("txt=stars",), "text": "review"}, r"members: 'txt' is what text='review' makes\. Leave out one"),
        ({"members": ("cls=stars",), "label": "sentiment"}, r"members: 'cls' is what label='sentiment' makes"),
        ({"members": ("a/b=stars",)}, r"members: 'a/b' has a slash in it.*Rename it"),
        ({"columns": ("x=review", "x=stars:int64")}, r"columns: 'x' is given twice"),
        ({"rows": ("train=0:1", "train=2:")}, r"rows: 'train' is given twice"),
        (
            {"label": "sentiment", "classes": ("negative", "positive", "negative")},
            r"classes: 'negative' is there twice",
        ),
    ],
)
def test_settings_of_csv_are_checked(tmp_path: Path, settings: dict[str, Any], found: str) -> None:
    path = write(tmp_path, {"x.csv": REVIEWS}) / "x.csv"
    with pytest.raises(ConfigError, match=found):
        CsvFiles(path, **settings)


def test_labels_and_values_that_do_not_fit(tmp_path: Path) -> None:
    path = write(tmp_path, {"x.csv": REVIEWS}) / "x.csv"
    given = CsvFiles(path, label="sentiment", classes=("positive", "negative"))
    assert [int(sample.members["cls"]) for sample in given.samples("x")] == [0, 1, 0]
    with pytest.raises(CorpusError, match=r"line 4: the label 'negative' is none of the classes\. .*Known: positive"):
        list(CsvFiles(path, label="sentiment", classes=("positive",)).samples("x"))
    with pytest.raises(CorpusError, match=r"line 2: 'review' is 'Caf.*', no int64"):
        list(CsvFiles(path, columns=("n=review:int64",)).samples("x"))
    with pytest.raises(CorpusError, match=r"does not exist"):
        CsvFiles(tmp_path / "z.csv")
    with pytest.raises(CorpusError, match=r"holds no file that ends in \.jsonl or .*It holds: x\.csv"):
        JsonlFiles(tmp_path)


TABLE = "t\n1\n2\n"


def test_the_parts_of_a_split_follow_each_other_by_number(tmp_path: Path) -> None:
    names = [f"train-{number}-of-11.csv" for number in range(11)]
    write(tmp_path, {name: f"t\n{number}\n" for number, name in enumerate(names)} | {"test-0-of-1.csv": TABLE})
    corpus = CsvFiles(tmp_path, text="t")
    assert [int(sample.members["txt"]) for sample in corpus.samples("train")] == list(range(11))
    assert corpus.splits() == ("test", "train") and corpus.count("test") == 2


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ("train.csv", "train.tsv"),
        ("train.csv", "train.csv.gz"),
        ("train.csv", "data/train.csv"),
        ("a b.csv", "a-b.csv"),
        ("train.csv", "train-00000-of-00001.csv"),
        ("train.csv", "train-00000-of-00002.csv"),
        ("train-00000-of-00001.csv", "train-00000-of-00001.tsv"),
        ("train-00000-of-00001.csv", "train-00000-of-00002.csv"),
    ],
)
def test_two_files_of_one_split_are_refused(tmp_path: Path, first: str, second: str) -> None:
    data = {name: gzip.compress(TABLE.encode()) if name.endswith("gz") else TABLE for name in (first, second)}
    write(tmp_path, data)
    with pytest.raises(
        CorpusError, match=r"would both be the split '[\w-]+', and rows could be in it twice\. Move"
    ) as e:
        CsvFiles(tmp_path, text="t")
    assert str(tmp_path / first) in str(e.value) and str(tmp_path / second) in str(e.value)
    assert sum(CsvFiles(tmp_path / second).count(split) for split in CsvFiles(tmp_path / second).splits()) == 2


@pytest.mark.parametrize(
    ("numbers", "found"),
    [
        ((0, 2), r"the split 'train' has 2 of 3 parts: train-00001-of-00003 is missing\. Fetch it, or give the path"),
        ((1, 2), r"has 2 of 3 parts: train-00000-of-00003 is missing"),
        ((0, 1), r"has 2 of 3 parts: train-00002-of-00003 is missing"),
        ((1, 2, 3), r"train-00003-of-00003\.csv is no part of 3: parts are counted from 0\. Rename it"),
    ],
)
def test_a_missing_part_is_named(tmp_path: Path, numbers: tuple[int, ...], found: str) -> None:
    write(tmp_path, {f"train-{number:05d}-of-00003.csv": TABLE for number in numbers})
    with pytest.raises(CorpusError, match=found):
        CsvFiles(tmp_path, text="t")
    assert CsvFiles(tmp_path / f"train-0000{numbers[1]}-of-00003.csv").count("train") == 2


@pytest.mark.parametrize("root", ["", ".", "../in"])
def test_a_path_does_not_leave_a_relative_root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, root: str) -> None:
    table = "p\na.bin\nlink.bin\n../secret.txt\n"
    write(tmp_path, {"secret.txt": "secret", "blob": "linked", "in/a.bin": "a", "in/t.csv": table})
    (tmp_path / "in" / "link.bin").symlink_to("../blob")
    monkeypatch.chdir(tmp_path / "in")
    samples = CsvFiles("t.csv", file="p", root=root).samples("t")
    assert [next(samples).members for _ in range(2)] == [{"bin": b"a"}, {"bin": b"linked"}]
    with pytest.raises(CorpusError, match=r"line 4: '\.\./secret\.txt' lies outside of .*in\. Set root"):
        next(samples)


def test_a_file_does_not_take_the_place_of_another_member(tmp_path: Path) -> None:
    path = write(tmp_path, {"x.csv": "p,t\na.txt,1\n", "y.csv": "p,t\na.cls,1\n", "a.txt": "a", "a.cls": "9"})
    with pytest.raises(CorpusError, match=r"x\.csv, line 2: the file and another setting both make the member 'txt'"):
        list(CsvFiles(path / "x.csv", file="p", text="t").samples("x"))
    with pytest.raises(CorpusError, match=r"both make the member 'cls'\. Rename the file, or leave out"):
        list(CsvFiles(path / "y.csv", file="p", label="t").samples("y"))
    write(tmp_path, {"z.jsonl": '{"p": "a\\u0000"}'})
    with pytest.raises(CorpusError, match=r"z\.jsonl, line 1: .* cannot be read: .*null byte"):
        list(JsonlFiles(path / "z.jsonl", file="p").samples("z"))


def parquet(path: Path, **columns: Any) -> Path:
    pq.write_table(pa.table(columns), path)
    return path


def test_labels_that_are_floats(tmp_path: Path) -> None:
    whole = ParquetFiles(
        parquet(tmp_path / "a.parquet", l=[float(n) for n in range(12)] + [float("nan"), None]), label="l"
    )
    labels = [sample.members.get("cls") for sample in whole.samples("a")]
    assert labels == [b"%d" % n for n in range(12)] + [None, None]
    assert whole.classes == () and whole.report() == ["2 rows have no label."]
    halves = ParquetFiles(parquet(tmp_path / "b.parquet", l=[10.5, 2.5, 1.0]), label="l")
    assert halves.classes == ("1", "2.5", "10.5")
    texts = CsvFiles(write(tmp_path, {"c.csv": "l\n10.0\n2.0\n"}) / "c.csv", label="l")
    assert texts.classes == ("2.0", "10.0")


@pytest.mark.parametrize("label", [b"x", ["x"], {"x": 1}])
def test_labels_that_are_no_texts_or_numbers_are_refused(tmp_path: Path, label: Any) -> None:
    path = parquet(tmp_path / "x.parquet", l=[label])
    with pytest.raises(
        CorpusError, match=r"label='l': .*x\.parquet, row 1 has a (bytes|list|dict) in it.*Choose a column"
    ):
        ParquetFiles(path, label="l")


def test_numbers_that_do_not_fit(tmp_path: Path) -> None:
    path = write(tmp_path, {"x.csv": f"l\n1\n{10**18}\n", "t.csv": f"l\na\n{10**18}\n"})
    with pytest.raises(CorpusError, match=rf"x\.csv, line 3: the label {10**18} has more than 18 digits.*Mend"):
        CsvFiles(path / "x.csv", label="l").check("x")
    assert next(CsvFiles(path / "x.csv", label="l").samples("x")).members["cls"] == b"1"
    assert CsvFiles(path / "x.csv", label="l", classes=("1", str(10**18))).classes == ("1", str(10**18))
    assert CsvFiles(path / "t.csv", label="l").classes == (str(10**18), "a")
    for value, kind in (("1.7", "int64"), (f"{2**63}", "int64"), ("Infinity", "int64"), ("1" + "0" * 400, "float64")):
        write(tmp_path, {"y.jsonl": f'{{"n": {value}}}\n'})
        with pytest.raises(CorpusError, match=rf"y\.jsonl, line 1: 'n' is .*, no {kind}\. Mend it, or keep it"):
            list(JsonlFiles(path / "y.jsonl", columns=(f"n:{kind}",)).samples("y"))
    write(tmp_path, {"y.jsonl": f'{{"n": 2.0}}\n{{"n": NaN}}\n{{"n": {2**63 - 1}}}\n'})
    fitting = JsonlFiles(path / "y.jsonl", columns=("n:int64",)).samples("y")
    assert [sample.extras["n"] for sample in fitting] == [2, None, 2**63 - 1]


def test_damaged_parquet_is_refused(tmp_path: Path) -> None:
    twice = pa.Table.from_arrays([pa.array([1]), pa.array([2])], names=["a", "a"])
    pq.write_table(twice, tmp_path / "x.parquet")
    with pytest.raises(CorpusError, match=r"x\.parquet has two columns named 'a'\. Rename one of them"):
        ParquetFiles(tmp_path)
    buffers = [None, pa.py_buffer(b"\0\0\0\0\1\0\0\0"), pa.py_buffer(b"\xff")]
    path = parquet(tmp_path / "y.parquet", t=pa.Array.from_buffers(pa.string(), 1, buffers))
    with pytest.raises(CorpusError, match=r"y\.parquet, row 1: is damaged: .*can't decode byte 0xff"):
        list(ParquetFiles(path, text="t").samples("y"))


def test_json_lines(tmp_path: Path) -> None:
    rows = [
        {"text": "naïve\nline", "label": True, "n": 1.5, "tags": ["a"]},
        {"text": "", "label": False, "n": None, "tags": []},
    ]
    lines = "".join(json.dumps(row) + "\n" for row in rows)
    write(tmp_path, {"train.jsonl": lines + "\n", "test.jsonl.gz": gzip.compress(lines.encode())})
    corpus = JsonlFiles(tmp_path, text="text", label="label", members=("tags.json=tags",), columns=("n:float64",))
    found = round_trip(corpus, tmp_path / "out")
    for split in ("train", "test"):
        first, second = (found[split][f"{split}-00000000{row}"] for row in (0, 1))
        assert (first["txt"].decode(), first["tags.json"], first["label"]) == ("naïve\nline", b'["a"]', 1)
        assert (first["n"], second["label"], second["txt"]) == (1.5, 0, b"")
    assert [json.loads(sample.members["json"]) for sample in JsonlFiles(tmp_path).samples("test")] == rows


@pytest.mark.parametrize(
    ("line", "found"),
    [
        ("[1]", "line 2: is a list, not an object"),
        ("{", r"line 2: is no JSON in UTF-8"),
        ("{}", r"line 2: has no 'a'"),
        (r'{"a": "\ud83d\ude00 \ud800"}', r"x\.jsonl, line 2: holds half a character \('\\ud800'\).*Mend or remove"),
        ("[" * 100_000, r"x\.jsonl, line 2: is nested too deeply\. Mend or remove"),
    ],
)
def test_damaged_json_lines_are_refused(tmp_path: Path, line: str, found: str) -> None:
    path = write(tmp_path, {"x.jsonl": f'{{"a": 1}}\n{line}\n'}) / "x.jsonl"
    with pytest.raises(CorpusError, match=found):
        list(JsonlFiles(path, members=("a.txt=a",)).samples("x"))


def test_parquet_as_the_datasets_library_writes_it(tmp_path: Path) -> None:
    rows: list[dict[str, Any]] = [
        {"image": {"bytes": f"P{n}".encode(), "path": "x"}, "raw": b"\0", "label": n % 2, "words": ["a"]}
        for n in range(5)
    ]
    (tmp_path / "in" / "data").mkdir(parents=True)
    for part in range(2):
        table = pa.Table.from_pylist(rows[part * 3 : part * 3 + 3])
        pq.write_table(table, tmp_path / "in" / "data" / f"train-0000{part}-of-00002.parquet")
    corpus = ParquetFiles(
        tmp_path / "in", label="label", members=("ppm=image", "bin=raw", "json=words"), columns=("number=label:int64",)
    )
    found = round_trip(corpus, tmp_path / "out")["train"]
    for number, row in enumerate(rows):
        sample = found[f"train-{number:09d}"]
        assert (sample["ppm"], sample["bin"], sample["json"]) == (row["image"]["bytes"], b"\0", b'["a"]')
        assert sample["label"] == sample["number"] == row["label"]
    with pytest.raises(
        ConfigError, match=r"row 1: 'image' holds bytes, which JSON cannot\. Name it: members=EXT=image"
    ):
        list(ParquetFiles(tmp_path / "in").samples("train"))
    broken = write(tmp_path, {"x.parquet": b"PAR1 and no more"}) / "x.parquet"
    with pytest.raises(CorpusError, match=r"x\.parquet is no whole Parquet file"):
        ParquetFiles(broken)


def test_a_folder_of_files(tmp_path: Path) -> None:
    audio = wav(50, 8000)
    files: dict[str, Any] = {"a/1.wav": audio, "a/1.TXT": "one", "a/1.src.json": "{}", "b.txt": "two", "LICENSE": "x"}
    corpus = Folder(write(tmp_path / "in", files))
    found = round_trip(corpus, tmp_path / "out")["all"]
    assert {key: set(sample) & {"wav", "txt", "src.json"} for key, sample in found.items()} == {
        "a/1": {"wav", "txt", "src.json"},
        "b": {"txt"},
    }
    assert found["a/1"]["wav"] == audio and found["a/1"]["tokens"] == 1
    assert corpus.report() == [
        "1 files without an extension are left out, such as LICENSE.",
        "all: 1 samples lack one of src.json, txt, wav, such as b.",
    ]
    assert Folder(write(tmp_path / "split", {"train/x.txt": "1", "test/x.txt": "2"})).splits() == ("test", "train")
    write(tmp_path / "in", {"b.TXT": "x"})
    with pytest.raises(CorpusError, match=r"would be the same member 'txt' of the sample 'b'\. Rename"):
        Folder(tmp_path / "in").check("all")
    with pytest.raises(CorpusError, match=r"holds no file with an extension\. It holds: Makefile"):
        Folder(write(tmp_path / "bare", {"Makefile": "x"}))


def test_a_name_that_cannot_be_a_key_is_refused(tmp_path: Path) -> None:
    (tmp_path / "caf\udce9.txt").write_text("x")
    with pytest.raises(CorpusError, match=r"has a name that cannot be a key: it is no plain text\. Rename it"):
        Folder(tmp_path).check("all")
    assert Folder(tmp_path).key("all", 0) == "caf\\udce9"


@pytest.mark.parametrize(
    ("settings", "found"),
    [
        ({"delimiter": "\n"}, r"delimiter='\\n' ends a row of CSV"),
        ({"quote": "\r"}, r"quote='\\r' ends a row of CSV"),
        ({"delimiter": '"'}, r"delimiter, quote and escape: two of them are '\"'\. Choose different"),
        ({"delimiter": ";", "escape": ";"}, r"two of them are ';'\. Choose different"),
    ],
)
def test_marks_of_csv_that_cannot_work_are_refused(tmp_path: Path, settings: dict[str, Any], found: str) -> None:
    with pytest.raises(ConfigError, match=found):
        CsvFiles(write(tmp_path, {"x.csv": REVIEWS}) / "x.csv", **settings)


def test_bad_rows_of_json_lines_leave_the_others(tmp_path: Path) -> None:
    lines = ['{"f": "a.bin", "l": "x"}', '{"f": "a.bin", "f": "b.bin", "l": "x"}', "{", '{"f": null, "l": "x"}']
    lines += ['{"f": "gone.bin", "l": "x"}', '{"f": "a.bin", "l": [1]}', '{"f": "a.bin", "l": "y"}']
    corpus = JsonlFiles(write(tmp_path, {"x.jsonl": "\n".join(lines), "a.bin": "1"}) / "x.jsonl", file="f", label="l")
    with pytest.raises(CorpusError, match=r"x\.jsonl, line 2: has the key 'f' twice\. Mend or remove"):
        corpus.check("x")
    good, bad = read_all(corpus, "x")
    assert {key: sample.members for key, sample in good.items()} == {
        "x-000000000": {"bin": b"1", "cls": b"0"},
        "x-000000006": {"bin": b"1", "cls": b"1"},
    }
    wanted = ["has the key 'f' twice", "is no JSON", "'f' is None, and no path", "cannot be read", "has a list in it"]
    assert all(text in bad[f"x-00000000{row}"] for row, text in enumerate(wanted, start=1))


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "shift_jis", "cp1252", "utf-8"])
def test_csv_in_any_encoding_and_with_any_line_breaks(tmp_path: Path, encoding: str) -> None:
    letter = "é" if encoding != "shift_jis" else "日"
    text = "\r\n".join(["t,u", f'"{letter}\r{letter}",1', f"{letter},2"]) + "\rlast,3\n"
    path = write(tmp_path, {"x.csv": text.encode(encoding)}) / "x.csv"
    samples = [sample.members["txt"].decode() for sample in CsvFiles(path, text="t", encoding=encoding).samples("x")]
    assert samples == [f"{letter}\r{letter}", letter, "last"]


def test_a_bad_row_of_csv_leaves_the_others(tmp_path: Path) -> None:
    text = b'a,b\n1,2\n"x"y,3\n4\n\xff,6\n7,8\n'
    good, bad = read_all(CsvFiles(write(tmp_path, {"x.csv": text}) / "x.csv", text="a"), "x")
    assert {key: sample.members["txt"] for key, sample in good.items()} == {"x-000000000": b"1", "x-000000004": b"7"}
    for row, found in enumerate(("line 3: is no CSV", "line 4: has 1 fields", "line 5: is not text"), start=1):
        assert found in bad[f"x-00000000{row}"]
