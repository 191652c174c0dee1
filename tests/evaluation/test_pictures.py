"""Pictures: what an overlay may change, what a sheet shows, videos that read back, and files whole or not at all."""

import cv2
import numpy as np
import pytest
from PIL import Image

from cffm_jax.data.layouts.video import Video
from cffm_jax.data.layouts.vspw import CODING
from cffm_jax.drawing import masks as drawing_masks
from cffm_jax.drawing import sheets, video_file
from cffm_jax.drawing.palette import palette
from cffm_jax.errors import InputError
from cffm_jax.evaluation import pictures
from cffm_jax.evaluation.beside import named_sources
from cffm_jax.inference.whole_videos import Chunk

from helpers.sheets import find

K = 4
NAMES = ("sky", "road_or_path", "person", "cat")
COLOURS = palette(K)
SIZE = (65, 97)
"""Odd on purpose."""


def frame_of(size=SIZE, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (*size, 3), np.uint8)


def mask_of(size=SIZE):
    """Three bands of classes, and a corner without a label."""
    mask = np.repeat(np.arange(size[0]) * 3 // size[0], size[1]).reshape(size).astype(np.uint8)
    mask[-20:, -30:] = 255
    return mask


def inside(mask):
    """Pixels whose left and upper neighbours have the same label."""
    return (mask == np.roll(mask, 1, 0)) & (mask == np.roll(mask, 1, 1)) & (mask != 255)


def read_video(path):
    reader = cv2.VideoCapture(str(path))
    assert reader.isOpened()
    frames = []
    while (read := reader.read())[0]:
        frames.append(read[1][..., ::-1])
    fps = reader.get(cv2.CAP_PROP_FPS)
    reader.release()
    return frames, fps


# --- overlay


def test_without_alpha_the_frame_stays():
    frame = frame_of()
    np.testing.assert_array_equal(drawing_masks.overlay(frame, mask_of(), COLOURS, 0.0), frame)


def test_with_full_alpha_the_colours_alone():
    frame, mask = frame_of(), mask_of()
    result = drawing_masks.overlay(frame, mask, COLOURS, 1.0)
    at = inside(mask)
    assert result.dtype == np.uint8 and at.mean() > 0.7
    np.testing.assert_array_equal(result[at], COLOURS[mask[at]])
    border = (mask != 255) & ~at
    border[0] = border[:, 0] = False  # np.roll wraps around there.
    assert border.any() and (result[border] == 255).all()


@pytest.mark.parametrize("alpha", [0.3, 0.7, 1.0])
def test_in_between_and_unlabelled(alpha):
    frame, mask = frame_of(), mask_of()
    result = drawing_masks.overlay(frame, mask, COLOURS, alpha)
    np.testing.assert_array_equal(result[mask == 255], frame[mask == 255])
    at = inside(mask)
    np.testing.assert_allclose(result[at], (1 - alpha) * frame[at] + alpha * COLOURS[mask[at]], atol=0.51)


def test_overlay_keeps_its_arguments():
    frame, mask = frame_of(), mask_of()
    before = frame.copy(), mask.copy()
    drawing_masks.overlay(frame, mask, COLOURS, 0.5)
    np.testing.assert_array_equal(frame, before[0])
    np.testing.assert_array_equal(mask, before[1])


@pytest.mark.parametrize(
    ("size", "shown"),
    [((64, 96), (128, 192)), ((96, 160), (192, 320)), ((480, 853), (225, 400)), ((300, 300), (300, 300))],
)
def test_shown_size(size, shown):
    assert drawing_masks.shown_size(*size, 400) == shown
    assert drawing_masks.shown_size(*size[::-1], 400) == shown[::-1]


def test_views_share_one_size():
    for size in ((65, 97), (480, 853)):
        shown = drawing_masks.views(frame_of(size), {"a": mask_of(size), "b": mask_of(size)}, COLOURS, 400)
        assert list(shown) == ["input", "a", "b"]
        assert {picture.shape for picture in shown.values()} == {(*drawing_masks.shown_size(*size, 400), 3)}


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ((3, 8), (0, 4, 7)),
        ((3, 2), (0, 1)),
        ((3, 0), ()),
        ((1, 5), (0,)),
        ((5, 24, 9), (9, 12, 16, 20, 23)),
        ((5, 10, 9), (0, 2, 4, 7, 9)),
    ],
)
def test_spread(arguments, expected):
    assert sheets.spread(*arguments) == expected


# --- sheet


