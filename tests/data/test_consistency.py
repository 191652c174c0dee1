"""mIoU between consecutive masks: what it is by hand, and what the command says."""

import numpy as np
import pytest
from PIL import Image

from cffm_jax.config import IGNORED_LABEL
from cffm_jax.data import consistency
from cffm_jax.data.consistency import Consistency
from cffm_jax.data.layouts import read as layouts
from cffm_jax.metrics.confusion import Confusion
from cffm_jax.runtime.command_line import run_command

from helpers.datasets import write_own

VOID = IGNORED_LABEL


def of(*masks):
    """Over the consecutive pairs of masks u8[H,W]."""
    result = Consistency.empty()
    for before, after in zip(masks, masks[1:]):
        result = result.update(np.array(before, np.uint8), np.array(after, np.uint8))
    return result


def both(result):
    return result.mean_of_pairs(), result.of_all_pairs()


def random_masks(seed, count=5, classes=6, void=0.2):
    rng = np.random.default_rng(seed)
    masks = rng.integers(0, classes, (count, 12, 15)).astype(np.uint8)
    masks[rng.random(masks.shape) < void] = VOID
    return masks


def write_video(root, name, masks):
    """In the layout on disk, where 0 is ignored and classes start at 1."""
    for part in ("origin", "mask"):
        (root / "data" / name / part).mkdir(parents=True)
    for i, mask in enumerate(masks):
        (root / "data" / name / "origin" / f"{i:08d}.jpg").write_bytes(b"not read")
        stored = np.where(np.array(mask) == VOID, 0, np.array(mask) + 1).astype(np.uint8)
        Image.fromarray(stored).save(root / "data" / name / "mask" / f"{i:08d}.png")


@pytest.fixture
def videos(tmp_path):
    """Root of three videos: of 5 frames, of 4, of a single one."""
    masks = {"a": random_masks(0, 5), "b": random_masks(1, 4), "c": random_masks(2, 1)}
    for name, each in masks.items():
        write_video(tmp_path / "root", name, each)
    (tmp_path / "root" / "val.txt").write_text("a\nb\nc\n")
    return tmp_path / "root", masks


def test_identical_masks_are_whole():
    mask = random_masks(0)[0]
    assert both(of(mask, mask, mask)) == (1.0, 1.0)


def test_disjoint_masks_are_nothing():
    mask = random_masks(0, void=0)[0]
    assert both(of(mask, (mask + 1) % 6)) == (0.0, 0.0)


def test_by_hand():
    first, second, third = [[0, 0, 1, 1]], [[0, 1, 1, 1]], [[2, 1, 1, 1]]
    one = (1 / 2 + 2 / 3) / 2  # Class 0: 1 of 2; class 1: 2 of 3.
    other = (0 / 1 + 3 / 3 + 0 / 1) / 3  # A class that one of the two masks has counts, with nothing in common.
    result = of(first, second, third)
    assert result.mious.tolist() == pytest.approx([one, other])
    assert result.mean_of_pairs() == pytest.approx((one + other) / 2)
    assert result.of_all_pairs() == pytest.approx((1 / 3 + 5 / 6 + 0 / 1) / 3)


def test_pixels_that_either_mask_ignores_do_not_count():
    first, second = random_masks(3, 2)
    kept = (first != VOID) & (second != VOID)
    assert 0 < kept.sum() < kept.size
    expected = of(first[kept][None], second[kept][None])
    assert both(of(first, second)) == both(expected)
    assert len(of(first, np.full_like(first, VOID), second).mious) == 0
    assert all(np.isnan(value) for value in both(of(first)))


def test_both_directions_and_any_grouping_give_the_same():
    masks = random_masks(4, 8)
    whole, back = of(*masks), of(*masks[::-1])
    assert both(whole) == pytest.approx(both(back))
    assert both(of(*masks[:4]).merge(of(*masks[3:]))) == both(whole)


def test_over_all_pairs_it_is_the_published_miou():
    masks = random_masks(5, 6, void=0)
    confusion = Confusion.empty(6)
    for before, after in zip(masks, masks[1:]):
        confusion = confusion.update(before, after)
    assert of(*masks).of_all_pairs() == pytest.approx(confusion.miou())


def test_of_a_split(videos):
    root, masks = videos
    expected = of(*masks["a"]).merge(of(*masks["b"]))
    result = consistency.split_consistency(layouts.read_split(str(root), "val"))
    assert len(result.mious) == 4 + 3 and both(result) == both(expected)


def test_command(videos, capfd):
    root, masks = videos
    expected = of(*masks["a"]).merge(of(*masks["b"]))
    assert run_command(consistency.main, [str(root), "--split", "val"]) == 0
    out = capfd.readouterr().out
    assert "7 pairs" in out and "3 videos" in out
    for value in both(expected):
        assert f"{100 * value:.2f} %" in out


def test_built_in_videos_move_slowly(data):
    result = consistency.split_consistency(layouts.read_split(str(data), "val"))
    assert 0.5 < result.mean_of_pairs() < 1 and len(result.mious) == 2 * 17


def one_frame_each(root):
    (root / "val.txt").write_text("c\n")
    return "no two consecutive masks"


def other_size(root):
    Image.new("L", (9, 9)).save(root / "data" / "b" / "mask" / "00000002.png")
    return "mask/00000002.png: is 9x9, the mask before it 15x12"


def truncated(root):
    path = root / "data" / "a" / "mask" / "00000001.png"
    path.write_bytes(path.read_bytes()[:60])
    return "mask/00000001.png: cannot be read"


def no_split(root):
    (root / "val.txt").unlink()
    return "val.txt: cannot be read"


@pytest.mark.parametrize("spoil", [one_frame_each, other_size, truncated, no_split])
def test_data_at_fault(videos, refused, spoil):
    said = spoil(videos[0])
    refused(consistency.main, [videos[0]], said, progress=True)


def test_options_at_fault(tmp_path, refused):
    refused(consistency.main, [tmp_path / "none"], "there is no such folder")
    refused(consistency.main, [tmp_path, "--spilt", "val"], "--spilt", "is no option")


def test_of_videos_where_only_some_frames_have_masks(tmp_path, capfd):
    root = write_own(tmp_path, {"a": (6, (0, 2, 3, 4)), "b": (3, (0, 2))})
    masks = [np.array(Image.open(root / "a" / "masks" / f"{i:04}.png")) for i in (2, 3, 4)]
    assert run_command(consistency.main, [str(root), "--layout", "folder", "--split", "train"]) == 0
    out = capfd.readouterr().out
    assert "2 pairs" in out and f"{100 * of(*masks).mean_of_pairs():.2f} %" in out
