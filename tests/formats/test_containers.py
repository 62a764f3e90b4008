"""A file of audio that ends before it says is refused, by its header alone: SPH, MP3, Ogg, AIFF, AU, CAF, W64."""

from __future__ import annotations

import io
import struct

import numpy as np
import pytest
import soundfile

from ecopipe.formats.audio import check, decode

from ..conftest import real
from .test_audio import RNG, encoded

TRUNCATED = "the file is truncated|could be decoded|libsndfile: "


@pytest.mark.parametrize(
    ("kind", "subtype"),
    [
        ("aiff", "PCM_16"),
        ("aiff", "PCM_24"),
        ("au", "PCM_16"),
        ("au", "FLOAT"),
        ("caf", "PCM_24"),
        ("w64", "PCM_16"),
        ("nist", "PCM_16"),
        ("nist", "ULAW"),
        ("ogg", "VORBIS"),
        ("ogg", "OPUS"),
        ("mp3", "MPEG_LAYER_III"),
        ("wav", "PCM_16"),
        ("wav", "PCM_24"),
        ("wav", "ULAW"),
        ("wav", "IMA_ADPCM"),
    ],
)
def test_every_cut_is_refused_before_decoding(kind, subtype):
    data = encoded(kind, subtype, frames=30000, channels=2)
    assert check(data, kind).frames >= 30000
    for lost in (1, 2, 7, len(data) // 10, len(data) // 2):
        for read in (check, decode):
            with pytest.raises(ValueError, match=TRUNCATED):
                read(data[:-lost], kind)


@pytest.mark.parametrize("name", ["stereo.sph", "198-209-0000.ogg", "mono_c0.opus", "stereo.mp3"])
def test_a_cut_real_file_is_refused(name):
    data, kind = real("audio_misc", name).read_bytes(), name.rpartition(".")[2]
    for end in range(0, len(data), max(1, len(data) // 40)):
        with pytest.raises(ValueError, match=f"{kind}"):
            check(data[:end], kind)


@pytest.mark.parametrize(("kind", "subtype"), [("aiff", "PCM_24"), ("caf", "PCM_16"), ("nist", "ULAW")])
def test_bytes_behind_the_samples_are_none_of_them(kind, subtype):
    data = encoded(kind, subtype, frames=1001)
    np.testing.assert_array_equal(decode(data + bytes(9), kind)[0], decode(data, kind)[0])


def test_au_without_a_size_goes_on_to_the_end():
    data = encoded("au", "PCM_16", frames=500)
    unsized = data[:8] + b"\xff\xff\xff\xff" + data[12:]
    assert check(unsized, "au").frames == 500
    np.testing.assert_array_equal(decode(unsized, "au")[0], decode(data, "au")[0])


def test_the_message_names_both_sizes():
    data = encoded("aiff", "PCM_16", frames=500)
    with pytest.raises(ValueError, match=rf"^damaged aiff: the header says {len(data)} bytes, {len(data) - 3} are"):
        check(data[:-3], "aiff")


# -- Ogg ----------------------------------------------------------------------------------------------------------


def test_ogg_without_its_last_page_is_refused():
    """libsndfile reads it as a shorter one."""
    data = encoded("ogg", "VORBIS", frames=200_000)
    cut = data[: data.rindex(b"OggS")]
    assert soundfile.info(io.BytesIO(cut)).frames < 200_000
    with pytest.raises(ValueError, match="^damaged ogg: its last page is missing or cut; the file is truncated$"):
        check(cut, "ogg")


def test_ogg_with_bytes_behind_its_last_page():
    data = encoded("ogg", "VORBIS", frames=20_000)
    assert check(data + b"TAG" + bytes(125), "ogg").frames == 20_000


# -- SPH ----------------------------------------------------------------------------------------------------------


def sph(samples, *, coding="pcm", order="01", count=None, extra=()):
    lines = ["NIST_1A", "   1024", f"sample_coding -s{len(coding)} {coding}", "sample_rate -i 8000"]
    lines += [f"sample_count -i {len(samples) if count is None else count}", f"channel_count -i {samples.shape[1]}"]
    lines += ["sample_n_bytes -i 2", f"sample_byte_format -s2 {order}", *extra, "end_head", ""]
    return "\n".join(lines).encode().ljust(1024, b" ") + samples.astype(">i2" if order == "10" else "<i2").tobytes()


@pytest.mark.parametrize("order", ["01", "10"])
@pytest.mark.parametrize("channels", [1, 2])
def test_sph_of_both_byte_orders(order, channels):
    samples = RNG.integers(-32768, 32767, (700, channels))
    audio, rate_hz = decode(sph(samples, order=order), "sph")
    assert rate_hz == 8000
    np.testing.assert_array_equal(audio, (samples / 32768).astype(np.float32))


def test_sph_stops_at_its_sample_count():
    samples = RNG.integers(-99, 99, (700, 1))
    data = sph(samples, count=500)
    assert check(data, "sph").frames == len(decode(data, "sph")[0]) == 500


@pytest.mark.parametrize("coding", ["pcm,embedded-shorten-v2.00", "ulaw,embedded-shorten-v1.09", "pcm,wavpack"])
def test_compressed_sph_is_refused_with_the_remedy(coding):
    data = sph(RNG.integers(-99, 99, (700, 1)), coding=coding)
    message = (
        rf"^compressed sph: its sample_coding is '{coding}', which libsndfile does not read; convert it first, such as "
        r"with sph2pipe -f wav IN.sph OUT.wav$"
    )
    for read in (check, decode):
        for whole in (data, data[:-600]):
            with pytest.raises(ValueError, match=message):
                read(whole, "sph")


# -- MP3 ----------------------------------------------------------------------------------------------------------


def mp3(*, rate_hz=16000, channels=1, seconds=5, mode="CONSTANT", tagged=True):
    """An MP3 of libsndfile's; without ``tagged`` its Xing frame is cut off."""
    loud = np.repeat(np.geomspace(1e-4, 0.5, 10), rate_hz * seconds // 10)[:, None]
    stream = io.BytesIO()
    audio = loud * RNG.standard_normal((len(loud), channels)).clip(-1, 1)
    soundfile.write(stream, audio, rate_hz, format="MP3", subtype="MPEG_LAYER_III", bitrate_mode=mode)
    data = stream.getvalue()
    if tagged:
        return data
    at = data.index(b"Xing" if b"Xing" in data[:100] else b"Info")
    return data[data.index(data[:2], at) :]


@pytest.mark.parametrize("rate_hz", [8000, 16000, 22050, 32000, 44100, 48000])
@pytest.mark.parametrize("channels", [1, 2])
def test_mp3_with_a_xing_frame_has_the_length_that_was_encoded(rate_hz, channels):
    for mode in ("CONSTANT", "VARIABLE"):
        data = mp3(rate_hz=rate_hz, channels=channels, seconds=2, mode=mode)
        assert check(data, "mp3").frames == len(decode(data, "mp3")[0]) == 2 * rate_hz


@pytest.mark.parametrize("tail", [b"", b"TAG" + bytes(125), bytes(64)])
@pytest.mark.parametrize("rate_hz", [16000, 44100])
def test_mp3_without_a_xing_frame_is_as_long_as_its_frames(rate_hz, tail):
    data = mp3(rate_hz=rate_hz, tagged=False)
    samples = 576 if rate_hz == 16000 else 1152
    info, (audio, _) = check(data + tail, "mp3"), decode(data + tail, "mp3")
    assert info.frames == len(audio)
    assert len(audio) % samples == 0
    assert len(audio) >= 5 * rate_hz


def test_mp3_behind_an_id3_tag():
    data = mp3()
    tag = b"ID3\x04\x00\x00" + struct.pack(">I", 0x0102) + bytes(0x82)  # 1 * 128 + 2 bytes
    assert check(tag + data, "mp3") == check(data, "mp3")
    assert len(decode(tag + data, "mp3")[0]) == 80000
    with pytest.raises(ValueError, match="mp3"):
        check((tag + data)[:-2000], "mp3")


def test_mp3_that_lost_frames_is_refused():
    """Also where the cut lies between two frames, which no decoder notices."""
    data = mp3()
    starts = [at for at in range(len(data)) if data[at : at + 2] == data[:2]]
    with pytest.raises(ValueError, match=r"^damaged mp3: its Xing header says \d+ frames, \d+ are there; the file is "):
        check(data[: starts[len(starts) // 2]], "mp3")
    for lost in (1, 2, 3, 100):
        with pytest.raises(ValueError, match="^damaged mp3: its last frame is cut; the file is truncated$"):
            check(mp3(tagged=False)[:-lost], "mp3")


@pytest.mark.parametrize("channels", [1, 2])
@pytest.mark.parametrize("rate_hz", [8000, 22050, 44100])
def test_mp3_without_a_xing_frame_is_decoded_to_its_end(rate_hz, channels):
    """libsndfile estimates its length from the first frame, and reads no further."""
    data = mp3(rate_hz=rate_hz, channels=channels, mode="VARIABLE", tagged=False)
    estimated, _ = soundfile.read(io.BytesIO(data), dtype="float32", always_2d=True)
    audio, _ = decode(data, "mp3")
    shared = min(len(audio), len(estimated))
    np.testing.assert_allclose(audio[:shared], estimated[:shared], atol=1e-6)
    assert len(audio) >= 5 * rate_hz
    assert np.abs(audio[-rate_hz // 2 :]).max() > 0.1  # the loud end is there
