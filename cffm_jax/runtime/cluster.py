"""Several processes of one run: how they find each other, agree, and end together.

One process starts nothing of JAX's distributed system; whatever is asked here is its own.
"""

from __future__ import annotations

import contextlib
import importlib
import os
import pickle
import socket
import sys
import threading
import traceback
from collections.abc import Callable, Iterator, Mapping
from typing import NamedTuple, NoReturn, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from cffm_jax.config import ClusterConfig
from cffm_jax.errors import InputError, Stopped
from cffm_jax.rules import require_values
from cffm_jax.runtime.devices import device_fault

T = TypeVar("T")
_SLURM = ("SLURM_JOB_ID", "SLURM_STEP_NODELIST", "SLURM_NTASKS", "SLURM_PROCID", "SLURM_LOCALID")
_OMPI_ADDRESS = "OMPI_MCA_orte_hnp_uri"
_BY_HAND = "deactivate"
"""What JAX calls finding out nothing by itself."""
VOTE_EVERY = 5
"""Steps between two votes, see ``Votes``."""


class Place(NamedTuple):
    """A process among those of its run; None: JAX finds it out by ``method``."""

    coordinator: str | None
    processes: int | None
    process: int | None
    method: str
    devices: list[int] | None


def find_place(cluster: ClusterConfig, environ: Mapping[str, str]) -> Place | None:
    """The place by the options, or, left open, by the variables of SLURM, Open MPI or Kubernetes.

    None for a process on its own.

    Raises:
      InputError: an option is missing or out of range.
    """
    require_values(cluster, "cluster.")
    place = _scheduled(environ)
    processes = cluster.processes or place.processes
    process = place.process if cluster.process < 0 else cluster.process
    coordinator = cluster.coordinator or place.coordinator
    given = cluster.coordinator or cluster.processes or cluster.process >= 0
    if processes == 1 or not (given or place.processes or place.method != _BY_HAND):
        return None
    if place.method == _BY_HAND:
        for name, value in (("coordinator", coordinator), ("processes", processes), ("process", process)):
            if value is None:
                remedy = "give --cluster.coordinator HOST:PORT, --cluster.processes N and --cluster.process 0..N-1"
                raise InputError(
                    f"--cluster.{name}", "is missing, and the scheduler's variables do not tell it", remedy
                )
    if process is not None and processes is not None and process >= processes:
        raise InputError("--cluster.process", f"is {process}, of {processes} processes", f"give 0..{processes - 1}")
    if coordinator is not None:
        host, _, port = coordinator.rpartition(":")
        if not host or not port.isdecimal() or not 0 < int(port) < 65536:
            raise InputError("--cluster.coordinator", f"is {coordinator}", "give HOST:PORT of process 0's machine")
    return place._replace(coordinator=coordinator, processes=processes, process=process)


def share_of(cluster: ClusterConfig, environ: Mapping[str, str]) -> tuple[int, int]:
    """The number of this process, and of how many, for work of which each does a share without
    meeting the others: by the options, or by the variables of a scheduler. Each task of a SLURM job
    array is one, or each of its processes.

    Raises:
      InputError: one of the two is not told, or they do not fit.
    """
    require_values(cluster, "cluster.")
    place = _scheduled(environ)
    process = place.process if cluster.process < 0 else cluster.process
    processes = cluster.processes or place.processes
    if cluster.processes == 1 and process is None:
        process = 0
    names = ("SLURM_ARRAY_TASK_ID", "SLURM_ARRAY_TASK_MIN", "SLURM_ARRAY_TASK_STEP", "SLURM_ARRAY_TASK_COUNT")
    if cluster.process < 0 and not cluster.processes and all(environ.get(name, "").isdecimal() for name in names):
        task, least, step, tasks = (int(environ[name]) for name in names)
        if (task - least) // max(step, 1) >= tasks:
            remedy = "give --cluster.processes N and --cluster.process 0..N-1"
            raise InputError("SLURM's job array", "has tasks at uneven numbers, which do not tell the share", remedy)
        process = (task - least) // step * (processes or 1) + (process or 0)
        processes = tasks * (processes or 1)
    if process is None and processes is None:
        return 0, 1
    for name, value in (("processes", processes), ("process", process)):
        if value is None:
            remedy = "give --cluster.processes N and --cluster.process 0..N-1"
            raise InputError(f"--cluster.{name}", "is missing, and the scheduler's variables do not tell it", remedy)
    assert process is not None and processes is not None
    if process >= processes:
        raise InputError("--cluster.process", f"is {process}, of {processes} processes", f"give 0..{processes - 1}")
    return process, processes


