"""Whose weights a file holds: how each origin names what the release calls ``backbone.*``, ``decode_head.*``.

A rule reads: the released keys of this pattern are made from these keys of the file. Patterns have the groups that the
file's names need; ``{stage0}`` is the stage counted from 0. What no rule asks for and no pattern calls dead is an
error of the conversion.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from cffm_jax.weights.naming.released import DEAD_KEYS

Combine = Callable[[Sequence[np.ndarray]], np.ndarray]


def _same(arrays: Sequence[np.ndarray]) -> np.ndarray:
    return arrays[0]


def _dense(arrays: Sequence[np.ndarray]) -> np.ndarray:
    """A 1x1 convolution as a dense layer."""
    return arrays[0][:, :, 0, 0] if arrays[0].shape[2:] == (1, 1) else arrays[0]


def _first_third(arrays: Sequence[np.ndarray]) -> np.ndarray:
    return arrays[0][: len(arrays[0]) // 3]


def _other_thirds(arrays: Sequence[np.ndarray]) -> np.ndarray:
    return arrays[0][len(arrays[0]) // 3 :]


def _stages_reversed(arrays: Sequence[np.ndarray]) -> np.ndarray:
    """[out, 4 * in, 1, 1] for stages 1 to 4 -> for stages 4 to 1, as the release concatenates them."""
    return np.concatenate(np.split(arrays[0], 4, axis=1)[::-1], axis=1)


class Rule(NamedTuple):
    """Released keys and what they are made of.

    Attributes:
      released: pattern of the released key.
      sources: the file's keys, with the pattern's groups filled in.
      combine: the file's arrays -> the released one.
    """

    released: str
    sources: tuple[str, ...]
    combine: Combine = _same


@dataclasses.dataclass(frozen=True)
class Origin:
    """A naming of the weights.

    Attributes:
      names: what files of it are called, by what they hold: an encoder, "segformer", "cffm", "cffmpp" (or "" for all).
      marks: pattern of the encoder's keys, with the prefix; the origin whose pattern most keys have is the file's.
      prefix: of the encoder's keys; files of an encoder alone do without it.
      rules: for each released key.
      dead: patterns of the file's keys that carry nothing the models compute with.
      lacks: patterns of released keys that files of an encoder alone do not have, and that start afresh.
      backbones: pattern of the encoders that it names.
      places: released keys that tell an encoder's size, with the stage from 1 (and a block) to fill in: a block, a
        norm with the stage's channels, the first MLP's first layer.
      settings: what the network computes differently: fields of ``ModelConfig``.
      licence: what is known about the use of such weights.
    """

    names: dict[str, str]
    marks: str
    prefix: str
    rules: tuple[Rule, ...]
    dead: tuple[str, ...]
    licence: str
    lacks: tuple[str, ...] = ()
    backbones: str = r"b\d"
    places: tuple[str, str, str] = (
        "backbone.block{stage}.{block}.", "backbone.patch_embed{stage}.norm.weight", "backbone.block1.0.mlp.fc1.weight",
    )  # fmt: skip
    settings: tuple[tuple[str, object], ...] = ()

    def name(self, family: str) -> str:
        return self.names.get(family) or self.names[""]

    def sources(self, released: str) -> tuple[tuple[str, ...], Combine] | None:
        """The file's keys that make a released one, and how; None where files of this origin have none."""
        for rule in self.rules:
            if match := re.fullmatch(rule.released, released):
                fields = match.groupdict()
                if "stage" in fields:
                    fields["stage0"] = str(int(fields["stage"]) - 1)
                return tuple(source.format(**fields) for source in rule.sources), rule.combine
        return None

    def is_dead(self, key: str) -> bool:
        return any(re.fullmatch(pattern, key) for pattern in self.dead)

    def lacks_key(self, released: str) -> bool:
        return any(re.fullmatch(pattern, released) for pattern in self.lacks)


