"""The laws over every stage and every file of pipelines/, on real tars of small generated corpora."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest

import ecopipe
from ecopipe.pipeline.pipeline import Pipeline
from ecopipe.stages.audio import DecodeAudio, Resample
from ecopipe.stages.blending import ImageColorJitter, ImageCutMix, ImageMixup
from ecopipe.stages.bptt import BPTT, CollateBPTT
from ecopipe.stages.collate import Collate
from ecopipe.stages.encoding import EncodeAudio, EncodeImage
from ecopipe.stages.encoding_arrays import DecodeArray, EncodeArray
from ecopipe.stages.fbank import MFCC, Fbank, KaldiMFCC
from ecopipe.stages.fields import Count, Drop, Keep
from ecopipe.stages.foreign import Map, OnDevice
from ecopipe.stages.image import DecodeImage, Normalize
from ecopipe.stages.imaging import (
    ImageCenterCrop,
    ImageCenterCropOnSample,
    ImageCutout,
    ImageRandomCrop,
    ImageRandomHorizontalFlip,
    ImageRandomResizedCrop,
    ImageRandomResizedCropOnSample,
    ImageResize,
    ImageResizeOnSample,
)
from ecopipe.stages.masking import SpecAugment
from ecopipe.stages.noise import AddNoise, Reverb
from ecopipe.stages.normalization import CMVN
from ecopipe.stages.packing import CollatePacked, CollateStream, Pack
from ecopipe.stages.plan import Batch, Bucket, Shuffle, Take, Where
from ecopipe.stages.resampling import ResampleOnDevice
from ecopipe.stages.segment import Segment
from ecopipe.stages.source import Mix, TarShards
from ecopipe.stages.spectral import LogMel, Spectrogram
from ecopipe.stages.stage import REGISTRY
from ecopipe.stages.subwords import TokenizeJson, TokenizeSentencePiece
from ecopipe.stages.text import TokenizeBasicEnglish, TokenizeCharacters, TokenizeWhitespace
from ecopipe.stages.trimming import Trim
from ecopipe.stages.waveform import Gain, NormalizeAudio, RandomCrop, Speed

from . import laws
from .conftest import ROOT, SPLITS

FILES = sorted((ROOT / "pipelines").glob("*.toml"))
OVERRIDES = {
    "librispeech": {"Bucket.max_padded": 24.0},
    "imdb": {"Bucket.max_padded": 1500},
    "cifar10": {"Batch.size": 16},
}


def speech(shards: Path) -> Pipeline:
    """Several lanes, small blocks, a resampling, a random foreign module on the device."""
    return Pipeline(
        TarShards(str(shards / "librispeech" / "train-clean-100"), lanes=2, block_rows=8),
        Where("duration_s", at_least=1.0),
        Shuffle(),
        Bucket("frames", max_padded=200_000, max_count=4),
        DecodeAudio(),
        Resample(8000),
        TokenizeCharacters(),
        Collate("audio", target="tokens"),
        LogMel(rate_hz=8000, n_fft=200, hop_length=80, n_mels=40),
        SpecAugment(freq_mask_width=8, time_mask_width=20),
        OnDevice("torchaudio.transforms.FrequencyMasking", kwargs={"freq_mask_param": 5}),
    )


def augmented(shards: Path) -> Pipeline:
    """Every augmentation of waveforms, noise and rooms from shards, a rate changed on the device, flat batches."""
    corpus = str(shards / "librispeech" / "train-clean-100")
    return Pipeline(
        TarShards(corpus, block_rows=8),
        Shuffle(),
        Batch(3),
        DecodeAudio(dtype="int16"),
        Gain(-6, 6),
        Speed(),
        Reverb(corpus, p=0.5),
        AddNoise(corpus, snr_db=(0, 15)),
        RandomCrop(1.5, pad="none"),
        Collate("audio", layout="flat"),
        ResampleOnDevice(12000),
        Fbank(rate_hz=12000, n_mels=23, use_energy=True),
        CMVN(),
        SpecAugment.preset("adaptive", time_warp=5),
    )


def cepstra(shards: Path) -> Pipeline:
    """torchaudio's cepstra, normalised as NeMo does."""
    return Pipeline(
        TarShards(str(shards / "librispeech" / "train-clean-100")),
        Bucket("frames", max_count=6),
        DecodeAudio(),
        Collate("audio"),
        MFCC(n_mfcc=13),
        CMVN.preset("nemo"),
    )


