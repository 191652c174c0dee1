"""The options of the commands and what each does with them; ``train.py`` and the others only call these."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Literal

import tyro

from cffm_jax.config import ClusterConfig, Config
from cffm_jax.errors import InputError
from cffm_jax.memory import share_freed_memory
from cffm_jax.settings import Settings, load_config, parse_command, say
from cffm_jax.training.interruption import Interruption
from cffm_jax.whole import require_writable

_SUBMITTED = "test"
"""The split that ``--submission`` takes unless another is named."""


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
    submission: str = ""
    """Write the masks of all frames of the split "test" (or --data.eval_split) to this new .zip, for a challenge's
    server: <video>/<frame>.png. No labels are needed, and there are no figures."""
    submission_values: Literal["stored", "classes"] = "stored"
    """What these masks hold: the dataset's own values (in VSPW's masks class k is k + 1), or the classes 0..K-1."""
    settings: Settings = Config()
    cluster: ClusterConfig = ClusterConfig()


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
    """``eval.py``: figures of a checkpoint or of predictions on disk, or a submission."""

    def parsed(config_of: Callable[[str], Config], split: str = "") -> EvalOptions:
        def default(path: str) -> EvalOptions:
            config = config_of(path)
            data = dataclasses.replace(config.data, eval_split=split or config.data.eval_split)
            return EvalOptions(path, settings=dataclasses.replace(config, data=data))

        description = "Evaluate a checkpoint, or predictions that another program wrote."
        options = parse_command(EvalOptions, argv, default, description)
        # Another default, on top of which --data.eval_split still goes.
        return parsed(config_of, _SUBMITTED) if options.submission and not split else options

    options = parsed(lambda path: load_config(path) if path else Config())
    if bool(options.checkpoint) == bool(options.predictions):
        raise InputError("--checkpoint", "give either this or --predictions", "name a run's folder or a folder of PNGs")
    with Interruption() as interruption:
        from cffm_jax.cluster import connected
        from cffm_jax.inference import evaluation

        evaluation.require_apart(options)
        if options.predictions:
            evaluation.score_predictions(options, interruption)
            return
        cache_compilations()
        with connected(options.cluster):
            evaluation.evaluate_checkpoint(options, lambda config: parsed(lambda _: config), interruption)


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
    say(predict(request))


def _require_new(path: Path) -> None:
    """InputError, before the work, for a file that is there already or cannot be written."""
    if path.exists():
        raise InputError(path, "is there already", "name a new file")
    require_writable(path)
