"""PVTv2 B0-B5 (Wang et al., 2022): MiT's network and names, but for MLP widths and some depths."""

from __future__ import annotations

import dataclasses

import numpy as np

from cffm_jax.models.encoders import mit
from cffm_jax.models.encoders.mit import MiTSize
from cffm_jax.models.foreign.names import Origin, rules

SIZES = {
    "pvtv2_b0": MiTSize((32, 64, 160, 256), (2, 2, 2, 2), "b0", mlp_ratios=(8, 8, 4, 4)),
    "pvtv2_b1": MiTSize((64, 128, 320, 512), (2, 2, 2, 2), "b1", mlp_ratios=(8, 8, 4, 4)),
    "pvtv2_b2": MiTSize((64, 128, 320, 512), (3, 4, 6, 3), "b2", mlp_ratios=(8, 8, 4, 4)),
    "pvtv2_b3": MiTSize((64, 128, 320, 512), (3, 4, 18, 3), "b3", mlp_ratios=(8, 8, 4, 4)),
    "pvtv2_b4": MiTSize((64, 128, 320, 512), (3, 8, 27, 3), "b4", mlp_ratios=(8, 8, 4, 4)),
    "pvtv2_b5": MiTSize((64, 128, 320, 512), (3, 6, 40, 3), "b5"),
}

_KEY = mit.BLOCK[1]
_LICENCE = "PVTv2's ImageNet weights: Apache-2.0"

_STAGE = "encoder.layers.{stage0}."
_BLOCK = _STAGE + "blocks.{block}."
_ATTENTION = _BLOCK + "attention."
HUGGING_FACE = Origin(
    name="Hugging Face PVTv2",
    prefix="pvt_v2.",
    marks=r"encoder\.layers\.\d\..+",
    rules=rules(
        ("patch_embed{stage}.proj.{leaf}", _STAGE + "patch_embedding.proj.{leaf}"),
        ("patch_embed{stage}.norm.{leaf}", _STAGE + "patch_embedding.layer_norm.{leaf}"),
        ("norm{stage}.{leaf}", _STAGE + "layer_norm.{leaf}"),
        (_KEY + "norm{number}.{leaf}", _BLOCK + "layer_norm_{number}.{leaf}"),
        (_KEY + "attn.q.{leaf}", _ATTENTION + "query.{leaf}"),
        (_KEY + "attn.kv.{leaf}", (_ATTENTION + "key.{leaf}", _ATTENTION + "value.{leaf}"), np.concatenate),
        (_KEY + "attn.sr.{leaf}", _ATTENTION + "spatial_reduction.{leaf}"),
        (_KEY + "attn.norm.{leaf}", _ATTENTION + "layer_norm.{leaf}"),
        (_KEY + "attn.proj.{leaf}", _ATTENTION + "proj.{leaf}"),
        (_KEY + "mlp.fc{number}.{leaf}", _BLOCK + "mlp.dense{number}.{leaf}"),
        (_KEY + "mlp.dwconv.{leaf}", _BLOCK + "mlp.dwconv.{leaf}"),
    ),
    dead=(mit.CLASSIFIER,),
    licence=_LICENCE,
    settings={"norm_epsilons": (1e-6, 1e-6)},
)

_TIMM = "stages.{stage0}.blocks.{block}."
TIMM = Origin(
    name="timm PVTv2",
    prefix="backbone.",
    marks=r"(patch_embed|stages\.\d\.(downsample\.(proj|norm)|norm|blocks\.\d+\.(norm[12]|attn|mlp)))\..+",
    rules=rules(
        ("patch_embed1.{leaf}", "patch_embed.{leaf}"),
        ("patch_embed{stage}.{leaf}", "stages.{stage0}.downsample.{leaf}"),
        ("norm{stage}.{leaf}", "stages.{stage0}.norm.{leaf}"),
        (_KEY + "mlp.dwconv.dwconv.{leaf}", _TIMM + "mlp.dwconv.{leaf}"),
        (_KEY + "{leaf}", _TIMM + "{leaf}"),
    ),
    dead=(mit.HEAD,),
    licence=_LICENCE,
)

BACKBONE = dataclasses.replace(mit.BACKBONE, sizes=SIZES, origins=(mit.AUTHORS, HUGGING_FACE, TIMM))