def strip_of(size=SIZE, steps=3, title="video"):
    mask = mask_of(size)
    masks = {"per-frame (SegFormer)": mask, "CFFM": np.roll(mask, 9, 0), drawing_masks.TRUTH: np.roll(mask, 18, 0)}
    cells = [drawing_masks.views(frame_of(size, t), masks, COLOURS, 400) for t in range(steps)]
    return sheets.Strip(title, [f"frame {t}" for t in range(steps)], cells, frozenset({0, 1, 2, 255}))


@pytest.mark.parametrize("size", [(64, 96), (97, 65), (480, 853)])
def test_sheet_holds_every_cell_in_its_place(size):
    strip = strip_of(size, 2)
    sheet = sheets.contact_sheet([strip], NAMES)
    assert sheet.dtype == np.uint8 and sheet.shape[0] < 2600 and sheet.shape[1] < 2300
    found = [[find(sheet, cells[row]) for cells in strip.cells] for row in strip.cells[0]]
    assert all(len(places) == 1 for row in found for places in row)
    tops = [[places[0][0] for places in row] for row in found]
    lefts = [[places[0][1] for places in row] for row in found]
    assert all(len(set(row)) == 1 for row in tops) and all(len(set(column)) == 1 for column in zip(*lefts))
    assert [row[0] for row in tops] == sorted(row[0] for row in tops) and lefts[0] == sorted(lefts[0])
    # Labels to the left of every row and above every column; paper around.
    for row in tops:
        assert (sheet[row[0] : row[0] + strip.cells[0]["input"].shape[0], : lefts[0][0] - 4] < 128).any()
    for left in lefts[0]:
        assert (sheet[tops[0][0] - 25 : tops[0][0] - 3, left : left + strip.cells[0]["input"].shape[1]] < 160).any()
    assert (sheet[:8] == 255).all() and (sheet[-8:] == 255).all() and (sheet[:, :8] == 255).all()


def test_legend_names_the_classes_that_are_shown():
    strip = strip_of()
    with_three = sheets.contact_sheet([strip], NAMES)
    below = with_three[find(with_three, strip.cells[0][drawing_masks.TRUTH])[0][0] + strip.cells[0]["input"].shape[0] :]
    for k, shown in enumerate((True, True, True, False)):
        assert (below == COLOURS[k]).all(-1).any() == shown
    assert ((below < 100).all(-1)).any()  # The names.
    other = sheets.contact_sheet([strip], ("sky", "river", "person", "cat"))
    assert not np.array_equal(with_three, other)


def test_long_legend_stays_on_the_sheet():
    strip = strip_of()._replace(labels=frozenset(range(124)))
    sheet = sheets.contact_sheet([strip], [f"a_rather_long_class_name_{k}" for k in range(124)])
    below = sheet[find(sheet, strip.cells[0][drawing_masks.TRUTH])[0][0] + strip.cells[0]["input"].shape[0] :]
    weights = np.array([1 << 16, 1 << 8, 1])
    found = dict(zip(*np.unique(below @ weights, return_counts=True)))
    for k, colour in enumerate(palette(124)[:124] @ weights):  # Swatches are squares of 18 pixels with round corners.
        assert found.get(colour, 0) >= 12 * 12, k
    assert (sheet[:, -8:] == 255).all()


def test_strips_of_different_sizes():
    strips = [strip_of((64, 96), 3, "landscape"), strip_of((96, 64), 2, "portrait")]
    sheet = sheets.contact_sheet(strips, NAMES)
    assert all(len(find(sheet, strip.cells[-1]["input"])) == 1 for strip in strips)


def test_png_whole_or_not_at_all(tmp_path):
    sheet = sheets.contact_sheet([strip_of()], NAMES)
    sheets.write_png(tmp_path / "sheet.png", sheet)
    with Image.open(tmp_path / "sheet.png") as image:
        np.testing.assert_array_equal(np.asarray(image), sheet)
    assert [path.name for path in tmp_path.iterdir()] == ["sheet.png"]
    with pytest.raises(InputError, match="missing/sheet.png: cannot be written .*; free some space"):
        sheets.write_png(tmp_path / "missing" / "sheet.png", sheet)


# --- video


def written(path, panels):
    with video_file.VideoFile(path, 15) as video:
        for step in panels:
            video.write(sheets.side_by_side(step))


def test_panels_of_odd_size_give_even_sides():
    panel = frame_of((33, 51))
    labels = ("input", "per-frame (SegFormer)", "CFFM")
    picture = sheets.side_by_side({label: panel for label in labels})
    assert picture.shape[0] % 2 == 0 and picture.shape[1] % 2 == 0
    assert len(find(picture, panel)) == 3


