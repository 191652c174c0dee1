"""Speed and memory of training, by the real command, beside Hugging Face's SegFormer in PyTorch in the same run.

    python benchmarks/train.py                                   # B0, B1, B2, B5 as the papers train them; both types
    python benchmarks/train.py --models cffm_b0 --crop 96 96 --batch 2 --dtypes float32 --steps 12

A row of ours is a run of ``train.py`` on built-in videos, data loading, checkpoints and logging included: its figures
are those of its log, without the start, the first step (it compiles) and the evaluation. A row of PyTorch is the step
alone on tensors that lie on the device: SegFormer on as many frames, which has no mining; in bfloat16 by autocast, on a
GPU with torch.compile. Each row is a process of its own; what does not fit says so.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from model import environment, fixed, header, line

from cffm_jax.errors import InputError
from cffm_jax.models.encoders.mit import SIZES
from cffm_jax.rules import setting
from cffm_jax.runtime.command_line import parse_command, run_command
from cffm_jax.runtime.memory import use_huge_pages

ROOT = Path(__file__).resolve().parents[1]
FRAMES = 4
CLASSES = 124
GIVEN_UP, KILLED = 124, 128 + 9
"""Exit statuses of a row."""


@dataclasses.dataclass(frozen=True)
class Options:
    models: tuple[str, ...] = ("cffm_b0", "cffm_b1", "cffm_b2", "cffm_b5")
    """Public names."""
    torch: tuple[str, ...] = ("b0", "b1", "b2", "b5")
    """Sizes of Hugging Face's SegFormer; none without PyTorch and transformers (make test-reference installs them)."""
    dtypes: tuple[Literal["float32", "bfloat16"], ...] = ("float32", "bfloat16")
    """Compute types."""
    remat: tuple[Literal["none", "products", "blocks"], ...] = ("none",)
    """What is kept for the pass back, a row for each."""
    crop: tuple[int, int] = (480, 480)
    """Height and width of a training clip, multiples of 32."""
    batch: int = 8
    """Clips in a step, 4 frames each."""
    steps: int = 40
    """Steps of a run; half of them are measured."""
    workers: int = 0
    """Loader processes."""
    minutes: float = 20.0
    """A row that takes longer is given up."""
    json: str = setting("", path=True)
    """Write everything to this file too."""


@dataclasses.dataclass(frozen=True)
class Row:
    """One measurement: milliseconds of a step by part, bytes of the process and, on a GPU, of the device."""

    what: str
    dtype: str
    remat: str
    clips_per_second: float
    step_ms: float
    data_ms: float | None
    checkpoint_ms: float | None
    tflops: float | None
    mfu: float | None
    host_bytes: int
    device_bytes: int | None


class Failed(Exception):
    """A row that there is none of; why, in a few words."""


def finished(command: Sequence[str], minutes: float) -> tuple[str, int]:
    """(Standard output, largest resident size in bytes) of a process."""
    # Children's peak is the largest of all so far: one between has none but this one. It also keeps the time.
    wrapper = "import pathlib, resource, subprocess, sys\n"
    wrapper += "try: s = subprocess.run(sys.argv[3:], timeout=float(sys.argv[2])).returncode\n"
    wrapper += f"except subprocess.TimeoutExpired: s = {GIVEN_UP}\n"
    wrapper += "peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss\n"
    wrapper += "pathlib.Path(sys.argv[1]).write_text(str(peak))\n"
    wrapper += "sys.exit(s if s >= 0 else 128 - s)"
    with tempfile.NamedTemporaryFile("r") as peak:
        done = subprocess.run(
            [sys.executable, "-c", wrapper, peak.name, str(60 * minutes), *command],
            cwd=ROOT, capture_output=True, text=True, check=False,
        )  # fmt: skip
        if done.returncode == GIVEN_UP:
            raise Failed(f"gave up after {minutes:g} minutes")
        if done.returncode == KILLED:
            raise Failed("was killed: too little memory?")
        if done.returncode:
            lines = [text for text in done.stderr.splitlines() if text.strip()]
            raise Failed(f"status {done.returncode}: {lines[-1].strip()[:100] if lines else 'nothing said'}")
        unit = 1 if sys.platform == "darwin" else 1024
        return done.stdout, int(Path(peak.name).read_text()) * unit


