"""Tasks on a Ray cluster: the same tasks, on any number of machines that see the corpus and the output.

A task that a dying node took with it is run again elsewhere by Ray. If a node that was given up still works on one,
no harm is done: both write the same bytes, and rename them into place.
"""

from __future__ import annotations

import collections
import logging
import os
import platform
import signal
import socket
import threading
import time
from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

from ecopipe.sharding.local import Note
from ecopipe.sharding.tasks import Done, Job, run_task
from ecopipe.sharding.versions import library_versions
from ecopipe.storage import files
from ecopipe.vocabulary.errors import ConfigError, EcopipeError, MissingDependency, WorkerError

RETRIES = 5
"""Times that a task is run again whose node or process died."""

AHEAD = 2
"""Tasks per CPU that are handed to the cluster at a time."""

WAIT_S = 1.0
"""Seconds after which the number of CPUs is looked up again."""

CONNECT_S = 10.0
"""Seconds that a cluster may take to accept a connection."""

NO_CPU_S = 600.0
"""Seconds that a cluster may be without a CPU: one that grows and shrinks by itself takes minutes to get one."""

SEEN_S = 5.0
"""Seconds until a folder that was made on one machine must be seen by another."""


@dataclass(frozen=True)
class _Held:
    """What all tasks of a run share; a process on a node fetches it once.

    ``folder`` is where the run was started: relative paths are meant from there. ``versions``: of what decides bytes.
    """

    job: Job
    folder: str
    versions: Mapping[str, str]


def run_on_ray(
    job: Job, tasks: Sequence[int], note: Note, workers: int, address: str | None, cluster: ExitStack
) -> Generator[Done, None, None]:
    """The tasks on a Ray cluster, in the order in which they end.

    Args:
        job: What to write. The corpus's place and the output must be the same on every node: a shared folder, or URLs.
        tasks: Their numbers.
        note: Told of the progress, a task at a time.
        workers: Tasks at a time; 0 is as many as the cluster has CPUs.
        address: Of a running cluster, as ``ray.init`` takes it; None takes ``RAY_ADDRESS``, or starts one here.
        cluster: Leaves the cluster as it closes, and ends one that was started here.

    Raises:
        MissingDependency: Ray is not installed.
        ConfigError: There is no cluster at that address; a node does not see the corpus or the output, or has other
            versions.
        WorkerError: A task died again and again, or the cluster has no CPUs.
    """
    if not tasks:
        return
    ray = _ray()
    if ray.is_initialized():
        running: dict[Any, int] = {}
        try:
            yield from _run(ray, job, tasks, note, workers, running)
        finally:
            for reference in running:
                ray.cancel(reference)  # by force, one that is just done would take this process with it
        return
    cluster.callback(ray.shutdown)  # also of one that was interrupted as it began; it ends the tasks as well
    _connect(ray, address or os.environ.get("RAY_ADDRESS") or "local", workers)
    yield from _run(ray, job, tasks, note, workers, {})


def _ray() -> Any:
    try:
        import ray
    except ImportError as error:
        raise MissingDependency(
            "shard: the engine 'ray' needs the package ray. Install it: pip install 'ecopipe[ray]'."
        ) from error
    return ray


def _connect(ray: Any, address: str, workers: int) -> None:
    settings: dict[str, Any] = {"log_to_driver": False, "configure_logging": False}
    if address == "local":
        settings |= {"include_dashboard": False, "num_cpus": workers or len(os.sched_getaffinity(0))}
    else:
        _check_answers(address)
    logging.getLogger("ray").setLevel(logging.ERROR)
    main = threading.current_thread() is threading.main_thread()
    handler = signal.getsignal(signal.SIGTERM)
    try:
        ray.init(address=address, **settings)
    except (OSError, ValueError, RuntimeError, SystemExit, ray.exceptions.RayError) as error:
        if address == "local" and isinstance(error, SystemExit):
            raise
        raise _no_cluster(address, str(error).partition("\n")[0]) from error
    finally:
        if main and handler is not None:
            signal.signal(signal.SIGTERM, handler)  # Ray's own would hide that the run was terminated


def _check_answers(address: str) -> None:
    """Ray itself would try for two minutes, and end the process then."""
    host, _, port = address.rpartition("://")[2].rpartition(":")
    if not port.isdigit():
        return
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=CONNECT_S).close()
    except (OSError, OverflowError) as error:
        raise _no_cluster(address, str(error)) from error