def test_video_reads_back(tmp_path):
    panels = [{"input": frame_of(seed=t) // 16 * 0 + 20 * t, "mask": frame_of() * 0 + 200} for t in range(7)]
    written(tmp_path / "v.mp4", panels)
    assert [path.name for path in tmp_path.iterdir()] == ["v.mp4"]
    frames, fps = read_video(tmp_path / "v.mp4")
    expected = sheets.side_by_side(panels[0]).shape
    assert len(frames) == 7 and fps == pytest.approx(15)
    assert {frame.shape for frame in frames} == {expected}
    for t, frame in enumerate(frames):  # The panels lie side by side, in RGB and in order.
        np.testing.assert_allclose(frame[40:80, 10:80].mean(), 20 * t, atol=6)
        np.testing.assert_allclose(frame[40:80, 110:180].mean(), 200, atol=6)


def test_later_pictures_are_fitted(tmp_path):
    red = np.zeros((40, 60, 3), np.uint8) + np.array([200, 0, 0], np.uint8)
    large = np.zeros((120, 60, 3), np.uint8)
    with video_file.VideoFile(tmp_path / "v.mp4") as video:
        for picture in (red, large, red[:11, :21]):
            video.write(picture)
    frames, _ = read_video(tmp_path / "v.mp4")
    assert [frame.shape for frame in frames] == [(40, 60, 3)] * 3
    assert frames[0][20, 30, 0] > 170 and frames[0][20, 30, 2] < 40  # RGB
    assert frames[1][20, 5].min() > 220 and frames[1][20, 30].max() < 40
    assert frames[2][3, 5].min() > 220 and frames[2][20, 30, 1] < 80


def test_no_video_without_pictures_or_after_an_error(tmp_path):
    written(tmp_path / "v.mp4", [])

    def panels():
        yield {"input": frame_of()}
        raise KeyError("stop")

    with pytest.raises(KeyError):
        written(tmp_path / "v.mp4", panels())
    assert not list(tmp_path.iterdir())


def test_an_old_video_survives_an_error(tmp_path):
    path = tmp_path / "v.mp4"
    path.write_bytes(b"old")
    with pytest.raises(KeyError), video_file.VideoFile(path) as video:
        video.write(frame_of())
        raise KeyError("stop")
    assert path.read_bytes() == b"old" and len(list(tmp_path.iterdir())) == 1


def test_unwritable_video_is_one_line(tmp_path, capfd):
    for folder in (tmp_path / "missing", tmp_path / "file"):
        (tmp_path / "file").write_text("")
        with pytest.raises(InputError) as caught:
            written(folder / "v.mp4", [{"input": frame_of()}])
        message = str(caught.value)
        assert message.startswith(f"{folder / 'v.mp4'}: cannot be written (") and "\n" not in message
    assert not capfd.readouterr().err


# --- collector


@pytest.fixture
def videos(tmp_path):
    """Four videos with frames on disk."""
    made = []
    for number in range(4):
        folder = tmp_path / "data" / f"v{number}"
        folder.mkdir(parents=True)
        paths = [str(folder / f"{t:02d}.png") for t in range(12)]
        for t, path in enumerate(paths):
            cv2.imwrite(path, frame_of((32, 48), 100 * number + t)[..., ::-1])
        made.append(Video(f"v{number}", tuple(paths), (), CODING))
    return made


def chunks(video, labels=True, chunk=5):
    masks = np.stack([mask_of((32, 48))] * len(video.frames))
    predictions = np.where(masks == 255, 3, masks).astype(np.uint8)
    for start in range(0, len(masks), chunk):
        cut = slice(start, start + chunk)
        truth = masks[cut] if labels else None
        yield Chunk(video, start, truth, {"CFFM": predictions[cut], "per-frame (SegFormer)": predictions[cut]})


def test_collector_writes_sheet_and_video(videos, tmp_path):
    folder = tmp_path / "out" / "pictures"
    with pictures.PictureCollector(folder, videos, NAMES, count=2, steps=3, first=4) as collect:
        for video in videos:
            for chunk in chunks(video):
                collect(chunk)
        assert not (folder / "sheet.png").exists() and not (folder / "overlay.mp4").exists()
    assert sorted(path.name for path in folder.iterdir()) == ["overlay.mp4", "sheet.png"]
    frames, fps = read_video(folder / "overlay.mp4")
    assert len(frames) == 2 * 12 and fps == pytest.approx(15)
    assert frames[0].shape[1] == 4 * 2 * 48 + 3 * 4
    with Image.open(folder / "sheet.png") as image:
        sheet = np.asarray(image)
    for video, shown in zip(videos, (True, False, False, True)):
        for t in range(12):
            frame = frame_of((32, 48), 100 * int(video.name[1:]) + t)
            cell = cv2.resize(frame, (96, 64), interpolation=cv2.INTER_CUBIC)
            assert len(find(sheet, cell)) == (shown and t in (4, 8, 11)), (video.name, t)


def test_masks_of_another_network_are_a_row(videos, tmp_path):
    """Such as a SegFormer's that was trained for itself, of Fig. 4: each pixel where it belongs."""
    other = tmp_path / "SegFormer-B1"
    for video in videos:
        (other / video.name).mkdir(parents=True)
        for t in range(12):
            Image.fromarray(np.full((32, 48), t % 2, np.uint8)).save(other / video.name / f"{t:02d}.png")

    def drawn(*paths):
        beside = named_sources([str(path) for path in paths])
        with pictures.PictureCollector(tmp_path / "out", videos, NAMES, count=1, steps=2, beside=beside) as collect:
            for chunk in chunks(videos[0]):
                collect(chunk)
        with Image.open(tmp_path / "out" / "sheet.png") as image:
            return np.asarray(image)

    sheet = drawn(other)
    shown = {"x": np.full((32, 48), 1, np.uint8)}
    cell = drawing_masks.views(frame_of((32, 48), 9), shown, COLOURS, sheets.CELL)["x"]
    assert (len(find(sheet, cell)), len(find(drawn(), cell))) == (1, 0)
    (tmp_path / "CFFM").mkdir()
    for path, problem in [(tmp_path / "gone", "no predictions"), (other, "")]:
        if problem:
            with pytest.raises(InputError, match=problem):
                drawn(path)
    (other / "v0").rename(tmp_path / "CFFM" / "v0")
    with pytest.raises(InputError, match="'CFFM', as a row is called already"):
        drawn(tmp_path / "CFFM")
    Image.fromarray(np.zeros((16, 24), np.uint8)).save(tmp_path / "CFFM" / "v0" / "09.png")
    (tmp_path / "CFFM").rename(other.with_name("other"))
    with pytest.raises(InputError, match=r"09.png: is 24x16, its frame 48x32"):
        drawn(other.with_name("other"))


def test_masks_of_other_weights_are_the_row_that_their_files_would_be(videos, tmp_path):
    """Chunks of another network, in any order with the own: as its masks from disk, pixel by pixel."""
    for t in range(12):
        path = tmp_path / "x" / videos[0].name / f"{t:02d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.full((32, 48), t % 2, np.uint8)).save(path)
    other = Chunk(videos[0], 0, None, {"CFFM": np.stack([np.full((32, 48), t % 2, np.uint8) for t in range(12)])})
    sheet = {}
    for kind, beside in {"files": {"x": tmp_path / "x"}, "weights": {"x": ""}}.items():
        with pictures.PictureCollector(tmp_path / kind, videos, NAMES, count=1, beside=beside) as collect:
            for chunk in chunks(videos[0]):
                collect(chunk)
            if kind == "weights":
                collect.watch("x")(other)
        sheet[kind] = (tmp_path / kind / "sheet.png").read_bytes(), (tmp_path / kind / "overlay.mp4").read_bytes()
    assert sheet["files"] == sheet["weights"]


def test_collector_without_truth(videos, tmp_path):
    with pictures.PictureCollector(tmp_path / "out", videos[:1], NAMES) as collect:
        for chunk in chunks(videos[0], labels=False):
            collect(chunk)
    frames, _ = read_video(tmp_path / "out" / "overlay.mp4")
    assert len(frames) == 12 and frames[0].shape[1] == 3 * 2 * 48 + 2 * 4


def test_collector_leaves_nothing_after_an_error(videos, tmp_path):
    with pytest.raises(KeyError), pictures.PictureCollector(tmp_path / "out", videos, NAMES) as collect:
        for chunk in chunks(videos[0]):
            collect(chunk)
        raise KeyError("stop")
    assert not (tmp_path / "out").exists()


def test_collector_needs_a_folder(videos, tmp_path):
    (tmp_path / "file").write_text("")
    for folder in (tmp_path / "file" / "out", tmp_path / "file"):
        collector = pictures.PictureCollector(folder, videos, NAMES)
        with pytest.raises(InputError, match=f"{folder}: cannot be written"), collector:
            pass