# --- ours


def videos(options: Options, folder: Path) -> Path:
    """Built-in videos of which a crop is a part, as of VSPW's frames."""
    root = folder / "videos"
    height, width = options.crop[0], max(options.crop[1], options.crop[0] * 16 // 9)
    sizes = {"videos-train": 4, "videos-val": 1, "videos-test": 0, "frames": 12, "height": height, "width": width}
    arguments = [text for name, value in sizes.items() for text in (f"--{name}", str(value))]
    finished([sys.executable, "-m", "cffm_jax.data.synthetic", str(root), *arguments], options.minutes)
    (root / "classes.json").unlink()  # That there are 8 classes: the model has as many as VSPW.
    return root


def ours(name: str, dtype: str, remat: str, options: Options, root: Path, folder: Path) -> Row:
    """A run of the real command; the rates of the second half of its steps, saves at both ends of it."""
    workdir, half = folder / f"{name}_{dtype}_{remat}", options.steps // 2
    settings = {
        "model.name": name, "model.dtype": dtype, "model.num_classes": CLASSES, "data.crop": options.crop,
        "data.frame_size": (options.crop[0], max(options.crop[1], options.crop[0] * 16 // 9)), "data.ratio": (1.0, 2.0),
        "data.workers": options.workers, "train.batch_size": options.batch, "train.steps": options.steps,
        "train.log_every": half, "train.checkpoint_every": half, "train.eval_every": 0, "train.remat": remat,
        "train.devices": 1, "optim.warmup_steps": 0, "eval.max_videos": 1,
    }  # fmt: skip
    arguments = [sys.executable, "train.py", "--config", "configs/synthetic.py", "--workdir", str(workdir)]
    arguments += ["--data.root", str(root)]
    for option, value in settings.items():
        arguments += [f"--{option}", *map(str, value if isinstance(value, tuple) else (value,))]
    _, host = finished(arguments, options.minutes)
    entries = [json.loads(text) for text in (workdir / "log.jsonl").read_text().splitlines()]
    train = [entry for entry in entries if entry["group"] == "train"][-1]
    first, second = ([e for e in entries if e["group"] == "time" and e["step"] == step][0] for step in (half, half * 2))
    step_ms = 1e3 * options.batch / train["clips_per_second"]
    saving = 1e3 * (second["checkpoint"] - first["checkpoint"]) / half
    return Row(
        name, dtype, remat, train["clips_per_second"], step_ms, step_ms * train["data_wait"], saving,
        train["tflops"], train.get("mfu"), host, train.get("device_bytes"),
    )  # fmt: skip


# --- Hugging Face's


def pytorch(size: str) -> str:
    return f"SegFormer-{size.upper()}, PyTorch"


def theirs(size: str, dtype: str, options: Options) -> Row:
    """Its process prints one line of JSON."""
    command = [sys.executable, __file__, "--torch-row", size, dtype, json.dumps(dataclasses.asdict(options))]
    out, host = finished(command, options.minutes)
    found = json.loads(out.splitlines()[-1])
    return Row(pytorch(size), dtype, "none", host_bytes=host, tflops=None, mfu=None, **found)


def torch_row(size: str, dtype: str, options: Options) -> dict[str, Any]:
    """The training step: forward pass, its own loss, pass back, AdamW."""
    import torch
    from transformers import SegformerConfig, SegformerForSemanticSegmentation

    shape, on_gpu = SIZES[size], torch.cuda.is_available()
    device = torch.device("cuda" if on_gpu else "cpu")
    config = SegformerConfig(
        depths=list(shape.depths), hidden_sizes=list(shape.channels), num_labels=CLASSES, decoder_hidden_size=256,
        num_attention_heads=[1, 2, 5, 8], sr_ratios=[8, 4, 2, 1], mlp_ratios=[4, 4, 4, 4],
    )  # fmt: skip
    torch.manual_seed(0)
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = True  # As JAX by default.
    model = SegformerForSemanticSegmentation(config).to(device).train()
    called = torch.compile(model) if on_gpu else model
    optimizer = torch.optim.AdamW(model.parameters(), 6e-5)
    frames = options.batch * FRAMES
    pixels = torch.randn(frames, 3, *options.crop, device=device)
    labels = torch.randint(0, CLASSES, (frames, *options.crop), device=device)
    cast = torch.autocast(device.type, torch.bfloat16) if dtype == "bfloat16" else contextlib.nullcontext()
    times = []
    for _ in range(options.steps // 2 + 2):
        began = time.perf_counter()
        with cast:
            loss = called(pixel_values=pixels, labels=labels).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if on_gpu:
            torch.cuda.synchronize()
        times.append(time.perf_counter() - began)
    step = statistics.median(times[2:])
    return {
        "clips_per_second": options.batch / step, "step_ms": 1e3 * step, "data_ms": None, "checkpoint_ms": None,
        "device_bytes": torch.cuda.max_memory_allocated() if on_gpu else None,
    }  # fmt: skip


# --- the table


def print_row(row: Row) -> None:
    line(
        row.what, row.dtype, row.remat, fixed(row.clips_per_second, 2), fixed(row.step_ms, 0), fixed(row.data_ms, 1),
        fixed(row.checkpoint_ms, 1), fixed(row.tflops, 3), fixed(row.mfu and 100 * row.mfu, 1),
        fixed(row.host_bytes, 0, 2**20), fixed(row.device_bytes, 0, 2**20),
    )  # fmt: skip


def check(options: Options) -> None:
    if options.steps < 4 or options.steps % 2:
        raise InputError("--steps", f"is {options.steps}", "give an even number from 4 on")
    unknown = [size for size in options.torch if size not in SIZES]
    if unknown:
        raise InputError("--torch", f"{unknown[0]} is no SegFormer", "give some of b0 to b5, or nothing")
    if options.json and not Path(options.json).absolute().parent.is_dir():
        raise InputError(options.json, "its folder does not exist", "make it first")


def main(argv: Sequence[str]) -> None:
    if argv[:1] == ["--torch-row"]:
        print(json.dumps(torch_row(argv[1], argv[2], Options(**json.loads(argv[3])))))
        return
    options = parse_command(Options, argv, lambda _: Options(), __doc__)
    check(options)
    about = environment(argv)
    about["command"] = about["command"].replace("model.py", "train.py", 1)
    print("\n".join(f"- {key}: {value}" for key, value in about.items()))
    print(f"- clips: {FRAMES} frames of {options.crop[0]}x{options.crop[1]}, {options.batch} a step, {CLASSES} classes")
    header(
        "model", "dtype", "kept back", "clips/s", "ms/step", "of it waiting for data", "of it for checkpoints",
        "TFLOP/s", "MFU, %", "host, MiB", "device, MiB",
    )  # fmt: skip
    rows: list[Row] = []
    with tempfile.TemporaryDirectory() as made:
        folder = Path(made)
        root = videos(options, folder)
        plan = [
            (ours, (m, d, r, options, root, folder))
            for m in options.models
            for d in options.dtypes
            for r in options.remat
        ]
        plan += [(theirs, (size, dtype, options)) for size in options.torch for dtype in options.dtypes]
        for measure, arguments in plan:
            try:
                rows.append(measure(*arguments))
                print_row(rows[-1])
            except Failed as failed:
                name, dtype, *_ = arguments
                line(name if measure is ours else pytorch(name), dtype, str(failed))
            if options.json:  # after every row: a long run may not reach its end
                result = {"environment": about, "options": dataclasses.asdict(options)}
                result["rows"] = [dataclasses.asdict(row) for row in rows]
                Path(options.json).write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    use_huge_pages()
    sys.exit(run_command(main))
