"""Time of a frame through the compared systems, beside the same networks of PyTorch on the same cores.

    python benchmarks/compared_systems.py                            # all rows, 480x853; make .venv/.reference first
    python benchmarks/compared_systems.py --rows resnet18 upernet --height 96 --width 128
    taskset -c 0 python benchmarks/compared_systems.py --clock cpu   # on one core, whatever else runs on the machine

A row is a network of torchvision, transformers or MMSegmentation and ours, both from a normalised frame to maps or to
logits at the head's own stride, with random weights and every core. Calls take turns: ours, PyTorch's, and PyTorch's
with channels last in memory, as ours. A time is the least of the calls: what else runs on the machine can only add to
it. MMSegmentation's networks have our weights, under its names: the last column is the largest difference of a logit,
relative to the largest logit.
"""

from __future__ import annotations

import dataclasses
import datetime
import functools
import importlib.util
import os
import sys
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal, NamedTuple
from unittest import mock

import jax
import numpy as np
from engines import drawn_variables
from model import header, line

from cffm_jax.errors import InputError
from cffm_jax.models.create import create_model
from cffm_jax.models.methods.method import Method
from cffm_jax.runtime.command_line import parse_command, run_command
from cffm_jax.runtime.memory import use_huge_pages
from cffm_jax.weights.naming.match import export_state_dict

DILATED = {"replace_stride_with_dilation": [False, True, True]}
INSTALL = "pip install --no-deps mmsegmentation==1.2.2 mmcv-lite==2.1.0 mmengine==0.10.7 addict ftfy wcwidth yapf"
"""Beside ``make .venv/.reference``; some of their own dependencies, which these networks do not need, would replace
ours."""
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


def upernet(classes: int) -> Theirs:
    import transformers

    encoder = transformers.ResNetConfig(depths=[3, 4, 23, 3], out_features=[f"stage{i}" for i in range(1, 5)])
    config = transformers.UperNetConfig(
        backbone_config=encoder, hidden_size=512, use_auxiliary_head=False, num_labels=classes
    )
    net = transformers.UperNetForSemanticSegmentation(config)
    return net, lambda x: net.decode_head(net.backbone(x).feature_maps)


def mmsegmentation(config: str, classes: int) -> Theirs:
    # mmcv-lite lacks the compiled operators of mmcv: MMSegmentation imports them all, these networks call none.
    sys.modules["mmcv._ext"] = mock.MagicMock()
    import mmseg
    from mmengine.config import Config
    from mmseg.apis import init_model

    settings = Config.fromfile(Path(mmseg.__file__).parent / f".mim/configs/{config}_cityscapes-512x1024.py")
    heads = settings.model.decode_head
    for head in (*(heads if isinstance(heads, list) else [heads]), settings.model.get("auxiliary_head", {})):
        head["num_classes"] = classes
    with warnings.catch_warnings(action="ignore"):  # It warns of itself.
        net = init_model(settings, device="cpu")
    return net, net


class Row(NamedTuple):
    """Ours, the method of it, whose the other is, and that for so many classes."""

    name: str
    method: Literal["encode_stages", "frame_logits"]
    library: Literal["torchvision", "transformers", "MMSegmentation"]
    theirs: Callable[[int], Theirs]


CONFIGS = {
    "pspnet_r101": "pspnet/pspnet_r101-d8_4xb2-40k",
    "ocrnet_r101": "ocrnet/ocrnet_r101-d8_4xb2-40k",
    "upernet_r101": "upernet/upernet_r101_4xb2-40k",
    "deeplabv3plus_r101": "deeplabv3plus/deeplabv3plus_r101-d8_4xb2-40k",
    "fcn_r101": "fcn/fcn_r101-d8_4xb2-40k",
    "pspnet_mobilenetv2": "mobilenet_v2/mobilenet-v2-d8_pspnet_4xb2-80k",
    "fcn_mobilenetv2": "mobilenet_v2/mobilenet-v2-d8_fcn_4xb2-80k",
}
"""Ours -> MMSegmentation's config."""
ROWS = {
    "resnet18": Row("upernet_r18_plain", "encode_stages", "torchvision", lambda _: resnet("resnet18")),
    "resnet101": Row("upernet_r101_plain", "encode_stages", "torchvision", lambda _: resnet("resnet101")),
    "resnet101_dilated": Row(
        "pspnet_r101_plain", "encode_stages", "torchvision", lambda _: resnet("resnet101", **DILATED)
    ),
    "mobilenetv2": Row("upernet_mobilenetv2", "encode_stages", "torchvision", mobilenetv2),
    "upernet": Row("upernet_r101_plain", "frame_logits", "transformers", upernet),
    **{
        name: Row(name, "frame_logits", "MMSegmentation", functools.partial(mmsegmentation, config))
        for name, config in CONFIGS.items()
    },
}


