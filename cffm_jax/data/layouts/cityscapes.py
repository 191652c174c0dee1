"""Cityscapes with its video frames: snippets of 30 frames, of which the 20th is labelled.

    <root>/leftImg8bit_sequence/<split>/<city>/<city>_<sequence>_<frame>_leftImg8bit.png
    <root>/gtFine/<split>/<city>/<city>_<sequence>_<frame>_gtFine_labelTrainIds.png or
    .._labelIds.png

Train ids are taken where a frame has both. Files are known by their names: a mask's names the 20th
frame of its snippet, and references are found by number, so other frames may be missing.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator

from cffm_jax.config import IGNORED_LABEL
from cffm_jax.data.class_names import CITYSCAPES, CITYSCAPES_COLOURS, CITYSCAPES_LABEL_IDS
from cffm_jax.data.layouts.layout import SPLITS, Fault, Layout, Prepared, stop
from cffm_jax.data.layouts.names import list_files, list_folders, missing_but_for_case
from cffm_jax.data.layouts.video import Coding, Video
from cffm_jax.errors import InputError

SEQUENCES, MASKS, STILLS = "leftImg8bit_sequence", "gtFine", "leftImg8bit"
BEFORE, LENGTH = 19, 30
"""Frames of a snippet before the labelled one, and of the whole snippet."""
_PACKAGES = {SEQUENCES: "leftImg8bit_sequence_trainvaltest", MASKS: "gtFine_trainvaltest"}
_LABEL_IDS = 34
_OF_PACKAGE = re.compile(
    r"_gtFine_(color|instanceIds|instanceTrainIds|labelIds|labelTrainIds)\.png$|_gtFine_polygons\.json$", re.IGNORECASE
)
"""What the package of masks holds: none of it is told of as left out."""

TRAIN_IDS = Coding.of(range(len(CITYSCAPES_LABEL_IDS)), (IGNORED_LABEL,), "train ids 0..18, ignored: 255")
LABEL_IDS = Coding.of(
    [CITYSCAPES_LABEL_IDS.index(i) if i in CITYSCAPES_LABEL_IDS else IGNORED_LABEL for i in range(_LABEL_IDS)],
    (IGNORED_LABEL,),
    "label ids 0..33, of which 19 are classes",
)
_CODINGS = {"labelTrainIds": TRAIN_IDS, "labelIds": LABEL_IDS}
"""Coding by a mask's suffix, the best first."""

_Place = tuple[str, int]
"""Sequence and number of a frame; the sequence as it is written."""


def _cities(root: str, package: str, split: str, fault: Fault) -> list[str]:
    """Names of the cities of a split; a fault if the package or the split is missing or empty."""
    if not os.path.isdir(os.path.join(root, package)):
        problem = f"holds no {package}{missing_but_for_case(os.path.join(root, package))}"
        if package == SEQUENCES and os.path.isdir(os.path.join(root, STILLS)):
            problem = "holds leftImg8bit alone, which has only the labelled frames"
        fault(InputError(root, problem, f"add the package {_PACKAGES[package]}.zip, or correct --data.root"))
        return []
    folder = os.path.join(root, package, split)
    cities = list_folders(folder)
    if not cities:
        problem = "holds no city" if os.path.isdir(folder) else f"is missing{missing_but_for_case(folder)}"
        remedy = f"unpack {_PACKAGES[package]}.zip, or name another split ({', '.join(SPLITS)})"
        fault(InputError(folder, problem, remedy))
    return cities


def _list_city(
    root: str, package: str, split: str, city: str, fault: Fault, others: list[str], kind: str = "leftImg8bit"
) -> dict[_Place, str]:
    """Files of a kind by their places, in order; a fault for an unknown name, or without files.

    ``others`` gets what is none of the package's files, once.
    """
    folder = os.path.join(root, package, split, city)
    files, beside = {}, []
    listed = list_files(folder, (f"_{kind}.png",), beside)
    known = set(others)  # The masks' folder is listed for each kind of masks.
    others += (path for path in beside if path not in known and not _OF_PACKAGE.search(path))
    for stem, path in listed.items():
        match = re.fullmatch(re.escape(city) + r"_(\d+)_(\d+)", stem)
        if not match:
            fault(InputError(path, "has an unknown name", f"name it {city}_<sequence>_<frame>_{kind}.png"))
            continue
        files[match[1], int(match[2])] = path
    if not files and package == SEQUENCES:
        fault(InputError(folder, f"holds no frame {city}_<sequence>_<frame>_{kind}.png", "add the city's frames"))
    return dict(sorted(files.items()))


def _list_masks(root: str, split: str, city: str, fault: Fault, others: list[str]) -> dict[_Place, tuple[str, Coding]]:
    files = {}
    for kind, coding in reversed(_CODINGS.items()):
        masks = _list_city(root, MASKS, split, city, fault, others, f"gtFine_{kind}")
        files |= {place: (path, coding) for place, path in masks.items()}
    if not files:
        folder = os.path.join(root, MASKS, split, city)
        problem = f"holds no mask {city}_<sequence>_<frame>_gtFine_labelTrainIds.png or _labelIds.png"
        fault(InputError(folder, problem, f"unpack {_PACKAGES[MASKS]}.zip"))
    return dict(sorted(files.items()))


