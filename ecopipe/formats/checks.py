"""The check of a sample: one number for the bytes of all its members."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from ecopipe.formats.index_arrays import to_numpy


def checks_of(members: pa.ListArray) -> npt.NDArray[np.uint32]:
    """XOR of the CRC-32s of each sample's members, uint32 [samples]; 0 for a sample without any.

    Args:
        members: The column ``members`` of some rows of an index.
    """
    bounds = to_numpy(members.offsets)
    crcs = to_numpy(members.values.field("crc32"))[: bounds[-1]]
    filled = bounds[1:] > bounds[:-1]  # reduceat would give an empty list its neighbour's first
    checks = np.zeros(len(members), dtype=np.uint32)
    if filled.any():
        checks[filled] = np.bitwise_xor.reduceat(crcs, bounds[:-1][filled])
    return checks
