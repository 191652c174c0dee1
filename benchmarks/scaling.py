"""Bytes that a training step exchanges, from the compiled program, and what they cost on many GPUs.

    python benchmarks/scaling.py --models cffm_b1                  # 8 simulated devices, all with the whole state
    python benchmarks/scaling.py --models cffm_b1 --fsdp 8         # the state split over them
    python benchmarks/scaling.py --models "" --bytes 62e6 --step-seconds 0.2 0.5 1   # the arithmetic alone

A ring all-reduce of S bytes over N devices moves 2 S (N - 1) / N bytes through each device's link. The bytes are read
off the compiled step; bandwidths and step times of GPUs are assumptions that the options change.
"""

from __future__ import annotations

import dataclasses
import os
import sys

os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count=8".strip()
os.environ.setdefault("JAX_PLATFORMS", "cpu")

import jax
from gpu.costs import collectives
from gpu.programs import lower_training

from cffm_jax.config import Config, DataConfig, ModelConfig
from cffm_jax.data.class_names import VSPW
from cffm_jax.models.create import build_model
from cffm_jax.models.variables import variable_shapes
from cffm_jax.runtime.command_line import parse_command, run_command
from cffm_jax.training.sharding import make_mesh

CROP = 64
"""Side of the clips: what is exchanged does not depend on it."""


@dataclasses.dataclass(frozen=True)
class Options:
    config: str = ""
    """Unused."""
    models: tuple[str, ...] = ("cffm_b0", "cffm_b1")
    """Whose training step is compiled for 8 simulated devices."""
    fsdp: int = 1
    """Devices that share the state."""
    bytes: float = 0.0
    """Bytes all-reduced a step, for the table; 0: those of the last model."""
    devices: tuple[int, ...] = (8, 16, 32, 64)
    """Numbers of GPUs."""
    gigabytes_per_second: tuple[float, ...] = (300.0, 50.0, 12.5, 1.25)
    """Bandwidth of the slowest link that the ring passes, each way."""
    step_seconds: tuple[float, ...] = (0.1, 0.5)
    """Computing time of a step of one device's clips."""


def compiled_step(name: str, fsdp: int) -> tuple[str, int]:
    """(HLO of the training step of 8 clips on 8 devices, bytes of the parameters)."""
    config = Config(model=ModelConfig(name, len(VSPW)), data=DataConfig(crop=(CROP, CROP)))
    variables = variable_shapes(build_model(config.model))
    compiled = lower_training(config, make_mesh(8, fsdp)).compile({"xla_backend_optimization_level": 0})
    return compiled.as_text(), 4 * sum(leaf.size for leaf in jax.tree.leaves(variables["params"]))


def ring_seconds(size: float, devices: int, gigabytes_per_second: float) -> float:
    return 2 * size * (devices - 1) / devices / (gigabytes_per_second * 1e9)


def main(argv: list[str]) -> None:
    options = parse_command(Options, argv, lambda _: Options(), "What a training step exchanges.")
    size = options.bytes
    names = [name for name in options.models if name]
    if names:
        print("| model | parameters, MB | operation | instructions | MB |\n|---|---|---|---|---|")
    for name in names:
        program, parameters = compiled_step(name, options.fsdp)
        for kind, sizes in collectives(program).items():
            print(f"| {name} | {parameters / 1e6:.1f} | {kind} | {len(sizes)} | {sum(sizes) / 1e6:.1f} |", flush=True)
            size = options.bytes or (sum(sizes) if kind == "all-reduce" else size)
    heads = " | ".join(f"{seconds:g} s" for seconds in options.step_seconds)
    print(f"\n{size / 1e6:.1f} MB all-reduced; share of the time that is left for computing, if nothing overlaps:\n")
    print(f"| GPUs | GB/s | all-reduce, ms | {heads} |\n|---|---|---|{'---|' * len(options.step_seconds)}")
    for devices in options.devices:
        for bandwidth in options.gigabytes_per_second:
            cost = ring_seconds(size, devices, bandwidth)
            shares = " | ".join(f"{100 * seconds / (seconds + cost):.1f} %" for seconds in options.step_seconds)
            print(f"| {devices} | {bandwidth:g} | {1000 * cost:.2f} | {shares} |")


if __name__ == "__main__":
    sys.exit(run_command(main))