def _no_cluster(address: str, reason: str) -> ConfigError:
    if address == "local":
        return ConfigError(f"shard: no Ray cluster could be started on this machine: {reason}")
    reason = reason.rstrip(".")
    return ConfigError(
        f"shard: no Ray cluster can be used at {address!r}: {reason}. Is it running ('ray status'), and is this its "
        "address? Without --ray-address and RAY_ADDRESS one is started on this machine."
    )


def _run(ray: Any, job: Job, tasks: Sequence[int], note: Note, workers: int, running: dict[Any, int]) -> Iterator[Done]:
    """The tasks; those that are under way are always in ``running``, by their references."""

    def on_node(held: list[Any], task: int) -> Done:  # a function's own: Ray sends it whole, and imports nothing for it
        try:
            from ecopipe.sharding.on_ray import _task

            return _task(held, task)
        except KeyboardInterrupt:  # it was taken back, in the middle of an import perhaps: torch's cannot be repeated
            os._exit(1)

    remote = ray.remote(max_retries=RETRIES, num_cpus=1)(on_node)
    held = ray.put(_Held(job, os.getcwd(), library_versions()))
    left = collections.deque(tasks)
    had_cpu = time.monotonic()
    while left or running:
        cpus = int(ray.cluster_resources().get("CPU", 0))
        if cpus:
            had_cpu = time.monotonic()
        elif time.monotonic() - had_cpu > NO_CPU_S:
            raise WorkerError(
                f"shard: the Ray cluster has had no CPU for {NO_CPU_S:.0f} s. Add nodes to it ('ray status' shows "
                "them), and run the same command again: what is finished is kept."
            )
        while left and len(running) < (workers or AHEAD * max(1, cpus)):
            task = left.popleft()
            running[remote.remote([held], task)] = task
        ended, _ = ray.wait(list(running), num_returns=1, timeout=WAIT_S)
        for reference in ended:
            task = running.pop(reference)
            done = _result(ray, reference, task, job)
            note(len(job.plan.places(task)), done.shard.size, len(done.bad))
            yield done


def _result(ray: Any, reference: Any, task: int, job: Job) -> Done:
    try:
        done: Done = ray.get(reference)
        return done
    except ray.exceptions.RayTaskError as error:
        if isinstance(error.cause, EcopipeError):
            raise error.cause from error
        if isinstance(error.cause, ImportError):
            raise MissingDependency(
                f"shard: a node of the Ray cluster lacks what is needed: {error.cause}. Install on each node what "
                "is installed here."
            ) from error
        raise
    except ray.exceptions.RayError as error:
        raise WorkerError(
            f"shard {job.staging.shard_name(task)} could not be written: its task died {RETRIES + 1} times, or the "
            f"cluster is gone ({type(error).__name__}). Look into Ray's logs; what is finished is kept for the same "
            "command."
        ) from error


_here: dict[str, _Held] = {}
"""What this process on a node works on, by the reference of it."""


def _task(held: list[Any], task: int) -> Done:
    """What runs on a node.

    Args:
        held: The reference of a :class:`_Held`, in a list so that Ray does not fetch and unpickle it for each task.
        task: The task.
    """
    name = held[0].hex()
    if name not in _here:
        _here.clear()
        found: _Held = _ray().get(held[0])
        _check_node(found)
        _here[name] = found
    return run_task(_here[name].job, task, lambda samples, size, bad: None)


def _check_node(held: _Held) -> None:
    """Refuses a node that would write other bytes, or elsewhere."""
    node, job = platform.node(), held.job
    if os.path.isdir(held.folder):
        os.chdir(held.folder)
    if (mine := library_versions()) != held.versions:
        differ = ", ".join(
            f"{name} {mine.get(name, 'none')} instead of {held.versions.get(name, 'none')}"
            for name in sorted({*mine, *held.versions})
            if mine.get(name) != held.versions.get(name)
        )
        raise ConfigError(f"shard: the node {node} has {differ}. Install on each node what is installed here.")
    source = os.fspath(job.corpus.path)
    if source and not files.is_url(source) and not os.path.exists(source):
        raise ConfigError(
            f"{source}: is not seen by the node {node}. With Ray, the corpus lies in a folder that all nodes share "
            "under the same path, or at a URL."
        )
    give_up = time.monotonic() + SEEN_S
    while not job.staging.is_begun(job.plan.fingerprint):
        if time.monotonic() > give_up:
            raise ConfigError(
                f"{job.staging.where}: is not seen by the node {node} as it is here. With Ray, write to a folder that "
                "all nodes share under the same path, or to a URL."
            )
        time.sleep(SEEN_S / 10)
