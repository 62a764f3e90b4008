"""Values through an anonymous file: every kind of tensor, shared memory, descriptors."""

from __future__ import annotations

import gc
import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch

from ecopipe.run import transport
from ecopipe.run.transport import Channel, channel_pair, pack, unpack
from ecopipe.vocabulary.sample import Batch, Fault, Place

TENSORS = {
    **{
        str(dtype): torch.arange(6).to(dtype).reshape(2, 3)
        for dtype in (
            torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.complex64, torch.complex128,
            torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8, torch.bool,
        )
    },
    "0-dim": torch.tensor(3.5),
    "empty": torch.empty(0, 3),
    "empty in the middle": torch.empty(2, 0, 3),
    "strided": torch.arange(20)[::3],
    "transposed": torch.arange(12).reshape(3, 4).T,
    "expanded": torch.arange(3).expand(4, 3),
    "conjugated": torch.tensor([1 + 2j, 3 - 1j]).conj(),
    "negative view": torch.tensor([1 + 2j, 3 - 1j]).conj().imag,
    "large": torch.arange(3 * 2**20),
    "with gradient": torch.ones(3, requires_grad=True),
    "parameter": torch.nn.Parameter(torch.ones(2)),
}  # fmt: skip


def bits(tensor: torch.Tensor) -> bytes:
    return tensor.detach().resolve_conj().resolve_neg().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()


@pytest.mark.parametrize("name", TENSORS)
def test_every_tensor_arrives_as_it_was(name: str) -> None:
    sent = TENSORS[name]
    come = unpack(pack(sent))
    assert (type(come), come.dtype, come.shape, come.requires_grad) == (
        type(sent), sent.dtype, sent.shape, sent.requires_grad,
    )  # fmt: skip
    assert not sent.numel() or bits(come) == bits(sent)


def test_a_sparse_tensor_arrives_too() -> None:
    with torch.sparse.check_sparse_tensor_invariants(True):
        come = unpack(pack(torch.eye(3).to_sparse()))
    assert torch.equal(come.to_dense(), torch.eye(3))


def test_the_layout_in_memory_is_kept() -> None:
    sent = torch.arange(2 * 3 * 4 * 5).reshape(2, 3, 4, 5).to(memory_format=torch.channels_last)
    come = unpack(pack(sent))
    assert torch.equal(come, sent)
    assert come.stride() == sent.stride()


@pytest.mark.parametrize(
    "sent",
    [
        np.arange(6.0).reshape(2, 3), np.arange(6).reshape(2, 3).T, np.arange(10)[::2], np.array(2.5), np.empty((0, 2)),
        np.array(["a", "bc"]), np.array([None, "x"], dtype=object), np.array([1, 2], dtype=">i4"),
        np.array([(1, 2.0)], dtype=[("a", "i4"), ("b", "f8")]),
    ],
    ids=lambda array: f"{array.dtype} {array.shape}",
)  # fmt: skip
def test_every_array_arrives_as_it_was(sent: np.ndarray[Any, Any]) -> None:
    come = unpack(pack(sent))
    assert come.dtype == sent.dtype
    assert np.array_equal(come, sent)


def test_a_batch_keeps_its_place_and_what_is_one_object_stays_one() -> None:
    place = Place(3, 17, ("a.tar", "b.tar"), rank=1, faults=(Fault(0, "k", "a.tar", "Map", "why"),))
    features = torch.ones(2, 5)
    batch = Batch({"features": features, "same": features, "keys": ["a", "b"], "kept": [np.ones(2), None]}, place=place)
    come = unpack(pack(batch))
    assert type(come) is Batch
    assert come.place == place
    assert come["same"] is come["features"]
    assert come["keys"] == ["a", "b"]
    assert come["kept"][1] is None


def test_arrow_rows_arrive_without_the_table_that_they_were_cut_from() -> None:
    rows = pa.table({"key": [f"k{n}" for n in range(1000)], "n": range(1000)}).take(pa.array([5, 7]))
    sent = rows.combine_chunks().to_batches()[0]
    descriptor = pack(sent)
    assert os.fstat(descriptor).st_size < 4096
    assert unpack(descriptor).equals(sent)


@pytest.mark.parametrize("elements", [10, transport.MAPPED])
def test_what_arrives_is_writable_and_aligned(elements: int) -> None:
    come = unpack(pack({"odd": torch.ones(3, dtype=torch.uint8), "t": torch.zeros(elements), "n": np.zeros(elements)}))
    assert [come[name].data_ptr() % 64 for name in ("odd", "t")] == [0, 0]
    assert come["n"].ctypes.data % 64 == 0
    come["t"] += 1
    come["n"] += 1
    assert come["t"].sum() == come["n"].sum() == elements
    assert come["odd"].tolist() == [1, 1, 1]


def maps() -> int:
    return Path("/proc/self/maps").read_text().count("memfd:ecopipe")


