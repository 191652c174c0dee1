"""``cffm_jax.load``: a model with its weights, from anywhere."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import flax.linen as nn
import numpy as np

from cffm_jax.config import Config
from cffm_jax.config.checks import require_frame_size
from cffm_jax.data.clips import FASTEST
from cffm_jax.errors import InputError
from cffm_jax.inference import streaming
from cffm_jax.inference.prediction import Prediction
from cffm_jax.inference.streaming import Footprint
from cffm_jax.inference.tiles import Tiling
from cffm_jax.models.encoders.names import ENCODER, make_encoder
from cffm_jax.models.flow.names import ORIGIN as FLOW
from cffm_jax.models.methods.method import Method
from cffm_jax.weights.flow import load_flow
from cffm_jax.weights.open import complete, open_stored


@dataclasses.dataclass(frozen=True)
class Weights:
    """A model with its weights.

    Attributes:
      model: the module; of an encoder's file the encoder, f32[N, H, W, 3] -> its four maps; of
        RAFT's ``models.flow.raft.Raft``.
      variables: what it is applied with.
      config: its settings; those of the data are the run's, else the defaults.
      origin: whose weights they are.
      licence: what is known about their use.
      names: of the classes, "class 0" and so on where the weights state none; () of an encoder.
      colours: u8[256,3] of the classes, RGB, black beyond them: ``colours[mask]`` is a picture.
    """

    model: nn.Module
    variables: dict[str, Any]
    config: Config
    origin: str
    licence: str
    names: tuple[str, ...] = ()
    colours: np.ndarray = dataclasses.field(default_factory=lambda: np.zeros((256, 3), np.uint8))

    def stream(
        self,
        frames: Iterable[np.ndarray],
        *,
        rate: float = 0.0,
        reference_seconds: Sequence[float] = (),
        ahead: int = 0,
        frame_size: tuple[int, int] | None = None,
        tile_size: tuple[int, ...] = (),
        overlap: int = -1,
    ) -> Iterator[np.ndarray]:
        """Masks u8[H,W] of frames u8[H,W,3] in RGB, one for each, in order; memory does not grow.
        The arguments are those of ``predictions``."""
        times = {"rate": rate, "reference_seconds": reference_seconds, "ahead": ahead}
        sizes = {"frame_size": frame_size, "tile_size": tile_size, "overlap": overlap}
        return (each.mask for each in self.predictions(frames, scores=False, **times, **sizes))

    def predictions(
        self,
        frames: Iterable[np.ndarray],
        *,
        scores: bool = True,
        logits: bool = False,
        rate: float = 0.0,
        reference_seconds: Sequence[float] = (),
        ahead: int = 0,
        frame_size: tuple[int, int] | None = None,
        tile_size: tuple[int, ...] = (),
        overlap: int = -1,
        on_footprint: Callable[[Footprint], None] | None = None,
    ) -> Iterator[Prediction]:
        """Masks as of ``stream``, with the probability of each pixel's class, and the logits.

        Args:
          frames: of one size; any iterable, for example a camera's.
          scores: whether the probabilities are wanted.
          logits: whether the logits are.
          rate: frames a second, at most 1000; 0: references lie ``data.offsets`` frames back.
          reference_seconds: how long before the target the references lie, oldest first; with a
            rate and without these the papers' 9/15, 6/15 and 3/15 s. The nearest frames are taken.
          ahead: see ``inference.streaming.stream``; more than 0 is faster where answers can wait.
          frame_size: height and width that frames are resized to fit; (0, 0): their own size; None:
            ``data.frame_size``.
          tile_size: height and width of the tiles that they are then segmented in; none: whole.
          overlap: pixels that tiles share at least, where their logits are blended; -1: a quarter
            of a tile's shorter side.
          on_footprint: called with the ``inference.streaming.Footprint`` before the first frame is
            segmented.

        Raises:
          InputError: these are no weights of a whole model, the numbers do not fit, or a frame
            is no u8[H,W,3] or differs in size.
        """
        config, model = self.config, self.model
        if not isinstance(model, Method):
            problem = "are the weights of an encoder alone, or of optical flow"
            raise InputError(self.origin, problem, "give those of a whole model")
        if not 0 <= rate <= FASTEST or (reference_seconds and not rate):
            raise InputError("rate", f"is {rate:g}", f"give the frames a second, more than 0 and at most {FASTEST}")
        if frame_size is not None:
            require_frame_size("--frame-size", frame_size)
        config = streaming.stream_settings(config, rate=rate, seconds=reference_seconds, frame_size=frame_size)
        tiles = Tiling.of(tuple(tile_size), overlap)
        wanted = {"scores": scores, "logits": logits, "tiles": tiles, "on_footprint": on_footprint}
        return streaming.predictions(model, self.variables, config, frames, ahead=ahead, **wanted)


def load(path: str | Path, *, raw: bool = False, take: str = "") -> Weights:
    """Loads weights of any kind.

    Args:
      path: the folder of a run, a ``.safetensors`` of ``convert.py``, or a file that it would take:
        NVlabs', MMSegmentation's or Hugging Face's MiT and SegFormer, the authors' CFFM and CFFM++,
        PVTv2, ConvNeXt; or ``hf:owner/name``, ``hf:owner/name:file@revision`` of the Hugging Face
        hub (extra ``hub``); or a file on this machine of torchvision's RAFT. Position tables and
        pooling weights do not depend on the size of the frames: none is ever resized.
      raw: of a run with a moving average (``optim.ema``), the last weights, not the average.
      take: of a file with several sets of weights, the name of one as ``convert.py --inspect`` has
        it: "ema_model.*".

    Raises:
      InputError: it is none of these, damaged, of no model that is known, or cannot be fetched.

    Examples:
      >>> weights = cffm_jax.load("cffm_b1.pth")  # doctest: +SKIP
      >>> logits = weights.model.apply(weights.variables, clips)  # doctest: +SKIP
      >>> for mask in weights.stream(frames): ...  # doctest: +SKIP
    """
    if not take and (flow := load_flow(path)):
        return Weights(*flow, Config(), FLOW.name, FLOW.licence)
    with open_stored(path, raw=raw, take=take) as weights:
        model, variables = weights.model, complete(weights)
        if weights.part == ENCODER:
            model = make_encoder(model.backbone, model.norm_epsilons, model.drop_path, model.dtype, model.depths)
            variables = {collection: tree[ENCODER] for collection, tree in variables.items() if ENCODER in tree}
            return Weights(model, variables, weights.config, weights.origin, weights.licence)
        classes = weights.classes.classes(weights.config.model.num_classes)
        return Weights(model, variables, weights.config, weights.origin, weights.licence, *classes)
