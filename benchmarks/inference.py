"""The race of the engines: frames to masks, clip by clip as the release beside what this package does instead.

    python benchmarks/inference.py --json inference.json     # B0, B1, B2, B5, CFFM and CFFM++; both types; all engines
    python benchmarks/inference.py --models cffm_b0 --size 64 96 --modes clip offline --torch --seconds 0.2

Rows: ``clip`` (a clip of references and target through the whole network for each mask, full-size logits, arg-max),
``papers`` (their protocol: batches of 2, the references' features in memory; 2 K / T for K batches in T seconds),
``offline`` (``VideoSegmenter``, a chunk a call), ``stream`` (``StreamSegmenter``, a frame a call), ``streams`` (several
at once), all in ``engines.py``, and Hugging Face's SegFormer in PyTorch, which has no mining (``segformer.py``). Each
is a process of its own, with random weights. The model alone: frames of the model's size in the host's memory -> masks
there, the median over calls; files: from JPEG to PNG. The masks are compared with those of ``clip`` before anything is
timed.
"""

from __future__ import annotations

import dataclasses
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from fractions import Fraction
from importlib import metadata
from pathlib import Path
from typing import Any, Literal

import engines
import jax
import numpy as np
from model import environment, fixed, header, line, of_stream
from segformer import hugging_face

from cffm_jax.config import DataConfig, ModelConfig
from cffm_jax.data.class_names import VSPW
from cffm_jax.data.evaluation_frames import evaluation_size
from cffm_jax.drawing.palette import palette
from cffm_jax.errors import InputError
from cffm_jax.inference.prediction import Prediction
from cffm_jax.media.frame import Frame
from cffm_jax.media.pyav import require_av
from cffm_jax.models.create import build_model
from cffm_jax.models.encoders.mit import SIZES
from cffm_jax.predict.writers import MaskImages
from cffm_jax.rules import setting
from cffm_jax.runtime.command_line import parse_command, run_command
from cffm_jax.runtime.memory import use_huge_pages
from train import Failed, finished

FRAMES = 16
"""Frames of the video that is read again and again."""
START_MINUTES = 10.0
"""What is given up before the first row."""
FIRST = len(DataConfig.offsets)
"""The first target that has references."""
OF_CLIPS = ("clip", "papers")
"""Engines that segment a target with its references alone."""
TIE = 1e-4
"""How far apart, of the largest logit, two classes may lie that rounding turns round, in float32."""


@dataclasses.dataclass(frozen=True)
class Options:
    models: tuple[str, ...] = (
        "cffm_b0", "cffmpp_b0", "cffm_b1", "cffmpp_b1", "cffm_b2", "cffmpp_b2", "cffm_b5", "cffmpp_b5"
    )  # fmt: skip
    """Public names."""
    torch: tuple[str, ...] = ("b0", "b1", "b2", "b5")
    """Sizes of Hugging Face's SegFormer; none without PyTorch and transformers (make test-reference installs them)."""
    dtypes: tuple[Literal["float32", "bfloat16"], ...] = ("float32", "bfloat16")
    """Compute types."""
    modes: tuple[Literal["clip", "papers", "offline", "stream", "streams"], ...] = (
        "clip", "papers", "offline", "stream", "streams"
    )  # fmt: skip
    """Engines; the others are compared with clip."""
    streams: tuple[int, ...] = (2, 4, 8)
    """How many streams are batched, a row for each."""
    chunk: tuple[int, ...] = (1, 8)
    """Frames of an offline call, a row for each."""
    torch_batch: tuple[int, ...] = (1,)
    """Frames of a call of PyTorch, a row for each."""
    size: tuple[int, int] = (480, 853)
    """Height and width of the frames; the model sees them at the next multiples of 32."""
    seconds: float = 3.0
    """Time for each measurement, of which a row has two."""
    calls: int = 2
    """Calls of the model alone that are measured at least; from files to files it is one."""
    compare: int = 1
    """Frames whose masks are compared before, from number 3 on."""
    video: bool = False
    """Let streams read a video (H.264) too."""
    minutes: float = 10.0
    """A row that takes longer is given up."""
    json: str = setting("", path=True)
    """Write everything to this file too."""