def _rules(
    *rows: tuple[str, str] | tuple[str, str, Combine] | tuple[str, tuple[str, ...], Combine],
) -> tuple[Rule, ...]:
    """Rows (released pattern, the file's key or keys, combine). ``S`` is a stage (from 1 in the release, from 0 in
    the file), ``N`` one from 0 in both, ``B`` a block, ``*`` what is left."""
    found = []
    for released, sources, *combine in rows:
        pattern = released.replace(".", r"\.").replace("S", r"(?P<stage>\d)").replace("B", r"(?P<block>\d+)")
        pattern = pattern.replace("N", r"(?P<number>\d)")
        pattern = pattern.replace("*", r"(?P<leaf>[\w.]+)")
        sources = (sources,) if isinstance(sources, str) else sources
        sources = tuple(s.replace("S", "{stage0}").replace("B", "{block}").replace("N", "{number}") for s in sources)
        sources = tuple(s.replace("*", "{leaf}") for s in sources)
        found.append(Rule(pattern, sources, *combine))
    return tuple(found)


_COUNTERS = r".*\.num_batches_tracked"
_CLASSIFIER = r"(\w+\.)?classifier\.(weight|bias)"
_HEAD = r"(backbone\.)?head\.(weight|bias)"
_PERMISSIVE_PVT = "PVTv2's ImageNet weights: Apache-2.0"
_PERMISSIVE_CONVNEXT = "ConvNeXt's ImageNet weights: MIT (its authors' files), Apache-2.0 (Hugging Face and timm)"
NON_COMMERCIAL = "NVIDIA's licence for SegFormer: non-commercial use (research and evaluation) only"

RELEASED = Origin(
    names={
        "encoder": "NVlabs MiT (ImageNet)",
        "segformer": "NVlabs SegFormer",
        "cffm": "CFFM of its authors",
        "cffmp": "CFFM+ in the authors' layout",
        "cffmpp": "CFFM++ of its authors",
    },
    marks=r"backbone\.(patch_embed|block|norm)\d\..+",
    prefix="backbone.",
    rules=(Rule(r"(?P<leaf>.+)", ("{leaf}",)),),
    dead=DEAD_KEYS,
    backbones=r"(pvtv2_)?b\d",
    licence=f"{NON_COMMERCIAL}; trained from such an encoder, a whole model inherits it (PVTv2's own files have "
    "these names too: they are Apache-2.0)",
)

HUGGING_FACE = Origin(
    names={"encoder": "Hugging Face SegFormer encoder", "": "Hugging Face SegFormer"},
    marks=r"segformer\.encoder\.(patch_embeddings|block|layer_norm)\..+",
    prefix="segformer.",
    rules=_rules(
        ("backbone.patch_embedS.proj.*", "segformer.encoder.patch_embeddings.S.proj.*"),
        ("backbone.patch_embedS.norm.*", "segformer.encoder.patch_embeddings.S.layer_norm.*"),
        ("backbone.normS.*", "segformer.encoder.layer_norm.S.*"),
        ("backbone.blockS.B.norm1.*", "segformer.encoder.block.S.B.layer_norm_1.*"),
        ("backbone.blockS.B.norm2.*", "segformer.encoder.block.S.B.layer_norm_2.*"),
        ("backbone.blockS.B.attn.q.*", "segformer.encoder.block.S.B.attention.self.query.*"),
        (
            "backbone.blockS.B.attn.kv.*",
            (
                "segformer.encoder.block.S.B.attention.self.key.*",
                "segformer.encoder.block.S.B.attention.self.value.*",
            ),
            np.concatenate,
        ),
        ("backbone.blockS.B.attn.sr.*", "segformer.encoder.block.S.B.attention.self.sr.*"),
        ("backbone.blockS.B.attn.norm.*", "segformer.encoder.block.S.B.attention.self.layer_norm.*"),
        ("backbone.blockS.B.attn.proj.*", "segformer.encoder.block.S.B.attention.output.dense.*"),
        ("backbone.blockS.B.mlp.fc1.*", "segformer.encoder.block.S.B.mlp.dense1.*"),
        ("backbone.blockS.B.mlp.fc2.*", "segformer.encoder.block.S.B.mlp.dense2.*"),
        ("backbone.blockS.B.mlp.dwconv.*", "segformer.encoder.block.S.B.mlp.dwconv.*"),
        ("decode_head.linear_cS.proj.*", "decode_head.linear_c.S.proj.*"),
        ("decode_head.linear_fuse.conv.*", "decode_head.linear_fuse.*"),
        ("decode_head.linear_fuse.bn.*", "decode_head.batch_norm.*"),
        ("decode_head.linear_pred.*", "decode_head.classifier.*"),
    ),
    dead=(_CLASSIFIER, _COUNTERS),
    settings=(("norm_epsilons", (1e-5, 1e-5)),),
    licence=f"nvidia/mit-b* and nvidia/segformer-*: {NON_COMMERCIAL}; others: see the model's card",
)

