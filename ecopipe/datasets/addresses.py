"""Where corpora are published: address, size and checksum of every file, as public references state them.

==================  ==================================================================================================
corpus              where its figures were taken from
==================  ==================================================================================================
librispeech         openslr.org/12; sizes and SHA-256: TensorFlow Datasets' ``url_checksums/librispeech.txt``, SHA-256
                    also torchaudio. ``train-clean-5`` and ``dev-clean-2`` are openslr.org/31 (Mini LibriSpeech), MD5 of
                    its md5sum.txt as PaddlePaddle's example of it states them
libritts            openslr.org/60; TensorFlow Datasets' ``url_checksums/libritts.txt``, SHA-256 also torchaudio
ljspeech            keithito.com; TensorFlow Datasets' ``url_checksums/ljspeech.txt``, SHA-256 also torchaudio
speech_commands     download.tensorflow.org; v0.02: TensorFlow Datasets' ``url_checksums/speech_commands.txt``; SHA-256
                    of both versions: torchaudio
yesno               openslr.org/1; SHA-256: torchaudio
imdb                ai.stanford.edu/~amaas; TensorFlow Datasets' ``url_checksums/imdb_reviews.txt``
ag_news             the copy that torchtext fetches, with its MD5; the sizes are of files with these
cifar10, cifar100   cs.toronto.edu/~kriz; python: MD5 of torchvision, sizes as Keras's documentation shows them being
                    fetched; binary: TensorFlow Datasets' ``url_checksums/cifar10.txt`` and ``cifar100.txt``
mnist               the copy of the CVDF that TensorFlow Datasets fetches, ``url_checksums/mnist.txt``
fashion-mnist       github.com/zalandoresearch/fashion-mnist; ``url_checksums/fashion_mnist.txt``
kmnist              codh.rois.ac.jp/kmnist; ``url_checksums/kmnist.txt``
==================  ==================================================================================================

A size that no reference states is None: the server is asked. Every file has a checksum.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from ecopipe.vocabulary.errors import ConfigError, nearest

ALL = "all"
"""Stands for every part of a corpus."""


@dataclass(frozen=True)
class Address:
    """A published file: ``size`` in bytes, None if unknown; ``checksum`` like ``sha256:76f8...``."""

    url: str
    size: int | None
    checksum: str

    @property
    def name(self) -> str:
        """The file's own name."""
        return self.url.rsplit("/", 1)[1]


@dataclass(frozen=True)
class Publication:
    """What is published of a corpus.

    Attributes:
        corpus: The name of its reader (``ecopipe datasets``).
        parts: The files of each part, by the part's name.
        default: The parts that are meant where none is named; empty where all would be tens of gigabytes.
        folder: Whether the reader takes the folder of all files; else it takes each file, an archive, by itself.
        versions: Whether the parts are the same corpus in several forms, rather than pieces of it.
    """

    corpus: str
    parts: Mapping[str, tuple[Address, ...]]
    default: tuple[str, ...]
    folder: bool = False
    versions: bool = False

    def choose(self, names: Sequence[str]) -> tuple[str, ...]:
        """The parts that are meant by ``names``, each once; the default ones where there are no names.

        Raises:
            ConfigError: There is no such part; none is named and there is no default.
        """
        if not names and not self.default:
            example = next(iter(self.parts))
            raise ConfigError(
                f"Name the parts of {self.corpus} to fetch: {', '.join(self.parts)}, or {ALL}. For instance: "
                f"ecopipe download {self.corpus} {example}. 'ecopipe download {self.corpus} --list' tells their sizes."
            )
        for name in names:
            if name not in self.parts and name != ALL:
                raise ConfigError(f"{self.corpus} has no part {name!r}. {nearest(name, [*self.parts, ALL])}")
        if ALL in names:
            return tuple(self.parts)
        return tuple(dict.fromkeys(names)) or self.default


def publication(name: str) -> Publication:
    """What is published of the corpus ``name``.

    Raises:
        ConfigError: It is not known where that is published.
    """
    if name not in PUBLICATIONS:
        raise ConfigError(
            f"There is no address for a corpus named {name!r}. {nearest(name, PUBLICATIONS)} What is not listed is "
            "fetched by other means, and sharded from its folder or archive."
        )
    return PUBLICATIONS[name]


def total_size(files: Iterable[Address]) -> int | None:
    """The bytes of all of them; None if one is unknown."""
    total = 0
    for file in files:
        if file.size is None:
            return None
        total += file.size
    return total


def _openslr(number: int, kind: str, *facts: tuple[str, int | None, str]) -> Mapping[str, tuple[Address, ...]]:
    """The parts of a resource of openslr.org from (part, size, checksum)."""
    base = f"https://www.openslr.org/resources/{number}"
    return {part: (Address(f"{base}/{part}.tar.gz", size, f"{kind}:{digest}"),) for part, size, digest in facts}