@dataclasses.dataclass(frozen=True)
class Plan:
    """What a row is. ``name`` is a model's, or a size of PyTorch's; ``mode`` one of ``engines.ENGINES``, or torch."""

    name: str
    dtype: str
    mode: str
    batch: int

    @property
    def model(self) -> str:
        return f"SegFormer-{self.name.upper()}, PyTorch" if self.mode == "torch" else self.name

    @property
    def engine(self) -> str:
        one = self.batch == 1
        return {
            "clip": "clip by clip", "papers": "papers' protocol", "offline": "offline",
            "streams": "stream" if one else f"{self.batch} streams", "torch": "frames" if one else "batches",
        }[self.mode]  # fmt: skip

    @property
    def base(self) -> tuple[str, str]:
        """Model and type of the row clip by clip that it is measured by."""
        return (f"cffm_{self.name}" if self.mode == "torch" else self.name), self.dtype


@dataclasses.dataclass(frozen=True)
class Row:
    """One measurement.

    Attributes:
      masks: of a call.
      frames_per_second, ms, p99_ms, calls: of the model alone, calls in milliseconds.
      files_per_second: frames, from JPEG to PNG.
      video_per_second: the same from a video, where asked for.
      compile_seconds: until the program stood.
      differing: share of pixels that are of another class than clip by clip; None where nothing was compared.
      margin: how far clip by clip those pixels' two best classes lie apart at most, of the largest logit.
      classes: how many there are in the masks.
      host_bytes, device_bytes: the process's and the device's peak.
    """

    masks: int
    frames_per_second: float
    ms: float
    p99_ms: float
    calls: int
    files_per_second: float | None
    video_per_second: float | None
    compile_seconds: float
    differing: float | None
    margin: float | None
    classes: int
    host_bytes: int
    device_bytes: int | None


# --- a row's process


def measure(plan: Plan, folder: Path, options: Options) -> dict[str, Any]:
    """All of a row but its memory on the host."""
    with tempfile.TemporaryDirectory(dir=folder) as own:
        # `stream` compiles what stands already: it is found here. Other rows' programs are not.
        jax.config.update("jax_compilation_cache_dir", str(Path(own) / "programs"))
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
        # The last line of an error then says what it is.
        jax.config.update("jax_traceback_filtering", "off")
        engine, compiled = built(plan, folder, options.size)
        differing = margin = per_file = per_frame = None
        if engine.reference:
            keep_references(engine, plan, folder, options.compare)
        if engine.files:
            found = engine.files()
            if not engine.reference:
                differing, margin = compared(warmed(found, options.compare), engine, plan, folder)
            per_file = rate(found, Path(own) / "jpeg", options.seconds)
        if engine.video:
            found = engine.video()
            warmed(found, options.compare)
            per_frame = rate(found, Path(own) / "video", options.seconds)
        classes = len(np.unique(engine.call()))
        times = []
        while len(times) < options.calls or sum(times) < options.seconds:
            start = time.perf_counter()
            engine.call()
            times.append(time.perf_counter() - start)
    # A stream's key frames take longer than the others.
    averaged = plan.mode != "torch" and of_stream(build_model(ModelConfig(plan.name, len(VSPW))))
    middle = (statistics.mean if averaged or plan.mode == "papers" else statistics.median)(times)
    return {
        "masks": engine.masks, "frames_per_second": engine.masks / middle, "ms": 1e3 * middle,
        "p99_ms": 1e3 * float(np.percentile(times, 99)), "calls": len(times), "files_per_second": per_file,
        "video_per_second": per_frame, "compile_seconds": compiled, "differing": differing, "margin": margin,
        "classes": classes, "device_bytes": engine.peak(),
    }  # fmt: skip


def built(plan: Plan, folder: Path, size: tuple[int, int]) -> tuple[engines.Engine, float]:
    """A row's engine, and the seconds that it took to compile. The folder holds the frames."""
    scene = engines.Scene(folder, size, plan.dtype, plan.batch)
    net = None if plan.mode == "torch" else engines.network(plan.name, scene)
    began = time.perf_counter()
    engine = hugging_face(plan.name, scene) if net is None else engines.ENGINES[plan.mode](net, scene)
    return engine, time.perf_counter() - began


def reference_file(plan: Plan, folder: Path, causal: bool) -> Path:
    return folder / f"{plan.name}_{plan.dtype}_{'causal' if causal else 'given'}.npz"


def keep_references(engine: engines.Engine, plan: Plan, folder: Path, count: int) -> None:
    """The masks clip by clip, for the other rows; of CFFM++ also with the prototypes that a stream has."""
    for causal in (False, True) if plan.name.startswith("cffmp") else (False,):
        found = [engine.reference(target, causal) for target in range(FIRST, FIRST + count)]
        masks, margins, largest = (np.stack(each) for each in zip(*found))
        np.savez(reference_file(plan, folder, causal), masks=masks, margins=margins / largest[:, None, None])


