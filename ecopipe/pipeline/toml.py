"""A pipeline as a TOML file, and back.

::

    [source]
    path = "shards/cifar10/train"

    [[stages]]
    stage = "Shuffle"

    [[stages]]
    stage = "Batch"
    size = 256

Keys are the fields of the classes; only registered stages can be named. ``preset = "..."`` gives a stage the settings
of one of its presets, which further keys replace. An override ``source.path=...`` or
``Batch.size=...`` replaces one setting; its value is read as TOML, or as a string where it is none.

``[loader]`` with ``workers``, ``threads`` and ``prefetch`` is what a loader of the pipeline uses where it is not told;
``ecopipe tune`` writes it. It is no part of the identity: a checkpoint stays valid, whatever it says.

A mixture is a source with ``sources``, whose names are those that overrides know::

    [source]
    weights = [3, 1]
    stop = "all"

    [[source.sources]]
    name = "clean"
    path = "shards/librispeech/train-clean-100"

    [[source.sources]]
    name = "other"
    path = "shards/librispeech/train-other-500"
"""

from __future__ import annotations

import ast
import copy
import dataclasses
import importlib
import pkgutil
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import tomli_w

from ecopipe import stages as stage_modules
from ecopipe.pipeline.bad_samples import BadSamples
from ecopipe.pipeline.document import parse_text, read_text
from ecopipe.pipeline.identity import settings
from ecopipe.pipeline.pipeline import Pipeline
from ecopipe.pipeline.tuning import Tuning
from ecopipe.stages.source import Mix, Source, TarShards
from ecopipe.stages.stage import REGISTRY, Stage, fits, frozen, hints_of
from ecopipe.vocabulary.errors import ConfigError, nearest

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

for _module in pkgutil.iter_modules(stage_modules.__path__):  # fills the registry
    importlib.import_module(f"{stage_modules.__name__}.{_module.name}")


_TABLES: dict[str, Any] = {"source": None, "stages": [], "bad_samples": {}, "loader": {}}
"""The tables of a pipeline file, and what they are where they are absent."""


def load(path: str | Path, overrides: Mapping[str, Any] | None = None) -> Pipeline:
    """Reads a pipeline from a TOML file.

    Args:
        path: The file.
        overrides: ``{"source.path": ..., "Bucket.max_padded": ...}``: settings to replace, by source or stage name.

    Raises:
        ConfigError: The file is missing or no TOML; a key, a stage or a setting is wrong.
    """
    return loads(read_text(path), overrides, where=str(path))


def load_stages(path: str | Path) -> tuple[Stage, ...]:
    """Reads stages alone from a TOML file of ``[[stages]]`` tables: for sharding, or for a new measure.

    Raises:
        ConfigError: The file is missing or no TOML; there is another table, or a stage or a setting is wrong.
    """
    document = parse_text(read_text(path, "a file of [[stages]]"), str(path))
    for key in document:
        if key != "stages":
            raise ConfigError(
                f"{path}: has the table {key!r}. Stages for sharding stand alone: leave nothing but [[stages]]."
            )
    tables = document.get("stages", [])
    if not isinstance(tables, list) or not tables or not all(isinstance(table, dict) for table in tables):
        raise ConfigError(f"{path}: has no stages. Write [[stages]] before each.")
    return tuple(_stage(table, number, str(path)) for number, table in enumerate(tables, 1))


def parse_stage(text_: str) -> Stage:
    """A stage as its name, or as Python writes it: ``"TokenizeJson(tokenizer='bpe.json')"``. Values are literals.

    Raises:
        ConfigError: It is no such text; the stage or a setting is unknown.
    """
    where = f"stage {text_!r}"
    try:
        parsed = ast.parse(text_.strip(), mode="eval").body
        name, settings_ = parsed, {}
        if isinstance(parsed, ast.Call) and not parsed.args:
            name = parsed.func
            settings_ = {str(item.arg): ast.literal_eval(item.value) for item in parsed.keywords}
        if not isinstance(name, ast.Name):
            raise ValueError("a name, or a name with settings in brackets, is wanted")
    except (SyntaxError, ValueError) as error:
        raise ConfigError(f"{where}: {error}. Write NAME, or NAME(key='value', other=3).") from error
    table = {key: list(value) if isinstance(value, tuple) else value for key, value in settings_.items()}
    return _stage({"stage": name.id, **table}, 1, where)


def loads(text_: str, overrides: Mapping[str, Any] | None = None, *, where: str = "TOML") -> Pipeline:
    """Reads a pipeline from TOML text; ``where`` names it in errors."""
    document = parse_text(text_, where)
    for key in document:
        if key not in _TABLES:
            raise ConfigError(f"{where}: unknown key {key!r}. {nearest(key, _TABLES)}")
    source, stages, policy, tuning = (copy.copy(document.get(key, default)) for key, default in _TABLES.items())
    if not isinstance(policy, dict):
        raise ConfigError(f"{where}: bad_samples must be a table: write [bad_samples] and policy = '...'.")
    if not isinstance(tuning, dict):
        raise ConfigError(f"{where}: loader must be a table: write [loader] and workers = ...")
    if not isinstance(source, dict):
        raise ConfigError(f"{where}: has no [source] table. Begin with [source] and path = '...'.")
    if not isinstance(stages, list) or not all(isinstance(table, dict) for table in stages):
        raise ConfigError(f"{where}: stages must be tables: write [[stages]] before each.")
    for key, value in (overrides or {}).items():
        _override(source, stages, {"bad_samples": policy, "loader": tuning}, key, value, where)
    built = [_stage(table, number, where) for number, table in enumerate(stages, 1)]
    try:
        tolerance = _build(BadSamples, policy, f"{where}: [bad_samples]")
        tuned = _build(Tuning, tuning, f"{where}: [loader]")
        return Pipeline(_source(source, where), *built, bad_samples=tolerance, tuning=tuned)
    except ConfigError as error:
        raise error if str(error).startswith(where) else ConfigError(f"{where}: {error}") from error