_LAYERS = "backbone.layers.S.1.B."
MMSEGMENTATION = Origin(
    names={"encoder": "MMSegmentation MiT", "": "MMSegmentation SegFormer"},
    marks=r"backbone\.layers\.\d\.[012]\..+",
    prefix="backbone.",
    rules=_rules(
        ("backbone.patch_embedS.proj.*", "backbone.layers.S.0.projection.*"),
        ("backbone.patch_embedS.norm.*", "backbone.layers.S.0.norm.*"),
        ("backbone.normS.*", "backbone.layers.S.2.*"),
        ("backbone.blockS.B.norm1.*", _LAYERS + "norm1.*"),
        ("backbone.blockS.B.norm2.*", _LAYERS + "norm2.*"),
        ("backbone.blockS.B.attn.q.*", _LAYERS + "attn.attn.in_proj_*", _first_third),
        ("backbone.blockS.B.attn.kv.*", _LAYERS + "attn.attn.in_proj_*", _other_thirds),
        ("backbone.blockS.B.attn.sr.*", _LAYERS + "attn.sr.*"),
        ("backbone.blockS.B.attn.norm.*", _LAYERS + "attn.norm.*"),
        ("backbone.blockS.B.attn.proj.*", _LAYERS + "attn.attn.out_proj.*"),
        ("backbone.blockS.B.mlp.fc1.*", _LAYERS + "ffn.layers.0.*", _dense),
        ("backbone.blockS.B.mlp.dwconv.dwconv.*", _LAYERS + "ffn.layers.1.*"),
        ("backbone.blockS.B.mlp.fc2.*", _LAYERS + "ffn.layers.4.*", _dense),
        ("decode_head.linear_cS.proj.weight", "decode_head.convs.S.conv.weight", _dense),
        ("decode_head.linear_cS.bn.*", "decode_head.convs.S.bn.*"),
        ("decode_head.linear_fuse.conv.*", "decode_head.fusion_conv.conv.*", _stages_reversed),
        ("decode_head.linear_fuse.bn.*", "decode_head.fusion_conv.bn.*"),
        ("decode_head.linear_pred.*", "decode_head.conv_seg.*"),
    ),
    dead=(_HEAD, _COUNTERS, r"data_preprocessor\.(mean|std)"),
    settings=(("norm_epsilons", (1e-6, 1e-6)), ("projection", "normalised")),
    licence=f"MMSegmentation's own are Apache-2.0, but its MiT encoders start from NVIDIA's. {NON_COMMERCIAL}",
)

_STAGES = "segformer.stages.S.blocks.B."
# transformers 5 names the modules of a live model so (``model.state_dict()``); what it saves has the names above.
HUGGING_FACE_LIVE = dataclasses.replace(
    HUGGING_FACE,
    marks=r"segformer\.stages\.\d\..+",
    rules=_rules(
        ("backbone.patch_embedS.proj.*", "segformer.stages.S.patch_embeddings.proj.*"),
        ("backbone.patch_embedS.norm.*", "segformer.stages.S.patch_embeddings.layer_norm.*"),
        ("backbone.normS.*", "segformer.stages.S.layer_norm.*"),
        ("backbone.blockS.B.norm1.*", _STAGES + "layernorm_before.*"),
        ("backbone.blockS.B.norm2.*", _STAGES + "layernorm_after.*"),
        ("backbone.blockS.B.attn.q.*", _STAGES + "attention.q_proj.*"),
        (
            "backbone.blockS.B.attn.kv.*",
            (_STAGES + "attention.k_proj.*", _STAGES + "attention.v_proj.*"),
            np.concatenate,
        ),
        ("backbone.blockS.B.attn.sr.*", _STAGES + "attention.sequence_reduction.sequence_reduction.*"),
        ("backbone.blockS.B.attn.norm.*", _STAGES + "attention.sequence_reduction.layer_norm.*"),
        ("backbone.blockS.B.attn.proj.*", _STAGES + "attention.o_proj.*"),
        ("backbone.blockS.B.mlp.*", _STAGES + "mlp.*"),
        ("decode_head.linear_cS.proj.*", "decode_head.linear_projections.S.proj.*"),
        ("decode_head.linear_fuse.conv.*", "decode_head.linear_fuse.*"),
        ("decode_head.linear_fuse.bn.*", "decode_head.batch_norm.*"),
        ("decode_head.linear_pred.*", "decode_head.classifier.*"),
    ),
)