def kaldi_cepstra(shards: Path) -> Pipeline:
    """Kaldi's cepstra."""
    return Pipeline(
        TarShards(str(shards / "librispeech" / "train-clean-100")),
        Bucket("frames", max_count=6),
        DecodeAudio(),
        Collate("audio", layout="flat"),
        KaldiMFCC(snip_edges=False),
    )


def spectra(shards: Path) -> Pipeline:
    """Plain spectra in decibels, below the loudest of each utterance."""
    return Pipeline(
        TarShards(str(shards / "librispeech" / "train-clean-100")),
        Bucket("frames", max_count=6),
        DecodeAudio(dtype="int16"),
        NormalizeAudio(),
        Collate("audio"),
        Spectrogram(n_fft=128, log="db", max_range=60.0, dtype="bfloat16"),
    )


def reviews(shards: Path) -> Pipeline:
    """Two places of shards, three lanes, flat layout."""
    root = shards / "imdb"
    return Pipeline(
        TarShards((str(root / "train"), str(root / "test")), lanes=3, block_rows=24),
        Take(100),
        Shuffle(),
        Batch(8),
        TokenizeBasicEnglish(buckets=500),
        Collate("tokens", target="label", layout="flat"),
    )


def packed(shards: Path) -> Pipeline:
    """Several documents to a row."""
    return Pipeline(
        TarShards(str(shards / "imdb" / "train"), lanes=2, block_rows=24),
        Shuffle(),
        Pack(length=160, rows=3, too_long="truncate", extra=1),
        TokenizeBasicEnglish(),
        CollatePacked(
            "tokens", length=160, too_long="truncate", eos_token=1, next_tokens=True, keep=("label",)
        ),
    )  # fmt: skip


def stream(shards: Path) -> Pipeline:
    """Documents joined, for back-propagation through time."""
    return Pipeline(
        TarShards(str(shards / "imdb" / "train"), lanes=2, block_rows=24),
        Shuffle(),
        Batch(7),
        TokenizeBasicEnglish(),
        CollateStream("tokens", columns=4, eos_token=1),
    )


def json_reviews(shards: Path) -> Pipeline:
    """A saved tokenizer."""
    from tokenizers import Tokenizer, models, pre_tokenizers

    path = shards / "tokenizer.json"
    if not path.exists():
        tokenizer = Tokenizer(models.WordLevel({"[UNK]": 0, "the": 1, "a": 2, "film": 3}, unk_token="[UNK]"))
        tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
        tokenizer.save(str(path))
    return Pipeline(
        TarShards(str(shards / "imdb" / "train")),
        Bucket("tokens", max_padded=1000),
        TokenizeJson(str(path)),
        Collate("tokens", target="label"),
    )


def whitespace_reviews(shards: Path) -> Pipeline:
    """Words and pairs of words, hashed."""
    return Pipeline(
        TarShards(str(shards / "imdb" / "train")),
        Batch(8),
        TokenizeWhitespace(lower=True, ngrams=2, normalize="NFC"),
        Collate("tokens"),
    )


def sentence_pieces(shards: Path) -> Pipeline:
    """A model of sentencepiece."""
    import sentencepiece

    path = shards / "pieces.model"
    if not path.exists():
        with open(path, "wb") as out:
            sentencepiece.SentencePieceTrainer.train(
                sentence_iterator=iter(["the film was a film"] * 50),
                model_writer=out,
                vocab_size=20,
                hard_vocab_limit=False,
                minloglevel=2,
            )
    return Pipeline(
        TarShards(str(shards / "imdb" / "train")), Batch(8), TokenizeSentencePiece(str(path)), Collate("tokens")
    )


