"""What JAX raises where a device is not there or memory is too small, as the one line of an
InputError; what programs take of a device's memory, and what it has."""

from __future__ import annotations

import contextlib
import os
import re
import sys
from typing import TYPE_CHECKING, NamedTuple

from cffm_jax.errors import InputError
from cffm_jax.runtime.memory import machine_bytes

if TYPE_CHECKING:  # Whoever asks for no device need not wait for JAX.
    import jax

_NO_BACKEND = re.compile(r"Unable to initialize backend '(?P<name>[^']*)': (?P<reason>.*)")
_NO_PLATFORM = re.compile(r"Unknown backend:? '?(?P<name>\w+)")
_UNKNOWN = re.compile(r"Backend '.*' is not in the list of known backends.*|\s*\((set JAX_PLATFORMS|you may need).*")
_ASKING = ("JAX_PLATFORMS", "JAX_PLATFORM_NAME")
_FULL = re.compile(r"RESOURCE_EXHAUSTED|out of memory|ALLOC_FAILED|failed to allocate", re.IGNORECASE)
GPU_SHARE = 0.75
"""Of a GPU's memory JAX takes so much, unless it is told otherwise."""
_SHARES = ("XLA_CLIENT_MEM_FRACTION", "XLA_PYTHON_CLIENT_MEM_FRACTION")
"""Variables for JAX's share of a GPU, the second by its earlier name."""
_GPUS = "a GPU needs its driver (see nvidia-smi) and JAX for it (make install-cuda12 or install-cuda13)"
_LESS = (
    "compute less at once: a smaller --train.batch-size, --data.crop or --eval.chunk, a larger --train.accumulate, "
    "--train.remat blocks, or smaller frames (predict.py: --frame-size, or a smaller --tile-size)"
)


def device_fault(error: BaseException, alone: bool = True) -> InputError | None:
    """The error in words, if it says that JAX has not the devices that were asked for, or that
    there is too little memory; None for any other.

    Args:
      error: what ended a command.
      alone: whether JAX may be asked what there is, which of several processes waits for the
        others.
    """
    text = " ".join(str(error).split())
    if isinstance(error, MemoryError):
        reason = f" ({text})" if text else ""
        return InputError("memory", f"of the machine is too small{reason}", _LESS)
    if isinstance(error, AssertionError) and not text and _has_no_device():  # Which JAX says in no word.
        return _not_there("", "", alone)
    if not isinstance(error, RuntimeError):
        return None
    if missing := _NO_BACKEND.match(text) or _NO_PLATFORM.match(text):
        return _not_there(missing["name"], _UNKNOWN.sub("", missing.groupdict().get("reason") or ""), alone)
    # RuntimeErrors of others than XLA are no faults of the devices.
    if type(error).__name__ in ("JaxRuntimeError", "XlaRuntimeError") and _FULL.search(text):
        return InputError("device memory", f"is too small ({text.removeprefix('RESOURCE_EXHAUSTED: ')[:200]})", _LESS)
    return None


def warn_of_missing_platforms() -> None:
    """Says which of several platforms in JAX_PLATFORMS are not there, on standard error: JAX passes
    over CUDA without a GPU in silence. RuntimeError, of JAX, where it cannot go on."""
    import jax

    asked = os.environ.get(_ASKING[0], "")
    if "," not in asked:
        return
    used, missing = jax.devices()[0].platform, [name for name in asked.split(",") if not _is_there(name)]
    if missing:
        problem = f"asks for {asked}, and there is no {' and no '.join(missing)}: {used} is used"
        print(f"warning: {_ASKING[0]} {problem}" + (f"; {_GPUS}" if "cuda" in missing else ""), file=sys.stderr)


def _is_there(platform: str) -> bool:
    import jax

    try:
        return bool(jax.devices(platform))
    except RuntimeError:
        return False


def _not_there(name: str, reason: str, alone: bool) -> InputError:
    """The error for a platform that is not there; ``name``: of JAX's message."""
    said = {variable: os.environ[variable] for variable in _ASKING if os.environ.get(variable)}
    by_name = {variable: asked for variable, asked in said.items() if name in asked.split(",")}
    variable, asked = next(iter((by_name or said).items()), ("JAX", name))
    problem = f"{'asks for' if said else 'cannot use'} {asked}, and there is {_there() if alone else 'cpu'} alone"
    remedy = f"unset {variable}, or set it to cpu" if said else "mend its driver, or set JAX_PLATFORMS=cpu"
    gpus = {"gpu", "cuda"} & {word.strip().lower() for word in f"{asked},{name}".split(",")}
    return InputError(variable, problem + (f" ({reason})" if reason else ""), f"{remedy}; {_GPUS}" if gpus else remedy)


def _has_no_device() -> bool:
    """Whether JAX is in use, and finds no device under the name that was asked for."""
    jax = sys.modules.get("jax")
    try:
        return jax is not None and not jax.devices()
    except (AssertionError, RuntimeError):
        return True


def _there() -> str:
    """The kind of devices that JAX finds if nothing is asked for."""
    import jax

    asked = {name.lower(): os.environ.get(name, "") for name in _ASKING}
    try:
        for platforms in ("", "cpu"):
            with contextlib.suppress(AssertionError, RuntimeError):  # A plugin may fail, a CPU does not.
                for name, value in zip(asked, (platforms, "")):
                    jax.config.update(name, value)
                return jax.devices()[0].platform
    finally:
        for name, value in asked.items():
            jax.config.update(name, value)
    return "no device"


class DeviceMemory(NamedTuple):
    """What JAX has of a device.

    Attributes:
      usable: bytes; None where it does not tell.
      share: which that is of the device.
      host: whether it is the machine's memory, which all CPU devices and other processes share.
    """

    usable: int | None
    share: float = 1.0
    host: bool = False


def memory_of(device: jax.Device) -> DeviceMemory:
    """Asks a device of this process."""
    if device.platform == "cpu":
        return DeviceMemory(machine_bytes(), host=True)
    usable = (device.memory_stats() or {}).get("bytes_limit")
    share = float(os.environ.get(share_variable()) or GPU_SHARE) if device.platform == "gpu" else 1.0
    return DeviceMemory(usable, share)


def share_variable() -> str:
    """The environment's variable for JAX's share of a GPU."""
    return next((name for name in _SHARES if os.environ.get(name)), _SHARES[0])


def planned_bytes(program: jax.stages.Compiled) -> int | None:
    """Bytes that a compiled program takes on each device, as its compiler plans them: arguments,
    results and all in between; None where it does not tell."""
    plan = program.memory_analysis()
    if not plan:
        return None
    # What is donated counts among arguments and results.
    kept = plan.argument_size_in_bytes + plan.output_size_in_bytes - plan.alias_size_in_bytes
    return kept + plan.temp_size_in_bytes
