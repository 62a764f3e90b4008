"""What an index must be before anything is done with it: it comes from wherever its tars came from.

A name of a shard is opened, an offset is sought and a size is allocated; so names are plain, and members lie within
their shard.
"""

from __future__ import annotations

import base64
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from ecopipe.formats.index_arrays import of_texts, to_numpy
from ecopipe.vocabulary.json_text import parse_json_object

CHECKED = frozenset(("key", "shard", "members"))
"""Columns that :func:`check_rows` looks at."""

_NAMES = ("version", "made_by", "extensions", "filled", "shards")


class Described(NamedTuple):
    """What the last batch of an index says: the table of its shards, and what its rows hold."""

    shards: pa.Table
    extensions: set[str]
    filled: set[str]
    made_by: str


def version_of(told: bytes) -> Any:
    """The version of an index, by the JSON of its last batch.

    Raises:
        ValueError: It is no such JSON.
    """
    return parse_json_object(told).get("version")


def described(told: bytes, shard_schema: pa.Schema) -> Described:
    """What the JSON of the last batch says, checked.

    Args:
        told: The JSON.
        shard_schema: The columns that the table of shards begins with; sums, float64, follow.

    Raises:
        ValueError: It says something else, or nonsense; or what Arrow raises of it.
    """
    found = parse_json_object(told)
    if missing := [name for name in _NAMES if name not in found]:
        raise ValueError(f"its description has no {missing[0]!r}")
    for name in ("extensions", "filled"):
        if not isinstance(found[name], list) or not all(isinstance(each, str) for each in found[name]):
            raise ValueError(f"its description's {name!r} is no list of names")
    if not isinstance(found["shards"], str) or not isinstance(found["made_by"], str):
        raise ValueError("its description's 'shards' or 'made_by' is no text")
    coded = base64.b64decode(found["shards"], validate=True)
    table = pa.ipc.open_stream(coded, options=pa.ipc.IpcReadOptions(use_threads=False)).read_all()
    table.validate(full=True)
    _check_shards(table, shard_schema)
    return Described(table, set(found["extensions"]), set(found["filled"]), found["made_by"])


def _check_shards(table: pa.Table, schema: pa.Schema) -> None:
    fixed, sums = table.schema.names[: len(schema)], table.schema.names[len(schema) :]
    if fixed != schema.names or len({*table.schema.names}) != len(table.schema):
        raise ValueError(f"its list of shards has the columns {table.schema.names}")
    wrong = [name for name in fixed if table.schema.field(name).type != schema.field(name).type]
    wrong += [name for name in sums if table.schema.field(name).type != pa.float64()]
    wrong += [name for name in table.schema.names if table[name].null_count]
    if wrong:
        raise ValueError(f"its list of shards has a column {wrong[0]!r} of another type, or with gaps")
    if len(table) and min(pc.min(table["size"]).as_py(), pc.min(table["rows"]).as_py()) < 0:
        raise ValueError("its list of shards has a negative size or number of rows")
    names = table["name"]
    if len(pc.unique(names)) != len(names):
        raise ValueError("it lists a shard twice")
    unsafe = pc.or_(pc.match_substring_regex(names, r"[/\\\x00-\x1f\x7f]"), pc.is_in(names, of_texts(["", ".", ".."])))
    if pc.any(unsafe).as_py():
        raise ValueError(f"it lists a shard {names.filter(unsafe)[0].as_py()!r}, which is no plain file name")


def check_schema(schema: pa.Schema, known: pa.Schema, fixed: int) -> None:
    """Refuses columns that are not those of an index: the first ``fixed`` of ``known`` are needed, the others have
    their types, and what a corpus adds is numbers, texts or bools.

    Raises:
        ValueError: Names the column.
    """
    if len({*schema.names}) != len(schema) or schema.names[:fixed] != known.names[:fixed]:
        raise ValueError(f"its columns begin with {schema.names[:fixed]}, or one is there twice")
    for field in schema:
        kind = field.type
        if field.name in known.names:
            right = kind == known.field(field.name).type
        else:
            right = any(test(kind) for test in (pa.types.is_primitive, pa.types.is_string, pa.types.is_binary))
        if not right:
            raise ValueError(f"its column {field.name!r} is of type {kind}")


def check_rows(batch: pa.RecordBatch, name: str, size: int) -> None:
    """Refuses rows of another shard, or of members that do not lie within it.

    Args:
        batch: Some columns of rows.
        name: The shard's name.
        size: Its bytes.

    Raises:
        ValueError: Names what is wrong.
    """
    columns = batch.schema.names
    for column in CHECKED & {*columns}:
        if batch[column].null_count:
            raise ValueError(f"a row without {column!r}")
    if "shard" in columns and not _are_all(batch["shard"], name.encode()):
        raise ValueError(f"a row of another shard than {name!r}")
    if "members" not in columns:
        return
    members = batch["members"].flatten()
    if members.null_count or any(members.field(number).null_count for number in range(members.type.num_fields)):
        raise ValueError("a member with gaps")
    offsets, sizes = (to_numpy(members.field(column)) for column in ("offset", "size"))
    outside = (offsets < 0) | (sizes < 0) | (sizes > size) | (offsets > size - sizes)
    if outside.any():
        at = int(np.argmax(outside))
        raise ValueError(
            f"a member of {sizes[at]:,} bytes at {offsets[at]:,}, which is not within the {size:,} bytes of {name!r}"
        )


def _are_all(texts: pa.StringArray, text: bytes) -> bool:
    """Whether some texts, none of which is missing, are all the same one: compared at once, not one by one."""
    bounds = np.frombuffer(texts.buffers()[1], np.int32, len(texts) + 1, offset=4 * texts.offset)
    if (np.diff(bounds) != len(text)).any():
        return False
    data = texts.buffers()[2] or pa.py_buffer(b"")
    return bool(data.slice(bounds[0], bounds[-1] - bounds[0]).equals(pa.py_buffer(text * len(texts))))
