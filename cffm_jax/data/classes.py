"""Names and colours of classes: the only place for class lists.

A dataset folder may name its own classes, as many as the model has, in ``classes.txt``, a name a line, or in
``classes.json``, a list of names or ``{"names": [...], "colours": [[r, g, b], ...], "ignored": 255}``, of which the
last two may be left out.
"""

from __future__ import annotations

import functools
import json
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np

from cffm_jax.config import IGNORED_LABEL
from cffm_jax.data.records import source_layout
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

CITYSCAPES: tuple[str, ...] = (
    "road", "sidewalk", "building", "wall", "fence", "pole", "traffic light", "traffic sign", "vegetation", "terrain",
    "sky", "person", "rider", "car", "truck", "bus", "train", "motorcycle", "bicycle",
)  # fmt: skip
"""Names of the 19 classes that Cityscapes evaluates, in the order of their train ids 0..18.

Names, label ids, train ids and colours are those of the table in ``cityscapesscripts/helpers/labels.py`` of the
dataset's tools (github.com/mcordts/cityscapesScripts)."""

CITYSCAPES_COLOURS: tuple[tuple[int, int, int], ...] = (
    (128, 64, 128), (244, 35, 232), (70, 70, 70), (102, 102, 156), (190, 153, 153), (153, 153, 153), (250, 170, 30),
    (220, 220, 0), (107, 142, 35), (152, 251, 152), (70, 130, 180), (220, 20, 60), (255, 0, 0), (0, 0, 142),
    (0, 0, 70), (0, 60, 100), (0, 80, 100), (0, 0, 230), (119, 11, 32),
)  # fmt: skip
"""The dataset's own colours of these classes, RGB."""

CITYSCAPES_LABEL_IDS: tuple[int, ...] = (7, 8, 11, 12, 13, 17, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 31, 32, 33)
"""Label id of each of these classes; the others of the ids 0..33 are ignored."""

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


class Classes(NamedTuple):
    """The classes of a dataset.

    Attributes:
      names: K names.
      colours: u8[256,3], RGB, as of `palette`.
    """

    names: tuple[str, ...]
    colours: np.ndarray


class _Stated(NamedTuple):
    """What a dataset's own class file says; None where it says nothing."""

    path: Path
    names: tuple[str, ...]
    colours: np.ndarray | None = None
    ignored: int | None = None


def read_classes(root: str | Path, num_classes: int, layout: str = "vspw") -> Classes:
    """Names and colours of a dataset's classes, in the order of their indices.

    Those that its folder states; else those of VSPW for 124 classes and of Cityscapes for 19 in the layout of the
    same name; else "class 0", "class 1", ... and the colours of `palette`. Records have those of what was prepared.

    Raises:
      InputError: the class file cannot be used, or has not ``num_classes`` names.
    """
    if layout == "records":
        layout = source_layout(str(root))
    stated = _stated(root)
    if stated is None:
        if layout == "cityscapes" and num_classes == len(CITYSCAPES):
            return Classes(CITYSCAPES, _with_colours(np.array(CITYSCAPES_COLOURS, np.uint8)))
        known = VSPW if layout == "vspw" and num_classes == len(VSPW) else None
        return Classes(known or tuple(f"class {i}" for i in range(num_classes)), palette(num_classes))
    if len(stated.names) != num_classes:
        problem = f"names {len(stated.names)} classes, not {num_classes}"
        raise InputError(stated.path, problem, "set model.num_classes to that, or correct the file")
    if stated.ignored is not None and layout != "folder":
        problem = f'states an ignored label, but the layout "{layout}" fixes those'
        raise InputError(stated.path, problem, 'remove "ignored", or give --data.layout folder')
    return Classes(stated.names, palette(num_classes) if stated.colours is None else _with_colours(stated.colours))


def count_classes(root: str | Path, layout: str = "vspw") -> int:
    """How many classes a dataset has: what its class file says; without one, those of VSPW or Cityscapes, else 0.

    Raises:
      InputError: the class file cannot be used.
    """
    stated = _stated(root)
    return len(stated.names) if stated else len({"vspw": VSPW, "cityscapes": CITYSCAPES}.get(layout, ()))


def class_names(root: str | Path, num_classes: int, layout: str = "vspw") -> tuple[str, ...]:
    """The names alone; see `read_classes`."""
    return read_classes(root, num_classes, layout).names