def warmed(found: Iterator[engines.Masks], count: int) -> engines.Masks:
    """What comes until the last frame that is compared is there."""
    seen: engines.Masks = []
    while not any(number >= FIRST + count - 1 for number, _ in seen):
        seen += next(found)
    return seen


def compared(
    seen: engines.Masks, engine: engines.Engine, plan: Plan, folder: Path
) -> tuple[float | None, float | None]:
    """Share of other pixels than clip by clip, and their largest margin."""
    path = reference_file(plan, folder, engine.causal)
    if plan.mode == "torch" or not path.exists():
        return None, None
    stored = np.load(path)
    wanted = {FIRST + i: pair for i, pair in enumerate(zip(stored["masks"], stored["margins"]))}
    pairs = [(mask != wanted[number][0], wanted[number][1]) for number, mask in seen if number in wanted]
    differing = float(np.mean([other for other, _ in pairs]))
    margin = max(float(margins[other].max(initial=0.0)) for other, margins in pairs)
    return differing, margin


def rate(found: Iterator[engines.Masks], folder: Path, seconds: float) -> float:
    """Frames a second of reading, segmenting and writing, over one call or more."""
    folder.mkdir()
    writer = MaskImages(folder, palette(len(VSPW)))
    began, count = time.perf_counter(), 0
    while not count or time.perf_counter() - began < seconds:
        for number, mask in next(found):
            writer.write(Frame(np.empty(0), number, Fraction(0), f"{count:06}"), Prediction(mask))
            count += 1
    return count / (time.perf_counter() - began)


# --- the command


def plans(options: Options) -> Iterator[Plan]:
    """All rows; of each model and type clip by clip first, if it has masks of a clip alone."""
    for name in options.models:
        for dtype in options.dtypes:
            batches = {"clip": (1,), "papers": (2,), "offline": options.chunk, "stream": (1,)}
            batches["streams"] = options.streams
            clips = not of_stream(build_model(ModelConfig(name, len(VSPW))))
            for mode in (mode for mode in batches if mode in options.modes and (clips or mode not in OF_CLIPS)):
                for batch in batches[mode]:
                    yield Plan(name, dtype, "streams" if mode == "stream" else mode, batch)
    for size in options.torch:
        for dtype in options.dtypes:
            for batch in options.torch_batch:
                yield Plan(size, dtype, "torch", batch)


def make_frames(folder: Path, options: Options) -> None:
    """Frames of a built-in video as JPEG files, and as a video where it is asked for."""
    made = folder / "videos"
    sizes = {"videos-train": 1, "videos-val": 0, "videos-test": 0, "frames": FRAMES}
    sizes |= {"height": options.size[0], "width": options.size[1]}
    arguments = [text for name, value in sizes.items() for text in (f"--{name}", str(value))]
    try:
        finished([sys.executable, "-m", "cffm_jax.data.synthetic", str(made), *arguments], START_MINUTES)
    except Failed as failed:
        raise InputError("--size", str(failed), "give a height and width of ordinary videos") from failed
    next(made.glob("data/*/origin")).rename(folder / "frames")
    if options.video:
        write_video(folder / "video.mp4", sorted((folder / "frames").glob("*.jpg")), options.size)


def write_video(path: Path, files: Sequence[Path], size: tuple[int, int]) -> None:
    import av

    from cffm_jax.data.decode import read_frame

    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=15)
        # Its pixels share colours by twos; an odd row or column is left out.
        height, width = (side - side % 2 for side in size)
        stream.height, stream.width, stream.pix_fmt = height, width, "yuv420p"
        for file in files:
            pixels = np.ascontiguousarray(read_frame(str(file))[:height, :width])
            container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, "rgb24")))
        container.mux(stream.encode())


def check(options: Options) -> None:
    for option, least in (("size", 32), ("chunk", 1), ("calls", 1), ("compare", 1), ("streams", 2), ("torch_batch", 1)):
        value = getattr(options, option)
        wrong = [number for number in (value if isinstance(value, tuple) else (value,)) if number < least]
        if wrong:
            raise InputError(f"--{option}", f"{wrong[0]} is too small", f"give {least} or more")
    if options.compare > FRAMES - FIRST:
        raise InputError("--compare", f"is {options.compare}", f"give at most {FRAMES - FIRST}")
    for name in options.models:
        build_model(ModelConfig(name, len(VSPW)))
    unknown = [size for size in options.torch if size not in SIZES]
    if unknown:
        raise InputError("--torch", f"{unknown[0]} is no SegFormer", "give some of b0 to b5, or nothing")
    if options.video:
        require_av("--video", "leave it out")
    if options.json and not Path(options.json).absolute().parent.is_dir():
        raise InputError(options.json, "its folder does not exist", "make it first")


