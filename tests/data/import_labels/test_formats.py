"""Each format of labels comes out as the masks that it was made of, and `check` finds nothing wrong with them."""

import json

import numpy as np
import pytest
from PIL import Image, ImageDraw

from cffm_jax.data.check import command as check
from cffm_jax.data.import_labels import coco, command, labelme
from cffm_jax.data.layouts.class_file import read_class_file
from cffm_jax.runtime.command_line import run_command

from helpers import exports

FORMATS = {
    "cvat-masks": (exports.cvat_masks, False),
    "roboflow": (exports.roboflow, False),
    "label-studio": (exports.label_studio, True),
    "colour-masks": (exports.colour_masks, False),
    "coco": (exports.coco_itself, True),
    "coco of CVAT": (exports.coco_of_cvat, True),
    "coco of Roboflow": (exports.coco_of_roboflow, True),
    "labelme": (exports.labelme, True),
}


def imported(capfd, source, out, *more):
    """What the command says."""
    capfd.readouterr()
    status = run_command(command.main, [str(source), str(out), *map(str, more)])
    said = capfd.readouterr()
    assert status == 0, said.err
    return said.out


@pytest.mark.parametrize("name", FORMATS)
def test_a_format(name, tmp_path, capfd):
    write, layered = FORMATS[name]
    source, out = tmp_path / "source", tmp_path / "new" / "out"
    write(source)
    table = exports.table(tmp_path / "colours.txt", form="{} {} {} {}")
    said = imported(capfd, source, out, *(("--colours", table) if name == "colour-masks" else ()))
    videos = {"a": "train", "b": "val"} if name != "coco of CVAT" else {"clip_train": "train", "clip_val": "val"}
    for video, split in videos.items():
        assert (out / f"{split}.txt").read_text() == f"{video}\n"
        own = {"clip_train": "a", "clip_val": "b"}.get(video, video)
        masks, frames = (sorted((out / video / part).iterdir()) for part in ("masks", "frames"))
        assert len(masks) == len(frames) == exports.LENGTH
        for i, (mask, frame) in enumerate(zip(masks, frames)):
            values, palette = exports.mask_values(mask)
            np.testing.assert_array_equal(values, exports.truth(i))
            np.testing.assert_array_equal(np.asarray(Image.open(frame)), exports.picture(own, i))
            assert mask.stem == frame.stem and mask.stem.endswith(f"{i:03}")
    stated = read_class_file(out)
    assert stated.names == exports.NAMES
    np.testing.assert_array_equal(palette[:3], stated.colours)
    np.testing.assert_array_equal(palette[255], stated.ignored_colour)
    if "masks" in name:
        np.testing.assert_array_equal(stated.colours, exports.COLOURS)
    assert (f"{exports.OVERLAP} pixels of {2 * exports.LENGTH} masks have labels of several classes" in said) == layered
    assert "2 videos (train 1, val 1), 20 frames, 20 with labels" in said and "0 car, 1 road, 2 sky" in said
    assert not list(out.parent.glob(".*")), "nothing is left beside it"
    assert run_command(check.main, [str(out), "--layout", "folder"]) == 0
    assert "no problem found" in capfd.readouterr().out


# --- areas, by formulas


def shoelace(points):
    x, y = np.array(points, float).T
    return abs((x * np.roll(y, -1) - y * np.roll(x, -1)).sum()) / 2


def test_polygons_of_coco_have_their_area():
    """Up to half a pixel for each of the outline."""
    size = (200, 300)
    rng = np.random.default_rng(0)
    for count in (3, 4, 7, 12):
        angles = np.sort(rng.uniform(0, 2 * np.pi, count))
        points = np.stack([150 + 120 * np.cos(angles), 100 + 80 * np.sin(angles)], 1)
        outline = np.linalg.norm(points - np.roll(points, 1, 0), axis=1).sum()
        assert abs(coco._filled([points.ravel().tolist()], size).sum() - shoelace(points)) < outline / 2
    two = [[0, 0, 10, 0, 10, 10, 0, 10], [5, 5, 15, 5, 15, 15, 5, 15]]
    assert coco._filled(two, size).sum() == 100 + 100 - 25, "parts of one annotation are united"