def _scheduled(environ: Mapping[str, str]) -> Place:
    def number(name: str) -> int | None:
        return int(environ[name]) if environ.get(name, "").isdecimal() else None

    if all(name in environ for name in _SLURM):
        # SLURM_NTASKS is the job's, of which an interactive step may be one task.
        tasks = number("SLURM_STEP_NUM_TASKS") or number("SLURM_NTASKS")
        here = environ.get("SLURM_STEP_TASKS_PER_NODE", "").split("(")[0].split(",")[0]
        if tasks and tasks > 1:
            devices = _devices(environ, int(here) if here.isdecimal() else 0)
            return Place(None, tasks, number("SLURM_PROCID"), "slurm", devices)
    elif (number("OMPI_COMM_WORLD_SIZE") or 1) > 1:
        size, rank = number("OMPI_COMM_WORLD_SIZE"), number("OMPI_COMM_WORLD_RANK")
        devices = _devices(environ, number("OMPI_COMM_WORLD_LOCAL_SIZE") or 0)
        # Without its address JAX does not take it for Open MPI, and need not: the rest is known.
        return Place(None, size, rank, "ompi" if _OMPI_ADDRESS in environ else _BY_HAND, devices)
    elif "KUBERNETES_SERVICE_HOST" in environ and "JOB_COMPLETION_INDEX" in environ:
        return Place(None, None, number("JOB_COMPLETION_INDEX"), "k8s", None)
    return Place(None, None, None, _BY_HAND, None)


def _devices(environ: Mapping[str, str], processes_here: int) -> list[int] | None:
    """This process's GPUs: all it sees, if alone on its host or if the scheduler shared them out.

    None: JAX gives each process of a host one, by its number there; wrong in the cases above.
    """
    seen = len(list(filter(None, environ.get("CUDA_VISIBLE_DEVICES", "").split(","))))
    on_node = int(environ.get("SLURM_GPUS_ON_NODE", "0") or 0)
    if seen and (processes_here == 1 or seen == 1 or seen < on_node):
        return list(range(seen))
    return list(range(on_node)) if on_node and processes_here == 1 else None


@contextlib.contextmanager
def connected(cluster: ClusterConfig) -> Iterator[None]:
    """Around a run: finds the other processes, and ends with them.

    What all processes run into (``everywhere``) only the first tells. Whatever else ends this
    process ends it at once, without waiting: the others notice within ``heartbeat_seconds``.

    Raises:
      InputError: the options do not fit together.
    """
    place = find_place(cluster, os.environ)
    if place is None:
        yield
        return
    _initialize(place, cluster)
    process = f"process {place.process}"
    try:
        process = f"process {jax.process_index()} of {jax.process_count()}"
        yield
    except (InputError, Stopped, KeyboardInterrupt) as error:
        status = getattr(error, "status", 130)
        if not getattr(error, "everywhere", False):
            kind = "error: " if isinstance(error, InputError) else ""
            _leave(f"{kind}{error or 'stopped'} ({process})", status)
        jax.distributed.shutdown()
        if first():
            raise
        raise SystemExit(status) from None
    except BaseException as error:
        fault = device_fault(error, alone=False)
        said, status = (f"error: {fault} ", fault.status) if fault else (traceback.format_exc(), 1)
        _leave(f"{said}({process})", status)
    jax.distributed.shutdown()


