"""What ``predict.py`` can be asked for, and its rules."""

from __future__ import annotations

import dataclasses
import json
import os
from typing import Any, Literal

import tyro

from cffm_jax.config import TILE, ClusterConfig
from cffm_jax.config.checks import require_frame_size, require_tiles
from cffm_jax.data import clips
from cffm_jax.drawing.masks import ALPHA
from cffm_jax.errors import InputError
from cffm_jax.rules import option_name, require_values, setting

_OF_THE_RUN = {"inputs", "output", "overwrite", "jobs", "cluster"}
_NOT_OF_ONNX = {
    "scores": "gives masks alone",
    "logits": "gives masks alone",
    "frame_size": "resizes frames as its run did",
    "tile_size": "segments whole frames",
}
_RATES = f"give 0.01 to {clips.FASTEST} frames a second"
_ADDRESSES = "download it, or pipe it: ffmpeg -i ADDRESS -f matroska - | python predict.py - --output FOLDER"


@dataclasses.dataclass(frozen=True)
class Request:
    """Options of ``predict.py``."""

    inputs: tyro.conf.Positional[tuple[str, ...]] = setting((), path=True, remedy=_ADDRESSES)
    """A video, an image, several images, a folder of images or a pattern in quotes (one video in
    the order of their numbers), a camera's index, or - for a video on standard input. Of several
    videos or folders of frames, of a folder of videos and in it, a pattern, or a list (.txt, a path
    in each line), each is segmented by itself."""
    checkpoint: str = setting("", path=True, hub=True)
    """Folder of a run, a file of weights of any kind, see convert.py, or hf:owner/name of the
    Hugging Face hub; or a file of convert.py --to onnx for frames of the input's size, or what
    OpenVINO wrote of one (.xml). CFFM++ has prototypes of the frames so far."""
    engine: Literal["onnxruntime", "openvino", "openvino-bf16"] | None = None
    """What runs a --checkpoint that is a file of convert.py --to onnx, on CPUs; default:
    onnxruntime. What OpenVINO wrote of such a file (.xml) runs in openvino. All other checkpoints
    run in JAX."""
    output: str = setting("", path=True)
    """Folder to write into, of several videos FOLDER/<video>, by their paths below what was given;
    default: <input>_prediction, beside the input."""
    masks: Literal["png", "npz", "none"] = "png"
    """Masks at the input's size: masks/<frame>.png with the classes' colours, or all of them in
    masks.npz; the index is the class, 255 what --classes leaves out."""
    scores: bool = False
    """Write scores/<frame>.png: the probability that the network gives each pixel's class, of all
    classes, in 16 bits: 65535 is 1."""
    logits: bool = False
    """Write logits/<frame>.npz: the logits of all classes as the network gives them, at a quarter
    of its input's size, 13 MB for a frame of 480p and 124 classes."""
    overlay: bool = True
    """Write overlay.mp4 (H.264, each frame at its time in the input), of a single image
    overlay.png."""
    alpha: float = setting(ALPHA, least=0, most=1, problem="is {:g}", remedy="give 0 to 1")
    """How much of the classes' colours covers the frame, 0 to 1."""
    legend: bool = False
    """Write the names of the frame's classes into the overlay's corner."""
    side_by_side: bool = False
    """Put the frame itself on the overlay's left; the overlay is twice as wide."""
    csv: bool = True
    """Write shares.csv: a row for each frame, of which share of its pixels each class has."""
    classes: tuple[str, ...] = ()
    """Names or indices of the classes that are written and drawn; default: all."""
    start: float = 0.0
    """First frame: in seconds, but for images its number, from 0."""
    end: float | None = None
    """Where to end, before the frame of this time; for images before this number."""
    every: int = 1
    """Take every so many-th frame; the network sees only these, and its references are the nearest
    of them."""
    rate: float = setting(15.0, least=0.01, most=clips.FASTEST, problem="is {:g}", remedy=_RATES)
    """Frames a second that images stand for."""
    reference_seconds: tuple[float, ...] | None = None
    """How many seconds before the target the references lie, oldest first; without numbers the
    papers' 9/15, 6/15 and 3/15. The nearest frames are taken, at the input's rate. Default: as many
    frames back as in training."""
    frame_size: tuple[int, ...] = setting((), formerly="scale")
    """Height and width that frames are resized to fit for the network, aspect kept; 0 0: their own
    size. Default: as the checkpoint was evaluated, 480 853 for VSPW."""
    tile_size: tuple[int, ...] = setting((), **TILE)
    """Height and width of tiles that frames, resized, are segmented in, one after another, for
    those too large for memory. Default: whole frames."""
    overlap: int = -1
    """Pixels that neighbouring tiles share at least, where their logits are blended: a multiple of
    32; -1: a quarter of the tile's shorter side."""
    refuse_damaged: bool = False
    """Refuse a video with a damaged frame, or one that cannot be decoded, and frames without one
    finite value; without this they are counted, with those that may build on damaged ones."""
    overwrite: bool = False
    """Replace the folder of an earlier prediction; of several videos, those that are there are
    otherwise left as they are."""
    jobs: int = setting(2, least=1)
    """Of several videos, how many are in work at a time on each device: while one is computed,
    others are read and written."""
    cluster: ClusterConfig = ClusterConfig()

    @property
    def onnx_engine(self) -> str:
        """What runs the checkpoint, if it is a file of ONNX; "" for all others."""
        default = _engine_of(self.checkpoint)
        return default and (self.engine or default)

    @property
    def asked(self) -> dict[str, Any]:
        """What two predictions of a video have to have in common to be the same, for JSON."""
        settings = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        if not self.checkpoint.startswith("hf:"):
            settings["checkpoint"] = os.path.abspath(self.checkpoint)
        settings["engine"] = self.onnx_engine or None
        return json.loads(json.dumps({name: value for name, value in settings.items() if name not in _OF_THE_RUN}))

    def require_sound(self) -> None:
        """InputError if it asks for nothing, or for what cannot be."""
        if not self.inputs or not all(self.inputs):
            raise InputError("command line", "names no input", "give a video, images, a folder, - or a camera's index")
        self.require_settings()

    def require_settings(self) -> None:
        """The same of all but the inputs."""
        if not self.checkpoint:
            raise InputError("--checkpoint", "is missing", "name a run's folder, or a file of weights")
        self._require_engine()
        if self.masks == "none" and not any((self.scores, self.logits, self.overlay, self.csv)):
            raise InputError("command line", "leaves nothing to write", "give --masks png, --overlay or --csv")
        require_values(self)
        if self.frame_size:
            require_frame_size("--frame-size", self.frame_size)
        require_tiles(self.tile_size, self.overlap)
        clips.require_seconds(self.reference_seconds or ())

    def _require_engine(self) -> None:
        """InputError for an engine of another checkpoint than one of ONNX, and for what that cannot
        do."""
        if self.engine and not self.onnx_engine:
            problem = f"is {self.engine}, which runs files of ONNX (.onnx, .xml) alone"
            raise InputError(
                "--engine", problem, "leave it out, or name a file of convert.py --to onnx as --checkpoint"
            )
        if self.onnx_engine == "onnxruntime" and _engine_of(self.checkpoint) == "openvino":
            raise InputError("--engine", "is onnxruntime, and an .xml is of OpenVINO alone", "leave it out")
        for name, what in _NOT_OF_ONNX.items() if self.onnx_engine else ():
            if getattr(self, name):
                remedy = "leave it out, or name the run itself with --checkpoint"
                raise InputError(option_name(name), f"is given, and a file of ONNX {what}", remedy)


def _engine_of(checkpoint: str) -> str:
    """What runs a file of ONNX unless something else is asked for; "" for all others."""
    return {".onnx": "onnxruntime", ".xml": "openvino"}.get(os.path.splitext(checkpoint)[1].lower(), "")