def test_run_lengths_are_those_of_pycocotools():
    mask = pytest.importorskip("pycocotools.mask")
    rng = np.random.default_rng(1)
    for share in (0, 0.01, 0.5, 0.99, 1):
        where = np.repeat(rng.random((37, 9)) < share, 21, axis=1)
        packed = mask.encode(np.asfortranarray(where.astype(np.uint8)))
        shape = {"size": list(where.shape), "counts": packed["counts"].decode()}
        np.testing.assert_array_equal(coco._runs(shape, where.shape), where)
        np.testing.assert_array_equal(coco._runs({**shape, "counts": exports.runs(where)}, where.shape), where)
        assert coco._uncompressed(shape["counts"]) == exports.runs(where)


def test_shapes_of_labelme_have_their_area():
    """Polygons of whole coordinates hold their outline: all of Pick's points, A + B/2 + 1."""

    def area(kind, points):
        return labelme._filled(labelme._Shape("x", kind, points, ""), (60, 80)).sum()

    for points in ([[5, 5], [45, 5], [25, 25]], [[10, 20], [30, 40], [50, 20], [30, 0]], [[3, 4], [3, 30], [29, 30]]):
        edges = np.abs(np.array(points) - np.roll(points, 1, 0))
        assert area("polygon", points) == shoelace(points) + np.gcd(*edges.T).sum() / 2 + 1
    assert area("rectangle", [[30, 40], [10, 20]]) == 21 * 21
    assert abs(area("circle", [[40, 30], [60, 30]]) - np.pi * 20.5**2) < 20
    y, x = np.indices((60, 80))
    assert area("circle", [[0, 0], [0, 40]]) == pytest.approx((x**2 + y**2 <= 40**2).sum(), rel=0.03), "cut at the edge"


# --- what pixels, classes and frames without labels become


def small(root, boxes, split="train", size=exports.SIZE):
    """COCO's file of frames with one car each, or none."""
    tree = exports.coco_tree(split, kinds=())
    tree["images"] = tree["images"][: len(boxes)]
    for image, box in zip(tree["images"], boxes):
        exports.write_png(root / image["file_name"], exports.picture("a", image["id"]))
        if box:
            shape = exports.segmentation(box, "polygon")
            tree["annotations"].append({"id": 7, "image_id": image["id"], "category_id": 5, "segmentation": shape})
    exports.write_json(root / "result.json", tree)
    return root / "result.json", tree


def test_pixels_without_a_label_are_asked_for(tmp_path, capfd, refused):
    box, other = (1, 1, 5, 5), (2, 2, 6, 6)
    path, tree = small(tmp_path / "source", [box, None, other])
    tree["categories"][0]["name"] = "Road"
    exports.write_json(path, tree)
    exports.write_png(tmp_path / "source" / "a_003.png", exports.picture("a", 3))
    exports.write_png(tmp_path / "source" / "cover.png", exports.picture("a", 3))
    argv = [tmp_path / "source", tmp_path / "out"]
    said = "a_000.png: has no label for 368 of 384 pixels", "--background class", "or ignored"
    refused(command.main, argv, *said, progress=True)
    said = imported(capfd, *argv, "--background", "ignored")
    assert "736 of 768 pixels (95.8%) are ignored" in said and "2 frames have no label" in said
    assert "2 classes have no pixel: road, Road" in said and "left out, as neither frames nor masks: 1 .png" in said
    assert "there is no val.txt" in said
    assert "no split stated" in said and "differ in capitals or spaces alone stay apart: road, Road" in said
    out = tmp_path / "out"
    assert sorted(path.name for path in out.glob("a/*/*")) == sorted(
        [*(f"a_00{i}.png" for i in range(4)), "a_000.png", "a_002.png"]
    )
    values, palette = exports.mask_values(out / "a" / "masks" / "a_002.png")
    np.testing.assert_array_equal(values, np.where(exports.inside(other), 0, 255))
    refused(command.main, argv, "exists and is not empty")
    said = imported(capfd, argv[0], tmp_path / "more", "--background", "class", "--ignored", "road")
    assert "0 background, 1 car, 2 Road; ignored: road" in said
    values, _ = exports.mask_values(tmp_path / "more" / "a" / "masks" / "a_002.png")
    np.testing.assert_array_equal(values, exports.inside(other))