@pytest.mark.skipif(sys.platform != "linux", reason="/proc/self/maps is Linux's")
def test_a_large_value_is_mapped_as_long_as_some_tensor_of_it_lives() -> None:
    before = maps()
    sent = {"a": torch.zeros(transport.MAPPED), "b": torch.ones(4)}
    come = unpack(pack(sent))
    assert maps() == before + 1
    part = come["b"][1:]
    del come
    assert maps() == before + 1
    assert part.tolist() == [1, 1, 1]
    del part
    assert maps() == before


def test_a_value_that_cannot_be_pickled_leaves_no_descriptor() -> None:
    before = os.listdir("/proc/self/fd")
    with pytest.raises(TypeError, match="generator"):
        pack({"a": torch.zeros(10), "b": (n for n in range(3))})
    assert len(os.listdir("/proc/self/fd")) == len(before)


def refuse() -> None:
    raise ValueError("not here")


class Refusing:
    def __reduce__(self) -> tuple[Any, ...]:
        return refuse, ()


def test_a_value_that_cannot_be_made_leaves_no_descriptor_and_no_map() -> None:
    gc.collect()  # what other tests left
    before = len(os.listdir("/proc/self/fd")), maps()
    for _ in range(3):
        descriptor = pack([torch.zeros(transport.MAPPED), Refusing()])
        with pytest.raises(ValueError, match="not here"):
            unpack(descriptor)
    gc.collect()
    assert (len(os.listdir("/proc/self/fd")), maps()) == before


def test_without_memfd_a_nameless_file_does(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delattr(os, "memfd_create")
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    come = unpack(pack(TENSORS["large"]))
    assert torch.equal(come, TENSORS["large"])
    assert list(tmp_path.iterdir()) == []


def test_messages_and_descriptors_do_not_leak() -> None:
    near, far = channel_pair(5)
    before = os.listdir("/proc/self/fd")
    for number in range(300):
        descriptor = pack(torch.full((100,), number))
        near.send(number, 7, descriptor)
        os.close(descriptor)
        assert far.has_come(5)
        message = far.receive()
        assert (message.number, message.floor) == (number, 7)
        assert message.descriptor is not None
        assert unpack(message.descriptor)[0] == number
    assert len(os.listdir("/proc/self/fd")) == len(before)
    far.send(1)
    assert near.receive() == (1, 0, None)
    far.close()
    with pytest.raises(EOFError):
        near.receive()
    with pytest.raises(ConnectionError):
        near.send(1)
    near.close()


def test_half_a_message_is_not_waited_for_without_end() -> None:
    left, right = socket.socketpair()
    near = Channel(left, 0.05)
    right.send(b"half")
    with pytest.raises(TimeoutError):
        near.receive()
    right.send(b"half")
    right.close()
    with pytest.raises(EOFError):
        near.receive()
    near.close()


def test_a_full_socket_is_not_waited_for_without_end() -> None:
    near, far = channel_pair(0.05)
    with pytest.raises(TimeoutError):
        for _ in range(100_000):
            near.send(1)
    near.close()
    far.close()


LIMITED = """
import os, resource, sys, threading
from ecopipe.run.transport import channel_pair, pack, unpack
from ecopipe.vocabulary.errors import WorkerError
if os.getuid() == 0:
    os.setuid(65534)  # the limit is not for root
resource.setrlimit(resource.RLIMIT_NOFILE, (40, 40))

def send(count):
    for number in range(count):
        near.send(number, 0, descriptor)

def wait():
    thread = threading.Thread(target=send, args=(200,))
    thread.start()
    thread.join(0.05)
    print([unpack(far.receive().descriptor) for _ in range(200)] == ["x"] * 200)

def send_too_many():
    try:
        send(200)
    except OSError as error:
        print(error.strerror)

def open_too_many():
    send(1)
    files = []
    try:
        while True:
            files.append(os.dup(descriptor))
    except OSError:
        pass
    try:
        far.receive()
    except WorkerError as error:
        print(error)

for work in (wait, send_too_many, open_too_many):
    if os.fork() == 0:
        near, far = channel_pair(0.2)
        descriptor = pack("x")
        work()
        sys.stdout.flush()
        os._exit(0)
    os.wait()
"""


@pytest.fixture(scope="module")
def told() -> list[str]:
    """What three processes say that may open few files."""
    done = subprocess.run([sys.executable, "-c", LIMITED], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout.splitlines()


def test_more_descriptors_than_the_system_carries_wait_until_others_were_taken(told: list[str]) -> None:
    assert told[0] == "True"


def test_more_descriptors_than_the_system_carries_are_an_error_when_none_is_taken(told: list[str]) -> None:
    assert told[1] == "Too many references: cannot splice"


def test_a_process_that_may_open_no_more_files_says_so(told: list[str]) -> None:
    advice = "Raise the limit (ulimit -n), or use fewer workers."
    assert told[2:] == [f"loader: this process may open no more files. {advice}"]