_PVT = "pvt_v2.encoder.layers.S."
HUGGING_FACE_PVT = Origin(
    names={"": "Hugging Face PVTv2"},
    marks=r"pvt_v2\.encoder\.layers\.\d\..+",
    prefix="pvt_v2.",
    rules=_rules(
        ("backbone.patch_embedS.proj.*", _PVT + "patch_embedding.proj.*"),
        ("backbone.patch_embedS.norm.*", _PVT + "patch_embedding.layer_norm.*"),
        ("backbone.normS.*", _PVT + "layer_norm.*"),
        ("backbone.blockS.B.norm1.*", _PVT + "blocks.B.layer_norm_1.*"),
        ("backbone.blockS.B.norm2.*", _PVT + "blocks.B.layer_norm_2.*"),
        ("backbone.blockS.B.attn.q.*", _PVT + "blocks.B.attention.query.*"),
        (
            "backbone.blockS.B.attn.kv.*",
            (_PVT + "blocks.B.attention.key.*", _PVT + "blocks.B.attention.value.*"),
            np.concatenate,
        ),
        ("backbone.blockS.B.attn.sr.*", _PVT + "blocks.B.attention.spatial_reduction.*"),
        ("backbone.blockS.B.attn.norm.*", _PVT + "blocks.B.attention.layer_norm.*"),
        ("backbone.blockS.B.attn.proj.*", _PVT + "blocks.B.attention.proj.*"),
        ("backbone.blockS.B.mlp.fc1.*", _PVT + "blocks.B.mlp.dense1.*"),
        ("backbone.blockS.B.mlp.fc2.*", _PVT + "blocks.B.mlp.dense2.*"),
        ("backbone.blockS.B.mlp.dwconv.*", _PVT + "blocks.B.mlp.dwconv.*"),
    ),
    dead=(_CLASSIFIER,),
    licence=_PERMISSIVE_PVT,
    settings=(("norm_epsilons", (1e-6, 1e-6)),),
    backbones=r"pvtv2_b\d",
)

_TIMM = "backbone.stages.S.blocks.B."
TIMM_PVT = Origin(
    names={"": "timm PVTv2"},
    marks=r"backbone\.(patch_embed|stages\.\d\.(downsample\.(proj|norm)|norm|blocks\.\d+\.(norm[12]|attn|mlp)))\..+",
    prefix="backbone.",
    rules=_rules(
        ("backbone.patch_embed1.*", "backbone.patch_embed.*"),
        ("backbone.patch_embedS.*", "backbone.stages.S.downsample.*"),
        ("backbone.normS.*", "backbone.stages.S.norm.*"),
        ("backbone.blockS.B.mlp.dwconv.dwconv.*", _TIMM + "mlp.dwconv.*"),
        ("backbone.blockS.B.*", _TIMM + "*"),
    ),
    dead=(_HEAD,),
    licence=_PERMISSIVE_PVT,
    backbones=r"pvtv2_b\d",
)

