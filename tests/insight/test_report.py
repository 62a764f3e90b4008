"""The HTML report: of the three pipelines and of odd ones, by what its document says, and in a real browser."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ecopipe.insight import report, report_pictures
from ecopipe.insight.profile_codecs import codecs
from ecopipe.insight.profile_model import REST
from ecopipe.insight.report_examples import Examples, examples
from ecopipe.pipeline.bad_samples import BadSamples
from ecopipe.pipeline.pipeline import Pipeline
from ecopipe.pipeline.toml import load
from ecopipe.run.loader import Loader
from ecopipe.stages.audio import DecodeAudio
from ecopipe.stages.collate import Collate
from ecopipe.stages.foreign import Map
from ecopipe.stages.image import DecodeImage, Normalize
from ecopipe.stages.imaging import ImageRandomHorizontalFlip
from ecopipe.stages.masking import SpecAugment
from ecopipe.stages.plan import Batch, Shuffle
from ecopipe.stages.source import Items, Mix, TarShards
from ecopipe.stages.spectral import LogMel
from ecopipe.stages.text import TokenizeBasicEnglish, TokenizeCharacters

from ..conftest import ROOT, SPLITS
from .browser import chromium, look

pytest.importorskip("vl_convert", reason="vl-convert-python is not installed: pip install 'ecopipe[report]'")

SMALL: dict[str, dict[str, Any]] = {
    "librispeech": {"Bucket.max_padded": 9.0}, "imdb": {"Bucket.max_padded": 1000.0}, "cifar10": {"Batch.size": 4}
}  # fmt: skip
WORKERS = {"librispeech": 2, "imdb": 1, "cifar10": 0}


class Made:
    """A report, and what it was made of."""

    def __init__(self, pipeline: Pipeline, path: Path, *, workers: int = 0, batches: int | None = None) -> None:
        self.pipeline, self.path = pipeline, path
        with Loader(pipeline, workers=workers) as loader:
            with loader.profile() as profile:
                for number, _ in enumerate(loader, 1):
                    if number == batches:
                        break
            found = codecs(loader, profile.model, profile.recording)
        self.document: dict[str, Any] = profile.as_json() | {"codecs": found, "pipeline": f"{path.stem}.toml"}
        self.examples: Examples = examples(pipeline, pipeline.open())
        ready = report.ready_when_asked(profile.recording)
        self.html = report.page(self.document, pipeline, self.examples, ready=ready)
        self.ready = ready
        report.write_report(path, self.html)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("reports")


@pytest.fixture(scope="module")
def made(shards: Path, folder: Path) -> Mapping[str, Made]:
    """The reports of the three pipeline files, on small shards."""
    found = {}
    for name, split in SPLITS.items():
        overrides = {"source.path": str(shards / name / split), **SMALL[name]}
        pipeline = load(ROOT / "pipelines" / f"{name}.toml", overrides)
        found[name] = Made(pipeline, folder / f"{name}.html", workers=WORKERS[name])
    return found


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with chromium() as found:
        yield found


class Page(HTMLParser):
    """What a browser would see of a page: its elements with their attributes, and its text."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str]]] = []
        self.text = ""
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, {name: value or "" for name, value in attrs}))

    def handle_data(self, data: str) -> None:
        self.text += data

    def all(self, tag: str) -> list[dict[str, str]]:
        return [attributes for name, attributes in self.elements if name == tag]


# -- without a browser ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", list(SPLITS))
def test_it_stands_by_itself_and_says_what_the_document_says(made: Mapping[str, Made], name: str) -> None:
    one = made[name]
    page = Page(one.html)
    assert not page.all("script") and not page.all("iframe") and not page.all("object")
    assert not any(attribute.startswith("on") for _, attributes in page.elements for attribute in attributes)
    loaded = [attributes.get(name, "data:") for _, attributes in page.elements for name in ("src", "href")]
    assert all(target.startswith("data:") for target in loaded)
    assert "@import" not in one.html and "url(" not in one.html.replace("url(#", "")
    names = [attributes["id"] for _, attributes in page.elements if "id" in attributes]
    assert len(set(names)) == len(names) and set(re.findall(r"url\(#([^)]+)\)", one.html)) <= set(names)
    assert len(one.html.encode()) < 1_500_000
    text = " ".join(page.text.split())
    for sentence in one.document["words"]:
        assert sentence in text
    for row in one.document["stages"]:
        assert row["name"] in text
    assert all(attributes.get("alt") for attributes in page.all("img"))
    assert all(attributes.get("aria-label") for attributes in page.all("svg"))
    marked = [one for _, one in page.elements if "limits" in one.get("class", "").split() and "data-part" in one]
    assert [one["data-part"] for one in marked] == [made[name].document["limit"]["name"]] * 2  # wide and narrow
    assert one.path.read_text(encoding="utf-8") == one.html
    assert [left.name for left in one.path.parent.iterdir() if left.name.startswith(".")] == []


