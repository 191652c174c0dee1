"""``convert.py``: weights of any kind into one new file."""

from __future__ import annotations

import json
from pathlib import Path

from cffm_jax.models.encoders.names import size_of
from cffm_jax.weights import summary
from cffm_jax.weights.described import (
    FORMAT,
    own_metadata,
    provenance,
    released_arrays,
    released_description,
)
from cffm_jax.weights.files.write import write_safetensors, write_torch
from cffm_jax.weights.naming.match import load_leaves
from cffm_jax.weights.open import open_stored


def convert(path: str | Path, output: Path, to: str, *, raw: bool = False) -> str:
    """``convert.py``: writes weights of any kind to a new file, whole or not at all.

    Args:
      path: as for ``load``.
      output: the file to write.
      to: "cffm_jax" for our .safetensors; "torch" or "safetensors" for the released layout, dead weights as zeros.
      raw: as for ``load``.

    Returns:
      Lines for the user: what was written, and what is known about its use.

    Raises:
      InputError: the weights cannot be used, the release has no place for them, or the file cannot be written.
    """
    with open_stored(path, raw=raw) as held:
        held.require_sound()
        history = provenance(held)
        if to == "cffm_jax":
            arrays = load_leaves(held.leaves, held.source)
            write_safetensors(output, arrays, own_metadata(held, history))
        else:
            arrays, told = released_arrays(held), released_description(held, history)
            if to == "torch":
                write_torch(output, arrays, {FORMAT: told})
            else:
                write_safetensors(output, arrays, {"format": "pt", FORMAT: json.dumps(told)})
        said = f"{summary.description(held)}\n{output}: written ({len(arrays)} arrays)"
        if to != "cffm_jax" and held.model.norm_epsilons != size_of(held.model.backbone).norm_epsilons:
            said += f"\nnote: its norms were trained with epsilons {held.model.norm_epsilons}, not with the release's"
        return said