_CONVNEXT_PLACES = (
    "backbone.stages.{stage0}.{block}.", "backbone.stages.{stage0}.0.norm.weight", "backbone.stages.0.0.pwconv1.weight",
)  # fmt: skip
_STAGE_NORMS = (r"backbone\.norm\d\..+",)
CONVNEXT = Origin(
    names={"encoder": "ConvNeXt", "": "a model with ConvNeXt in the released layout"},
    marks=r"backbone\.(downsample_layers\.\d\.[01]|stages\.\d\.\d+)\..+",
    prefix="backbone.",
    rules=RELEASED.rules,
    dead=(_HEAD, r"(backbone\.)?norm\.(weight|bias)", *DEAD_KEYS),
    licence=_PERMISSIVE_CONVNEXT,
    lacks=_STAGE_NORMS,
    backbones=r"convnext_\w+",
    places=_CONVNEXT_PLACES,
)

_HF_BLOCK = "convnext.encoder.stages.N.layers.B."
HUGGING_FACE_CONVNEXT = Origin(
    names={"": "Hugging Face ConvNeXt"},
    marks=r"convnext\.(embeddings|encoder\.stages\.\d)\..+",
    prefix="convnext.",
    rules=(
        *_rules(
            ("backbone.downsample_layers.0.0.*", "convnext.embeddings.patch_embeddings.*"),
            ("backbone.downsample_layers.0.1.*", "convnext.embeddings.layernorm.*"),
            ("backbone.downsample_layers.N.B.*", "convnext.encoder.stages.N.downsampling_layer.B.*"),
            ("backbone.stages.N.B.dwconv.*", _HF_BLOCK + "dwconv.*"),
            ("backbone.stages.N.B.norm.*", _HF_BLOCK + "layernorm.*"),
            ("backbone.stages.N.B.pwconv1.*", _HF_BLOCK + "pwconv1.*"),
            ("backbone.stages.N.B.pwconv2.*", _HF_BLOCK + "pwconv2.*"),
            ("backbone.stages.N.B.gamma", _HF_BLOCK + "layer_scale_parameter"),
        ),
        *(
            Rule(rf"backbone\.norm{i}\.(?P<leaf>\w+)", (f"convnext.hidden_states_norms.stage{i + 1}.{{leaf}}",))
            for i in range(4)
        ),
    ),
    dead=(_CLASSIFIER, r"convnext\.layernorm\.(weight|bias)"),
    licence=_PERMISSIVE_CONVNEXT,
    lacks=_STAGE_NORMS,
    backbones=r"convnext_\w+",
    places=_CONVNEXT_PLACES,
)

_TIMM_BLOCK = "backbone.stages.N.blocks.B."
TIMM_CONVNEXT = Origin(
    names={"": "timm ConvNeXt"},
    marks=r"backbone\.(stem\.[01]|stages\.\d\.(downsample\.[01]|blocks\.\d+\.(conv_dw|gamma|norm|mlp)))(\..+)?",
    prefix="backbone.",
    rules=_rules(
        ("backbone.downsample_layers.0.B.*", "backbone.stem.B.*"),
        ("backbone.downsample_layers.N.B.*", "backbone.stages.N.downsample.B.*"),
        ("backbone.stages.N.B.dwconv.*", _TIMM_BLOCK + "conv_dw.*"),
        ("backbone.stages.N.B.norm.*", _TIMM_BLOCK + "norm.*"),
        ("backbone.stages.N.B.pwconv1.*", _TIMM_BLOCK + "mlp.fc1.*", _dense),
        ("backbone.stages.N.B.pwconv2.*", _TIMM_BLOCK + "mlp.fc2.*", _dense),
        ("backbone.stages.N.B.gamma", _TIMM_BLOCK + "gamma"),
    ),
    dead=(r"(backbone\.)?head\.(norm|fc)\.(weight|bias)",),
    licence=_PERMISSIVE_CONVNEXT,
    lacks=_STAGE_NORMS,
    backbones=r"convnext_\w+",
    places=_CONVNEXT_PLACES,
)

ORIGINS = (
    RELEASED, HUGGING_FACE, HUGGING_FACE_LIVE, MMSEGMENTATION,
    HUGGING_FACE_PVT, TIMM_PVT, CONVNEXT, HUGGING_FACE_CONVNEXT, TIMM_CONVNEXT,
)  # fmt: skip
