"""``convert.py``: weights of any kind into one new file."""

from __future__ import annotations

import json
from pathlib import Path

from cffm_jax.models.encoders.names import size_of
from cffm_jax.weights import summary
from cffm_jax.weights.described import FORMAT, own_metadata, provenance, released_arrays, released_description
from cffm_jax.weights.files.write import write_safetensors, write_torch
from cffm_jax.weights.hub_folder import write_hub_folder
from cffm_jax.weights.naming.match import load_leaves
from cffm_jax.weights.open import beside, open_stored


def convert(path: str | Path, output: Path, to: str, *, raw: bool = False, take: str = "") -> str:
    """``convert.py``: writes weights of any kind to a new file or folder, whole or not at all.

    Args:
      path: as for ``load``.
      output: the file to write; of "hub" the folder.
      to: "cffm_jax": our .safetensors; "torch", "safetensors": released layout, dead ones zero;
        "hub": see ``write_hub_folder``.
      raw, take: as for ``load``.

    Returns:
      Lines for the user: what was written, and what is known about its use.

    Raises:
      InputError: weights are unusable or without place in the release, or the file unwritable.
    """
    with open_stored(path, raw=raw, take=take) as weights:
        weights.require_sound()
        history = provenance(weights)
        if to == "hub":
            written = write_hub_folder(weights, output, beside(path, "eval.json"))
            return f"{summary.description(weights)}\n{output}: written, {written}"
        if to == "cffm_jax":
            arrays = load_leaves(weights.leaves, weights.source)
            write_safetensors(output, arrays, own_metadata(weights, history))
        else:
            arrays, description = released_arrays(weights), released_description(weights, history)
            if to == "torch":
                write_torch(output, arrays, {FORMAT: description})
            else:
                write_safetensors(output, arrays, {"format": "pt", FORMAT: json.dumps(description)})
        lines = f"{summary.description(weights)}\n{output}: written ({len(arrays)} arrays)"
        if to != "cffm_jax" and weights.model.norm_epsilons != size_of(weights.model.backbone).norm_epsilons:
            lines += (
                f"\nnote: its norms were trained with epsilons {weights.model.norm_epsilons}, not with the release's"
            )
        return lines
