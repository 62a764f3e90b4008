"""A file of audio that ends before it says is refused, by its header alone: SPH, MP3, Ogg, AIFF, AU, CAF, W64.

So are containers of which nobody can say that they are whole.
"""

from __future__ import annotations

import io

import numpy as np
import pytest
import soundfile

from ecopipe.formats.audio import check, decode, probe

from ..conftest import real
from .test_audio import RNG, encoded
from .test_flac import TAGS

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


@pytest.mark.parametrize(
    ("kind", "subtype"),
    [
        *(("aiff", "PCM_16"), ("aiff", "IMA_ADPCM"), ("au", "PCM_16"), ("caf", "PCM_16"), ("caf", "ALAC_16")),
        *(("w64", "PCM_16"), ("nist", "PCM_16"), ("rf64", "PCM_16"), ("wav", "PCM_24")),
        *(("ogg", "VORBIS"), ("ogg", "OPUS"), ("mp3", "MPEG_LAYER_III")),
    ],
)
def test_a_cut_at_any_byte_of_the_header_is_refused(kind, subtype):
    data = encoded(kind, subtype, frames=1000)
    for end in range(min(1200, len(data))):
        for read in (check, decode):
            with pytest.raises(ValueError, match=f"{kind}|wav"):
                read(data[:end], kind)


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


@pytest.mark.parametrize("subtype", ["PCM_16", "ULAW"])
def test_au_of_little_endian(subtype):
    data = encoded("au", subtype, frames=500, endian="LITTLE")
    assert data[:4] == b"dns."
    np.testing.assert_array_equal(decode(data, "au")[0], decode(encoded_as(data, "AU", subtype), "au")[0])
    for lost in (1, 7, 200):
        with pytest.raises(
            ValueError, match=rf"^damaged au: the header says {len(data)} bytes, {len(data) - lost} are"
        ):
            check(data[:-lost], "au")


def encoded_as(data, kind, subtype):
    """The samples of another file."""
    stream = io.BytesIO()
    soundfile.write(stream, *soundfile.read(io.BytesIO(data)), format=kind, subtype=subtype)
    return stream.getvalue()


@pytest.mark.parametrize("kind", ["au", "aiff", "caf"])
def test_no_samples_at_all_are_refused(kind):
    """A recorder that crashed leaves such a header."""
    data = encoded(kind, "PCM_16", frames=0)
    message = (
        rf"^damaged {kind}: the header says no samples, in a file of {len(data)} bytes; it was not closed by what "
    )
    for read in (probe, check, decode):
        with pytest.raises(ValueError, match=message):
            read(data, kind)


UNCHECKED = {
    name: subtype
    for name, subtype in {
        **dict.fromkeys(("AVR", "HTK", "IRCAM", "MPC2K", "PAF", "PVF", "SDS", "SVX", "VOC"), "PCM_16"),
        "MAT4": "DOUBLE",
        "MAT5": "DOUBLE",
        "WVE": "ALAW",
        "XI": "DPCM_16",
    }.items()
    if name in soundfile.available_formats()
}


@pytest.mark.parametrize("name", UNCHECKED)
def test_a_container_that_cannot_be_checked_is_refused(name):
    data = encoded(name, UNCHECKED[name], frames=4000)
    assert len(soundfile.read(io.BytesIO(data))[0]) >= 4000
    message = (
        rf"^not readable as wav: its format is {name} \({UNCHECKED[name]}\), of which nothing here can check that it "
        r"is whole; convert it to WAV or FLAC, such as with sox IN OUT.flac$"
    )
    for read in (probe, check, decode):
        with pytest.raises(ValueError, match=message):
            read(data, "wav")


def test_every_format_that_libsndfile_writes_is_refused_or_checked():
    """SD2 keeps its header in another file."""
    checked = {"AIFF", "AU", "CAF", "FLAC", "MP3", "NIST", "OGG", "RF64", "W64", "WAV", "WAVEX"}
    assert set(soundfile.available_formats()) - {"RAW", "SD2"} == checked | set(UNCHECKED)


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


