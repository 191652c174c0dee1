"""The released state dicts (NVlabs MiT and SegFormer, the authors' CFFM; PVTv2 and ConvNeXt by their authors) and our
variables: one table, read both ways.

A rule maps one layer: the path in our tree and the key in theirs, both with numbered groups, and the layer's kind,
which says how its arrays are laid out. No leaf is mapped by shape or by guess.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable, Mapping

import numpy as np

Transform = Callable[[np.ndarray], np.ndarray]


@dataclasses.dataclass(frozen=True)
class Layout:
    """How one array is stored: ``load`` turns the torch array into ours, ``save`` is its inverse."""

    load: Transform
    save: Transform


def _square_load(x: np.ndarray) -> np.ndarray:
    side = round(x.shape[-1] ** 0.5)
    return x.reshape(*x.shape[:-1], side, side)


COPY = Layout(lambda x: x, lambda x: x)
DENSE = Layout(lambda x: x.T, lambda x: x.T)
DENSE_1X1 = Layout(lambda x: x[:, :, 0, 0].T, lambda x: x.T[:, :, None, None])
CONV = Layout(lambda x: x.transpose(2, 3, 1, 0), lambda x: x.transpose(3, 2, 0, 1))
DEPTHWISE = Layout(lambda x: x[:, 0].transpose(1, 2, 0), lambda x: x.transpose(2, 0, 1)[:, None])
# [out, 4 * in, 1, 1] <-> [4, in, out]: the slices of the concatenated stages, stage 4 first.
FUSE = Layout(
    lambda x: x[:, :, 0, 0].T.reshape(4, -1, x.shape[0]), lambda x: x.reshape(-1, x.shape[-1]).T[:, :, None, None]
)
POOL = Layout(lambda x: x[0], lambda x: x[None])
RING = Layout(lambda x: x[0], lambda x: x[None])
# The first third of a layer whose other thirds are dead; they are written as zeros.
FIRST_THIRD = Layout(
    lambda x: x[: len(x) // 3].T, lambda x: np.concatenate([x.T, np.zeros((2 * x.shape[-1], *x.shape[:-1]), x.dtype)])
)
TABLE = Layout(_square_load, lambda x: x.reshape(x.shape[0], -1))  # [A, n * n] <-> [A, n, n]
OWN_TABLE = Layout(lambda x: _square_load(x.T), lambda x: x.reshape(x.shape[0], -1).T)  # [n * n, A] <-> [A, n, n]

PARAMS, STATS = "params", "batch_stats"

# Kind of layer -> its arrays: (collection, our leaf, their leaf, layout). An empty leaf: the rule names the array
# itself.
KINDS: dict[str, tuple[tuple[str, str, str, Layout], ...]] = {
    "dense": ((PARAMS, "/kernel", ".weight", DENSE), (PARAMS, "/bias", ".bias", COPY)),
    "dense third": ((PARAMS, "/kernel", ".weight", FIRST_THIRD), (PARAMS, "/bias", ".bias", FIRST_THIRD)),
    "dense 1x1": ((PARAMS, "/kernel", ".weight", DENSE_1X1), (PARAMS, "/bias", ".bias", COPY)),
    "conv": ((PARAMS, "/kernel", ".weight", CONV), (PARAMS, "/bias", ".bias", COPY)),
    "depthwise": ((PARAMS, "/kernel", ".weight", DEPTHWISE), (PARAMS, "/bias", ".bias", COPY)),
    "norm": ((PARAMS, "/scale", ".weight", COPY), (PARAMS, "/bias", ".bias", COPY)),
    "batch norm": (
        (PARAMS, "/scale", ".weight", COPY),
        (PARAMS, "/bias", ".bias", COPY),
        (STATS, "/mean", ".running_mean", COPY),
        (STATS, "/var", ".running_var", COPY),
    ),
    "fuse": ((PARAMS, "", ".weight", FUSE),),
    "pool": ((PARAMS, "/weight", ".weight", POOL), (PARAMS, "/bias", ".bias", COPY)),
    "ring": ((PARAMS, "", "", RING),),
    "array": ((PARAMS, "", "", COPY),),
    "table": ((PARAMS, "", "", TABLE),),
    "own table": ((PARAMS, "", "", OWN_TABLE),),
}

_FOCAL = "decode_head.decoder_focal.blocks.{0}."
_SWIN = "decode_head.decoder_swin.blocks.{0}."

# (our path, their key, kind)
ENCODER_RULES = (
    (r"encoder/stage(\d)/embed", "backbone.patch_embed{0}.proj", "conv"),
    (r"encoder/stage(\d)/embed_norm", "backbone.patch_embed{0}.norm", "norm"),
    (r"encoder/stage(\d)/block(\d+)/(norm[12])", "backbone.block{0}.{1}.{2}", "norm"),
    (r"encoder/stage(\d)/block(\d+)/attn/(q|kv|proj)", "backbone.block{0}.{1}.attn.{2}", "dense"),
    (r"encoder/stage(\d)/block(\d+)/attn/reduce", "backbone.block{0}.{1}.attn.sr", "conv"),
    (r"encoder/stage(\d)/block(\d+)/attn/reduce_norm", "backbone.block{0}.{1}.attn.norm", "norm"),
    (r"encoder/stage(\d)/block(\d+)/mlp/(fc[12])", "backbone.block{0}.{1}.mlp.{2}", "dense"),
    (r"encoder/stage(\d)/block(\d+)/mlp/dwconv", "backbone.block{0}.{1}.mlp.dwconv.dwconv", "depthwise"),
    (r"encoder/stage(\d)/norm", "backbone.norm{0}", "norm"),
    # ConvNeXt; the first stage convolves before it normalises, the others after.
    (r"encoder/stages_(0)/reduce", "backbone.downsample_layers.{0}.0", "conv"),
    (r"encoder/stages_(0)/reduce_norm", "backbone.downsample_layers.{0}.1", "norm"),
    (r"encoder/stages_([1-3])/reduce_norm", "backbone.downsample_layers.{0}.0", "norm"),
    (r"encoder/stages_([1-3])/reduce", "backbone.downsample_layers.{0}.1", "conv"),
    (r"encoder/stages_(\d)/blocks_(\d+)/dwconv", "backbone.stages.{0}.{1}.dwconv", "depthwise"),
    (r"encoder/stages_(\d)/blocks_(\d+)/norm", "backbone.stages.{0}.{1}.norm", "norm"),
    (r"encoder/stages_(\d)/blocks_(\d+)/(pwconv[12])", "backbone.stages.{0}.{1}.{2}", "dense"),
    (r"encoder/stages_(\d)/blocks_(\d+)/gamma", "backbone.stages.{0}.{1}.gamma", "array"),
    (r"encoder/stages_(\d)/norm", "backbone.norm{0}", "norm"),
)
HEAD_RULES = (
    (r"decoder/project(\d)", "decode_head.linear_c{0}.proj", "dense"),
    (r"decoder/project(\d)/norm", "decode_head.linear_c{0}.bn", "batch norm"),
    (r"decoder/fuse", "decode_head.linear_fuse.conv", "fuse"),
    (r"decoder/norm", "decode_head.linear_fuse.bn", "batch norm"),
    (r"frame_classifier", "decode_head.linear_pred", "dense 1x1"),
    (r"clip_classifier", "decode_head.linear_pred2", "dense 1x1"),
    (r"local_(\d+)/(norm[12])", _FOCAL + "{1}", "norm"),
    (r"local_(\d+)/(qkv|proj)", _FOCAL + "attn.{1}", "dense"),
    (r"local_(\d+)/mlp/(fc[12])", _FOCAL + "mlp.{1}", "dense"),
    (r"local_(\d+)/pools_target", _FOCAL + "pool_layers.0", "pool"),
    (r"local_(\d+)/pools_far", _FOCAL + "pool_layers_clips.0", "pool"),
    (r"local_(\d+)/pools_middle", _FOCAL + "pool_layers_clips.1", "pool"),
    (r"local_(\d+)/pools_near", _FOCAL + "pool_layers_clips.2", "pool"),
    (r"local_(\d+)/bias_own", _FOCAL + "attn.relative_position_bias_table", "own table"),
    (r"local_(\d+)/bias_ring", _FOCAL + "attn.relative_position_bias_table_to_neighbors", "ring"),
    (r"local_(\d+)/bias_target", _FOCAL + "attn.relative_position_bias_table_to_windows.0", "table"),
    (r"local_(\d+)/bias_far", _FOCAL + "attn.relative_position_bias_table_to_windows_clips.0", "table"),
    (r"local_(\d+)/bias_middle", _FOCAL + "attn.relative_position_bias_table_to_windows_clips.1", "table"),
    (r"local_(\d+)/bias_near", _FOCAL + "attn.relative_position_bias_table_to_windows_clips.2", "table"),
    (r"global_classifier", "decode_head.linear_pred3", "dense 1x1"),
    (r"globals_(\d+)/(norm[12])", _SWIN + "{1}", "norm"),
    (r"globals_(\d+)/q", _SWIN + "attn.qkv", "dense third"),
    (r"globals_(\d+)/kv", _SWIN + "attn.qkv_cluster", "dense"),
    (r"globals_(\d+)/proj", _SWIN + "attn.proj_cluster", "dense"),
    (r"globals_(\d+)/mlp/(fc[12])", _SWIN + "mlp.{1}", "dense"),
)

_DEAD_CLASSIFIER_WIDTH = 128
DEAD_KEYS = (
    r"decode_head\.conv_seg\.(weight|bias)",  # a classifier that the release builds and never calls
    # CFFM++'s blocks were made for self-attention: what is left of it is not called (nor are two thirds of their qkv).
    r"decode_head\.decoder_swin\.blocks\.\d+\.attn\.(relative_position_bias_table|proj\.(weight|bias))",
    r".*\.num_batches_tracked",
    r".*\.relative_position_index.*",
    r".*\.valid_ind_rolled.*",
    r"(backbone\.)?head\.(weight|bias)",  # ImageNet's classifier of the MiT files
)


def is_dead(key: str) -> bool:
    """Whether a key of a released state dict carries nothing that the model computes with."""
    return any(re.fullmatch(pattern, key) for pattern in DEAD_KEYS)


def torch_key(collection: str, path: str) -> tuple[str, Layout] | None:
    """Their key and layout of our leaf ``path`` (slash-separated) in ``collection``; None if no rule names it."""
    for pattern, key, kind in ENCODER_RULES + HEAD_RULES:
        for leaf_collection, ours, theirs, layout in KINDS[kind]:
            match = re.fullmatch(pattern + ours, path)
            if match and collection == leaf_collection:
                return key.format(*match.groups()) + theirs, layout
    return None


def dead_arrays(live: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The release's dead weights, as zeros, for a state dict that lacks them.

    Its index buffers are not among them: the authors' modules compute them when they are built, and zeros in their
    place would be wrong.
    """
    found = {}
    if "decode_head.linear_pred.bias" in live:
        classes = len(live["decode_head.linear_pred.bias"])
        found["decode_head.conv_seg.weight"] = np.zeros((classes, _DEAD_CLASSIFIER_WIDTH, 1, 1), np.float32)
        found["decode_head.conv_seg.bias"] = np.zeros(classes, np.float32)
    for key, array in live.items():
        if key.endswith(".running_mean"):
            found[key.removesuffix("running_mean") + "num_batches_tracked"] = np.zeros((), np.int64)
        if match := re.fullmatch(r"(decode_head\.decoder_swin\.blocks\.\d+\.attn\.)proj_cluster\.weight", key):
            found[match[1] + "relative_position_bias_table"] = np.zeros((13 * 13, 8), np.float32)
            found[match[1] + "proj.weight"] = np.zeros_like(array)
            found[match[1] + "proj.bias"] = np.zeros(len(array), np.float32)
    return found
