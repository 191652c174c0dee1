"""CamVid and DAVIS as they are downloaded: their folders and names, with small pictures of noise."""

import numpy as np
from PIL import Image

from helpers.datasets import frame, write_png

SIZE = (64, 96)
CAMVID = {
    "train": {"0001TP_00": range(8250, 8550, 30), "0006R0_f0": range(930, 1230, 30), "0016E5_0": range(7650, 7950, 30)},
    "val": {"0016E5_0": range(7959, 8160, 20)},
    "test": {"0001TP_00": range(8550, 8850, 30), "Seq05VD_f0": range(0, 540, 30)},
}
"""Split -> what frames' names begin with -> their numbers, some at its bounds."""
FRAMES = {
    split: [f"{start}{number:04}" for start, numbers in drives.items() for number in numbers]
    for split, drives in CAMVID.items()
}
ORIGINAL = [
    (128, 128, 128), (64, 192, 0), (0, 0, 64), (192, 0, 64), (64, 192, 128), (192, 192, 0), (0, 64, 64), (64, 64, 128),
    (128, 64, 64), (64, 128, 64), (192, 0, 192), (0, 0, 0),
]  # fmt: skip
"""A colour of each of the 11 classes, such as a wall's of buildings, and void's."""
DAVIS = {"train": ["bear", "bmx-bumps", "bus", "hike", "soccerball"], "val": ["breakdance", "dog"]}
NEW = {"train": ["boxing-fisheye"], "val": ["bike-packing"]}
"""Videos of DAVIS 2017 alone."""


def labels(name, size=SIZE):
    """u8[H,W]: the 11 classes and void, 11, in stripes that start at another one in each frame."""
    start = sum(name.encode())
    return np.broadcast_to((np.arange(size[1]) // 8 + start) % 12, size).astype(np.uint8)


def camvid(root, size=SIZE):
    for split, names in FRAMES.items():
        for name in names:
            write_png(root / split / f"{name}.png", frame([*name.encode()], size))
            write_png(root / f"{split}annot" / f"{name}.png", labels(name, size))


def camvid_original(root):
    for name in (name for names in FRAMES.values() for name in names):
        write_png(root / "701_StillsRaw_full" / f"{name}.png", frame([*name.encode()], SIZE))
        write_png(root / "LabeledApproved_full" / f"{name}_L.png", np.array(ORIGINAL, np.uint8)[labels(name)])


def inside(i):
    """bool[H,W]: where the object of a video's frame is."""
    where = np.zeros(SIZE, bool)
    where[10:40, 10 + i : 50 + i] = True
    return where


def davis(root, year=2016, length=18):
    """``ImageSets`` of 2017 name its other videos too, and that folder has no list of 2016's."""
    for split in DAVIS:
        videos = DAVIS[split] + (NEW[split] if year == 2017 else [])
        lines = []
        for video in videos:
            for i in range(length):
                picture = root / "JPEGImages" / "480p" / video / f"{i:05}.jpg"
                picture.parent.mkdir(parents=True, exist_ok=True)
                Image.fromarray(frame([i, *video.encode()], SIZE)).save(picture)
                mask = root / "Annotations" / "480p" / video / f"{i:05}.png"
                mask.parent.mkdir(parents=True, exist_ok=True)
                _mask(i, year).save(mask)
                lines.append(f"/JPEGImages/480p/{video}/{i:05}.jpg /Annotations/480p/{video}/{i:05}.png ")
        lists = root / "ImageSets" / ("480p" if year == 2016 else "2017") / f"{split}.txt"
        lists.parent.mkdir(parents=True, exist_ok=True)
        lists.write_text("\n".join(lines if year == 2016 else videos) + "\n")


def _mask(i, year):
    """2016: black and white, the third with transparency; 2017: two objects, in a palette."""
    if year == 2016:
        image = Image.fromarray(inside(i).astype(np.uint8) * 255)
        return image.convert("LA") if i == 2 else image
    values = inside(i).astype(np.uint8)
    values[values.nonzero()[0][-1]] *= 2
    image = Image.fromarray(values)
    image.putpalette([0, 0, 0, 128, 0, 0, 0, 128, 0])
    return image
