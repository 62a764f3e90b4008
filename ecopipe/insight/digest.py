"""A digest of what was delivered: equal if and only if the same batches came in the same order, bit for bit."""

from __future__ import annotations

import hashlib
from typing import Any

import numpy as np
import torch

from ecopipe.vocabulary.sample import Batch


class Digest:
    """SHA-256 over the batches: their order, their keys, and the name, dtype, shape and bytes of every tensor."""

    def __init__(self) -> None:
        self._state = hashlib.sha256()

    def add(self, batch: Batch) -> None:
        """Takes in the next batch."""
        for name in sorted(batch):
            self._add(name, batch[name])

    def _add(self, name: str, value: Any) -> None:
        if isinstance(value, torch.Tensor):
            self._state.update(f"{name} {value.dtype} {list(value.shape)}\n".encode())
            flat = value.detach().cpu().contiguous().reshape(-1).view(torch.uint8)
            self._state.update(flat.numpy().data)
        elif isinstance(value, np.ndarray):
            self._state.update(f"{name} {value.dtype} {list(value.shape)}\n".encode())
            self._state.update(value.tobytes())
        elif isinstance(value, list | tuple):
            self._state.update(f"{name} {len(value)}\n".encode())
            for item in value:
                self._add(name, item)
        else:
            self._state.update(f"{name} {value!r}\n".encode())

    def hexdigest(self) -> str:
        """The digest so far, 64 hexadecimal digits."""
        return self._state.hexdigest()
