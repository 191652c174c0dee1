"""Names and colours of the classes of known datasets."""

from __future__ import annotations

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

Names, label ids, train ids and colours are from ``cityscapesscripts/helpers/labels.py`` of the
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
"""Kinds of the built-in data's further classes, in turn; each has its own colour and texture."""


def synthetic_names(num_classes: int) -> tuple[str, ...]:
    """Names of the built-in data's classes: ``SYNTHETIC``, then "<kind> <index>"."""
    derived = (f"{DERIVED[(i - len(SYNTHETIC)) % len(DERIVED)]} {i}" for i in range(len(SYNTHETIC), num_classes))
    return (*SYNTHETIC[:num_classes], *derived)
