"""A stream by a file of ``convert.py --to onnx``, in place of the network: the same masks but for
ties.

Dimension key: H0 W0 the frames, h w the map at stride 8, P prototypes, C channels, K channels of a
frame.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from cffm_jax.config import Config, PrototypeConfig
from cffm_jax.data.evaluation_frames import checked_frame
from cffm_jax.drawing.palette import colour_table
from cffm_jax.errors import InputError, first_few
from cffm_jax.inference.engine import is_finite, not_finite
from cffm_jax.inference.onnx_engines import ENGINES, OnnxEngine, remedy_for
from cffm_jax.inference.prediction import Prediction
from cffm_jax.inference.streaming import Footprint
from cffm_jax.models.causal_prototypes import no_prototypes, with_frame
from cffm_jax.models.kmeans import RunningClusters
from cffm_jax.settings import config_from_dict

FRAMES, MASKS, PROTOTYPES, FEATURES = "frames", "masks", "prototypes", "features"
"""Names of inputs and outputs; all others are of the state: ``x`` and ``next_x``."""
_NO_MEMORY = ("clock", "ages", "recurrent")
"""How names of the state begin that do not depend on where references lie."""


def start(engine: OnnxEngine) -> dict[str, np.ndarray]:
    """The state of streams that have seen nothing, by name."""
    return {name: zeros for name, zeros in engine.inputs.items() if name not in (FRAMES, PROTOTYPES)}


def outputs_of(state: Iterable[str]) -> list[str]:
    """Names of what a step gives, by those of the state: the next one, and the masks."""
    return [*(f"next_{name}" for name in state), MASKS]


@dataclasses.dataclass(frozen=True)
class OnnxStream:
    """A stream's step, to be used as ``inference.load.Weights``.

    Attributes:
      path: of the file.
      engine: that runs it.
      config: of its model, channels and prototypes; ``data.offsets`` are those that are asked for.
      offsets: those that it has.
      size: (H0, W0) of its frames.
      input_size: (H, W) that it resizes them to.
      licence: what is known about the use of its weights.
      names: of the classes.
      colours: u8[256,3] of the classes, RGB.
      variables: none, they are in the file.
    """

    path: Path
    engine: OnnxEngine
    config: Config
    offsets: tuple[int, ...]
    size: tuple[int, int]
    input_size: tuple[int, int]
    licence: str
    names: tuple[str, ...]
    colours: np.ndarray
    variables: dict[str, Any] = dataclasses.field(default_factory=dict)

    @property
    def state(self) -> dict[str, np.ndarray]:
        """Of a stream that has seen nothing, by name."""
        return start(self.engine)

    @property
    def outputs(self) -> list[str]:
        """Names of what a step gives: the next state, in the order of ``state``, and the masks."""
        return outputs_of(self.state)

    def predictions(
        self,
        frames: Iterable[np.ndarray],
        *,
        scores: bool = False,
        logits: bool = False,
        ahead: int = 0,
        tile_size: tuple[int, ...] = (),
        overlap: int = -1,
        on_footprint: Callable[[Footprint], None] | None = None,
    ) -> Iterator[Prediction]:
        """Masks of frames u8[H0,W0,3] in RGB, or f32[H0,W0,K] of other channels, one for each, in
        order.

        Args:
          frames: of the file's size.
          scores, logits, tile_size, overlap: a file has none of them.
          ahead: is not used: every frame is answered at once.
          on_footprint: called before the first frame is segmented; the memory is not known.

        Raises:
          InputError: a frame has another form or size, the references shall lie elsewhere than the
            file's, or a frame's features are not finite.
        """
        assert not (scores or logits or tile_size)  # ``predict.request`` refuses them.
        asked = self.config.data.offsets
        if asked != self.offsets and not all(name.startswith(_NO_MEMORY) for name in self.state):
            at, wanted = (", ".join(map(str, offsets)) for offsets in (self.offsets, asked))
            problem = f"ask for references {wanted} frames back, and {self.path} has them {at} frames back"
            remedy = "leave them out, name the run itself with --checkpoint, or export again with --offsets: "
            remedy += "seconds times frames a second, of which --every takes every so many-th"
            raise InputError("--every, --reference-seconds", problem, remedy)
        run, state, prototypes = self.engine.runner(), self.state, self._no_prototypes()
        for number, frame in enumerate(frames):
            inputs = {**state, FRAMES: self._checked(number, frame)[None]}
            if not number and on_footprint:
                on_footprint(Footprint(self.input_size, self.input_size, 1, 0, None))
            if prototypes is not None:
                # Those of a frame include its own features, which do not depend on any.
                inputs[PROTOTYPES] = np.asarray(prototypes.centres)
                if number % self.config.prototypes.interval == 0:
                    (features,) = run(inputs, [FEATURES])
                    age = np.array([number], np.int32)
                    with _on_cpu():
                        prototypes = _with_frame(prototypes, features, age, self.config.prototypes)
                        if not is_finite(prototypes):
                            raise not_finite(f"frame {number}")
                    inputs[PROTOTYPES] = np.asarray(prototypes.centres)
            *after, masks = run(inputs, self.outputs)
            state = dict(zip(state, after, strict=True))
            yield Prediction(masks[0])

    def _checked(self, number: int, frame: np.ndarray) -> np.ndarray:
        frame = checked_frame(number, frame, self.config.data.frame_channels)
        if frame.shape[:2] != self.size:
            (height, width), (h, w) = frame.shape[:2], self.size
            problem = f"takes frames of {h}x{w} (height x width), and these are {height}x{width}"
            raise InputError(self.path, problem, f"export again with --size {height} {width}")
        return frame

    def _no_prototypes(self) -> RunningClusters | None:
        """Of one stream [1, P, C]; None where the file reads none."""
        if PROTOTYPES not in self.engine.inputs:
            return None
        width = self.engine.inputs[PROTOTYPES].shape[-1]
        with _on_cpu():
            return jax.tree.map(lambda x: x[None], no_prototypes(self.input_size, width, self.config.prototypes))


def _on_cpu() -> contextlib.AbstractContextManager:
    """Within it JAX computes beside the engine, unless JAX_PLATFORMS leaves CPUs out. On a GPU each
    process would reserve memory."""
    if "cpu" not in (jax.config.jax_platforms or "cpu"):  # type: ignore[attr-defined]
        return contextlib.nullcontext()
    return jax.default_device(jax.local_devices(backend="cpu")[0])


@functools.partial(jax.jit, static_argnums=3)
def _with_frame(
    state: RunningClusters, features: jax.Array, age: jax.Array, settings: PrototypeConfig
) -> RunningClusters:
    return with_frame(state, features.astype(jnp.float32), age, settings)


def open_onnx(path: str | Path, engine: str) -> OnnxStream:
    """A file in one of ``ENGINES``.

    Raises:
      InputError: there is no such file, the engine is not installed or does not take it, it is not
        of ``convert.py``, or is of several streams.
    """
    path = Path(path)
    if not path.is_file():
        raise InputError(path, "no such file", remedy_for(path))
    try:
        opened = ENGINES[engine](path)
        stream = _described(path, opened, opened.metadata)
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        problem = f"is not of this version's convert.py --to onnx ({error!r})"
        raise InputError(path, problem, "export its model again") from error
    streams = opened.inputs[FRAMES].shape[0]
    if streams > 1:
        raise InputError(path, f"is of {streams} streams, and predict.py has one", "export again without --streams")
    return stream


def _described(path: Path, engine: OnnxEngine, metadata: Mapping[str, str]) -> OnnxStream:
    """What the file says of itself. KeyError, TypeError, ValueError, OverflowError: that is
    not what we write."""
    about = {key: json.loads(metadata[key]) for key in ("model", "channels", "offsets", "classes", "colours")}
    names, mean, std = (about["channels"][key] for key in ("names", "mean", "std"))
    data = {"channels": names, "mean": mean, "std": std, "offsets": about["offsets"]}
    sections = {"model": about["model"], "data": data}
    if PROTOTYPES in engine.inputs:
        sections["prototypes"] = json.loads(metadata["prototypes"])
    config = config_from_dict(sections, path)
    _, height, width, _ = engine.inputs[FRAMES].shape
    h, w = json.loads(metadata["input_size"])
    stream = OnnxStream(
        path, engine, config, config.data.offsets, (height, width), (h, w), metadata["licence"],
        tuple(about["classes"]), colour_table(np.array(about["colours"], np.uint8)),
    )  # fmt: skip
    wanted = [*stream.outputs, *[FEATURES] * (PROTOTYPES in engine.inputs)]
    if missing := [name for name in wanted if name not in engine.outputs]:
        raise ValueError(f"no output {first_few(missing, 3)}")
    return stream
