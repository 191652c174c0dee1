"""The options of the commands and what each does with them; ``train.py`` and the others only call these."""

from __future__ import annotations

import contextlib
import ctypes
import dataclasses
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import tyro

from cffm_jax.config import ClusterConfig, Config
from cffm_jax.errors import InputError
from cffm_jax.settings import Settings, load_config, parse_command
from cffm_jax.training.interruption import Interruption
from cffm_jax.whole import write_json

_ARENA_MAX = -8
"""glibc's M_ARENA_MAX."""


@dataclasses.dataclass(frozen=True)
class TrainOptions:
    config: str = ""
    """Config file, one of configs/*.py; the options below override its fields."""
    settings: Settings = Config()
    cluster: ClusterConfig = ClusterConfig()
    profile: bool = False
    """Write a trace of a few steps to <workdir>/profile."""
    deterministic: bool = False
    """The same bits in every run on GPUs, by XLA's slower kernels; on one core of a CPU it is so anyway."""


@dataclasses.dataclass(frozen=True)
class EvalOptions:
    config: str = ""
    """Config file; without one, the config stored with the checkpoint."""
    checkpoint: str = ""
    """Folder of a run, whose latest checkpoint is evaluated (RUN/checkpoints/best, RUN/checkpoints/STEP: another), or a
    file of weights of any kind, see convert.py."""
    raw: bool = False
    """Of a run with --optim.ema, evaluate the last weights and not their average."""
    predictions: str = ""
    """Score PNGs (0..K-1) in DIR/<video>/<frame>.png that any program wrote, without a model."""
    output: str = ""
    """Write all figures to this JSON file; default: <checkpoint>/eval.json, or next to the predictions."""
    save_predictions: str = ""
    """Write the masks as indexed PNGs to this new folder: DIR/<video>/<frame>.png."""
    pictures: str = ""
    """Draw some of the videos to this folder: sheet.png (frame, per-frame, CFFM, truth) and overlay.mp4."""
    report: str = ""
    """Write a page to this new folder that shows all figures beside the papers', the best and the worst videos, and
    what is taken for what: DIR/index.html, for any browser, without a network."""
    settings: Settings = Config()


@dataclasses.dataclass(frozen=True)
class ConvertOptions:
    file: tyro.conf.Positional[str] = ""
    """A file of weights, a folder of save_pretrained, the folder of a run, or the authors' cluster_centers."""
    output: tyro.conf.Positional[str] = ""
    """The file to write."""
    to: Literal["cffm_jax", "torch", "safetensors", "jax-export", "onnx"] = "cffm_jax"
    """What to write: our .safetensors; the released layout as torch's .pth or as .safetensors; a folder with the step
    of a stream as StableHLO, which runs with JAX alone, on CPUs and CUDA; or the step as a file of ONNX (not of CFFM++
    and CFFM+; needs the extra onnx)."""
    size: tuple[int, int] = (480, 853)
    """jax-export, onnx: height and width of the frames."""
    streams: int = 1
    """jax-export, onnx: streams, of which a step takes a frame each."""
    inspect: bool = False
    """Say what the file holds, and write nothing."""
    raw: bool = False
    """Of a run with --optim.ema, the last weights and not their average."""


def cache_compilations() -> None:
    """Keeps compiled programs between runs in the user's cache, unless JAX_COMPILATION_CACHE_DIR says where or ""."""
    import jax

    if "JAX_COMPILATION_CACHE_DIR" not in os.environ:
        cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
        jax.config.update("jax_compilation_cache_dir", str(cache / "cffm_jax" / "xla"))


def share_freed_memory() -> None:
    """Lets threads share what they free, where the C library is glibc: it keeps that apart for each thread, so that a
    stream would seem to grow by a few buffers for every thread that comes to compute. Before the first thread."""
    if sys.platform == "linux":
        mallopt = getattr(ctypes.CDLL(None), "mallopt", None)  # Others have none.
        if mallopt is not None:
            mallopt(_ARENA_MAX, 1)


