"""Hugging Face SegFormer state dicts renamed to NVlabs' keys, which ``convert_state_dict`` takes."""

from __future__ import annotations

import re
from collections.abc import Mapping

import numpy as np

_RULES = (
    (r"segformer\.encoder\.patch_embeddings\.(\d)\.proj\.(\w+)", "backbone.patch_embed{stage}.proj.{1}"),
    (r"segformer\.encoder\.patch_embeddings\.(\d)\.layer_norm\.(\w+)", "backbone.patch_embed{stage}.norm.{1}"),
    (r"segformer\.encoder\.layer_norm\.(\d)\.(\w+)", "backbone.norm{stage}.{1}"),
    (r"segformer\.encoder\.block\.(\d)\.(\d+)\.layer_norm_([12])\.(\w+)", "backbone.block{stage}.{1}.norm{2}.{3}"),
    (r"segformer\.encoder\.block\.(\d)\.(\d+)\.attention\.self\.query\.(\w+)", "backbone.block{stage}.{1}.attn.q.{2}"),
    (r"segformer\.encoder\.block\.(\d)\.(\d+)\.attention\.self\.sr\.(\w+)", "backbone.block{stage}.{1}.attn.sr.{2}"),
    (
        r"segformer\.encoder\.block\.(\d)\.(\d+)\.attention\.self\.layer_norm\.(\w+)",
        "backbone.block{stage}.{1}.attn.norm.{2}",
    ),
    (
        r"segformer\.encoder\.block\.(\d)\.(\d+)\.attention\.output\.dense\.(\w+)",
        "backbone.block{stage}.{1}.attn.proj.{2}",
    ),
    (r"segformer\.encoder\.block\.(\d)\.(\d+)\.mlp\.dense([12])\.(\w+)", "backbone.block{stage}.{1}.mlp.fc{2}.{3}"),
    (
        r"segformer\.encoder\.block\.(\d)\.(\d+)\.mlp\.dwconv\.dwconv\.(\w+)",
        "backbone.block{stage}.{1}.mlp.dwconv.dwconv.{2}",
    ),
    (r"decode_head\.linear_c\.(\d)\.proj\.(\w+)", "decode_head.linear_c{stage}.proj.{1}"),
    (r"decode_head\.linear_fuse\.weight", "decode_head.linear_fuse.conv.weight"),
    (r"decode_head\.batch_norm\.(\w+)", "decode_head.linear_fuse.bn.{0}"),
    (r"decode_head\.classifier\.(\w+)", "decode_head.linear_pred.{0}"),
)
_KEY_VALUE = r"(segformer\.encoder\.block\.\d\.\d+\.attention\.self)\.key\.(\w+)"


def to_nvlabs(state_dict: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """NVlabs' names for a saved ``SegformerForSemanticSegmentation`` state dict (its layer norms use 1e-5
    throughout): stages from 1, keys and values in one layer.

    Keys that no rule knows are kept, so that the strict conversion reports them.
    """
    result = {}
    for key, value in state_dict.items():
        if match := re.fullmatch(_KEY_VALUE, key):
            other = np.asarray(state_dict[f"{match[1]}.value.{match[2]}"])
            stage, block = re.findall(r"block\.(\d)\.(\d+)", key)[0]
            result[f"backbone.block{int(stage) + 1}.{block}.attn.kv.{match[2]}"] = np.concatenate([value, other])
        elif not re.search(r"attention\.self\.value\.", key):
            result[_rename(key)] = np.asarray(value)
    return result


def _rename(key: str) -> str:
    for pattern, name in _RULES:
        if match := re.fullmatch(pattern, key):
            groups = match.groups()
            stage = int(groups[0]) + 1 if "{stage}" in name else None
            return name.format(*groups, stage=stage)
    return key