_LIBRISPEECH = {
    **_openslr(
        12,
        "sha256",
        ("dev-clean", 337_926_286, "76f87d090650617fca0cac8f88b9416e0ebf80350acb97b343a85fa903728ab3"),
        ("dev-other", 314_305_928, "12661c48e8c3fe1de2c1caa4c3e135193bfb1811584f11f569dd12645aa84365"),
        ("test-clean", 346_663_984, "39fde525e59672dc6d1551919b1478f724438a95aa55f874b576be21967e6c23"),
        ("test-other", 328_757_843, "d09c181bba5cf717b3dee7d4d592af11a3ee3a09e08ae025c5506f6ebe961c29"),
        ("train-clean-100", 6_387_309_499, "d4ddd1d5a6ab303066f14971d768ee43278a5f2a0aa43dc716b0e64ecbbbf6e2"),
        ("train-clean-360", 23_049_477_885, "146a56496217e96c14334a160df97fffedd6e0a04e66b9c5af0d40be3c792ecf"),
        ("train-other-500", 30_593_501_606, "ddb22f27f96ec163645d53215559df6aa36515f26e01dd70798188350adcb6d2"),
    ),
    **_openslr(
        31,
        "md5",
        ("dev-clean-2", None, "6d7ab67ac6a1d2c993d050e16d61080d"),
        ("train-clean-5", None, "5df7d4e78065366204ca6845bb08f490"),
    ),
}
_LIBRITTS = _openslr(
    60,
    "sha256",
    ("dev-clean", 1_291_469_655, "da0864e1bd26debed35da8a869dd5c04dfc27682921936de7cff9c8a254dbe1a"),
    ("dev-other", 924_804_676, "d413eda26f3a152ac7c9cf3658ef85504dfb1b625296e5fa83727f5186cca79c"),
    ("test-clean", 1_230_670_113, "234ea5b25859102a87024a4b9b86641f5b5aaaf1197335c95090cde04fe9a4f5"),
    ("test-other", 964_502_297, "33a5342094f3bba7ccc2e0500b9e72d558f72eb99328ac8debe1d9080402f10d"),
    ("train-clean-100", 7_723_686_890, "c5608bf1ef74bb621935382b8399c5cdd51cd3ee47cec51f00f885a64c6c7f6b"),
    ("train-clean-360", 27_504_073_644, "ce7cff44dcac46009d18379f37ef36551123a1dc4e5c8e4eb73ae57260de4886"),
    ("train-other-500", 44_565_031_479, "e35f7e34deeb2e2bdfe4403d88c8fdd5fbf64865cae41f027a185a6965f0a5df"),
)


def _idx(
    base: str, train: Sequence[tuple[int, str]], test: Sequence[tuple[int, str]]
) -> Mapping[str, tuple[Address, ...]]:
    """The parts of MNIST and its kin from (size, SHA-256) of images and labels."""
    kinds = ("images-idx3-ubyte.gz", "labels-idx1-ubyte.gz")
    return {
        part: tuple(
            Address(f"{base}/{prefix}-{kind}", size, f"sha256:{sha256}")
            for kind, (size, sha256) in zip(kinds, facts, strict=True)
        )
        for part, prefix, facts in (("train", "train", train), ("test", "t10k", test))
    }


_KRIZ = "https://www.cs.toronto.edu/~kriz"
_AG_NEWS = "https://raw.githubusercontent.com/mhjabreel/CharCnn_Keras/master/data/ag_news_csv"
_COMMANDS = "http://download.tensorflow.org/data"