def ignored_label(root: str | Path) -> int:
    """The label that the plain layout's masks ignore: what the class file states, else 255.

    Raises:
      InputError: the class file cannot be used.
    """
    stated = _stated(root)
    return IGNORED_LABEL if stated is None or stated.ignored is None else stated.ignored


def _stated(root: str | Path) -> _Stated | None:
    """Reads the class file of a dataset's folder, if there is one."""
    paths = [path for path in (Path(root) / "classes.txt", Path(root) / "classes.json") if path.exists()]
    if len(paths) > 1:
        raise InputError(paths[0], "is there beside classes.json", "remove one of the two")
    if not paths:
        return None
    path = paths[0]
    remedy = "write one class name a line" if path.suffix == ".txt" else "make it a JSON list of class names"
    try:
        text = path.read_text(encoding="utf-8-sig")
        if path.suffix == ".txt":
            return _Stated(path, _names(path, [line.strip() for line in text.splitlines() if line.strip()]))
        tree = json.loads(text)
    except (OSError, ValueError, RecursionError) as error:
        reason = " ".join(str(error).split())
        raise InputError(path, f"cannot be read ({reason})", remedy) from error
    if not isinstance(tree, dict):
        return _Stated(path, _names(path, tree))
    unknown = sorted(set(tree) - {"names", "colours", "ignored"})
    if unknown or "names" not in tree:
        problem = f"has a key {unknown[0]!r}" if unknown else 'has no "names"'
        raise InputError(path, problem, 'give "names" and, if you like, "colours" and "ignored"')
    names = _names(path, tree["names"])
    colours, ignored = tree.get("colours"), tree.get("ignored")
    if ignored is not None and not _is_byte(ignored):
        raise InputError(path, f'"ignored" is {ignored!r}', "give a label in 0..255")
    return _Stated(path, names, None if colours is None else _colours(path, colours, len(names)), ignored)


def _names(path: Path, names: Any) -> tuple[str, ...]:
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise InputError(path, "is not a list of names", "make it a JSON list of class names")
    if not 1 <= len(names) < IGNORED_LABEL:
        raise InputError(path, f"names {len(names)} classes", f"name 1 to {IGNORED_LABEL - 1}")
    return tuple(names)


def _colours(path: Path, colours: Any, count: int) -> np.ndarray:
    """u8[K,3] of a JSON list of K lists of three."""
    rows = colours if isinstance(colours, list) else []
    if len(rows) != count or not all(isinstance(c, list) and len(c) == 3 and all(map(_is_byte, c)) for c in rows):
        problem = f'"colours" is not a list of {count} times three numbers in 0..255'
        raise InputError(path, problem, "give each class a colour [r, g, b]")
    return np.array(rows, np.uint8)


def _is_byte(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= 255


def _with_colours(colours: np.ndarray) -> np.ndarray:
    """u8[256,3]: the classes' colours, then black."""
    table = np.zeros((256, 3), np.uint8)
    table[: len(colours)] = colours
    return table


_FIRST_COLOUR = (55.0, 0.0, -40.0)
"""Where the spread starts in CIELAB: a quiet blue."""


@functools.cache
def _distinct_colours() -> np.ndarray:
    """u8[255,3]: each colour is the one of a 17x17x17 RGB grid farthest from the colours before it in CIELAB, where
    distances follow the eye; neither very dark nor very light, and muted, so that masks do not glare."""
    levels = np.linspace(0, 255, 17).round()
    grid = np.stack(np.meshgrid(levels, levels, levels, indexing="ij"), axis=-1).reshape(-1, 3)
    points = cv2.cvtColor((grid[None] / 255).astype(np.float32), cv2.COLOR_RGB2LAB)[0].astype(float)
    lightness, chroma = points[:, 0], np.hypot(points[:, 1], points[:, 2])
    usable = (lightness > 25) & (lightness < 90) & (chroma < 65)
    # Rounded, so that the last bits of another processor change no choice.
    grid, points = grid[usable], points[usable].round(2)
    distance = -((points - _FIRST_COLOUR) ** 2).sum(axis=1)
    colours = np.empty((IGNORED_LABEL, 3), np.uint8)
    for i in range(len(colours)):
        farthest = int(distance.argmax())
        colours[i] = grid[farthest]
        reach = ((points - points[farthest]) ** 2).sum(axis=1)
        distance = np.minimum(distance, reach) if i else reach
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
    return _with_colours(_distinct_colours()[:num_classes])
