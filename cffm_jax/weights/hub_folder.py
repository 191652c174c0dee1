"""Weights as a folder for the Hugging Face hub: ``model.safetensors``, ``config.json`` and a card.

A SegFormer of MiT has the names and the config of transformers' ``save_pretrained``; all others lie
in our own format, which transformers does not know.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from cffm_jax.config import SETTINGS, Config
from cffm_jax.errors import InputError
from cffm_jax.metrics.all_metrics import METRICS
from cffm_jax.models.encoders.mit import HEADS, REDUCTIONS, MiTSize
from cffm_jax.models.encoders.names import ENCODER, backbone_of, size_of
from cffm_jax.models.foreign.names import Origin
from cffm_jax.rules import values, with_changes
from cffm_jax.runtime.atomic import WholeFolder
from cffm_jax.weights.described import FORMAT, StoredWeights, own_metadata, provenance, released_description
from cffm_jax.weights.files.write import write_safetensors
from cffm_jax.weights.hub import is_address
from cffm_jax.weights.naming.match import dead_arrays, export_state_dict, load_leaves, without_counterpart
from cffm_jax.weights.naming.origins import Naming
from cffm_jax.weights.open import RANDOM, to_publish

_NAMING = "Hugging Face"
"""Of whole models in transformers' files, see ``Origin.heads``."""


def write_hub_folder(weights: StoredWeights, folder: Path, figures: Path) -> str:
    """Writes the folder, whole or not at all; without a path of this machine.

    Args:
      weights: of a whole model, or an encoder alone.
      folder: a new one.
      figures: the JSON that ``eval.py`` wrote for these weights, if it is there: the card has them.

    Returns:
      Lines for the user: who reads it, what differs there, what is left to do.

    Raises:
      InputError: the weights or the figures are unusable, or the folder cannot be written.
    """
    weights = _to_publish(weights)
    history, origin = provenance(weights), _origin(weights)
    arrays = _renamed(weights, origin) if origin else {}
    if arrays:
        metadata = {"format": "pt", FORMAT: json.dumps(released_description(weights, history))}
        config = _config_of_transformers(weights)
    else:
        arrays, metadata = load_leaves(weights.leaves, weights.source), own_metadata(weights, history)
        config = {"model_type": FORMAT, FORMAT: dataclasses.asdict(weights.config.model)}
        origin = None
    card = _card(weights, origin is not None, _figures(figures, weights.step))
    with WholeFolder(folder) as whole, whole.writing() as partial:
        write_safetensors(partial / "model.safetensors", arrays, metadata)
        (partial / "config.json").write_text(json.dumps(config | _labels(weights), indent=2) + "\n", encoding="utf-8")
        (partial / "README.md").write_text(card, encoding="utf-8")
    said = [f"for cffm_jax{' and transformers' if origin else ' alone'}"]
    if origin and weights.model.norm_epsilons != origin.settings["norm_epsilons"]:
        ours, theirs = weights.model.norm_epsilons, origin.settings["norm_epsilons"]
        said.append(f"note: its norms were trained with epsilons {ours}, transformers computes with {theirs}")
    if weights.licence == RANDOM:
        said.append("note: its README.md states no licence: choose one")
    return "\n".join(said)


def _to_publish(weights: StoredWeights) -> StoredWeights:
    """The weights with the defaults and base names in the place of local paths."""
    given, usual = values(weights.config), values(Config())
    local = [name for name, rule in SETTINGS.items() if (rule.path or rule.place) and not is_address(given[name])]
    config = with_changes(weights.config, [(name, usual[name]) for name in local])
    return dataclasses.replace(weights, config=config, licence=to_publish(weights.licence))


def _origin(weights: StoredWeights) -> Origin | None:
    """Transformers' names for the encoder of a whole model, if it has such models."""
    if weights.part == ENCODER or not weights.model.channels.coloured:
        return None
    return next((each for each in backbone_of(weights.model.backbone).origins if each.heads == _NAMING), None)


def _renamed(weights: StoredWeights, origin: Origin) -> dict[str, np.ndarray]:
    """The arrays by transformers' names; {} where it has none for some."""
    model = weights.model
    naming, arrays = Naming(origin, model.foreign_names), {}
    if without_counterpart(model):
        return {}
    released = export_state_dict(weights.load(), model)
    for name, array in {**released, **dead_arrays(model, released)}.items():
        sources = naming.sources(name)
        if sources is None:
            if name in released:
                return {}
            continue
        keys = sources[0]  # One, or several that are laid together along the first axis.
        parts = np.split(array, len(keys)) if len(keys) > 1 else [array]
        arrays |= zip(keys, parts, strict=True)
    return arrays


