"""Options of a process among those of its run."""

from __future__ import annotations

import dataclasses

from cffm_jax.rules import setting


@dataclasses.dataclass(frozen=True)
class ClusterConfig:
    """Where a process stands among those of its run: no part of what the run is, so it is not
    stored with it."""

    coordinator: str = ""
    """HOST:PORT of process 0, for a run of several processes; default: what SLURM, Open MPI or
    Kubernetes say."""
    processes: int = setting(0, least=0, remedy="give the number of processes")
    """Number of processes; 0: what SLURM, Open MPI or Kubernetes say, or else 1."""
    process: int = setting(-1, least=-1)
    """Number of this process, from 0; -1: what SLURM, Open MPI or Kubernetes say."""
    connect_seconds: float = setting(300.0, least=0)
    """How long a process waits for the others at the start."""
    heartbeat_seconds: int = setting(60, least=1)
    """All processes end when nothing was heard of one for so long."""
