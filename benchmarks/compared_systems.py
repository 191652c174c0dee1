"""Time of a frame through the compared systems, beside the nearest networks of PyTorch on the same cores.

    python benchmarks/compared_systems.py                            # all rows, 480x853; make .venv/.reference first
    python benchmarks/compared_systems.py --rows fcn upernet --height 96 --width 128
    taskset -c 0 python benchmarks/compared_systems.py --clock cpu   # on one core, whatever else runs on the machine

A row is a network of torchvision or transformers and ours that is nearest to it, both from a normalised frame to maps
or to logits at the head's own stride, with random weights and every core. Calls take turns: ours, PyTorch's, and
PyTorch's with channels last in memory, as ours. A time is the least of the calls: what else runs on the machine can
only add to it. GMAC, of each, tell how far the two forms differ, the last column in what.
"""

from __future__ import annotations

import dataclasses
import datetime
import functools
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal, NamedTuple

import jax
import numpy as np
from engines import drawn_variables
from model import header, line

from cffm_jax.errors import InputError
from cffm_jax.models.create import create_model
from cffm_jax.models.methods.method import Method
from cffm_jax.runtime.command_line import parse_command, run_command
from cffm_jax.runtime.memory import use_huge_pages

DILATED = {"replace_stride_with_dilation": [False, True, True]}
Theirs = tuple[Any, Callable[[Any], Any]]
"""A network, and what is called with a frame [1, 3, H, W]."""


@dataclasses.dataclass(frozen=True)
class Options:
    rows: tuple[str, ...] = ()
    """Names of rows; all of them if none is named."""
    height: int = 480
    """Height of the frame."""
    width: int = 853
    """Width of the frame."""
    classes: int = 124
    """Classes of the logits."""
    calls: int = 5
    """Calls of each that are timed, after one that is not."""
    clock: Literal["wall", "cpu"] = "wall"
    """Time that passes, or that the process computes for, on all its cores together."""


def of_torchvision(module: str, name: str, **settings: Any) -> Any:
    sys.path.append(str(Path(__file__).parents[1] / "tests"))
    from helpers.torchvision_networks import network

    return network(f"models.{module}", name, **settings)


def resnet(name: str, **settings: Any) -> Theirs:
    net = of_torchvision("resnet", name, **settings)

    def maps(x: Any) -> Any:
        x = net.maxpool(net.relu(net.bn1(net.conv1(x))))
        return net.layer4(net.layer3(net.layer2(net.layer1(x))))

    return net, maps


def mobilenetv2(classes: int) -> Theirs:
    net = of_torchvision("mobilenetv2", "mobilenet_v2")
    return net, net.features[:-1]


def segmentation(name: str, classes: int) -> Theirs:
    net = of_torchvision("segmentation", name, weights_backbone=None, num_classes=classes)
    return net, lambda x: net.classifier(net.backbone(x)["out"])


def upernet(classes: int) -> Theirs:
    import transformers

    encoder = transformers.ResNetConfig(depths=[3, 4, 23, 3], out_features=[f"stage{i}" for i in range(1, 5)])
    config = transformers.UperNetConfig(
        backbone_config=encoder, hidden_size=512, use_auxiliary_head=False, num_labels=classes
    )
    net = transformers.UperNetForSemanticSegmentation(config)
    return net, lambda x: net.decode_head(net.backbone(x).feature_maps)


class Row(NamedTuple):
    """Ours, the method of it, PyTorch's for so many classes, and in what that differs."""

    name: str
    form: Literal["mmsegmentation", "vspw"]
    method: Literal["encode_stages", "frame_logits"]
    theirs: Callable[[int], Theirs]
    differs: str = ""


