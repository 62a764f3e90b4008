"""Stages that make members again, choose among fields, and count."""

from __future__ import annotations

import io

import numpy as np
import pytest
import soundfile
from PIL import Image

import ecopipe
from ecopipe.pipeline.toml import dumps, loads
from ecopipe.stages.audio import DecodeAudio
from ecopipe.stages.encoding import EncodeAudio, EncodeImage
from ecopipe.stages.encoding_arrays import DecodeArray, EncodeArray
from ecopipe.stages.fields import Count, Drop, Keep
from ecopipe.stages.image import DecodeImage
from ecopipe.stages.trimming import Trim
from ecopipe.vocabulary.errors import ConfigError
from ecopipe.vocabulary.randomness import Chance
from ecopipe.vocabulary.sample import Sample

CHANCE = Chance(0, 0, "stage")


def sample(**fields):
    return Sample("a/1", fields, shard="s.tar")


def flac(frames=16000, subtype="PCM_16", channels=1):
    audio = (np.random.default_rng(0).standard_normal((frames, channels)) * 3000).astype(np.int16)
    stream = io.BytesIO()
    soundfile.write(stream, audio, 16000, format="FLAC", subtype=subtype)
    return stream.getvalue(), audio


@pytest.mark.parametrize("dtype", ["int16", "float32"])
def test_audio_is_decoded_and_encoded_again(dtype):
    data, audio = flac()
    before = sample(flac=data, txt=b"HELLO", label=3)
    decoded = DecodeAudio(dtype=dtype).apply(before, CHANCE)
    made = EncodeAudio("wav").apply(decoded, CHANCE)
    assert set(made) == {"wav", "txt", "label"}
    assert made.key == "a/1" and made.shard == "s.tar"
    np.testing.assert_array_equal(soundfile.read(io.BytesIO(made["wav"]), dtype="int16")[0], audio[:, 0])
    assert set(EncodeAudio("opus", into="quiet.opus", keep=True).apply(decoded, CHANCE)) == {
        "quiet.opus", "audio", "rate_hz", "txt", "label",
    }  # fmt: skip


def test_all_channels_are_encoded():
    data, audio = flac(channels=2)
    made = EncodeAudio().apply(DecodeAudio(channels="all", dtype="int16").apply(sample(flac=data), CHANCE), CHANCE)
    np.testing.assert_array_equal(soundfile.read(io.BytesIO(made["flac"]), dtype="int16")[0], audio)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: EncodeAudio("aac"), "unknown format 'aac'"),
        (lambda: EncodeAudio("flac", bits=32), "bits=32 is none of flac; choose 16 or 24"),
        (lambda: EncodeAudio("opus", bits=24), "bits=24 is none of opus; it has no fixed number: leave bits out"),
        (lambda: EncodeAudio("wav", compression=3), "compression is 0 to 8, and of flac; got 3 for wav"),
        (lambda: EncodeAudio(compression=9), "got 9 for flac"),
        (lambda: EncodeAudio("opus", quality=0), "quality is above 0, up to 1, and of opus, ogg and mp3; got 0"),
        (lambda: EncodeAudio("flac", quality=0.5), "got 0.5 for flac"),
        (lambda: EncodeAudio(into="a/flac"), "into must be an extension in lower case"),
        (lambda: EncodeAudio(into="FLAC"), "such as 'flac' or 'mix.flac', got 'FLAC'"),
        (lambda: EncodeAudio(clipping="wrap"), "unknown clipping 'wrap'"),
        (lambda: EncodeImage("gif"), "unknown format 'gif'"),
        (lambda: EncodeImage("jpeg", quality=100), "quality is 1 to 95, got 100"),
        (lambda: EncodeImage(compression=10), "compression is 0 to 9, got 10"),
        (lambda: EncodeImage(subsampling="4:1:1"), "unknown subsampling"),
        (lambda: EncodeArray("tokens", dtype="object"), "unknown dtype 'object'"),
        (lambda: EncodeArray("a b/c"), "into must be an extension"),
        (lambda: DecodeArray("npy"), "does not name the array; say into"),
        (lambda: Keep(()), "fields must be one or more names"),
        (lambda: Drop("flac"), r"fields must be one or more names, such as \['flac', 'txt'\], got 'flac'"),
        (lambda: Trim(top_db=0), "top_db must be above 0"),
        (lambda: Trim(hop_length=0), "hop_length must be a positive int"),
        (lambda: Trim(margin_s=-1), "margin_s must be 0 or more"),
    ],
)
def test_settings_that_cannot_work_are_refused(make, message):
    with pytest.raises(ConfigError, match=message):
        make()


@pytest.mark.parametrize("channels", [1, 3])
def test_images_are_exact_as_png_and_raw_and_alike_as_jpeg(channels):
    image = np.add.outer(np.arange(channels) * 20, np.add.outer(np.arange(24), 3 * np.arange(32))).astype(np.uint8)
    for format, extension in (("png", "png"), ("raw", "npy"), ("jpeg", "jpg")):
        stage = EncodeImage(format, quality=95, subsampling="4:4:4")
        made = stage.apply(sample(image=image), CHANCE)
        assert set(made) == {extension} == set(stage.gives())
        assert made[extension] == stage.apply(sample(image=image), CHANCE)[extension]
        back = DecodeImage(mode="rgb" if channels == 3 else "grey").apply(made, CHANCE)["image"]
        assert np.abs(back.astype(int) - image).max() <= (6 if format == "jpeg" else 0)
    assert Image.open(io.BytesIO(made["jpg"])).format == "JPEG"