def train_command(argv: Sequence[str]) -> None:
    """``train.py``: trains, or resumes the run in ``--workdir``."""

    def default(path: str) -> TrainOptions:
        return TrainOptions(path, load_config(path) if path else Config())

    options = parse_command(TrainOptions, argv, default, "Train a model; the same command resumes a run that stopped.")
    if not options.config:
        raise InputError("--config", "is missing", "name one of configs/*.py")
    if options.deterministic:
        from cffm_jax.training.record import require_determinism

        require_determinism()
    with Interruption() as interruption:
        from cffm_jax.cluster import connected
        from cffm_jax.training.loop import train

        cache_compilations()
        with connected(options.cluster):
            train(options.settings, interruption, profile=options.profile)


def eval_command(argv: Sequence[str]) -> None:
    """``eval.py``: figures of a checkpoint, or of predictions on disk."""

    def default(path: str) -> EvalOptions:
        return EvalOptions(path, settings=load_config(path) if path else Config())

    options = parse_command(
        EvalOptions, argv, default, "Evaluate a checkpoint, or predictions that another program wrote."
    )
    if bool(options.checkpoint) == bool(options.predictions):
        raise InputError("--checkpoint", "give either this or --predictions", "name a run's folder or a folder of PNGs")
    if options.predictions:
        _score(options)
        return
    cache_compilations()
    _evaluate(options, argv)


def _score(options: EvalOptions) -> None:
    from cffm_jax.data.classes import read_classes
    from cffm_jax.data.layouts import read_videos
    from cffm_jax.inference import scores
    from cffm_jax.inference.report import write

    config = options.settings
    videos = read_videos(config.data, config.data.eval_split)
    dataset = read_classes(config.data.root, config.model.num_classes, config.data.layout)
    names = dataset.names
    output = Path(options.output or f"{options.predictions.rstrip('/')}.json")
    _require_writable(output)
    if options.report:
        write.require_new_folder(options.report)
    result = scores.score_predictions(
        videos, options.predictions, config.model.num_classes, names, max_videos=config.eval.max_videos
    )
    rows = {"predictions": result}
    print(scores.report(rows, names))
    _write_json(output, {"predictions": options.predictions, "rows": scores.to_json(rows, names)})
    if options.report:
        first = max(config.data.offsets)
        samples = write.prediction_samples("predictions", options.predictions, config.model.num_classes, first)
        about = write.about(config, dataset, {"predictions": options.predictions})
        print(f"report written to {write.write_report(options.report, rows, about, dataset, videos, samples)}")


def _evaluate(options: EvalOptions, argv: Sequence[str]) -> None:
    import jax

    from cffm_jax.conversion.held import WHOLE
    from cffm_jax.data.classes import read_classes
    from cffm_jax.inference import evaluate, prototypes, scores
    from cffm_jax.inference.offline import VideoSegmenter
    from cffm_jax.inference.pictures import PictureCollector
    from cffm_jax.inference.report import write
    from cffm_jax.training.same_config import require_same_model
    from cffm_jax.training.state import build_model
    from cffm_jax.weights import beside, complete, open_stored

    with open_stored(options.checkpoint, raw=options.raw) as held:
        if held.part != WHOLE:
            raise InputError(options.checkpoint, "holds an encoder alone", "give the weights of a whole model")
        if not options.config:
            # The stored config takes the place of a config file: the overrides go on top of it.
            options = parse_command(EvalOptions, argv, lambda _: EvalOptions(settings=held.config), "")
        config = options.settings
        require_same_model(held.config, config, options.checkpoint)
        model = build_model(config)
        videos = evaluate.evaluation_videos(config)
        dataset = read_classes(config.data.root, config.model.num_classes, config.data.layout)
        names, colours = dataset
        output = Path(options.output or beside(options.checkpoint, "eval.json"))
        _require_writable(output)
        if options.report:
            write.require_new_folder(options.report)
        watchers, first = [], max(config.data.offsets)
        if options.save_predictions:
            watchers.append(evaluate.PredictionWriter(options.save_predictions, colours))
        if options.pictures:
            watchers.append(PictureCollector(options.pictures, videos, names, first=first, colours=colours))
        variables = jax.device_put(complete(held))
    source = None
    if model.global_blocks:
        folder = beside(options.checkpoint, prototypes.FOLDER)
        source = prototypes.prototype_source(config, model, variables, config.data.eval_split, folder)
    with contextlib.ExitStack() as stack:
        entered = [stack.enter_context(watcher) for watcher in watchers]
        if options.report:
            samples = write.MaskSamples(videos, first=first)
            entered.append(samples)
        rows = evaluate.evaluate(VideoSegmenter(model, config, source), variables, videos, watchers=entered)
    print(f"{config.model.name}, {held.origin}, {options.checkpoint}, {config.data.root} {config.data.eval_split}\n")
    print(scores.report(rows, names))
    _write_json(output, {"checkpoint": options.checkpoint, "step": held.step, "rows": scores.to_json(rows, names)})
    if options.report:
        facts = {"checkpoint": options.checkpoint, "weights": held.origin}
        about = write.about(config, dataset, facts, config.model.name)
        print(f"report written to {write.write_report(options.report, rows, about, dataset, videos, samples.of)}")