def _config_of_transformers(weights: StoredWeights) -> dict[str, Any]:
    model = weights.model
    size = size_of(model.backbone, model.depths)
    assert isinstance(size, MiTSize)
    return {
        "model_type": "segformer",
        "architectures": ["SegformerForSemanticSegmentation"],
        "num_channels": len(model.channels),
        "num_encoder_blocks": len(size.depths),
        "depths": list(size.depths),
        "hidden_sizes": list(size.channels),
        "num_attention_heads": list(HEADS),
        "sr_ratios": list(REDUCTIONS),
        "patch_sizes": [7, 3, 3, 3],
        "strides": [4, 2, 2, 2],
        "mlp_ratios": list(size.mlp_ratios),
        "hidden_act": "gelu",
        "decoder_hidden_size": model.width,
        "semantic_loss_ignore_index": 255,
    }


def _labels(weights: StoredWeights) -> dict[str, Any]:
    """Names of the classes as transformers has them, by number where nothing states them."""
    if weights.part == ENCODER:
        return {}
    names = weights.classes.names or tuple(f"LABEL_{k}" for k in range(weights.model.num_classes))
    return {"id2label": dict(enumerate(names)), "label2id": {name: k for k, name in enumerate(names)}}


def _figures(path: Path, step: int | None) -> str:
    """The published figures of an eval.json as a table; "" without one of these weights."""
    if not path.is_file():
        return ""
    try:
        told = json.loads(path.read_text(encoding="utf-8"))
        rows: Mapping[str, Mapping[str, float]] = told["rows"]
        if told.get("step") != step:
            return ""
        metrics = [metric for metric in METRICS if metric.in_papers]
        lines = [["%", *(metric.title for metric in metrics)], ["---"] * (len(metrics) + 1)]
        lines += [[name, *(metric.text(row.get(metric.key)) for metric in metrics)] for name, row in rows.items()]
        changed = ", ".join(told.get("changed") or ())  # Their names alone: values may be paths.
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError(path, "holds no figures of eval.py", "delete it, or run eval.py again") from error
    table = "\n".join(f"| {' | '.join(line)} |" for line in lines)
    return f"{table}\n" + (f"\nEvaluated with other settings than the weights': {changed}.\n" if changed else "")


def _card(weights: StoredWeights, of_transformers: bool, figures: str) -> str:
    model = weights.model
    chosen = weights.licence == RANDOM
    licence = [] if chosen else ["license: other", "license_name: inherited"]
    library = "transformers" if of_transformers else "cffm-jax"
    head = [
        "---",
        *licence,
        f"library_name: {library}",
        "pipeline_tag: image-segmentation",
        "tags: [semantic-segmentation, video-semantic-segmentation, jax, cffm-jax]",
        "---",
    ]
    what = f"an encoder alone, {model.backbone}" if weights.part == ENCODER else model.public_name
    body = [f"# {what}", f"{weights.parameters:,} parameters. Origin: {weights.origin}."]
    if weights.classes.names:
        body.append(f"{model.num_classes} classes: {', '.join(weights.classes.names)}.")
    lines = ["import cffm_jax", 'weights = cffm_jax.load("hf:OWNER/NAME")  # after pip install "cffm-jax[hub]"']
    if weights.part != ENCODER:
        lines.append("for mask in weights.stream(frames): ...  # u8[H,W,3] in RGB, one after another")
    if of_transformers:
        lines += [
            "",
            "import transformers",
            'model = transformers.SegformerForSemanticSegmentation.from_pretrained("OWNER/NAME")',
            f"# of (frame - mean) / std: {model.channels.mean}, {model.channels.std}",
        ]
    body += ["## Use", "\n".join(["```python", *lines, "```"])]
    body += ["## Figures", figures.rstrip()] if figures else []
    notice = "Trained from random weights: choose a licence, and state it above as `license:`."
    body += ["## Licence", notice if chosen else f"{weights.licence}. The licence that came with it is what counts."]
    return "\n".join(head) + "\n\n" + "\n\n".join(body) + "\n"