def test_an_image_that_is_none_is_refused():
    for wrong in (np.zeros((3, 4, 5), np.float32), np.zeros((2, 4, 5), np.uint8), np.zeros((3, 0, 5), np.uint8)):
        with pytest.raises(ValueError, match=r"uint8 \[1, H, W\] or \[3, H, W\] wanted, as DecodeImage gives it"):
            EncodeImage().apply(sample(image=wrong), CHANCE)
    with pytest.raises(ValueError, match="its image is bytes; an array wanted"):
        EncodeImage().apply(sample(image=b"png"), CHANCE)
    with pytest.raises(ValueError, match="no field 'image'; it has txt"):
        EncodeImage().apply(sample(txt=b""), CHANCE)
    with pytest.raises(ValueError, match="cannot be written as jpeg"):
        EncodeImage("jpeg").apply(sample(image=np.zeros((1, 1, 70000), np.uint8)), CHANCE)


@pytest.mark.parametrize("dtype", [None, "uint16", "int64", "float32"])
def test_arrays_come_back(dtype):
    tokens = np.array([5, 0, 65535], np.int64)
    made = EncodeArray("tokens", dtype=dtype).apply(sample(tokens=tokens, txt=b"x"), CHANCE)
    assert set(made) == {"tokens.npy", "txt"}
    np.testing.assert_array_equal(np.load(io.BytesIO(made["tokens.npy"]), allow_pickle=False), tokens)
    back = DecodeArray("tokens.npy", dtype="int64" if dtype != "float32" else None).apply(made, CHANCE)
    assert set(back) == {"tokens", "txt"}
    assert back["tokens"].dtype == ("float32" if dtype == "float32" else "int64")
    assert back["tokens"].flags.owndata and back["tokens"].flags.writeable
    np.testing.assert_array_equal(back["tokens"], tokens)


def test_the_bytes_of_an_array_do_not_depend_on_how_it_lies():
    array = np.arange(12.0).reshape(3, 4)
    plain = EncodeArray("x").apply(sample(x=array), CHANCE)["x.npy"]
    for other in (np.asfortranarray(array), array.astype(">f8"), np.repeat(array, 2, axis=1)[:, ::2]):
        assert EncodeArray("x").apply(sample(x=other), CHANCE)["x.npy"] == plain
    for written in (np.asfortranarray(array), array.astype(">f8")):
        stream = io.BytesIO()
        np.save(stream, written)
        back = DecodeArray("x.npy").apply(sample(**{"x.npy": stream.getvalue()}), CHANCE)["x"]
        assert back.dtype == np.float64 and back.flags.c_contiguous
        np.testing.assert_array_equal(back, array)


@pytest.mark.parametrize(
    ("array", "dtype", "message"),
    [
        (np.array([1, 70000]), "uint16", "its tokens: its numbers are 1 to 70,000, and uint16 holds 0 to 65,535"),
        (np.array([-1]), "uint8", "its numbers are -1 to -1"),
        (np.array([1.5]), "int64", "float64 is not stored as int64"),
        (np.array([1e6]), "float16", "which float16 cannot hold"),
        (np.array([2**30 + 1]), "float32", "float32 holds -8,388,608 to 8,388,608"),
        (np.array(["a"]), None, "an array of <U1 is none of numbers"),
        (np.array([None]), None, "an array of object is none of numbers"),
    ],
)
def test_arrays_that_do_not_fit_are_refused(array, dtype, message):
    with pytest.raises(ValueError, match=message):
        EncodeArray("tokens", dtype=dtype).apply(sample(tokens=array), CHANCE)


def test_fields_are_kept_dropped_and_counted():
    before = sample(flac=b"123", txt="four", tokens=np.zeros((5, 2)), label=1)
    assert set(Keep(["txt", "label"]).apply(before, CHANCE)) == {"txt", "label"}
    assert set(Drop(("txt", "label")).apply(before, CHANCE)) == {"flac", "tokens"}
    for stage in (Keep(("txt", "json")), Drop(("json",)), Count("json")):
        with pytest.raises(ValueError, match="no field 'json'; it has flac, label, tokens, txt"):
            stage.apply(before, CHANCE)
    assert set(Keep(("txt", "json"), optional=True).apply(before, CHANCE)) == {"txt"}
    assert set(Drop(("txt", "json"), optional=True).apply(before, CHANCE)) == {"flac", "tokens", "label"}
    for field, count in (("flac", 3), ("txt", 4), ("tokens", 5)):
        assert Count(field).apply(before, CHANCE)[f"n_{field}"] == count
    assert Count("tokens", into="length").apply(before, CHANCE)["length"] == 5
    with pytest.raises(ValueError, match="its label is int, which has no length"):
        Count("label").apply(before, CHANCE)
    assert set(before) == {"flac", "txt", "tokens", "label"}


def test_a_pipeline_of_them_goes_through_toml():
    pipe = ecopipe.Pipeline(
        ecopipe.TarShards("shards"),
        ecopipe.Batch(4),
        DecodeAudio(),
        Trim(top_db=30, margin_s=0.1),
        EncodeAudio("opus", quality=0.2),
        EncodeArray("tokens", dtype="uint16"),
        Keep(("opus", "tokens.npy")),
        ecopipe.Collate("opus"),
    )
    assert loads(dumps(pipe)) == pipe
