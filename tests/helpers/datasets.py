"""Tiny datasets in the layouts of Cityscapes and of one's own data, for tests."""

import cv2
import numpy as np
import pytest
from PIL import Image

from cffm_jax.errors import InputError

SIZE = (64, 128)


def write_png(path, array):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(array).save(path)


def frame(seed, size=SIZE):
    """A coarse pattern of u8[H,W,3] that moves with the seed."""
    coarse = np.random.default_rng(seed).integers(0, 256, (4, 8, 3), np.uint8)
    return cv2.resize(coarse, size[::-1], interpolation=cv2.INTER_CUBIC)


def classes_of(picture, classes):
    """u8[H,W]: a class by brightness, so that there is something to learn."""
    return (picture.mean(-1) * classes / 256).astype(np.uint8)


def frame_path(root, split, city, sequence, number):
    name = f"{city}_{sequence:06}_{number:06}_leftImg8bit.png"
    return root / "leftImg8bit_sequence" / split / city / name


def mask_path(root, split, city, sequence, number, kind="labelTrainIds"):
    return root / "gtFine" / split / city / f"{city}_{sequence:06}_{number:06}_gtFine_{kind}.png"


def write_snippet(root, split, city, sequence, first=0, kinds=("labelTrainIds",), numbers=None):
    """30 frames, or those with the numbers alone, and the masks of the 20th."""
    numbers = range(first, first + 30) if numbers is None else numbers
    for number in numbers:
        write_png(frame_path(root, split, city, sequence, number), frame(1000 * sequence + number))
    labelled = first + 19
    labels = classes_of(frame(1000 * sequence + labelled), 19)
    labels[:4] = 255
    for kind in kinds:
        # 7 is the road's label id, 4 one that is ignored.
        mask = labels if kind == "labelTrainIds" else np.where(labels == 255, 4, 7).astype(np.uint8)
        write_png(mask_path(root, split, city, sequence, labelled, kind), mask)


def write_own(root, videos, split="train", classes=8, size=SIZE):
    """``videos``: name -> (number of frames, indices of those with a mask)."""
    for name, (count, labelled) in videos.items():
        for i in range(count):
            picture = frame([i, *name.encode()], size)
            write_png(root / name / "frames" / f"{i:04}.png", picture)
            if i in labelled:
                write_png(root / name / "masks" / f"{i:04}.png", classes_of(picture, classes))
    (root / f"{split}.txt").write_text("\n".join(videos) + "\n")
    return root


def fails(match, function, *args, **kwargs):
    """The call raises one line that contains the text."""
    with pytest.raises(InputError) as caught:
        function(*args, **kwargs)
    message = str(caught.value)
    assert "\n" not in message
    assert str(match) in message
    return message


def assert_same_batches(first, second):
    assert len(first) == len(second)
    for a, b in zip(first, second):
        assert a.keys() == b.keys()
        for key in a:
            assert a[key].dtype == b[key].dtype
            np.testing.assert_array_equal(a[key], b[key])