def images(shards: Path) -> Pipeline:
    """A foreign module that draws for every sample."""
    return Pipeline(
        TarShards(str(shards / "cifar10" / "train"), block_rows=20),
        Shuffle(),
        Batch(7),
        DecodeImage(),
        Map("torchvision.transforms.v2.RandomCrop", field="image", kwargs={"size": 32, "padding": 4}),
        Collate("image", target="label", layout="stack"),
        Normalize(mean=(0.5, 0.5, 0.5), std=(0.25, 0.25, 0.25)),
    )


def augmented_images(shards: Path) -> Pipeline:
    """Every transform of images, before Collate and on the device."""
    return Pipeline(
        TarShards(str(shards / "cifar10" / "train"), block_rows=20),
        Shuffle(),
        Batch(7),
        DecodeImage(),
        ImageResizeOnSample(40),
        ImageRandomResizedCropOnSample(36),
        ImageCenterCropOnSample(34),
        Collate("image", target="label", layout="stack"),
        ImageRandomCrop(32, 4, mode="reflect"),
        ImageRandomResizedCrop(30),
        ImageRandomHorizontalFlip(),
        ImageCutout(8),
        ImageColorJitter(0.4, 0.4, 0.4, 0.1),
        ImageResize(28),
        ImageCenterCrop(24),
        Normalize((0.5,) * 3, (0.25,) * 3, dtype="bfloat16", channels_last=True),
    )


def mixed_images(shards: Path) -> Pipeline:
    """Images mixed with others of their batch."""
    return _mixed(shards, ImageMixup(0.2))


def cut_mixed_images(shards: Path) -> Pipeline:
    """Images with pieces of others of their batch."""
    return _mixed(shards, ImageCutMix())


def _mixed(shards: Path, mixing: ImageMixup | ImageCutMix) -> Pipeline:
    return Pipeline(
        TarShards(str(shards / "cifar10" / "train"), block_rows=20),
        Shuffle(),
        Batch(7),
        DecodeImage(),
        Collate("image", target="label", layout="stack"),
        mixing,
        Normalize((0.5,) * 3, (0.25,) * 3),
    )


def mixture(shards: Path) -> Pipeline:
    """Two sources, two lanes, buckets in groups, and a policy for bad samples that meets none."""
    root = shards / "imdb"
    return Pipeline(
        Mix(
            (TarShards(str(root / "train")), TarShards(str(root / "test"))),
            weights=(3, 2),
            stop="all",
            lanes=2,
            block_rows=24,
        ),
        Where("chars", at_least=1),
        Shuffle(),
        Bucket("tokens", max_count=6, group=2),
        TokenizeBasicEnglish(buckets=500),
        Collate("tokens", target="label", keep=("source",)),
        bad_samples="substitute",
    )


def segmented(shards: Path) -> Pipeline:
    """Recordings in overlapping segments, each with its own draws."""
    return Pipeline(
        TarShards(str(shards / "librispeech" / "train-clean-100"), lanes=2, block_rows=8),
        Shuffle(),
        Segment(1.5, overlap_s=0.5),
        Where("duration_s", at_least=0.2),
        Shuffle(name="segments"),
        Bucket("frames", max_padded=200_000, max_count=6),
        DecodeAudio(),
        Gain(-6, 6),
        Collate("audio", keep=("segment",)),
        LogMel(n_mels=20),
        SpecAugment(freq_mask_width=4, time_mask_width=20),
    )


def split(shards: Path) -> Pipeline:
    """Documents longer than a row, split over rows."""
    return Pipeline(
        TarShards(str(shards / "imdb" / "train"), lanes=2, block_rows=24),
        Shuffle(),
        Pack(length=32, rows=6, too_long="split", extra=1),
        TokenizeBasicEnglish(),
        CollatePacked("tokens", length=32, eos_token=1, next_tokens=True),
    )


def windows(shards: Path) -> Pipeline:
    """Windows of one text a lane, each going on where the last ended."""
    return Pipeline(
        TarShards(str(shards / "imdb" / "train"), lanes=2, block_rows=24),
        Shuffle(),
        BPTT(columns=4, length=35, extra=1),
        TokenizeBasicEnglish(),
        CollateBPTT("tokens", eos_token=1),
    )