def _snippets(root: str, split: str, city: str, fault: Fault) -> Iterator[Video]:
    """A video for each mask of a city: the frames of its snippet that are there."""
    others: list[str] = []
    frames = _list_city(root, SEQUENCES, split, city, fault, others)
    masks = _list_masks(root, split, city, fault, others)
    rest = dict(frames)
    for (sequence, number), (mask, coding) in masks.items():
        if (sequence, number) not in frames:
            width = len(os.path.basename(mask).split("_")[-3])
            name = f"{city}_{sequence}_{number:0{width}}_leftImg8bit.png"
            path = os.path.join(root, SEQUENCES, split, city, name)
            fault(InputError(path, f"is missing, though {mask} labels it", "add the frame or remove the mask"))
            continue
        first = number - BEFORE
        places = [(sequence, n) for n in range(first, first + LENGTH) if (sequence, n) in frames]
        for place in places:
            rest.pop(place, None)
        labels = tuple(mask if place == (sequence, number) else None for place in places)
        yield _video(frames, places, labels, coding, (sequence, number), others)
        others = []
    for run in _consecutive(rest):
        if len(run) >= LENGTH:
            name = os.path.basename(frames[run[BEFORE]]).replace("_leftImg8bit", "_gtFine_labelTrainIds")
            problem = f"is the first of {len(run)} frames without a mask"
            fault(InputError(frames[run[0]], problem, f"add {MASKS}/{split}/{city}/{name}, or remove the frames"))


def _runs(root: str, split: str, city: str, fault: Fault) -> Iterator[Video]:
    """Consecutive frames of a city, cut after 30, as videos without masks."""
    others: list[str] = []
    frames = _list_city(root, SEQUENCES, split, city, fault, others)
    for run in _consecutive(frames):
        for start in range(0, len(run), LENGTH):
            places = run[start : start + LENGTH]
            yield _video(frames, places, (), TRAIN_IDS, places[min(BEFORE, len(places) - 1)], others)
            others = []


def _video(
    frames: dict[_Place, str],
    places: list[_Place],
    masks: tuple[str | None, ...],
    coding: Coding,
    named: _Place,
    others: list[str],
) -> Video:
    """The video of some places, named after the one that is (or would be) labelled."""
    name = os.path.basename(frames[named])[: -len("_leftImg8bit.png")]
    numbers = tuple(number for _, number in places)
    return Video(name, tuple(frames[p] for p in places), masks, coding, numbers, tuple(others))


def _consecutive(places: Iterable[_Place]) -> Iterator[list[_Place]]:
    """Runs of one sequence whose numbers follow on each other, of places in order."""
    run: list[_Place] = []
    for sequence, number in places:
        if run and (sequence, number - 1) != run[-1]:
            yield run
            run = []
        run.append((sequence, number))
    if run:
        yield run


class Cityscapes(Layout):
    """leftImg8bit_sequence and gtFine as they are unpacked."""

    name = "cityscapes"
    class_names, class_colours = CITYSCAPES, CITYSCAPES_COLOURS
    split_place, split_files = SEQUENCES + "/{}", False
    single_masks = True
    submission_problem = f"is for VSPW's layout, but the data are in Cityscapes' ({MASKS})"
    prepared = Prepared(
        "cityscapes_video",  # TFDS has a dataset "cityscapes" of its own.
        "Cityscapes: the frames of leftImg8bit_sequence, and the masks of gtFine that there are.",
        "https://www.cityscapes-dataset.com",
        "configs/b1_cityscapes.py",
    )

    def splits(self, root: str, *, empty: bool = False) -> tuple[str, ...]:
        """As `Layout.splits`; InputError names the package that is missing, where another is
        there."""
        if os.path.isdir(os.path.join(root, STILLS)) and not os.path.isdir(os.path.join(root, SEQUENCES)):
            _cities(root, SEQUENCES, SPLITS[0], stop)
        return super().splits(root, empty=empty)

    def videos(self, root: str, split: str, masks: bool, fault: Fault = stop) -> tuple[Video, ...]:
        """The snippets of a split, see `Layout.videos`: with ``masks`` those around the masks;
        without, the frames in runs of at most 30.

        Raises:
          InputError: the labels of the test split are asked for; and, unless ``fault`` does
            something else about it, a package, a split or a city is missing, a file has an unknown
            name, a labelled frame is missing, or a snippet has no mask.
        """
        if masks and split == "test":
            problem = "the labels of Cityscapes' test split are not public"
            raise InputError(os.path.join(root, MASKS, split), problem, "name train or val")
        cities = _cities(root, SEQUENCES, split, fault)
        if not masks:
            return tuple(video for city in cities for video in _runs(root, split, city, fault))
        labelled = _cities(root, MASKS, split, fault)
        if not cities or not labelled:
            return ()
        for city in sorted({*cities} ^ {*labelled}):
            there, missing = (SEQUENCES, MASKS) if city in cities else (MASKS, SEQUENCES)
            problem, remedy = f"is missing, though {there}/{split} has this city", "add it, or remove the other"
            fault(InputError(os.path.join(root, missing, split, city), problem, remedy))
        both = [city for city in cities if city in labelled]
        return tuple(video for city in both for video in _snippets(root, split, city, fault))


LAYOUT = Cityscapes()