def dumps(pipeline: Pipeline) -> str:
    """A pipeline as TOML text.

    Raises:
        ConfigError: A stage holds a function or module of the user's, which TOML cannot name.
    """
    if not isinstance(pipeline.source, TarShards | Mix):
        raise ConfigError(
            f"{type(pipeline.source).__name__}: TOML cannot hold its function. Keep the pipeline in Python."
        )
    tables = [{"stage": type(stage).__name__, **settings(stage, identity=False)} for stage in pipeline.stages]
    for table in tables:
        for name, value in table.items():
            if callable(value):
                raise ConfigError(
                    f"{table['stage']}: {name} is {value!r}, which TOML cannot hold. Only dotted names from "
                    "torchaudio.transforms and torchvision.transforms.v2 can be written."
                )
    policy = settings(pipeline.bad_samples, identity=False)
    document = {"source": settings(pipeline.source, identity=False), "stages": tables}
    tuning = settings(pipeline.tuning, identity=False)
    more = {"bad_samples": policy, "loader": tuning}
    return tomli_w.dumps(document | {name: table for name, table in more.items() if table})


def parse_override(text_: str) -> tuple[str, Any]:
    """``"Bucket.max_padded=300"`` as a key and a value.

    Raises:
        ConfigError: There is no ``=``.
    """
    key, equals, value = text_.partition("=")
    if not equals or not key.strip():
        raise ConfigError(f"--set {text_!r}: write it as NAME.KEY=VALUE, such as source.path=shards/imdb/train.")
    try:
        return key.strip(), tomllib.loads(f"value = {value}")["value"]
    except tomllib.TOMLDecodeError:
        return key.strip(), value


def _override(
    source: dict[str, Any], stages: list[dict[str, Any]], more: dict[str, Any], key: str, value: Any, where: str
) -> None:
    target, dot, name = key.partition(".")
    tables = {"source": source, **more}
    inner = source.get("sources", [])
    tables |= {str(table["name"]): table for table in inner if isinstance(table, dict) and "name" in table}
    tables |= {str(table.get("name") or table.get("stage")): table for table in stages}
    if not dot or target not in tables:
        raise ConfigError(f"{where}: cannot set {key!r}: no such stage. {nearest(target, tables)} Write NAME.KEY.")
    tables[target][name] = value


def _source(table: dict[str, Any], where: str) -> Source:
    place = f"{where}: [source]"
    if "sources" not in table:
        built: TarShards = _build(TarShards, table, place)
        return built
    inner = table["sources"]
    if not isinstance(inner, list) or not all(isinstance(one, dict) for one in inner):
        raise ConfigError(f"{place}: sources must be tables: write [[source.sources]] before each.")
    sources = [_build(TarShards, one, f"{place} {number}") for number, one in enumerate(inner, 1)]
    mix: Mix = _build(Mix, {**table, "sources": sources}, place)
    return mix


def _stage(table: dict[str, Any], number: int, where: str) -> Stage:
    place = f"{where}: stage {number}"
    kind = table.get("stage")
    if not isinstance(kind, str):
        raise ConfigError(f"{place}: has no 'stage' key that says what it is. {nearest('', REGISTRY)}")
    if kind not in REGISTRY:
        raise ConfigError(f"{place}: unknown stage {kind!r}. {nearest(kind, REGISTRY)}")
    settings_ = {name: value for name, value in table.items() if name not in ("stage", "preset")}
    stage = _build(REGISTRY[kind], _preset(kind, table.get("preset"), place) | settings_, f"{place}, {kind}")
    if not isinstance(stage, Stage):
        raise ConfigError(f"{place}: {kind} is no stage.")
    return stage


def _preset(kind: str, name: Any, place: str) -> dict[str, Any]:
    presets = REGISTRY[kind].presets
    if name is None:
        return {}
    if not isinstance(name, str) or name not in presets:
        known = nearest(str(name), presets) if presets else "It has none."
        raise ConfigError(f"{place}, {kind}: unknown preset {name!r}. {known}")
    return dict(presets[name])


def _build(kind: type[Any], table: dict[str, Any], where: str) -> Any:
    known = {item.name: item for item in dataclasses.fields(kind) if item.init}
    for name in table:
        if name not in known:
            raise ConfigError(f"{where}: unknown key {name!r}. {nearest(name, known)}")
    for name, item in known.items():
        if name not in table and item.default is dataclasses.MISSING and item.default_factory is dataclasses.MISSING:
            raise ConfigError(f"{where}: {name!r} is missing. Add {name} = ...")
    hints = hints_of(kind)
    for name, value in table.items():
        if not fits(frozen(value), hints[name]):
            hint = f" Write it in quotes: '\"{value}\"'." if fits(str(value), hints[name]) else ""
            raise ConfigError(f"{where}: {name} = {value!r} has the wrong type. It takes {known[name].type}.{hint}")
    try:
        return kind(**{name: frozen(value) for name, value in table.items()})
    except ConfigError as error:
        told = str(error).removeprefix(f"{kind.__name__}: ")
        raise ConfigError(f"{where}: {told}") from error