_PUBLISHED = (
    Publication(
        "ag_news",
        {
            "train": (Address(f"{_AG_NEWS}/train.csv", 29_470_338, "md5:b1a00f826fdfbd249f79597b59e1dc12"),),
            "test": (Address(f"{_AG_NEWS}/test.csv", 1_857_427, "md5:d52ea96a97a2d943681189a97654912d"),),
        },
        default=("train", "test"),
        folder=True,
    ),
    Publication(
        "cifar10",
        {
            "python": (
                Address(f"{_KRIZ}/cifar-10-python.tar.gz", 170_498_071, "md5:c58f30108f718f92721af3b95e74349a"),
            ),
            "binary": (
                Address(
                    f"{_KRIZ}/cifar-10-binary.tar.gz",
                    170_052_171,
                    "sha256:c4a38c50a1bc5f3a1c5537f2155ab9d68f9f25eb1ed8d9ddda3db29a59bca1dd",
                ),
            ),
        },
        default=("python",),
        versions=True,
    ),
    Publication(
        "cifar100",
        {
            "python": (
                Address(f"{_KRIZ}/cifar-100-python.tar.gz", 169_001_437, "md5:eb9058c3a382ffc7106e4002c42a8d85"),
            ),
            "binary": (
                Address(
                    f"{_KRIZ}/cifar-100-binary.tar.gz",
                    168_513_733,
                    "sha256:58a81ae192c23a4be8b1804d68e518ed807d710a4eb253b1f2a199162a40d8ec",
                ),
            ),
        },
        default=("python",),
        versions=True,
    ),
    Publication(
        "fashion-mnist",
        _idx(
            "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com",
            train=(
                (26_421_880, "3aede38d61863908ad78613f6a32ed271626dd12800ba2636569512369268a84"),
                (29_515, "a04f17134ac03560a47e3764e11b92fc97de4d1bfaf8ba1a3aa29af54cc90845"),
            ),
            test=(
                (4_422_102, "346e55b948d973a97e58d2351dde16a484bd415d4595297633bb08f03db6a073"),
                (5_148, "67da17c76eaffca5446c3361aaab5c3cd6d1c2608764d35dfb1850b086bf8dd5"),
            ),
        ),
        default=("train", "test"),
        folder=True,
    ),
    Publication(
        "imdb",
        {
            "reviews": (
                Address(
                    "https://ai.stanford.edu/~amaas/data/sentiment/aclImdb_v1.tar.gz",
                    84_125_825,
                    "sha256:c40f74a18d3b61f90feba1e17730e0d38e8b97c05fde7008942e91923d1658fe",
                ),
            )
        },
        default=("reviews",),
    ),
    Publication(
        "kmnist",
        _idx(
            "http://codh.rois.ac.jp/kmnist/dataset/kmnist",
            train=(
                (18_165_135, "51467d22d8cc72929e2a028a0428f2086b092bb31cfb79c69cc0a90ce135fde4"),
                (29_497, "e38f9ebcd0f3ebcdec7fc8eabdcdaef93bb0df8ea12bee65224341c8183d8e17"),
            ),
            test=(
                (3_041_136, "edd7a857845ad6bb1d0ba43fe7e794d164fe2dce499a1694695a792adfac43c5"),
                (5_120, "20bb9a0ef54c7db3efc55a92eef5582c109615df22683c380526788f98e42a1c"),
            ),
        ),
        default=("train", "test"),
        folder=True,
    ),
    Publication("librispeech", _LIBRISPEECH, default=()),
    Publication("libritts", _LIBRITTS, default=()),
    Publication(
        "ljspeech",
        {
            "1.1": (
                Address(
                    "https://data.keithito.com/data/speech/LJSpeech-1.1.tar.bz2",
                    2_748_572_632,
                    "sha256:be1a30453f28eb8dd26af4101ae40cbf2c50413b1bb21936cbcdc6fae3de8aa5",
                ),
            )
        },
        default=("1.1",),
    ),
    Publication(
        "mnist",
        _idx(
            "https://storage.googleapis.com/cvdf-datasets/mnist",
            train=(
                (9_912_422, "440fcabf73cc546fa21475e81ea370265605f56be210a4024d2ca8f203523609"),
                (28_881, "3552534a0a558bbed6aed32b30c495cca23d567ec52cac8be1a0730e8010255c"),
            ),
            test=(
                (1_648_877, "8d422c7b0a1c1c79245a5bcf07fe86e33eeafee792b84584aec276f5a2dbc4e6"),
                (4_542, "f7ae60f92e00ec6debd23a6088c31dbd2371eca3ffa0defaefb259924204aec6"),
            ),
        ),
        default=("train", "test"),
        folder=True,
    ),
    Publication(
        "speech_commands",
        {
            "v0.02": (
                Address(
                    f"{_COMMANDS}/speech_commands_v0.02.tar.gz",
                    2_428_923_189,
                    "sha256:af14739ee7dc311471de98f5f9d2c9191b18aedfe957f4a6ff791c709868ff58",
                ),
            ),
            "v0.01": (
                Address(
                    f"{_COMMANDS}/speech_commands_v0.01.tar.gz",
                    None,
                    "sha256:743935421bb51cccdb6bdd152e04c5c70274e935c82119ad7faeec31780d811d",
                ),
            ),
        },
        default=("v0.02",),
        versions=True,
    ),
    Publication(
        "yesno",
        {
            "recordings": (
                Address(
                    "https://www.openslr.org/resources/1/waves_yesno.tar.gz",
                    None,
                    "sha256:c3f49e0cca421f96b75b41640749167b52118f232498667ca7a5f9416aef8e73",
                ),
            )
        },
        default=("recordings",),
    ),
)

PUBLICATIONS: dict[str, Publication] = {each.corpus: each for each in _PUBLISHED}
