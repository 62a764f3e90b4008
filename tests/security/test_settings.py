"""Hostile settings: TOML names registered stages alone, and files of JSON are JSON."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

import ecopipe
from ecopipe.formats.vocab import Vocab
from ecopipe.vocabulary.errors import ConfigError, EcopipeError

NAMES = [
    "os.system", "os", "builtins.eval", "__class__", "__import__", "object", "type", "Stage", "SampleStage",
    "ecopipe.stages.audio.DecodeAudio", "subprocess.Popen", "Pipeline", "", "../audio", "REGISTRY", "Tokenizer",
]  # fmt: skip


FORM = """
stages = [{{ stage = {first}, size = 2 }}, {{ stage = {last}, input = "audio" }}{more}]
[source]
type = {source}
path = "shards"
"""


def form(first="Batch", last="Collate", source="TarShards", more=""):
    names = {"first": json.dumps(first), "last": json.dumps(last), "source": json.dumps(source)}
    return FORM.format(**names, more=more).replace('type = "TarShards"\n', "")


def test_the_form_is_one():
    assert len(ecopipe.loads(form()).stages) == 2


@pytest.mark.parametrize("name", NAMES)
def test_toml_names_registered_stages_alone(name):
    for text in (form(first=name), form(last=name)):
        with pytest.raises(ConfigError, match="Known: "):
            ecopipe.loads(text)
    with pytest.raises(ConfigError):
        ecopipe.loads(form(source=name))


@pytest.mark.parametrize("key", ["__class__", "__init__", "__dict__", "apply", "title", "presets", "needs"])
def test_toml_sets_settings_alone(key):
    for value in ('"x"', "{}", "[]", "1"):
        with pytest.raises(ConfigError, match=key):
            ecopipe.loads(form(more=f', {{ stage = "Collate", name = "b", {key} = {value} }}'))


@pytest.mark.parametrize(
    "fn",
    ["os.system", "builtins.eval", "torch.load", "torch.hub.load", "torchvision.transforms.v2.functional.resize",
     "torchvision.transforms.v2.os.Path", "torchaudio.transforms.__builtins__", "pickle.loads", "..os.system"],
)  # fmt: skip
@pytest.mark.parametrize("stage", ["Map", "OnDevice"])
def test_foreign_names_are_classes_of_two_modules_alone(fn, stage):
    with pytest.raises(ConfigError, match="cannot be given by name; only a class of"):
        ecopipe.loads(form(more=f', {{ stage = "{stage}", fn = "{fn}", field = "audio" }}'))


_FILES = [
    b"", b"{", b"[1]", b"[" * 200_000, b'{"tokens": ' + b"9" * 5000 + b"}", b"\xff\xfe\x00", b"null", b'"x"', b"{}",
    b'{"version": 1, "tokens": {"a": 1}}', b'{"tokens": [1, 2]}', b"\x80\x04\x95cos\nsystem\n(S'touch owned'\ntR.",
]  # fmt: skip


@pytest.mark.parametrize("data", _FILES)
def test_vocabularies_that_are_none(tmp_path: Path, data):
    path = tmp_path / "vocab.json"
    path.write_bytes(data)
    with pytest.raises(EcopipeError, match="vocab.json"):
        Vocab.load(str(path))


@pytest.mark.parametrize("data", _FILES)
def test_tokenizers_that_are_none(tmp_path: Path, data):
    pytest.importorskip("tokenizers")
    path = tmp_path / "tokenizer.json"
    path.write_bytes(data)
    code = (
        "import sys, ecopipe\n"
        "from ecopipe.stages.subwords import TokenizeJson\n"
        "from ecopipe.vocabulary.randomness import Chance\n"
        "from ecopipe.vocabulary.sample import Sample\n"
        "try:\n"
        "    stage = TokenizeJson(sys.argv[1])\n"
        "    stage.apply(Sample('k', {'txt': 'hello'}), Chance(0, 0, 'x'))\n"
        "except (ecopipe.EcopipeError, ValueError) as error:\n"
        "    print('refused', error)\n"
    )
    done = subprocess.run([sys.executable, "-c", code, str(path)], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr  # the library is not Python, and must not crash
    assert "refused" in done.stdout


@pytest.mark.parametrize("state", [None, [], "x", {}, {"version": 10**400}, {"epoch": -1}, {"lanes": [[]] * 100}])
def test_states_that_are_none(shards, state):
    pipe = ecopipe.Pipeline(
        ecopipe.TarShards(str(shards / "imdb" / "train")),
        ecopipe.Batch(8),
        ecopipe.TokenizeBasicEnglish(),
        ecopipe.Collate("tokens"),
    )
    with pipe.loader() as loader:
        whole = loader.state_dict()
        for changed in (state, {**whole, **state} if isinstance(state, dict) and state else state):
            with pytest.raises(EcopipeError):
                loader.load_state_dict(changed)
        for key in whole:
            for value in (None, [], "x", -1, 2**70, {"a": 1}):
                if whole[key] == value:
                    continue
                try:
                    loader.load_state_dict({**whole, key: value})
                except EcopipeError:
                    continue
