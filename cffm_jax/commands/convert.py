"""``convert.py``: weights of any kind into one file, or in words what they are."""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Literal, NoReturn

import tyro

from cffm_jax.errors import InputError
from cffm_jax.rules import option_name, require_values, setting
from cffm_jax.runtime.atomic import require_writable
from cffm_jax.runtime.command_line import parse_command, run_command
from cffm_jax.runtime.devices import warn_of_missing_platforms

_UPLOAD = "name a new file or folder on this machine; `hf upload OWNER/NAME FOLDER` uploads that of --to hub"


@dataclasses.dataclass(frozen=True)
class ConvertOptions:
    file: tyro.conf.Positional[str] = setting("", path=True, hub=True)
    """A file of weights, a folder of save_pretrained, hf:owner/name of the Hugging Face hub, the
    folder of a run, or the authors' cluster_centers."""
    output: tyro.conf.Positional[str] = setting("", path=True, remedy=_UPLOAD)
    """The file or folder to write."""
    to: Literal["cffm_jax", "torch", "safetensors", "hub", "jax-export", "onnx"] = "cffm_jax"
    """What to write: our .safetensors; the released layout as torch's .pth or as .safetensors; a
    folder for the Hugging Face hub, of a SegFormer as transformers reads it; a folder with the step
    of a stream as StableHLO, which runs with JAX alone, on CPUs and CUDA; or the step as a file of
    ONNX (needs the extra onnx)."""
    size: tuple[int, int] = setting((480, 853), least=1)
    """jax-export, onnx: height and width of the frames."""
    streams: int = setting(1, least=1)
    """jax-export, onnx: streams, of which a step takes a frame each."""
    offsets: tuple[int, ...] = ()
    """jax-export, onnx: how many frames before the target the references lie, oldest first, for
    streams of another frame rate than the training's. Default: as in training."""
    inspect: bool = False
    """Say what the file holds, and write nothing."""
    raw: bool = False
    """Of a run with --optim.ema, the last weights and not their average."""
    take: str = ""
    """Of a file with several sets of weights, the one of this name, as --inspect has it:
    "ema_model.*"."""


def convert_command(argv: Sequence[str]) -> None:
    """``convert.py``: weights of any kind into one file, or in words what they are."""
    options = parse_command(ConvertOptions, argv, lambda _: ConvertOptions(), "Convert weights, or say what they are.")
    if not options.file:
        raise InputError("command line", "names no file", "give the file to convert, and the one to write")
    if bool(options.output) == options.inspect:
        raise InputError("command line", "give either --inspect or a file to write", "see --help")
    if options.output and options.output.lower().endswith(".onnx") != (options.to == "onnx"):
        remedy = "end it in .onnx, by which predict.py knows it" if options.to == "onnx" else "add --to onnx"
        raise InputError(options.output, f"is no name for --to {options.to}", remedy)
    exports = options.to in ("jax-export", "onnx")
    for name in () if exports else ("size", "streams", "offsets"):
        if getattr(options, name) != getattr(ConvertOptions, name):
            raise InputError(option_name(name), f"is given, and --to {options.to} writes no step", "leave it out")
    from cffm_jax.weights import authors_prototypes, summary
    from cffm_jax.weights.convert import convert
    from cffm_jax.weights.files.write import write_safetensors
    from cffm_jax.weights.open import open_stored

    if authors_prototypes.is_authors(options.file):
        centres = authors_prototypes.read_centres(options.file)
        if options.inspect:
            print(summary.description_of_centres(options.file, centres))
            return
        output = Path(options.output)
        _require_new(output)
        write_safetensors(output, [(video, a.shape, a.dtype, a.load) for video, a in centres.items()])
        print(f"{output}: written (prototypes of {len(centres)} videos, for --prototypes.imported)")
    elif options.inspect:
        with open_stored(options.file, raw=options.raw, take=options.take) as weights:
            print(summary.description(weights, weights.faults()))
    else:
        _require_new(Path(options.output))
        if exports:
            _export(options)
        else:
            print(convert(options.file, Path(options.output), options.to, raw=options.raw, take=options.take))


def _export(options: ConvertOptions) -> None:
    require_values(options)
    from cffm_jax.config.checks import require_offsets
    from cffm_jax.export.onnx import export_onnx, require_onnx
    from cffm_jax.export.stablehlo import export_stream
    from cffm_jax.inference.load import load
    from cffm_jax.models.methods.method import Method

    if options.to == "onnx":
        require_onnx("--to onnx")
    warn_of_missing_platforms()
    weights = load(options.file, raw=options.raw, take=options.take)
    if not isinstance(weights.model, Method):
        raise InputError(options.file, "holds an encoder alone, or optical flow", "give the weights of a whole model")
    if options.offsets:
        require_offsets(options.offsets, len(weights.model.reference_names), "--offsets")
        data = dataclasses.replace(weights.config.data, offsets=options.offsets)
        weights = dataclasses.replace(weights, config=dataclasses.replace(weights.config, data=data))
    write = export_onnx if options.to == "onnx" else export_stream
    compared = write(weights, options.output, options.size, streams=options.streams)
    frames = f"{options.streams} x {options.size[0]}x{options.size[1]}"
    print(f"{options.output}: written ({weights.config.model.name}, {frames})")
    if compared:
        print(compared)


def _require_new(path: Path) -> None:
    """InputError, before the work, for a file that is there already or cannot be written."""
    if path.exists():
        raise InputError(path, "is there already", "name a new place")
    require_writable(path)


def main() -> NoReturn:
    """``convert.py`` and ``cffm-convert``."""
    sys.exit(run_command(convert_command))
