"""Others' names for the weights of SegFormer, CFFM, CFFM+ and CFFM++ beside the encoder's."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from cffm_jax.models.contexts.centred import CentredSource
from cffm_jax.models.contexts.windows import HALO, WINDOW
from cffm_jax.models.foreign.layouts import (
    BATCH_NORM,
    COPY,
    DENSE,
    DENSE_1X1,
    NORM,
    PARAMS,
    LayerArray,
    Layout,
    dense,
    single,
    weighted,
)  # fmt: skip
from cffm_jax.models.foreign.names import AS_RELEASED, RELEASED, HeadOrigin, Layer, MethodNames, Rule, rules
from cffm_jax.models.methods.cffm_families import FAMILIES


def _square(x: np.ndarray) -> np.ndarray:
    side = round(x.shape[-1] ** 0.5)
    return x.reshape(*x.shape[:-1], side, side)


# [out, 4 * in, 1, 1] <-> [4, in, out]: the slices of the concatenated stages, stage 4 first.
_FUSE = Layout(
    lambda x: x[:, :, 0, 0].T.reshape(4, -1, x.shape[0]), lambda x: x.reshape(-1, x.shape[-1]).T[:, :, None, None]
)
# The first third of a layer whose other thirds are dead; they are written as zeros.
_FIRST_THIRD = Layout(
    lambda x: x[: len(x) // 3].T, lambda x: np.concatenate([x.T, np.zeros((2 * x.shape[-1], *x.shape[:-1]), x.dtype)])
)
_ONE_OF_ONE = Layout(lambda x: x[0], lambda x: x[None])

FUSE = (LayerArray(PARAMS, "", ".weight", _FUSE),)
QUERY = weighted(_FIRST_THIRD, _FIRST_THIRD)
POOL = LayerArray(PARAMS, "/weight", ".weight", _ONE_OF_ONE), LayerArray(PARAMS, "/bias", ".bias", COPY)
RING = single(_ONE_OF_ONE)
TABLE = single(Layout(_square, lambda x: x.reshape(x.shape[0], -1)))  # [A, n * n] <-> [A, n, n]
OWN_TABLE = single(Layout(lambda x: _square(x.T), lambda x: x.reshape(x.shape[0], -1).T))  # [n * n, A] <-> [A, n, n]

_LOCAL = "decode_head.decoder_focal.blocks.{block}."
_GLOBAL = "decode_head.decoder_swin.blocks.{block}."
_BIAS = _LOCAL + "attn.relative_position_bias_table"
SEGFORMER_LAYERS = (
    Layer("decoder/project{stage}", "decode_head.linear_c{stage}.proj", DENSE),
    Layer("decoder/project{stage}/norm", "decode_head.linear_c{stage}.bn", BATCH_NORM),
    Layer("decoder/fuse", "decode_head.linear_fuse.conv", FUSE),
    Layer("decoder/norm", "decode_head.linear_fuse.bn", BATCH_NORM),
    Layer("frame_classifier", "decode_head.linear_pred", DENSE_1X1),
)
LAYERS = (
    *SEGFORMER_LAYERS,
    Layer("clip_classifier", "decode_head.linear_pred2", DENSE_1X1),
    Layer("local_{block}/norm{number}", _LOCAL + "norm{number}", NORM),
    Layer("local_{block}/qkv", _LOCAL + "attn.qkv", DENSE),
    Layer("local_{block}/proj", _LOCAL + "attn.proj", DENSE),
    Layer("local_{block}/mlp/fc{number}", _LOCAL + "mlp.fc{number}", DENSE),
    Layer("local_{block}/pools_target", _LOCAL + "pool_layers.0", POOL),
    Layer("local_{block}/pools_far", _LOCAL + "pool_layers_clips.0", POOL),
    Layer("local_{block}/pools_middle", _LOCAL + "pool_layers_clips.1", POOL),
    Layer("local_{block}/pools_near", _LOCAL + "pool_layers_clips.2", POOL),
    Layer("local_{block}/bias_own", _BIAS, OWN_TABLE),
    Layer("local_{block}/bias_ring", _BIAS + "_to_neighbors", RING),
    Layer("local_{block}/bias_target", _BIAS + "_to_windows.0", TABLE),
    Layer("local_{block}/bias_far", _BIAS + "_to_windows_clips.0", TABLE),
    Layer("local_{block}/bias_middle", _BIAS + "_to_windows_clips.1", TABLE),
    Layer("local_{block}/bias_near", _BIAS + "_to_windows_clips.2", TABLE),
    Layer("global_classifier", "decode_head.linear_pred3", DENSE_1X1),
    Layer("globals_{block}/norm{number}", _GLOBAL + "norm{number}", NORM),
    Layer("globals_{block}/q", _GLOBAL + "attn.qkv", QUERY),
    Layer("globals_{block}/kv", _GLOBAL + "attn.qkv_cluster", DENSE),
    Layer("globals_{block}/proj", _GLOBAL + "attn.proj_cluster", DENSE),
    Layer("globals_{block}/mlp/fc{number}", _GLOBAL + "mlp.fc{number}", DENSE),
)

_DEAD_CLASSIFIER_WIDTH = 128


def dead_arrays(live: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The release's dead weights, as zeros, for a state dict that lacks them. Not its index
    buffers: the authors' modules compute them when they are built, and zeros would be wrong."""
    dead: dict[str, np.ndarray] = {}
    if "decode_head.linear_pred.bias" in live:
        classes = len(live["decode_head.linear_pred.bias"])
        dead["decode_head.conv_seg.weight"] = np.zeros((classes, _DEAD_CLASSIFIER_WIDTH, 1, 1), np.float32)
        dead["decode_head.conv_seg.bias"] = np.zeros(classes, np.float32)
    for key, array in live.items():
        if match := re.fullmatch(r"(decode_head\.decoder_swin\.blocks\.\d+\.attn\.)proj_cluster\.weight", key):
            dead[match[1] + "relative_position_bias_table"] = np.zeros((13 * 13, 8), np.float32)
            dead[match[1] + "proj.weight"] = np.zeros_like(array)
            dead[match[1] + "proj.bias"] = np.zeros(len(array), np.float32)
    return dead