def convert_command(argv: Sequence[str]) -> None:
    """``convert.py``: weights of any kind into one file, or in words what they are."""
    options = parse_command(ConvertOptions, argv, lambda _: ConvertOptions(), "Convert weights, or say what they are.")
    if not options.file:
        raise InputError("command line", "names no file", "give the file to convert, and the one to write")
    if bool(options.output) == options.inspect:
        raise InputError("command line", "give either --inspect or a file to write", "see --help")
    from cffm_jax.conversion import centres, inspection
    from cffm_jax.conversion.writers import write_safetensors
    from cffm_jax.weights import convert, open_stored

    if centres.is_authors(options.file):
        found = centres.read_centres(options.file)
        if options.inspect:
            print(inspection.description_of_centres(options.file, found))
            return
        output = Path(options.output)
        _require_new(output)
        write_safetensors(output, [(video, a.shape, a.dtype, a.load) for video, a in found.items()])
        print(f"{output}: written (prototypes of {len(found)} videos, for --prototypes.imported)")
    elif options.inspect:
        with open_stored(options.file, raw=options.raw) as held:
            print(inspection.description(held))
    else:
        _require_new(Path(options.output))
        if options.to in ("jax-export", "onnx"):
            _export(options)
        else:
            print(convert(options.file, Path(options.output), options.to, raw=options.raw))


def _export(options: ConvertOptions) -> None:
    if min(*options.size, options.streams) < 1:
        raise InputError("--size, --streams", "a number is less than 1", "give at least 1")
    from cffm_jax.inference.export import export_stream
    from cffm_jax.inference.export_onnx import export_onnx, require_jax2onnx
    from cffm_jax.inference.predict import classes_of
    from cffm_jax.models.cffm import CFFM
    from cffm_jax.weights import load

    if options.to == "onnx":
        require_jax2onnx("--to onnx")
    weights = load(options.file, raw=options.raw)
    if not isinstance(weights.model, CFFM):
        raise InputError(options.file, "holds an encoder alone", "give the weights of a whole model")
    classes = classes_of(weights.config)
    write = export_onnx if options.to == "onnx" else export_stream
    write(weights, options.output, options.size, streams=options.streams, classes=classes)
    frames = f"{options.streams} x {options.size[0]}x{options.size[1]}"
    print(f"{options.output}: written ({weights.config.model.name}, {frames})")


def predict_command(argv: Sequence[str]) -> None:
    """``predict.py``: masks of any video."""
    description = "Segment a video, images or a camera: masks, an overlay video and the classes' shares."
    from cffm_jax.inference.predict import Request, predict

    request = parse_command(Request, argv, lambda _: Request(), description)
    share_freed_memory()
    cache_compilations()
    print(predict(request))


def _require_new(path: Path) -> None:
    """InputError, before the work, for a file that is there already or cannot be written."""
    if path.exists():
        raise InputError(path, "is there already", "name a new file")
    _require_writable(path)


def _require_writable(path: Path) -> None:
    """InputError, before the work, for a file that cannot be written after it."""
    there = next(parent for parent in path.absolute().parents if parent.exists())
    if path.is_dir() or not there.is_dir() or not os.access(there, os.W_OK):
        raise InputError(path, "cannot be written", "name a file in a folder that can be written")


def _write_json(path: Path, value: dict) -> None:
    write_json(path, value)
    print(f"figures written to {path}")