def test_a_recording_is_shown_as_it_is_delivered(made: Mapping[str, Made]) -> None:
    one = made["librispeech"]
    assert [len(spoken.pictures) for spoken in one.examples.spoken] == [3, 3, 3][: len(one.examples.spoken)]
    spoken = one.examples.spoken[0]
    assert [picture.title for picture in spoken.pictures] == [
        "waveform after DecodeAudio", "features after LogMel", "features after SpecAugment",
    ]  # fmt: skip
    with one.pipeline.loader() as loader:
        batch = next(iter(loader))
    at = batch["keys"].index(spoken.key)
    features = batch["features"][at, : int(batch["lengths"][at])].numpy()
    scale = [float(end) for end in re.findall(r"-?[\d.]+", spoken.pictures[1].about)[2:]]
    assert spoken.pictures[1].about.startswith(f"{len(features):,} frames x 80 bins")
    assert scale[0] < scale[1]
    assert spoken.pictures[1].uri != spoken.pictures[2].uri  # SpecAugment has masked some
    text = next(text for text in one.examples.texts if text.key == spoken.key)
    assert "".join(piece for _, piece in text.tokens) == text.text[: len(text.tokens)]
    assert [number for number, _ in text.tokens] == batch["targets"][at, : len(text.tokens)].tolist()


def test_a_text_is_shown_with_its_tokens(made: Mapping[str, Made]) -> None:
    one = made["imdb"]
    with one.pipeline.loader() as loader:
        batch = next(iter(loader))
    assert len(one.examples.texts) == 3
    for text in one.examples.texts:
        at = batch["keys"].index(text.key)
        assert [number for number, _ in text.tokens] == batch["tokens"][at, : len(text.tokens)].tolist()
        assert all(piece in text.text.lower() for _, piece in text.tokens[:5])
        assert text.count == int(batch["lengths"][at])


def test_images_are_shown_before_and_after(shards: Path, folder: Path) -> None:
    source = TarShards(str(shards / "cifar10" / "train"))
    stages = (
        Batch(6), DecodeImage(), Collate("image", layout="stack"), ImageRandomHorizontalFlip(1.0),
        Normalize(mean=(0.5, 0.5, 0.5), std=(0.25, 0.25, 0.25)),
    )  # fmt: skip
    one = Made(Pipeline(source, *stages), folder / "images.html")
    assert [grid.title for grid in one.examples.grids] == [
        "after DecodeImage", "after ImageRandomHorizontalFlip", "after Normalize",
    ]  # fmt: skip
    before, after, normal = (grid.images for grid in one.examples.grids)
    assert len(before) == len(after) == len(normal) == 6
    assert len({uri for _, uri in before} | {uri for _, uri in after}) == 12  # all are mirrored
    assert "drawn black" in one.examples.grids[2].about
    assert all(re.search(r"label \d", caption) for caption, _ in before)


def test_what_is_told_fits_workers_and_none(made: Mapping[str, Made]) -> None:
    for name, workers in WORKERS.items():
        document, text = made[name].document, " ".join(Page(made[name].html).text.split())
        assert ("how long the batch had been ready" in text) == bool(workers)
        assert f"how many samples one {'worker' if workers else 'thread'} could take through each part" in text
        assert f"training waits: {document['run']['waiting_share']:.0%}" in text
        measured = document["run"]["samples_per_s"]
        assert document["predictions"]["workers"][str(workers)] == pytest.approx(measured, abs=0.02)
        assert 'aria-label="workers: ' + f"{workers}; samples/s: " in made[name].html