def test_classes_are_put_in_order_and_left_out(tmp_path, capfd, refused):
    exports.cvat_masks(tmp_path / "source")
    argv = [tmp_path / "source", tmp_path / "out"]
    refused(command.main, [*argv, "--names", "sky", "car"], "--names: leaves out road")
    refused(command.main, [*argv, "--names", "sky", "sky", "car", "road"], "'sky' twice")
    refused(command.main, [*argv, "--ignored", "void"], "--ignored: names 'void', and the classes are car, road, sky")
    refused(command.main, [*argv, "--background", "ignored"], "these masks say what every pixel is", "--ignored")
    said = imported(capfd, *argv, "--names", "sky", "hill", "car", "--ignored", "road")
    assert (
        "their order that of --names: 0 sky, 1 hill, 2 car; ignored: road" in said and "1 classes have no pixel" in said
    )
    values, palette = exports.mask_values(tmp_path / "out" / "a" / "masks" / "a_004.png")
    np.testing.assert_array_equal(values, np.array([2, 255, 0])[exports.truth(4)])
    assert palette[[0, 2, 255]].tolist() == [list(exports.COLOURS[k]) for k in (2, 0, 1)], "all keep their colours"


def test_images_of_coco_may_have_several_sizes(tmp_path, capfd):
    path, tree = small(tmp_path / "source", [(0, 0, 24, 16)])
    for k, (height, width) in enumerate([(33, 20), (7, 50)], 1):
        exports.write_png(path.parent / f"size{k}" / "1.png", np.zeros((height, width, 3), np.uint8))
        tree["images"].append({"id": 90 + k, "file_name": f"size{k}/1.png", "height": height, "width": width})
        shape = [[0, 0, width, 0, width, height], [0, 0, width, height, 0, height]]
        tree["annotations"].append({"id": 90 + k, "image_id": 90 + k, "category_id": 5 + k, "segmentation": shape})
    exports.write_json(path, tree)
    said = imported(capfd, path.parent, tmp_path / "out")
    assert "a (1), size1 (1), size2 (1)" in said
    for video, name, shape, label in (
        ("a", "a_000", (16, 24), 0),
        ("size1", "1", (33, 20), 1),
        ("size2", "1", (7, 50), 2),
    ):
        values, _ = exports.mask_values(tmp_path / "out" / video / "masks" / f"{name}.png")
        assert values.shape == shape and (values == label).all()


def test_crowds_lie_below_and_supercategories_are_left_out(tmp_path, capfd):
    path, tree = small(tmp_path / "source", [(0, 0, 24, 16)])
    crowd = {
        "id": 8,
        "image_id": 0,
        "category_id": 6,
        "iscrowd": 1,
        "segmentation": exports.segmentation((0, 0, 24, 8), "runs"),
    }
    tree["annotations"].append(crowd)
    tree["annotations"].append({**crowd, "id": 9, "iscrowd": 0, "category_id": 7, "segmentation": [[0, 0, 1, 1]]})
    tree["categories"].append({"id": 1, "name": "things", "supercategory": "none"})
    path.write_text(json.dumps(tree))
    said = imported(capfd, path.parent, tmp_path / "out", "--threads", 1)
    assert "1 regions are crowds" in said and "1 polygons of fewer than three points hold no pixel" in said
    assert "supercategory without an annotation of its own: 'things'" in said and "192 pixels of 1 masks" in said
    assert not exports.mask_values(tmp_path / "out" / "a" / "masks" / "a_000.png")[0].any()


def test_masks_of_labelme_and_shapes_without_area(tmp_path, capfd):
    exports.write_png(tmp_path / "s" / "x.png", exports.picture("a", 0))
    part = np.zeros((4, 6), np.uint8)
    ImageDraw.Draw(image := Image.fromarray(part)).line((0, 0, 5, 3), 255)
    image.save(tmp_path / "part.png")
    png = exports.base64.b64encode((tmp_path / "part.png").read_bytes()).decode()
    shapes = [
        {"label": "all", "points": [[0, 0], [23, 15]], "shape_type": "rectangle"},
        {"label": "line", "points": [[3, 2], [8, 5]], "shape_type": "mask", "mask": png},
        {"label": "line", "points": [[3, 2], [8, 5]], "shape_type": "linestrip"},
        {"label": "line", "points": [[3, 2], [8, 5]], "shape_type": "polygon"},
    ]
    exports.write_json(tmp_path / "s" / "x.json", {"shapes": shapes, "imagePath": "x.png"})
    said = imported(capfd, tmp_path / "s", tmp_path / "out")
    assert (
        "1 shapes of the kind 'linestrip' are not drawn" in said
        and "1 shapes of the kind 'polygon' have fewer than 3" in said
    )
    values, _ = exports.mask_values(tmp_path / "out" / "x" / "masks" / "x.png")
    expected = np.zeros(exports.SIZE, np.uint8)
    expected[2:6, 3:9] = np.asarray(image) > 0
    np.testing.assert_array_equal(values, expected)
    assert "1 of 1 videos have one frame alone" in said