def about_run(argv: Sequence[str], options: Options) -> dict[str, Any]:
    """Of another process: one that has used a GPU holds its memory."""
    started = finished([sys.executable, __file__, "--about", *argv], START_MINUTES)[0]
    about = json.loads(started.splitlines()[-1])
    about["command"] = about["command"].replace("model.py", "inference.py", 1)
    for name in ("torch", "transformers") if options.torch else ():
        try:
            about[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            about[name] = "not installed"
    return about


def print_row(plan: Plan, row: Row, base: Row | None) -> None:
    def times(of: str) -> str | None:
        own, others = getattr(row, of), getattr(base, of, None)
        return fixed(own / others, 2) if own and others else None

    line(
        plan.model, plan.dtype, plan.engine, row.masks, fixed(row.frames_per_second, 2), times("frames_per_second"),
        fixed(row.ms, 1), fixed(row.p99_ms, 1), row.calls, fixed(row.files_per_second, 2), times("files_per_second"),
        fixed(row.video_per_second, 2), fixed(row.compile_seconds, 1),
        None if row.differing is None else f"{row.differing:.1e} ({row.margin:.0e})", row.classes,
        fixed(row.host_bytes, 0, 2**20), fixed(row.device_bytes, 0, 2**20),
    )  # fmt: skip


def main(argv: Sequence[str]) -> int:
    if argv[:1] == ["--about"]:
        print(json.dumps(environment(argv[1:])))
        return 0
    if argv[:1] == ["--row"]:
        plan, given = json.loads(argv[2]), json.loads(argv[3])
        options = Options(**{name: tuple(value) if isinstance(value, list) else value for name, value in given.items()})
        print(json.dumps(measure(Plan(**plan), Path(argv[1]), options)))
        return 0
    options = parse_command(Options, argv, lambda _: Options(), __doc__)
    check(options)
    rows: list[dict[str, Any]] = []
    bases: dict[tuple[str, str], Row] = {}
    with tempfile.TemporaryDirectory() as name:
        make_frames(Path(name), options)
        about = about_run(argv, options)
        print("\n".join(f"- {key}: {value}" for key, value in about.items()))
        height, width = evaluation_size(*options.size, options.size[::-1])
        print(f"- frames: {options.size[0]}x{options.size[1]}, as the model sees them {height}x{width};", end=" ")
        print(f"{len(VSPW)} classes; {options.seconds:g} s a measurement, {options.calls} calls at least")
        header(
            "model", "dtype", "engine", "masks/call", "frames/s", "x clip by clip", "ms/call", "p99", "calls",
            "JPEG to PNG, frames/s", "x clip by clip", "from video, frames/s", "compile, s",
            "other pixels (margin)", "classes seen", "host, MiB", "device, MiB",
        )  # fmt: skip
        for plan in plans(options):
            described = dataclasses.asdict(plan) | {"engine": plan.engine}
            command = [json.dumps(dataclasses.asdict(each)) for each in (plan, options)]
            try:
                out, host = finished([sys.executable, __file__, "--row", name, *command], options.minutes)
                row = Row(host_bytes=host, **json.loads(out.splitlines()[-1]))
                if plan.mode == "clip":
                    bases[plan.base] = row
                print_row(plan, row, bases.get(plan.base))
                rows.append(described | dataclasses.asdict(row))
            except Failed as failed:
                line(plan.model, plan.dtype, plan.engine, str(failed))
                rows.append(described | {"failed": str(failed)})
            if options.json:  # after every row: a long run may not reach its end
                result = {"environment": about, "options": dataclasses.asdict(options), "rows": rows}
                Path(options.json).write_text(json.dumps(result, indent=2) + "\n")
    # A GPU's float32 products round more.
    exact = [row for row in rows if row["dtype"] == "float32" and about["device"].startswith("cpu")]
    wrong = [f"{row['name']} {row['engine']}" for row in exact if (row.get("margin") or 0.0) > TIE]
    if wrong:
        print(f"\nother masks than clip by clip, and no ties: {', '.join(wrong)}")
    return int(bool(wrong))


if __name__ == "__main__":
    use_huge_pages()
    sys.exit(run_command(main))