def seconds(calls: dict[str, Callable[[], Any]], count: int, clock: Callable[[], float]) -> dict[str, float]:
    """The least time of each, called in turns."""
    times: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(count):
        for name, call in calls.items():
            start = clock()
            call()
            times[name].append(clock() - start)
    return {name: min(each) for name, each in times.items()}


def gmac(model: Method, method: str, options: Options) -> float:
    parts = model.macs(options.height, options.width, prototypes=0, executed=False)
    return sum(count for part, count in parts.items() if part != "head" or method == "frame_logits") / 1e9


def measured(row: Row, options: Options) -> tuple[str, ...]:
    """Cells of the table."""
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    torch.set_num_threads(len(os.sched_getaffinity(0)))
    frame = np.random.default_rng(0).standard_normal((1, options.height, options.width, 3)).astype(np.float32)
    model = create_model(row.name, options.classes)
    variables = jax.device_put(drawn_variables(model))
    compiled = jax.jit(functools.partial(model.apply, method=row.method)).lower(variables, frame).compile()
    nets = [row.theirs(options.classes) for _ in range(2)]
    same_weights = row.library == "MMSegmentation"
    if same_weights:
        for net, _ in nets:
            state = export_state_dict(variables, model, dead=True)
            net.load_state_dict({key: torch.from_numpy(np.array(value)) for key, value in state.items()})
    first = torch.from_numpy(frame.transpose(0, 3, 1, 2).copy())
    with torch.inference_mode():
        for net, _ in nets:
            net.eval()
        nets[1][0].to(memory_format=torch.channels_last)
        last = first.contiguous(memory_format=torch.channels_last)
        with FlopCounterMode(display=False) as counter:
            expected = nets[0][1](first).numpy().transpose(0, 2, 3, 1)
        nets[1][1](last)
        found = np.asarray(jax.tree.leaves(compiled(variables, frame))[-1])
        assert found.shape == expected.shape
        difference = f"{np.abs(found - expected).max() / np.abs(expected).max():.0e}" if same_weights else "-"
        calls = {
            "ours": lambda: jax.block_until_ready(compiled(variables, frame)),
            "first": lambda: nets[0][1](first),
            "last": lambda: nets[1][1](last),
        }
        times = seconds(calls, options.calls, time.perf_counter if options.clock == "wall" else time.process_time)
    ratio = times["ours"] / min(times["first"], times["last"])
    numbers = (gmac(model, row.method, options), counter.get_total_flops() / 2e9)
    return (
        row.library,
        row.name,
        *(f"{number:.1f}" for number in numbers),
        *(f"{1e3 * each:.0f}" for each in times.values()),
        f"{ratio:.2f}",
        difference,
    )


def benchmark(argv: list[str]) -> None:
    options = parse_command(Options, argv, lambda _: Options(), "Time a frame of the compared systems.")
    if unknown := set(options.rows) - set(ROWS):
        raise InputError("--rows", f"{min(unknown)} is none", f"name some of {', '.join(ROWS)}")
    rows = options.rows or tuple(ROWS)
    try:
        import torch
    except ImportError as error:
        raise InputError("torch", "is not installed", "install it: make .venv/.reference") from error
    if {*rows} & {*CONFIGS} and not importlib.util.find_spec("mmseg"):
        others = " ".join(name for name in ROWS if name not in CONFIGS)
        raise InputError("MMSegmentation", "is not installed", f"{INSTALL}; or leave it out: --rows {others}")
    cores, versions = len(os.sched_getaffinity(0)), f"jax {jax.__version__}, torch {torch.__version__}"
    size = f"{options.height}x{options.width}, {options.classes} classes"
    print(f"cores: {cores}, clock: {options.clock}, {versions}, {datetime.date.today()}, {size}")
    header(
        "row", "of", "ours", "GMAC, ours", "GMAC, PyTorch's", "ours, ms", "PyTorch, ms", "PyTorch, channels last, ms",
        "ours / the faster", "difference",
    )  # fmt: skip
    for name in rows:
        line(name, *measured(ROWS[name], options))


if __name__ == "__main__":
    use_huge_pages()
    sys.exit(run_command(benchmark))