def test_the_rest_has_a_name_that_fits_without_workers(made: Mapping[str, Made]) -> None:
    one = made["cifar10"]
    limit = one.document["limit"] | {"name": REST, "clear": True}
    page = Page(report.page(one.document | {"limit": limit}, one.pipeline, one.examples))
    assert REST not in page.text and page.text.count("rest of making") >= 6
    marked = [one for _, one in page.elements if "limits" in one.get("class", "").split() and "data-part" in one]
    assert [one["data-part"] for one in marked] == [REST] * 2


def test_how_many_lay_ready(made: Mapping[str, Made]) -> None:
    one = made["librispeech"]
    assert len(one.ready) == len(one.document["batches"]) and max(one.ready) <= 4 and min(one.ready) >= 0
    assert "chart-ready" in one.html and "chart-ready" not in made["cifar10"].html


def hostile() -> list[dict[str, Any]]:
    key = "<script>alert(1)</script>"
    return [{"key": f"{key}{number}", "txt": f"{key} 'quoted\" & <b>bold</b> {number}"} for number in range(24)]


def same(text: Any) -> Any:
    return text


ODD = '<img src=x onerror="alert(2)">'


@pytest.fixture(scope="module")
def odd(folder: Path) -> Made:
    stages = (Batch(2), Map(same, field="txt", name=ODD), TokenizeBasicEnglish(), Collate("tokens"))
    return Made(Pipeline(Items(hostile, window=8), *stages), folder / "odd.html")


def test_what_data_and_names_say_is_text_and_no_markup(odd: Made) -> None:
    page = Page(odd.html)
    assert not page.all("script")
    assert all(attributes["src"].startswith("data:") for attributes in page.all("img"))
    assert "<script>alert(1)</script>0" in page.text and "<b>bold</b>" in page.text
    assert ODD in page.text
    assert "<script" not in odd.html and "<img src=x" not in odd.html and "<b>bold" not in odd.html


# -- odd pipelines ----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def skips(folder: Path) -> Made:
    """Of a pipeline that leaves out its bad samples: every third."""
    items = [{"key": f"k{number}", "txt": "A" if number % 3 else "?"} for number in range(24)]
    stages = (Batch(6), TokenizeCharacters(), Collate("tokens"))
    policy = BadSamples("skip", max_share=1)
    return Made(Pipeline(Items(lambda: items, window=12), *stages, bad_samples=policy), folder / "skips.html")


def test_bad_samples_of_the_first_batch_are_told(skips: Made) -> None:
    one = skips
    assert len(one.examples.faults) == 2 and one.examples.faults[0].startswith("k0: TokenizeCharacters: character '?'")
    assert [text.key for text in one.examples.texts] == ["k1", "k2", "k4"]
    assert "k0: TokenizeCharacters" in " ".join(Page(one.html).text.split())


def test_a_mixture_whose_samples_are_flat(shards: Path, tmp_path: Path) -> None:
    sources = tuple(TarShards(str(shards / "librispeech" / "train-clean-100"), name=name) for name in "ab")
    stages = (
        Shuffle(), Batch(4), DecodeAudio(), Collate("audio", layout="flat"), LogMel(),
        SpecAugment(freq_mask_width=10, time_mask_width=20),
    )  # fmt: skip
    one = Made(Pipeline(Mix(sources, weights=(1, 1), stop="all"), *stages), tmp_path / "mix.html")
    assert [len(spoken.pictures) for spoken in one.examples.spoken] == [3, 3, 3]
    assert one.document["run"]["padding_fraction"] == 0


def test_three_batches_are_enough_and_lengths_may_be_missing(shards: Path, tmp_path: Path) -> None:
    source = TarShards(str(shards / "cifar10" / "train"))
    stages = (Batch(4), DecodeImage(), Collate("image", layout="stack"))
    one = Made(Pipeline(source, *stages), tmp_path / "three.html", batches=3)
    assert "chart-lengths" not in one.html and "chart-padding" not in one.html
    assert one.document["run"]["batches"] == 3 and "chart-waits" in one.html


# -- pictures ---------------------------------------------------------------------------------------------------------


