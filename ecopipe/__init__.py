"""ecopipe: a streaming data-pipeline engine for PyTorch, in which the order is a value.

What is delivered, in which batch, in which place, is a pure function of (index, pipeline, seed, epoch). Names are
imported when they are first used, so ``import ecopipe`` costs nothing.
"""

from __future__ import annotations

import importlib
from typing import Any

__version__ = "0.1.0"

_HOME = {
    "Pipeline": "ecopipe.pipeline.pipeline",
    "load": "ecopipe.pipeline.toml",
    "loads": "ecopipe.pipeline.toml",
    "dumps": "ecopipe.pipeline.toml",
    "Loader": "ecopipe.run.loader",
    "Checkpoint": "ecopipe.run.checkpoint",
    "LoaderNode": "ecopipe.run.nodes",
    "read_ledger": "ecopipe.run.ledger",
    "BadSamples": "ecopipe.pipeline.bad_samples",
    "TarShards": "ecopipe.stages.source",
    "Mix": "ecopipe.stages.source",
    "Items": "ecopipe.stages.source",
    "Where": "ecopipe.stages.plan",
    "Take": "ecopipe.stages.plan",
    "Shuffle": "ecopipe.stages.plan",
    "Batch": "ecopipe.stages.plan",
    "Bucket": "ecopipe.stages.plan",
    "DecodeAudio": "ecopipe.stages.audio",
    "Resample": "ecopipe.stages.audio",
    "ResampleOnDevice": "ecopipe.stages.resampling",
    "Gain": "ecopipe.stages.waveform",
    "Speed": "ecopipe.stages.waveform",
    "NormalizeAudio": "ecopipe.stages.waveform",
    "RandomCrop": "ecopipe.stages.waveform",
    "AddNoise": "ecopipe.stages.noise",
    "Reverb": "ecopipe.stages.noise",
    "TokenizeBasicEnglish": "ecopipe.stages.text",
    "TokenizeCharacters": "ecopipe.stages.text",
    "TokenizeJson": "ecopipe.stages.subwords",
    "TokenizeSentencePiece": "ecopipe.stages.subwords",
    "TokenizeWhitespace": "ecopipe.stages.text",
    "Vocab": "ecopipe.formats.vocab",
    "count_words": "ecopipe.insight.vocabulary",
    "DecodeImage": "ecopipe.stages.image",
    "ImageRandomCrop": "ecopipe.stages.imaging",
    "ImageRandomResizedCrop": "ecopipe.stages.imaging",
    "ImageRandomHorizontalFlip": "ecopipe.stages.imaging",
    "ImageCutout": "ecopipe.stages.imaging",
    "ImageResize": "ecopipe.stages.imaging",
    "ImageCenterCrop": "ecopipe.stages.imaging",
    "ImageRandomResizedCropOnSample": "ecopipe.stages.imaging",
    "ImageResizeOnSample": "ecopipe.stages.imaging",
    "ImageCenterCropOnSample": "ecopipe.stages.imaging",
    "ImageColorJitter": "ecopipe.stages.blending",
    "ImageMixup": "ecopipe.stages.blending",
    "ImageCutMix": "ecopipe.stages.blending",
    "Normalize": "ecopipe.stages.image",
    "Collate": "ecopipe.stages.collate",
    "Segment": "ecopipe.stages.segment",
    "BPTT": "ecopipe.stages.bptt",
    "CollateBPTT": "ecopipe.stages.bptt",
    "Pack": "ecopipe.stages.packing",
    "CollatePacked": "ecopipe.stages.packing",
    "CollateStream": "ecopipe.stages.packing",
    "Vectors": "ecopipe.formats.vectors",
    "load_vectors": "ecopipe.formats.vectors",
    "LogMel": "ecopipe.stages.spectral",
    "Spectrogram": "ecopipe.stages.spectral",
    "Fbank": "ecopipe.stages.fbank",
    "MFCC": "ecopipe.stages.fbank",
    "KaldiMFCC": "ecopipe.stages.fbank",
    "CMVN": "ecopipe.stages.normalization",
    "SpecAugment": "ecopipe.stages.masking",
    "EncodeAudio": "ecopipe.stages.encoding",
    "EncodeImage": "ecopipe.stages.encoding",
    "EncodeArray": "ecopipe.stages.encoding_arrays",
    "DecodeArray": "ecopipe.stages.encoding_arrays",
    "Trim": "ecopipe.stages.trimming",
    "Keep": "ecopipe.stages.fields",
    "Drop": "ecopipe.stages.fields",
    "Count": "ecopipe.stages.fields",
    "Map": "ecopipe.stages.foreign",
    "OnDevice": "ecopipe.stages.foreign",
    "open_corpus": "ecopipe.datasets.corpus",
    "write_corpus": "ecopipe.sharding.write",
    "Limits": "ecopipe.sharding.limits",
    "Recipe": "ecopipe.sharding.recipe",
    "EcopipeError": "ecopipe.vocabulary.errors",
}

__all__ = ["__version__", *sorted(_HOME)]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'ecopipe' has no attribute {name!r}")
    return getattr(importlib.import_module(_HOME[name]), name)


def __dir__() -> list[str]:
    return __all__
