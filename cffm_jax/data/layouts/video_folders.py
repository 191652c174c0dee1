"""Layouts of a folder a video, with one for frames and one for masks, and split files of names."""

from __future__ import annotations

import collections
import os
from collections.abc import Mapping, Sequence
from pathlib import Path

from cffm_jax.data.layouts.layout import Fault, Layout, stop
from cffm_jax.data.layouts.listing import DATASET, MASKS, MISSING, UNREADABLE, Listed, Listing, Problem
from cffm_jax.data.layouts.names import (
    beside,
    in_other_case,
    is_outside,
    list_files,
    list_folders,
    missing_but_for_case,
    numeric_order,
    read_names,
    unread_images,
)
from cffm_jax.data.layouts.video import Coding, Video
from cffm_jax.errors import InputError
from cffm_jax.runtime.checksums import relative_name

FOLDER = "folder", "frames"
"""Name of the layout folder, and its folder of a video's frames: who has it is told so."""
_MASK = ".png"
_LEAVE_OUT = "add the frames or leave the video out"


class VideoFolders(Layout):
    """<base>/<video>/<frames>/<frame>.jpg, <base>/<video>/<masks>/<frame>.png, <split>.txt.

    Attributes:
      base: the folder of the videos, relative to the dataset's; "" for that one itself.
      frames: the folder of a video's frames.
      suffixes: of frames.
      masks: the folder of a video's masks.
      every_frame: whether a video to train or evaluate on has a mask for every frame.
      default_coding: what the masks' bytes mean, unless a class file says more.
    """

    base: str
    frames: str
    suffixes: tuple[str, ...]
    masks: str
    every_frame: bool
    default_coding: Coding

    def coding(self, root: str) -> Coding:
        """The masks' coding below ``root``. InputError: the class file cannot be used."""
        return self.default_coding

    def videos(self, root: str, split: str, masks: bool, fault: Fault = stop) -> tuple[Video, ...]:
        """A split file's videos (`Layout.videos`); raises the first fault, `listing` notes all."""
        if not os.path.isdir(os.path.join(root, self.base)):
            raise self._without_base(root, "point --data.root to", "--data.layout")
        coding = self.coding(root)
        names = read_names(os.path.join(root, f"{split}.txt"))
        return tuple(self._video(root, name, masks, coding) for name in names)

    def _without_base(self, root: str, give: str, option: str) -> InputError:
        remedy = f"{give} the folder that holds {self.base}/<video>, or give another {option}"
        name, frames = FOLDER
        if next(Path(root).glob(f"*/{frames}/"), None):
            remedy = f"its <video>/{frames} are of the layout folder: give {option} {name}"
        problem = f"has no {self.base} folder inside{missing_but_for_case(os.path.join(root, self.base))}"
        return InputError(root, problem, remedy)

    def _video(self, root: str, name: str, masks: bool, coding: Coding) -> Video:
        """Lists one video's frames and masks: two directory listings, no file is opened."""
        folder = os.path.join(root, self.base, name)
        others: list[str] = []
        frames = list_files(os.path.join(folder, self.frames), self.suffixes, others)
        if not frames:
            if not os.path.isdir(folder):
                problem = "the split lists this video but it is missing" + missing_but_for_case(folder)
                raise InputError(folder, problem, "add it or correct the split file")
            remedy = "add the frames or remove the video from the split"
            place = os.path.join(folder, self.frames)
            raise InputError(place, self._without_frames(place) + beside(others), remedy)
        place = os.path.join(folder, self.masks)
        labels = list_files(place, (_MASK,), others) if masks else {}
        if masks and in_other_case(place):
            raise InputError(place, *_other_case(place))
        stems = sorted(frames, key=numeric_order)
        if masks and self.every_frame:
            for stem in stems:
                if stem not in labels:
                    unread = beside([path for path in others if os.path.dirname(path) == place])
                    problem = f"has no mask {self.masks}/{stem}.png{unread}"
                    raise InputError(frames[stem], problem, "add the mask or remove the frame")
        else:
            for stem, mask in labels.items():
                if stem not in frames:
                    problem = f"there is no frame {stem} in {name}/{self.frames}"
                    raise InputError(mask, problem, "add the frame or remove the mask")
        files = tuple(labels.get(stem) for stem in stems) if masks else ()
        return Video(name, tuple(frames[stem] for stem in stems), files, coding, (), tuple(others))

    def _without_frames(self, place: str) -> str:
        return f"holds no {' or '.join(self.suffixes)} frame{missing_but_for_case(place)}"

    def listing(self, root: str, splits: Sequence[str], unlabelled: Sequence[str], offsets: Sequence[int]) -> Listing:
        """Lists the splits with all that is missing; see `read.list_dataset`."""
        base = os.path.join(root, self.base)
        if not os.path.isdir(base):
            raise self._without_base(root, "name", "--layout")
        problems: list[Problem] = []
        listed = {split: self._names(root, split, problems) for split in splits}
        try:
            coding = self.coding(root)
        except InputError:
            coding = self.default_coding  # What is wrong with the class file is said when its names are read.
        labelled = {name for split in splits if split not in unlabelled for name in listed[split]}
        videos = {}
        for name in dict.fromkeys(name for names in listed.values() for name in names):
            videos[name] = self._listed(root, name, coding, name in labelled, problems)
        for split, names in listed.items():
            needs_masks = names and split not in unlabelled and not self.every_frame
            if needs_masks and not any(videos[name].masks for name in names):
                problem = "lists no video with a mask"
                remedy = f"add masks as <video>/{self.masks}/<frame>.png, or name it with --unlabelled"
                problems.append(Problem(DATASET, f"{split}.txt", problem, remedy))
        # Where the videos have a folder to themselves, all that is in it are videos.
        others = (name for name in list_folders(base) if name not in videos)
        unlisted = sum(bool(self.base) or os.path.isdir(os.path.join(base, name, self.frames)) for name in others)
        return Listing(listed, videos, unlisted, tuple(problems))

    def _names(self, root: str, split: str, problems: list[Problem]) -> tuple[str, ...]:
        """The names in a split file, each once."""
        file = f"{split}.txt"
        remedy = "correct the split file"
        try:
            with open(os.path.join(root, file), encoding="utf-8-sig") as lines:
                names = [line.strip() for line in lines if line.strip()]
        except (OSError, UnicodeDecodeError) as error:
            reason = getattr(error, "strerror", None) or "no text file"
            problem = f"cannot be read ({reason}){missing_but_for_case(os.path.join(root, file))}"
            problems.append(Problem(DATASET, file, problem, remedy))
            return ()
        if not names:
            problems.append(Problem(DATASET, file, "lists no video", "write one video name a line"))
        for name, count in collections.Counter(names).items():
            if count > 1:
                problems.append(Problem(DATASET, file, f"lists video {name!r} {count} times", "keep one of the lines"))
            if is_outside(name):
                problem = f"lists {name!r}, which lies outside of the dataset"
                problems.append(Problem(DATASET, file, problem, "name folders inside of it", name))
            elif not os.path.isdir(os.path.join(root, self.base, name)):
                place = missing_but_for_case(os.path.join(root, self.base, name))
                problem = f"lists video {name!r}, which is not in {self.base or 'the folder'}{place}"
                problems.append(Problem(DATASET, file, problem, "add the video or correct the split file", name))
        return tuple(dict.fromkeys(names))

    def _listed(self, root: str, name: str, coding: Coding, labelled: bool, problems: list[Problem]) -> Listed:
        """The files of a video; ``labelled`` says whether it is one to train or evaluate on."""
        place = "/".join(filter(None, (self.base, name)))
        path = os.path.join(root, self.base, name)
        if not os.path.isdir(path):
            return Listed(name, place, {}, {}, coding)  # What is wrong was said of the split file.

        def add(group: str, file: str, problem: str, remedy: str) -> None:
            problems.append(Problem(group, relative_name(file, root), problem, remedy, name))

        others: list[str] = []
        try:
            places = os.path.join(path, self.frames), os.path.join(path, self.masks)
            frames = _in_order(list_files(places[0], self.suffixes, others))
            without = self._without_frames(places[0]) + beside(others)
            masks = _in_order(list_files(places[1], (_MASK,), others))
        except InputError as error:
            add(UNREADABLE, error.where, error.problem, error.remedy)
            return Listed(name, place, {}, {}, coding)
        if not frames:
            add(MISSING, places[0], without, _LEAVE_OUT)
        for folder in filter(in_other_case, places if frames else places[1:]):
            add(MISSING, folder, *_other_case(folder))
        for folder, read, suffixes in zip(places, (frames, masks), (self.suffixes, (_MASK,))):
            unread = unread_images(folder, read, others) if labelled and frames else []
            if unread:
                more = f", nor are {len(unread) - 1} more of the folder" if len(unread) > 1 else ""
                kind, group = ("mask", MASKS) if read is masks else ("frame", UNREADABLE)
                add(group, unread[0], f"is not read as a {kind}{more}", f"save {kind}s as {' or '.join(suffixes)}")
        if labelled and self.every_frame and frames and not masks:
            add(MISSING, places[1], "holds no .png mask", "add the masks or leave the video out")
        elif masks and self.every_frame:
            for stem in (stem for stem in frames if stem not in masks):
                add(MISSING, frames[stem], f"has no mask {self.masks}/{stem}.png", "add the mask or remove the frame")
        suffix = self.suffixes[0] if len(self.suffixes) == 1 else ""
        for stem in (stem for stem in masks if stem not in frames):
            add(MISSING, masks[stem], f"has no frame {self.frames}/{stem}{suffix}", "add the frame or remove the mask")
        return Listed(name, place, frames, masks, coding, passed_over=tuple(others))


def _other_case(place: str) -> tuple[str, str]:
    """Problem and remedy of a folder that is there under its name in other capitals."""
    if os.path.lexists(place):
        return f"is there beside {in_other_case(place)}: capitals count", "move the files of the two into it"
    return f"there is no such folder{missing_but_for_case(place)}", "rename the one that is there"


def _in_order(files: Mapping[str, str]) -> dict[str, str]:
    return {stem: files[stem] for stem in sorted(files, key=numeric_order)}
