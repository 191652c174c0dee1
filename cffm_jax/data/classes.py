"""Names and colours of classes: the only place for class lists.

A dataset folder may name its own classes in ``classes.json``, a JSON list of as many names as the model has classes.
"""

from __future__ import annotations

import functools
import json
from pathlib import Path

import numpy as np

from cffm_jax.config import IGNORED_LABEL
from cffm_jax.errors import InputError

VSPW: tuple[str, ...] = tuple(
    """
    wall ceiling door stair ladder escalator Playground_slide handrail_or_fence window rail goal pillar pole floor
    ground grass sand athletic_field road path crosswalk building house bridge tower windmill well_or_well_lid
    other_construction sky mountain stone wood ice snowfield grandstand sea river lake waterfall water
    billboard_or_Bulletin_Board sculpture pipeline flag parasol_or_umbrella cushion_or_carpet tent roadblock car bus
    truck bicycle motorcycle wheeled_machine ship_or_boat raft airplane tyre traffic_light lamp person cat dog horse
    cattle other_animal tree flower other_plant toy ball_net backboard skateboard bat ball
    cupboard_or_showcase_or_storage_rack box traveling_case_or_trolley_case basket bag_or_package trash_can cage
    plate tub_or_bowl_or_pot bottle_or_cup barrel fishbowl bed pillow table_or_desk chair_or_seat bench sofa shelf
    bathtub gun commode roaster other_machine refrigerator washing_machine Microwave_oven fan curtain textiles
    clothes painting_or_poster mirror flower_pot_or_vase clock book tool blackboard tissue screen_or_television
    computer printer Mobile_phone keyboard other_electronic_product fruit food instrument train
    """.split()
)
"""VSPW's 124 names in order: the value i + 1 in a mask file is class i."""

SYNTHETIC: tuple[str, ...] = (
    "grass", "sky", "vehicle", "building", "tree", "road", "animal", "ball", "water", "rock", "box", "mountain",
)  # fmt: skip
"""Names of the first classes of the built-in data."""

DERIVED: tuple[str, ...] = ("field", "box", "building", "rock", "tree", "ball")
"""Kinds that the built-in data's further classes take in turn, each with a colour and a texture of its own."""


def synthetic_names(num_classes: int) -> tuple[str, ...]:
    """Names of the built-in data's classes: ``SYNTHETIC``, then "<kind> <index>"."""
    derived = (f"{DERIVED[(i - len(SYNTHETIC)) % len(DERIVED)]} {i}" for i in range(len(SYNTHETIC), num_classes))
    return (*SYNTHETIC[:num_classes], *derived)


def class_names(root: str | Path, num_classes: int) -> tuple[str, ...]:
    """Names of a dataset's classes, in the order of their indices.

    ``<root>/classes.json`` when there is one, VSPW's names for 124 classes, else "class 0", "class 1", ...

    Raises:
      InputError: ``classes.json`` cannot be read, is not a JSON list of strings, or has not ``num_classes`` names.
    """
    path = Path(root) / "classes.json"
    try:
        names = json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError):
        return VSPW if num_classes == len(VSPW) else tuple(f"class {i}" for i in range(num_classes))
    except (OSError, ValueError, RecursionError) as error:
        reason = " ".join(str(error).split())
        raise InputError(path, f"cannot be read ({reason})", "make it a JSON list of class names") from error
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise InputError(path, "is not a list of names", "make it a JSON list of class names")
    if len(names) != num_classes:
        raise InputError(
            path, f"names {len(names)} classes, not {num_classes}", "set model.num_classes to that, or correct the file"
        )
    return tuple(names)


@functools.cache
def _distinct_colours() -> np.ndarray:
    """u8[255,3]: each colour is the one of a 9x9x9 RGB grid farthest from black, white and the colours before it."""
    levels = np.linspace(0, 255, 9).round()
    grid = np.stack(np.meshgrid(levels, levels, levels, indexing="ij"), axis=-1).reshape(-1, 3)
    # Luma and two colour differences: distances here follow the eye better than in RGB.
    mix = np.array([[0.30, 0.59, 0.11], [0.50, -0.50, 0.00], [0.25, 0.25, -0.50]])
    points = grid @ mix.T
    distance = np.minimum(*(((points - mix @ np.full(3, grey)) ** 2).sum(axis=1) for grey in (0.0, 255.0)))
    colours = np.empty((IGNORED_LABEL, 3), np.uint8)
    for i in range(len(colours)):
        farthest = int(distance.argmax())
        colours[i] = grid[farthest]
        distance = np.minimum(distance, ((points - points[farthest]) ** 2).sum(axis=1))
    return colours


def palette(num_classes: int) -> np.ndarray:
    """Colours to draw label maps with.

    Returns:
      u8[256,3], RGB: distinct colours for 0..num_classes-1, black for the rest, ``IGNORED_LABEL`` among them. A class
      keeps its colour whatever ``num_classes`` is.

    Raises:
      ValueError: ``num_classes`` is outside 1..255.
    """
    if not 1 <= num_classes <= IGNORED_LABEL:
        raise ValueError(f"num_classes must be in 1..{IGNORED_LABEL}, not {num_classes}")
    table = np.zeros((256, 3), np.uint8)
    table[:num_classes] = _distinct_colours()[:num_classes]
    return table
