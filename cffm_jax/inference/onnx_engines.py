"""What runs a file of ONNX: onnxruntime or OpenVINO, on CPUs, on all cores of this process. In
float32, but for OpenVINO in bfloat16."""

from __future__ import annotations

import functools
import importlib
import os
import re
import sys
import types
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np

from cffm_jax.errors import InputError

Arrays = Mapping[str, np.ndarray]
Run = Callable[[Arrays, Sequence[str]], list[np.ndarray]]
"""All inputs by name, and the names of the outputs that are wanted -> those."""

_TYPES = {"tensor(float)": "float32", "tensor(int32)": "int32", "tensor(uint8)": "uint8"}


class OnnxEngine(Protocol):
    """A file in an engine; several threads may have it.

    Attributes:
      inputs: zeros of the inputs' shapes and types, by name in the file's order.
      outputs: names.
      metadata: words by key.
    """

    inputs: Arrays
    outputs: Collection[str]
    metadata: Mapping[str, str]

    def runner(self) -> Run:
        """What computes the outputs, for one thread at a time."""
        ...


class OnnxRuntime:
    """A file in onnxruntime."""

    def __init__(self, path: Path, data: bytes = b""):
        """``data``: of the file, where it is not written yet. InputError: onnxruntime is not
        installed, or does not take the file."""
        onnxruntime = required("onnxruntime", path, "onnx")
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3  # Errors alone: it warns of every constant that it folds away.
        # By default a thread for each of the machine's cores, whichever this process may use.
        options.intra_op_num_threads = _cores()
        said = onnxruntime.capi.onnxruntime_pybind11_state
        faults = (said.Fail, said.InvalidProtobuf, said.InvalidGraph, said.InvalidArgument, said.NotImplemented)
        try:
            session = onnxruntime.InferenceSession(data or str(path), options, providers=["CPUExecutionProvider"])
        except faults as error:
            raise _refused(path, "onnxruntime", error) from error
        self._session = session
        # Of the features alone then no more is computed than they need.
        self._options = onnxruntime.RunOptions()
        self._options.only_execute_path_to_fetches = True
        self.inputs: Arrays = {x.name: np.zeros(x.shape, _TYPES[x.type]) for x in session.get_inputs()}
        self.outputs: Collection[str] = {x.name for x in session.get_outputs()}
        self.metadata: Mapping[str, str] = session.get_modelmeta().custom_metadata_map

    def runner(self) -> Run:
        return lambda inputs, wanted: self._session.run(list(wanted), dict(inputs), self._options)


class OpenVino:
    """A file in OpenVINO."""

    def __init__(self, path: Path, dtype: Literal["f32", "bf16"] = "f32"):
        """InputError: OpenVINO is not installed, or does not take the file, or the processor does
        not compute in bfloat16, for which OpenVINO would take float32."""
        # With this module its import reports to its makers, and leaves an identifier in ~/intel.
        sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]
        openvino = required("openvino", path, "openvino")
        settings = {
            "INFERENCE_PRECISION_HINT": dtype,
            "PERFORMANCE_HINT": "LATENCY",
            "INFERENCE_NUM_THREADS": _cores(),
            "ENABLE_CPU_PINNING": False,  # Two processes would be on the same cores.
        }
        core = openvino.Core()
        if dtype == "bf16" and "BF16" not in core.get_property("CPU", "OPTIMIZATION_CAPABILITIES"):
            raise InputError("--engine", "openvino-bf16 needs a processor with bfloat16", "take openvino")
        try:
            model = core.read_model(path)
            self._compiled = core.compile_model(model, "CPU", settings)
            self.inputs: Arrays = {
                x.any_name: np.zeros(tuple(x.shape), x.element_type.to_dtype()) for x in model.inputs
            }
        except RuntimeError as error:
            raise _refused(path, "OpenVINO", error) from error
        self.outputs: Collection[str] = {name for x in model.outputs for name in x.names}
        place = ["framework"]
        self.metadata: Mapping[str, str] = model.get_rt_info(place).value if model.has_rt_info(place) else {}

    def runner(self) -> Run:
        request = self._compiled.create_infer_request()

        def run(inputs: Arrays, wanted: Sequence[str]) -> list[np.ndarray]:
            results = request.infer(dict(inputs), share_inputs=True)
            return [results[name] for name in wanted]

        return run


ENGINES: dict[str, Callable[[Path], OnnxEngine]] = {
    "onnxruntime": OnnxRuntime,
    "openvino": OpenVino,
    "openvino-bf16": functools.partial(OpenVino, dtype="bf16"),
}
"""By the names of ``predict.py --engine``."""


def required(package: str, where: object, extra: str) -> types.ModuleType | Any:
    """A package. InputError if it is not installed."""
    try:
        return importlib.import_module(package)
    except ImportError as error:
        remedy = f"install it: make install-{extra}, or pip install 'cffm-jax[{extra}]'"
        raise InputError(where, f"needs {package}, which is not installed", remedy) from error


def _refused(path: Path, engine: str, error: Exception) -> InputError:
    # OpenVINO names its lines of C++.
    words = re.sub(r"(Exception from|at) \S+:\d+: ", "", " ".join(str(error).split()))
    return InputError(path, f"{engine} does not take it ({words[:200]})", remedy_for(path))


def remedy_for(path: Path) -> str:
    """How to come by a file of this kind."""
    if path.suffix.lower() == ".xml":
        return "give it the .bin that OpenVINO wrote with it, or write both again"
    return "write it again with convert.py --to onnx"


def _cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