def encoded_speech(shards: Path) -> Pipeline:
    """Speech trimmed, its members made again and decoded again."""
    return Pipeline(
        TarShards(str(shards / "librispeech" / "train-clean-100")),
        Bucket("frames", max_count=6),
        DecodeAudio(dtype="int16"),
        Trim(top_db=30.0, margin_s=0.05),
        EncodeAudio("opus", quality=0.2),
        DecodeAudio(field="opus", name="decoded_again"),
        TokenizeCharacters(),
        Drop(("txt",)),
        Count("tokens"),
        EncodeArray("tokens", dtype="uint8"),
        DecodeArray("tokens.npy", dtype="int64"),
        Keep(("audio", "rate_hz", "tokens", "n_tokens")),
        Collate("audio", target="tokens", keep=("n_tokens",)),
        LogMel(n_mels=40),
    )


def encoded_images(shards: Path) -> Pipeline:
    """Images encoded and decoded again."""
    return Pipeline(
        TarShards(str(shards / "cifar10" / "train"), block_rows=20),
        Shuffle(),
        Batch(7),
        DecodeImage(),
        EncodeImage("jpeg", quality=75),
        DecodeImage(field="jpg", name="decoded_again"),
        Collate("image", target="label", layout="stack"),
        Normalize((0.5,) * 3, (0.25,) * 3),
    )


MADE: list[Callable[[Path], Pipeline]] = [
    speech, augmented, cepstra, kaldi_cepstra, spectra,
    reviews, packed, stream, segmented, split, windows, json_reviews, whitespace_reviews, sentence_pieces,
    images, augmented_images, mixed_images, cut_mixed_images, mixture, encoded_speech, encoded_images,
]  # fmt: skip


@pytest.fixture(params=[*FILES, *MADE], ids=lambda param: param.stem if isinstance(param, Path) else param.__name__)
def pipeline(request: pytest.FixtureRequest, shards: Path) -> Pipeline:
    if isinstance(request.param, Path):
        name = request.param.stem
        return ecopipe.load(request.param, {"source.path": str(shards / name / SPLITS[name]), **OVERRIDES[name]})
    made: Pipeline = request.param(shards)
    return made


def test_every_stage_is_in_one_of_these_pipelines(shards: Path) -> None:
    used = {type(stage).__name__ for make in MADE for stage in make(shards).stages}
    assert used == set(REGISTRY)


def test_law_1_workers_have_no_say(pipeline: Pipeline) -> None:
    laws.law_1_workers_have_no_say(pipeline)


def test_law_2_ranks_interleave(pipeline: Pipeline) -> None:
    laws.law_2_ranks_interleave(pipeline)


def test_law_3_resume_is_exact(pipeline: Pipeline) -> None:
    laws.law_3_resume_is_exact(pipeline)


def test_law_4_exactly_once(pipeline: Pipeline) -> None:
    if pipeline.parts_in:
        laws.law_4_every_part_once(pipeline)
        return
    taken = None
    if any(isinstance(stage, Take) for stage in pipeline.stages):
        keys = [
            key
            for batch in Pipeline(pipeline.source, Batch(1000), *pipeline.stages[3:]).loader()
            for key in batch["keys"]
        ]
        taken = Counter(sorted(keys, key=lambda key: (key.startswith("test"), key))[:100])
    laws.law_4_exactly_once(pipeline, taken)


def test_law_5_features_do_not_depend_on_the_batch(pipeline: Pipeline) -> None:
    if isinstance(pipeline.collate, CollateStream) or pipeline.batching.parts_in():
        pytest.skip("a stream is not divided by sample, and what Pack splits is not there without it")
    of_batches = OnDevice | ImageMixup | ImageCutMix  # foreign modules draw once for a batch, and these mix samples
    pipeline = Pipeline(pipeline.source, *(stage for stage in pipeline.stages if not isinstance(stage, of_batches)))
    laws.law_5_features_do_not_depend_on_the_batch(pipeline)


def test_law_6_no_stage_changes_its_input(pipeline: Pipeline) -> None:
    laws.law_6_no_stage_changes_its_input(pipeline)


def test_law_6_stages_are_values(pipeline: Pipeline) -> None:
    laws.law_6_stages_are_values(pipeline)
