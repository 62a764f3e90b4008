"""One module for each loader: how its format is made of the files, and how its documentation says to use it.

``NAME``, ``PACKAGES``, ``FORMAT`` (the folder of its format), ``DECODERS`` and ``WORKERS`` (what it can be run with;
the first decoder is the one it is used with), ``USE`` (in words), ``prepare(folder, out)``, and ``make(out, workers,
decoder)``, which gives a function for the batches of the next epoch: (audio float32 [B, Tmax], lengths int64 [B]), CPU
tensors in this process, zero behind the end of each row. If a loader can do better, its module is the place to mend.
"""

ALL = (
    "ecopipe",
    "ecopipe_int16",
    "ecopipe_threads",
    "dataloader",
    "webdataset",
    "torchdata",
    "lhotse",
    "mosaicml",
    "litdata",
    "grain",
    "spdl",
    "datasets",
    "ray",
    "dali",
)