def test_a_waveform_reaches_from_its_least_to_its_greatest_value() -> None:
    audio = np.zeros(4800, dtype=np.int16)
    audio[2400], audio[10] = 16384, -8192
    path = report_pictures.wave_path(audio, height=100)
    points = [tuple(map(float, pair.split(","))) for pair in path.strip("MZ").split("L")]
    assert len(points) == 2 * report_pictures.WAVE_COLUMNS
    assert min(points, key=lambda point: point[1]) == (240.0, pytest.approx(-0.4))  # the peak, in the middle
    assert max(points, key=lambda point: point[1]) == (1.0, pytest.approx(75.4))  # half as deep, near the beginning
    assert report_pictures.peak(audio) == 0.5
    assert report_pictures.wave_path(np.zeros(0, dtype=np.float32)) == ""


def test_features_are_drawn_low_bins_below_and_long_ones_averaged() -> None:
    import base64
    import io

    from PIL import Image

    features = np.zeros((2 * report_pictures.MOST_FRAMES, 3), dtype=np.float32)
    features[: report_pictures.MOST_FRAMES, 0] = 1.0
    uri = report_pictures.heat_uri(features, 0.0, 1.0)
    picture = Image.open(io.BytesIO(base64.b64decode(uri.partition(",")[2]))).convert("L")
    pixels = np.asarray(picture)
    assert pixels.shape == (3, report_pictures.MOST_FRAMES)
    bright = pixels == pixels.max()
    assert bright[2, : report_pictures.MOST_FRAMES // 2].all() and bright.sum() == report_pictures.MOST_FRAMES // 2


# -- in a browser -----------------------------------------------------------------------------------------------------


def of_marks(marks: list[list[str]], name: str) -> list[float]:
    """The numbers that marks say of one of their fields."""
    found = [re.search(rf"(?:^|; ){re.escape(name)}: ([^;]+)", label) for label, _ in marks]
    return [float(one[1].replace(",", "").replace("%", "")) for one in found if one]


def check_page(found: dict[str, Any], one: Made) -> None:
    """What must hold of a report at any width and in any scheme."""
    assert found["noise"] == []
    assert (found["outside"], found["overlapping"], found["truncated"], found["pale"]) == ([], [], [], [])
    assert found["limiting"] == [one.document["limit"]["name"]]
    shown = {row["name"] for row in one.document["stages"]}
    assert shown <= set(found["parts"]) and found["parts"][-1] == "consumer"
    assert all(found["images"]) and all(found["waves"])
    marks = found["marks"]
    assert {"shares", "times", "waits", "workers", "headroom"} <= set(marks)
    assert len(of_marks(marks["shares"], "share of all measured time")) == len(one.document["stages"])
    assert len(of_marks(marks["workers"], "samples/s")) == len(one.document["predictions"]["workers"])
    assert len(marks["headroom"]) == len(one.document["predictions"]["without"])
    assert len(marks["times"]) >= 3 * len(one.document["stages"])
    if one.document["lengths"]:
        assert sum(of_marks(marks["lengths"], "samples")) == one.document["run"]["samples"]
        assert len(marks["padding"]) >= min(len(one.document["batches"]), 200)


@pytest.mark.parametrize("name", list(SPLITS))
def test_in_a_browser_wide_narrow_dark_and_printed(made: Mapping[str, Made], browser: Any, name: str) -> None:
    one = made[name]
    wide = look(browser, one.path, width=1200)
    dark = look(browser, one.path, width=1200, scheme="dark")
    phone = look(browser, one.path, width=360, scheme="dark")
    printed = look(browser, one.path, width=1000, media="print")
    for found in (wide, dark, phone, printed):
        check_page(found, one)
    assert (wide["width"], phone["width"]) == (1200, 360)
    assert wide["background"] == "rgb(245, 246, 248)" and dark["background"] == "rgb(16, 20, 27)"
    colours = [{colour for _, colour in found["marks"]["shares"]} for found in (wide, dark)]
    assert colours[0].isdisjoint(colours[1])
    limits = {row["name"] for row in one.document["stages"]} & {one.document["limit"]["name"]}
    bright = [label for label, colour in wide["marks"]["shares"] if colour == "rgb(194, 65, 12)"]
    assert [label for label in bright if f"stage: {next(iter(limits), None)}" in label] == bright[: len(limits)]


def test_in_a_browser_nothing_of_the_data_runs_or_is_too_wide(odd: Made, skips: Made, browser: Any) -> None:
    for one in (odd, skips):
        for width in (1200, 360):
            found = look(browser, one.path, width=width)
            check_page(found, one)
            assert found["width"] == width