@pytest.mark.parametrize("subtype", ["VORBIS", "OPUS"])
def test_chained_ogg_is_refused(subtype):
    """libsndfile reads the first of the streams, and says nothing of the others."""
    first, second = encoded("ogg", subtype, frames=30_000), encoded("ogg", subtype, frames=9_000)
    assert soundfile.info(io.BytesIO(first + second)).frames == 30_000
    message = (
        rf"^chained ogg: another stream begins at byte {len(first)} of {len(first + second)}, and libsndfile reads "
        r"only the first; make them one, such as with ffmpeg -i IN OUT.flac, or a sample of each$"
    )
    for chained in (first + second, first + second + first):
        for read in (check, decode):
            with pytest.raises(ValueError, match=message.replace(str(len(first + second)), str(len(chained)))):
                read(chained, "ogg")
    with pytest.raises(ValueError, match="^chained ogg: "):
        decode(first + second, "ogg", start=0, frames=100)


@pytest.mark.parametrize("name", ["198-209-0000.ogg", "mono_c0.opus"])
def test_chained_real_ogg_is_refused(name):
    data, kind = real("audio_misc", name).read_bytes(), name.rpartition(".")[2]
    assert check(data, kind) == probe(data, kind)
    with pytest.raises(ValueError, match=f"^chained {kind}: another stream begins at byte {len(data)} of "):
        check(data + data, kind)


def test_streams_that_begin_together_are_no_chain():
    """As of a file with a Skeleton, whose own stream ends before the audio begins: its end is not that of the audio."""
    data = encoded("ogg", "VORBIS", frames=200_000)
    begun, ended = (b"OggS\x00" + bytes([flag]) + bytes(8) + b"side" + bytes(8) + b"\x01\x00" for flag in (2, 4))
    second = data.index(b"OggS", 4)
    mixed = data[:second] + begun + ended + data[second:]
    assert check(mixed, "ogg").frames == 200_000
    np.testing.assert_array_equal(decode(mixed, "ogg")[0], decode(data, "ogg")[0])
    with pytest.raises(ValueError, match="^damaged ogg: its last page is missing or cut; the file is truncated$"):
        check(mixed[: mixed.rindex(b"OggS")], "ogg")


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


@pytest.mark.parametrize("tags", TAGS)
@pytest.mark.parametrize("tagged", [True, False])
def test_mp3_behind_id3_tags(tags, tagged):
    """libsndfile alone refuses an empty one, and one with a footer."""
    data = mp3(tagged=tagged)
    assert check(tags + data, "mp3") == probe(tags + data, "mp3") == check(data, "mp3")
    np.testing.assert_array_equal(decode(tags + data, "mp3")[0], decode(data, "mp3")[0])
    with pytest.raises(ValueError, match="mp3"):
        check((tags + data)[:-2001], "mp3")


def test_mp3_does_not_depend_on_the_working_directory(tmp_path, monkeypatch):
    """Without a tag in front, libsndfile looks for the other half of an SD2 first."""
    data = mp3()
    expected, _ = decode(data, "mp3")
    (tmp_path / "._").touch()
    monkeypatch.chdir(tmp_path)
    with pytest.raises(soundfile.LibsndfileError):
        soundfile.info(io.BytesIO(data))
    np.testing.assert_array_equal(decode(data, "mp3")[0], expected)


def test_mp2_is_refused():
    """Layer II: its frames are not counted here."""
    data = (bytes.fromhex("fffd8004") + bytes(413)) * 20
    assert soundfile.info(io.BytesIO(data)).subtype == "MPEG_LAYER_II"
    with pytest.raises(ValueError, match=r"^not readable as mp3: its format is MP3 \(MPEG_LAYER_II\), of which "):
        check(data, "mp3")


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
