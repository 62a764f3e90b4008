"""Any function or ``torch.nn.Module`` as a stage.

What foreign code draws from the global generators of torch, numpy and Python is seeded for each call from the place of
the call, and the generators get their states back: such a stage is as reproducible as ecopipe's own.
"""

from __future__ import annotations

import contextlib
import copy
import dataclasses
import functools
import hashlib
import importlib
import os
import random
import re
import threading
import types
import weakref
from collections.abc import Callable, Iterator, Mapping
from dataclasses import KW_ONLY, dataclass
from typing import Any, ClassVar, NoReturn

import numpy as np
import torch
from torch import Tensor, nn

from ecopipe.stages.stage import ANY, DeviceStage, SampleStage
from ecopipe.vocabulary.errors import ConfigError, MissingDependency, nearest
from ecopipe.vocabulary.randomness import Chance
from ecopipe.vocabulary.sample import Batch, Sample

MODULES = {"torchaudio.transforms": "torchaudio", "torchvision.transforms.v2": "torchvision"}
"""Modules whose classes can be given by name, and the package that holds each."""

Fn = Callable[..., Any] | str


class Settings(dict[str, Any]):
    """A dict that cannot be changed, and so can be hashed. Lists in it become tuples."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__({name: _frozen(value) for name, value in dict(*args, **kwargs).items()})

    def __hash__(self) -> int:  # type: ignore[override]
        return hash(frozenset(self.items()))

    def __reduce__(self) -> tuple[Any, ...]:
        return Settings, (dict(self),)

    def _refuse(self, *args: Any, **kwargs: Any) -> NoReturn:
        raise TypeError("the settings of a stage cannot be changed; make another stage")

    __setitem__ = __delitem__ = clear = pop = popitem = setdefault = update = __ior__ = _refuse


def _frozen(value: Any) -> Any:
    if isinstance(value, dict):
        return Settings(value)
    return tuple(map(_frozen, value)) if isinstance(value, list | tuple) else value


def _unplain(value: Any) -> str:
    """The type of the first value within that TOML has no word for; empty if there is none."""
    if isinstance(value, Mapping):
        value = tuple(value.values())
    if isinstance(value, tuple):
        return next(filter(None, map(_unplain, value)), "")
    return "" if isinstance(value, str | int | float | bool) else type(value).__name__


@dataclass(frozen=True)
class _Foreign:
    """What :class:`Map` and :class:`OnDevice` share."""

    fn: Fn

    @property
    def identity(self) -> str:
        """``fn`` in words that are equal if it is: see :func:`identity`."""
        return identity(self.fn)

    def _check(self, kwargs: Mapping[str, Any]) -> None:
        where = type(self).__name__
        if isinstance(self.fn, str):
            module, _, name = self.fn.rpartition(".")
            if module not in MODULES or not re.fullmatch(r"[A-Z]\w*", name):
                raise ConfigError(
                    f"{where}: {self.fn!r} cannot be given by name; only a class of {' or '.join(MODULES)} can, "
                    "such as 'torchaudio.transforms.Vol'. In Python, give the function itself"
                )
        elif not callable(self.fn):
            raise ConfigError(f"{where}: fn must be a function, a torch.nn.Module or a dotted name, got {self.fn!r}")
        elif isinstance(self.fn, nn.Module) and kwargs:
            raise ConfigError(f"{where}: kwargs are for a function or a dotted name; a module has its settings already")
        if wrong := _unplain(kwargs):
            raise ConfigError(
                f"{where}: kwargs may hold str, int, float, bool, lists and dicts of them, got {wrong}; "
                "bind other values with functools.partial"
            )

    def _places(self, into: str | tuple[str, ...] | None) -> tuple[str, ...]:
        return () if into is None else (into,) if isinstance(into, str) else into


def _compared(stage: Any) -> tuple[Any, ...]:
    """What equality and hash of a foreign stage look at."""
    return type(stage), stage.name, stage.identity, stage.field, stage.into, stage.kwargs


def _shown(stage: Any) -> str:
    shown = repr(stage.fn) if isinstance(stage.fn, str) else stage.identity
    defaults = {"field": type(stage).field, "into": None, "kwargs": Settings(), "name": ""}
    changed = [f"{name}={getattr(stage, name)!r}" for name, value in defaults.items() if getattr(stage, name) != value]
    return f"{type(stage).__name__}({', '.join([shown, *changed])})"


@dataclass(frozen=True, repr=False)
class Map(_Foreign, SampleStage):
    """A function or module, applied to each sample in the workers.

    With ``field``, ``sample[into or field] = fn(sample[field], **kwargs)``. Without it, ``fn(sample, **kwargs)``
    returns a mapping with the fields that ``into`` names. Arrays are handed over as copies; modules and dotted names
    get tensors instead. Tensors that come back become arrays.

    Args:
        fn: A function; a ``torch.nn.Module``; or the dotted name of a class of ``torchaudio.transforms`` or
            ``torchvision.transforms.v2``, such as ``"torchaudio.transforms.Vol"``, which TOML can hold.
        field: What it takes; by default the whole sample, as a mapping.
        into: Where the result goes; by default back to ``field``.
        kwargs: For a function, arguments of each call; for a dotted name, those of its construction.
    """

    seeds_process: ClassVar[bool] = True

    _: KW_ONLY
    field: str | None = None
    into: str | tuple[str, ...] | None = None
    kwargs: Mapping[str, Any] = dataclasses.field(default_factory=Settings)

    def __post_init__(self) -> None:
        if not isinstance(self.kwargs, Mapping):
            raise self.refuse(f"kwargs must be a dict, got {self.kwargs!r}")
        object.__setattr__(self, "kwargs", Settings(self.kwargs))
        self._check(self.kwargs)
        if isinstance(self.into, list):
            object.__setattr__(self, "into", tuple(self.into))
        if self.field is None and not self.into:
            raise self.refuse("without field, into must name the fields that fn returns, for the stages behind it")
        if self.field is not None and isinstance(self.into, tuple):
            raise self.refuse(f"with field, into must be one name, got {list(self.into)}")
        if self.field is None and isinstance(self.fn, str | nn.Module):
            raise self.refuse("a module or a dotted name works on one field; set field")

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Map) and _compared(self) == _compared(other)

    def __hash__(self) -> int:
        return hash(_compared(self))

    def __repr__(self) -> str:
        return _shown(self)

    def needs(self) -> tuple[str, ...]:
        return (ANY,) if self.field is None else (self.field,)

    def gives(self) -> tuple[str, ...]:
        return self._places(self.into or self.field)

    def apply(self, sample: Sample, chance: Chance) -> Sample:
        with seeded(chance.seed_for(sample.key)), torch.no_grad():
            if self.field is None:
                return sample.with_fields(**self._whole(sample))
            if self.field not in sample:
                raise ValueError(f"no field {self.field!r}; it has {', '.join(sorted(sample))}")
            value = sample[self.field]
            if isinstance(self.fn, str | nn.Module):
                given = torch.tensor(value) if isinstance(value, np.ndarray) else value
                made = _module(self.fn, self.kwargs, torch.device("cpu"))(given)
            else:
                made = self.fn(_own(value), **self.kwargs)
        return sample.with_fields(**{str(self.into or self.field): _array(made)})

    def _whole(self, sample: Sample) -> dict[str, Any]:
        copied = sample.with_fields(**{name: _own(value) for name, value in sample.items()})
        made = self.fn(copied, **self.kwargs) if callable(self.fn) else None
        wanted = self.gives()
        if not isinstance(made, Mapping) or set(made) != set(wanted):
            got = f"a mapping of {', '.join(sorted(made)) or 'nothing'}" if isinstance(made, Mapping) else repr(made)
            raise ValueError(f"{self.identity} must return a mapping of {', '.join(wanted)}, and returned {got}")
        return {name: _array(value) for name, value in made.items()}


@dataclass(frozen=True, repr=False)
class OnDevice(_Foreign, DeviceStage):
    """A function or module, applied to a tensor of each batch on the batch's device.

    ``batch[into or field] = fn(batch[field], **kwargs)``. The tensor is handed over as a copy; a module is copied to
    the device once. What is drawn depends on the batch's place in the epoch. ``lengths`` stay as they are: ``fn`` must
    not change the time dimension of a padded batch. Whether a sample's result depends on the padding is up to ``fn``.

    Args:
        fn: As in :class:`Map`.
        field: What it takes.
        into: Where the result goes; by default back to ``field``.
        kwargs: As in :class:`Map`.
    """

    _: KW_ONLY
    field: str = "features"
    into: str | None = None
    kwargs: Mapping[str, Any] = dataclasses.field(default_factory=Settings)

    def __post_init__(self) -> None:
        if not isinstance(self.kwargs, Mapping):
            raise self.refuse(f"kwargs must be a dict, got {self.kwargs!r}")
        object.__setattr__(self, "kwargs", Settings(self.kwargs))
        self._check(self.kwargs)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, OnDevice) and _compared(self) == _compared(other)

    def __hash__(self) -> int:
        return hash(_compared(self))

    def __repr__(self) -> str:
        return _shown(self)

    def needs(self) -> tuple[str, ...]:
        return (self.field,)

    def gives(self) -> tuple[str, ...]:
        return self._places(self.into or self.field)

    def apply(self, batch: Batch, chance: Chance) -> Batch:
        given = batch[self.field]
        if not isinstance(given, Tensor):
            raise self.refuse(f"the batch's {self.field} is {type(given).__name__}, not a tensor")
        place = (batch.place.epoch, batch.place.number) if batch.place else ("keys", *batch.sample_keys)
        with seeded(chance.seed_for(*place), given.device), torch.no_grad():
            if isinstance(self.fn, str | nn.Module):
                made = _module(self.fn, self.kwargs, given.device)(given.clone())
            else:
                made = self.fn(given.clone(), **self.kwargs)
        return batch.with_fields(**{self.into or self.field: made})


# -- what is called -----------------------------------------------------------------------------------------------


def identity(fn: Fn) -> str:
    """A function or module in words that are the same in another process, and differ where it does.

    A dotted name is itself. A function is ``module:qualname``; one without a name of its own (a lambda, or defined
    inside another) also has a digest of its code and of what it encloses. A module is its class and repr, and a
    digest of its weights if it has any. Anything else is its class and its repr.

    >>> identity(print)
    'builtins:print'
    """
    if isinstance(fn, str):
        return fn
    if isinstance(fn, functools.partial):
        return f"partial({identity(fn.func)}, {_stable(fn.args)}, {_stable(fn.keywords)})"
    if isinstance(fn, types.MethodType | types.BuiltinMethodType) and not isinstance(fn.__self__, types.ModuleType):
        return f"{type(fn.__self__).__module__}:{fn.__qualname__} of {_stable(fn.__self__)}"
    if isinstance(fn, nn.Module):
        return f"{type(fn).__module__}:{fn!r}{_weights(fn)}"
    name = getattr(fn, "__qualname__", None)
    if name is None:
        return f"{type(fn).__module__}:{type(fn).__qualname__} {_stable(fn)}"
    code = f"#{_code(fn)}" if isinstance(fn, types.FunctionType) and "<" in name else ""
    return f"{getattr(fn, '__module__', None) or 'builtins'}:{name}{code}"


def _stable(value: Any) -> str:
    """A repr without addresses in memory."""
    return re.sub(r" at 0x[0-9a-fA-F]+", "", identity(value) if isinstance(value, types.FunctionType) else repr(value))


def _code(fn: types.FunctionType) -> str:
    held = [cell.cell_contents for cell in fn.__closure__ or ()]
    parts = [_instructions(fn.__code__), _stable(fn.__defaults__), _stable(fn.__kwdefaults__), *map(_stable, held)]
    return hashlib.blake2b("\x1f".join(parts).encode(), digest_size=8).hexdigest()


def _instructions(code: types.CodeType) -> str:
    return "\x1f".join((code.co_code.hex(), *code.co_names, *map(_constant, code.co_consts)))


def _constant(value: Any) -> str:
    if isinstance(value, types.CodeType):
        return _instructions(value)
    return repr(sorted(map(repr, value))) if isinstance(value, frozenset) else repr(value)


_digests: weakref.WeakKeyDictionary[nn.Module, str] = weakref.WeakKeyDictionary()


def _weights(module: nn.Module) -> str:
    if module not in _digests:
        digest = hashlib.blake2b(digest_size=8)
        state = module.state_dict()
        for name, tensor in state.items():
            digest.update(name.encode())
            if isinstance(tensor, Tensor):
                digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
        _digests[module] = f"#{digest.hexdigest()}" if state else ""
    return _digests[module]


_copies: weakref.WeakKeyDictionary[nn.Module, dict[torch.device, nn.Module]] = weakref.WeakKeyDictionary()


def _module(fn: str | nn.Module, kwargs: Mapping[str, Any], device: torch.device) -> Any:
    """The module on the device: a copy of the user's, made once in each process."""
    if isinstance(fn, str):
        return _named(fn, kwargs, device)
    copies = _copies.setdefault(fn, {})
    if device not in copies:
        copies[device] = copy.deepcopy(fn).to(device)
    return copies[device]