def without_place(model: Any) -> Sequence[str]:
    """Nobody has normalised projections by released names, which count three references, and pool
    and cut them as the release does."""
    projections = ["decoder/project1/norm"] if model.projection != "linear" else []
    others = [f"{len(model.sources)} reference frames"] if model.local_blocks and len(model.sources) != 3 else []
    rows = (model.own, *model.sources) if model.local_blocks else ()
    unknown = {
        "model.pooling_rule paper": any(isinstance(row, CentredSource) for row in rows),
        "model.pooling_form full": any(row.full for row in rows),
        f"model.window {model.own.window}": any(row.window != WINDOW for row in rows),
        f"model.halo {model.halo}": rows and model.halo != HALO,
    }
    return projections + others + [setting for setting, there in unknown.items() if there]


def stages_reversed(arrays: Sequence[np.ndarray]) -> np.ndarray:
    """[out, 4 * in, 1, 1] for stages 1 to 4 -> for stages 4 to 1, the release's order."""
    return np.concatenate(np.split(arrays[0], 4, axis=1)[::-1], axis=1)


def _hugging_face(projections: str) -> tuple[Rule, ...]:
    return rules(
        ("decode_head.linear_c{stage}.proj.{leaf}", f"decode_head.{projections}.{{stage0}}.proj.{{leaf}}"),
        ("decode_head.linear_fuse.conv.{leaf}", "decode_head.linear_fuse.{leaf}"),
        ("decode_head.linear_fuse.bn.{leaf}", "decode_head.batch_norm.{leaf}"),
        ("decode_head.linear_pred.{leaf}", "decode_head.classifier.{leaf}"),
    )


ORIGINS = {
    RELEASED: HeadOrigin(
        names={
            "segformer": "NVlabs SegFormer",
            "cffm": "CFFM of its authors",
            "cffmp": "CFFM+ in the authors' layout",
            "cffmpp": "CFFM++ of its authors",
        },
        rules=AS_RELEASED,
        dead=(
            r"decode_head\.conv_seg\.(weight|bias)",  # a classifier that the release builds and never calls
            # CFFM++'s blocks were made for self-attention: what is left of it is not called (nor
            # are two thirds of their qkv).
            r"decode_head\.decoder_swin\.blocks\.\d+\.attn\.(relative_position_bias_table|proj\.(weight|bias))",
            r".*\.relative_position_index.*",
            r".*\.valid_ind_rolled.*",
        ),
    ),
    "Hugging Face": HeadOrigin(
        names={"": "Hugging Face SegFormer"},
        rules=_hugging_face("linear_c"),
    ),
    "Hugging Face live": HeadOrigin(
        names={"": "Hugging Face SegFormer"},
        rules=_hugging_face("linear_projections"),
    ),
    "MMSegmentation": HeadOrigin(
        names={"": "MMSegmentation SegFormer"},
        rules=rules(
            ("decode_head.linear_c{stage}.proj.weight", "decode_head.convs.{stage0}.conv.weight", dense),
            ("decode_head.linear_c{stage}.bn.{leaf}", "decode_head.convs.{stage0}.bn.{leaf}"),
            ("decode_head.linear_fuse.conv.{leaf}", "decode_head.fusion_conv.conv.{leaf}", stages_reversed),
            ("decode_head.linear_fuse.bn.{leaf}", "decode_head.fusion_conv.bn.{leaf}"),
            ("decode_head.linear_pred.{leaf}", "decode_head.conv_seg.{leaf}"),
        ),
        settings={"projection": "normalised"},
    ),
}

NAMES = MethodNames(
    prefix="decode_head.",
    layers=LAYERS,
    origins=ORIGINS,
    families={name: family.blocks for name, family in FAMILIES.items()},
    blocks={"blocks": _LOCAL, "global_blocks": _GLOBAL},
    lengths={"num_classes": "decode_head.linear_pred.weight", "width": "decode_head.linear_fuse.conv.weight"},
    dead_arrays=dead_arrays,
    without_place=without_place,
)