def _initialize(place: Place, cluster: ClusterConfig) -> None:
    where = f"--cluster.coordinator {place.coordinator}" if place.coordinator else f"--cluster ({place.method})"
    if place.method == "k8s" and None in (place.coordinator, place.processes):
        try:
            importlib.import_module("kubernetes")
        except ImportError as error:
            remedy = "give --cluster.coordinator and --cluster.processes, or --cluster.processes 1 for a run on its own"
            raise InputError(where, "needs the package kubernetes to find the other pods", remedy) from error
    if place.coordinator:
        try:
            socket.getaddrinfo(place.coordinator.rpartition(":")[0].strip("[]"), None)
        except OSError as error:
            raise InputError(
                where, f"no such host ({error.strerror})", "give HOST:PORT of process 0's machine"
            ) from error
        _require_free(place, where)
    seconds = cluster.connect_seconds
    # JAX would end the process with a C++ stack trace instead: ours comes first, in one line.
    message = f"error: {where}: the processes did not find each other within {seconds:g} s; start all of them, see that"
    timer = threading.Timer(seconds, _leave, (f"{message} process 0 runs there and that its port is open", 2))
    timer.daemon = True
    timer.start()
    # SIGTERM is ours: see ``runtime.signals`` and ``Votes``.
    jax.config.update("jax_enable_preemption_service", False)
    try:
        jax.distributed.initialize(
            place.coordinator, place.processes, place.process,
            local_device_ids=place.devices,
            cluster_detection_method=place.method,
            initialization_timeout=int(seconds) + 600,
            heartbeat_timeout_seconds=cluster.heartbeat_seconds,
            shutdown_timeout_seconds=cluster.heartbeat_seconds,
        )  # fmt: skip
    except (RuntimeError, ValueError, OSError) as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise InputError(
            where, f"cannot be used ({reason})", "give --cluster.coordinator, .processes, .process"
        ) from error
    finally:
        timer.cancel()


def _require_free(place: Place, where: str) -> None:
    """InputError if process 0 cannot listen: JAX itself would crash."""
    if place.process == 0 and place.coordinator:
        both = socket.has_dualstack_ipv6()
        family = socket.AF_INET6 if both else socket.AF_INET
        try:
            port = int(place.coordinator.rpartition(":")[2])
            socket.create_server(("", port), family=family, dualstack_ipv6=both).close()
        except OSError as error:
            raise InputError(where, f"the port cannot be used ({error.strerror})", "name another port") from error


def _leave(message: str, status: int) -> NoReturn:
    """Ends this process without JAX's goodbye, which would wait for the others."""
    print(message, file=sys.stderr, flush=True)
    sys.stdout.flush()
    os._exit(status)


def first() -> bool:
    """Whether this process prints and writes what is the run's."""
    return jax.process_index() == 0


def share(items: tuple[T, ...]) -> tuple[T, ...]:
    """Every so many of the items: each belongs to one process."""
    return items[jax.process_index() :: jax.process_count()]


def gathered(value: T) -> list[T]:
    """The values of all processes, in their order; all have to call it."""
    if jax.process_count() == 1:
        return [value]
    data = np.frombuffer(pickle.dumps(value), np.uint8)  # Bytes, as JAX would make 32 bits of 64.
    sizes = multihost_utils.process_allgather(np.array([len(data)], np.int32)).reshape(-1)
    padded = multihost_utils.process_allgather(np.pad(data, (0, sizes.max() - len(data))))
    return [pickle.loads(row[:size].tobytes()) for row, size in zip(padded, sizes, strict=True)]


@contextlib.contextmanager
def together() -> Iterator[None]:
    """All processes leave the block alike: what one of them raises, an InputError or Stopped, is
    raised in all. It must not hold what waits for the other processes."""
    raised = None
    try:
        yield
    except (InputError, Stopped) as error:
        if jax.process_count() == 1:
            raise
        raised = error
    for error in gathered(raised):
        if error is not None:
            error.everywhere = True
            raise error


def from_first(call: Callable[[], T]) -> T:
    """Calls in the first process alone; all return its result, or raise its error."""
    with together():
        values = [call()] if first() else []
    return gathered(values)[0][0]


class Votes:
    """Wishes of any process, known to all of them at the same step, without a wait for the device.

    Every ``VOTE_EVERY`` steps each process sends its wish through the devices, and reads the result
    of the votes before, which have long been counted.
    """

    def __init__(self, mesh: Mesh):
        self._sharding = NamedSharding(mesh, PartitionSpec(mesh.axis_names))
        self._devices = len(mesh.local_devices)
        self._max = jax.jit(jnp.max, out_shardings=NamedSharding(mesh, PartitionSpec()))
        self._pending: jax.Array | None = None

    def result(self, step: int, wish: int, now: bool) -> int:
        """The largest wish of any process; 0 if none, or not known yet. ``now``: waits for it."""
        if not now and step % VOTE_EVERY:
            return 0
        votes = np.full(self._devices, wish, np.int32)
        before, self._pending = self._pending, self._max(jax.make_array_from_process_local_data(self._sharding, votes))
        if now:
            before, self._pending = self._pending, None
        return 0 if before is None else int(before)