ROWS = {
    "resnet18": Row("upernet_r18_plain", "mmsegmentation", "encode_stages", lambda _: resnet("resnet18")),
    "resnet101": Row("upernet_r101_plain", "mmsegmentation", "encode_stages", lambda _: resnet("resnet101")),
    "resnet101_dilated": Row(
        "pspnet_r101_plain", "mmsegmentation", "encode_stages", lambda _: resnet("resnet101", **DILATED)
    ),
    "mobilenetv2": Row("upernet_mobilenetv2", "mmsegmentation", "encode_stages", mobilenetv2),
    "fcn": Row(
        "fcn_r101_plain", "mmsegmentation", "frame_logits", functools.partial(segmentation, "fcn_resnet101"),
        "its head has one 3x3 convolution, ours three",
    ),
    "deeplabv3": Row(
        "deeplabv3plus_r101_plain", "vspw", "frame_logits", functools.partial(segmentation, "deeplabv3_resnet101"),
        "it has no decoder at stride 4; ours is DeepLabv3+",
    ),
    "upernet": Row("upernet_r101_plain", "mmsegmentation", "frame_logits", upernet),
}  # fmt: skip


def seconds(calls: dict[str, Callable[[], Any]], count: int, clock: Callable[[], float]) -> dict[str, float]:
    """The least time of each, called in turns."""
    times: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(1 + count):
        for name, call in calls.items():
            start = clock()
            call()
            times[name].append(clock() - start)
    return {name: min(each[1:]) for name, each in times.items()}


def gmac(model: Method, method: str, options: Options) -> float:
    parts = model.macs(options.height, options.width, prototypes=0, executed=False)
    return sum(count for part, count in parts.items() if part != "head" or method == "frame_logits") / 1e9


def measured(row: Row, options: Options) -> tuple[str, ...]:
    """Cells of the table."""
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    torch.set_num_threads(len(os.sched_getaffinity(0)))
    frame = np.random.default_rng(0).standard_normal((1, options.height, options.width, 3)).astype(np.float32)
    model = create_model(row.name, options.classes, form=row.form)
    variables = jax.device_put(drawn_variables(model))
    compiled = jax.jit(functools.partial(model.apply, method=row.method)).lower(variables, frame).compile()
    nets = [row.theirs(options.classes) for _ in range(2)]
    first = torch.from_numpy(frame.transpose(0, 3, 1, 2).copy())
    with torch.inference_mode():
        for net, _ in nets:
            net.eval()
        nets[1][0].to(memory_format=torch.channels_last)
        last = first.contiguous(memory_format=torch.channels_last)
        with FlopCounterMode(display=False) as counter:
            shape = nets[0][1](first).shape
        found = jax.tree.leaves(compiled.out_info)[-1].shape
        assert row.differs or found == (shape[0], *shape[2:], shape[1])
        calls = {
            "ours": lambda: jax.block_until_ready(compiled(variables, frame)),
            "first": lambda: nets[0][1](first),
            "last": lambda: nets[1][1](last),
        }
        times = seconds(calls, options.calls, time.perf_counter if options.clock == "wall" else time.process_time)
    ratio = times["ours"] / min(times["first"], times["last"])
    numbers = (gmac(model, row.method, options), counter.get_total_flops() / 2e9)
    return (
        f"{row.name}, form {row.form}" if row.form == "vspw" else row.name,
        *(f"{number:.1f}" for number in numbers),
        *(f"{1e3 * each:.0f}" for each in times.values()),
        f"{ratio:.2f}",
        row.differs or "-",
    )


def benchmark(argv: list[str]) -> None:
    options = parse_command(Options, argv, lambda _: Options(), "Time a frame of the compared systems.")
    if unknown := set(options.rows) - set(ROWS):
        raise InputError("--rows", f"{min(unknown)} is none", f"name some of {', '.join(ROWS)}")
    try:
        import torch
    except ImportError as error:
        raise InputError("torch", "is not installed", "install it: make .venv/.reference") from error
    cores, versions = len(os.sched_getaffinity(0)), f"jax {jax.__version__}, torch {torch.__version__}"
    size = f"{options.height}x{options.width}, {options.classes} classes"
    print(f"cores: {cores}, clock: {options.clock}, {versions}, {datetime.date.today()}, {size}")
    header(
        "PyTorch's", "ours", "GMAC, ours", "GMAC, PyTorch's", "ours, ms", "PyTorch, ms", "PyTorch, channels last, ms",
        "ours / the faster", "differs",
    )  # fmt: skip
    for name in options.rows or ROWS:
        line(name, *measured(ROWS[name], options))


if __name__ == "__main__":
    use_huge_pages()
    sys.exit(run_command(benchmark))