@functools.lru_cache(maxsize=64)
def _named(name: str, kwargs: Mapping[str, Any], device: torch.device) -> Any:
    module, _, attribute = name.rpartition(".")
    try:
        held = importlib.import_module(module)
    except ImportError as error:
        package = MODULES[module]
        raise MissingDependency(f"{name!r} needs {package}. Install it: pip install {package}") from error
    found = getattr(held, attribute, None)
    if not isinstance(found, type):
        classes = [one for one in dir(held) if isinstance(getattr(held, one), type)]
        raise ConfigError(f"{module} has no class {attribute!r}. {nearest(attribute, classes)}")
    try:
        built = found(**kwargs)
    except (TypeError, ValueError) as error:
        raise ConfigError(f"{name} cannot be made with {dict(kwargs)}: {error}") from error
    return built.to(device) if isinstance(built, nn.Module) else built


def _own(value: Any) -> Any:
    """Arrays as copies, so that foreign code cannot change a sample."""
    return value.copy() if isinstance(value, np.ndarray) else value


def _array(value: Any) -> Any:
    return value.detach().cpu().numpy() if isinstance(value, Tensor) else value


# -- what it draws from -------------------------------------------------------------------------------------------

_lock = threading.RLock()  # the generators are one for the process: one call at a time


def _unlock_child() -> None:
    global _lock
    _lock = threading.RLock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_unlock_child)


@contextlib.contextmanager
def seeded(seed: int, device: torch.device | None = None) -> Iterator[None]:
    """Seeds the global generators of torch, numpy and Python, and gives them their states back.

    Args:
        seed: In [0, 2**63).
        device: A CUDA device whose generator is seeded as well.
    """
    with _lock, contextlib.ExitStack() as restore:
        generators = [torch.default_generator]
        if device is not None and device.type == "cuda":
            number = torch.cuda.current_device() if device.index is None else device.index
            generators.append(torch.cuda.default_generators[number])
        for generator in generators:
            restore.callback(generator.set_state, generator.get_state())
            generator.manual_seed(seed)
        restore.callback(random.setstate, random.getstate())
        random.seed(seed)
        restore.callback(np.random.set_state, np.random.get_state())
        np.random.seed(seed & 0xFFFFFFFF)
        yield
