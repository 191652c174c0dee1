"""What would have to be guessed is refused in one line, and nothing is written."""

import json
import sys

import numpy as np
import pytest

from cffm_jax.data.image_files import read_bytes
from cffm_jax.data.import_labels import command

from helpers import exports


@pytest.fixture
def source(tmp_path):
    return tmp_path / "source"


@pytest.fixture
def fails(source, refused):
    return lambda *said, more=(), progress=False: refused(
        command.main, [source, source.parent / "out", *more], *said, progress=progress
    )


def spoilt(path, change):
    """Writes a mask anew with pixels changed."""
    values = np.asarray(exports.Image.open(path)).copy()
    change(values)
    exports.Image.fromarray(values).save(path)


def test_colours_that_the_table_lacks(source, fails):
    exports.cvat_masks(source)
    mask = source / "SegmentationClass" / "b_003.png"

    def change(values):
        values[0, :5] = (70, 131, 180)
        values[1, 0] = 9

    clear = source / "SegmentationClass" / "a_002.png"
    opaque = clear.read_bytes()
    spoilt(clear, lambda values: np.copyto(values[0, 0, 3:], 254))
    fails(clear, "has transparent pixels", progress=True)
    clear.write_bytes(opaque)
    spoilt(mask, change)
    said = "has 6 pixels of 2 colours", "most of (70, 131, 180); the nearest is sky (70, 130, 180)"
    fails(mask, *said, progress=True)
    exports.Image.open(source / "JPEGImages" / "b_003.png").save(mask, "JPEG")
    fails("is a JPEG, which changes colours", progress=True)
    exports.write_png(mask, np.zeros((8, 12, 3), np.uint8) + np.array(exports.COLOURS[0], np.uint8))
    fails("is 12x8 but its frame is 24x16", progress=True)
    mask.write_bytes(mask.read_bytes()[:45])
    fails(mask, "cannot be read (truncated or damaged)", progress=True)


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        ("car:1,2,3\nroad:1,2,3", "gives car and road the colour (1, 2, 3)"),
        ("car:1,2,3\ncar:1,2,4", "names 'car' twice"),
        ("car:1,2,300", "has 'car:1,2,300' as line 1"),
        ("car\n", "line 1"),
        ("# nothing", "names 0 classes"),
    ],
)
def test_tables_that_cannot_be_used(rows, said, source, fails):
    exports.cvat_masks(source)
    (source / "labelmap.txt").write_text(rows)
    fails("labelmap.txt", said)


def test_files_that_do_not_belong_together(source, fails):
    exports.cvat_masks(source)
    (source / "ImageSets" / "Segmentation" / "trainval.txt").write_text("a_001\n")
    fails("trainval.txt: lists a_001, as train.txt does")
    (source / "ImageSets" / "Segmentation" / "trainval.txt").unlink()
    again = source / "SegmentationClass" / "b_003.PNG"
    again.write_bytes(again.with_suffix(".png").read_bytes())
    fails("SegmentationClass/b_003.png: is there beside b_003.PNG")
    again.unlink()
    (source / "JPEGImages" / "b_003.png").unlink()
    fails("20 masks, of which 1 have no image in JPEGImages/: b_003")
    exports.write_png(source / "JPEGImages" / "b_003.png", exports.picture("b", 3))
    exports.coco_itself(source)
    fails("holds CVAT's segmentation masks and COCO JSON; give --format cvat-masks or coco")
    fails("--format is voc; give one of auto, cvat-masks", more=("--format", "voc"))
    fails("does not hold labelme JSON", more=("--format", "labelme"))


def test_roboflow(source, fails):
    exports.roboflow(source)
    table = source / "valid" / "_classes.csv"
    table.write_text(table.read_text().replace("sky", "hill"))
    fails("valid/_classes.csv: names other classes than train/_classes.csv")
    for table in source.glob("*/_classes.csv"):
        table.write_text("Pixel Value, Class\n0, car\n1, road\n")
    fails("has 174 pixels of values that _classes.csv lacks (2)", progress=True)
    next(source.glob("train/a_003*a3.png")).unlink()
    fails("holds 1 masks without an image: train/a_003_png.rf.")


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ('0,"car', "_classes.csv: cannot be read in line 2 (unexpected end of data)"),
        ('0,"car\n1,road"', "_classes.csv: cannot be read in line 2"),
        ('0,"car"x', "_classes.csv: cannot be read in line 2"),
        pytest.param(f"0,{'x' * 200_000}", "cannot be read in line 2 (field larger than field limit", id="a long name"),
        pytest.param(f"{'0' * 5000},car", "_classes.csv: has the line '0000", id="a long number"),
        ("256,car", "has the line '256,car'"),
        ("02,car", "has the line '2,sky'"),
        ("0,", "classes: one has the name ''; give each class a name that can be read"),
        ("0,\x1b[2Jcar", r"classes: one has the name '\x1b[2Jcar'"),
    ],
)
def test_roboflow_tables_that_cannot_be_used(row, said, source, fails):
    exports.roboflow(source)
    for table in source.glob("*/_classes.csv"):
        table.write_text(f"Pixel Value, Class\n{row}\n1,road\n2,sky\n")
    fails(said)


def test_label_studio(source, fails):
    exports.label_studio(source)
    path = source / "project.json"
    tasks = json.loads(path.read_text())
    mask = source / "task-3-annotation-93-by-1-tag-sky-0.png"

    def write(change):
        tree = json.loads(json.dumps(tasks))
        change(tree)
        exports.write_json(path, tree)

    write(lambda tree: tree[2]["annotations"].append({**tree[2]["annotations"][0], "id": 94}))
    fails("has 2 annotations of task 3: 93, 94; keep the one that counts")
    write(lambda tree: tree[2]["annotations"][0]["result"].pop())
    fails("lacks 1 of 60 masks, such as task-3-annotation-93-by-1-tag-car-0.png")
    write(lambda tree: tree[2]["data"].update(second="x.png"))
    fails("names 2 images in task 3")
    write(lambda tree: tree[2].update(data={"image": "s3://bucket/other.png"}))
    fails("names 20 images, of which 1 are not there, such as s3://bucket/other.png")
    again = source / "more" / mask.name
    exports.write_png(again, np.zeros(exports.SIZE, np.uint8))
    fails("is there as more/task-3-annotation-93-by-1-tag-sky-0.png too; keep the masks of one export")
    again.unlink()
    write(lambda tree: tree[2].update(data={"image": "/data/local-files/?d=other/a_002.png"}))
    fails("of which 1 are not there, such as other/a_002.png")
    write(lambda tree: tree[2]["annotations"][0]["result"].append({"type": "relation", "from_id": "x"}))
    spoilt(mask, lambda values: np.copyto(values[0, :3], 100))
    fails("has 3 pixels that are neither in nor out", progress=True)
    mask.unlink()
    fails("has a region without a mask, task-3-annotation-93-by-..-tag-sky-0.png")
    path.unlink()
    fails("holds brush masks and 0 JSON exports", '"JSON" (not "JSON-MIN")')


def coco_with(source, change):
    """The train part of COCO's files, with a change."""
    exports.coco_itself(source)
    (source / "annotations" / "instances_val2017.json").unlink()
    path = source / "annotations" / "instances_train2017.json"
    tree = json.loads(path.read_text())
    change(tree)
    path.write_text(json.dumps(tree))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda tree: tree["annotations"][3].update(category_id=99), "1 annotations of 30 that are of a category that"),
        (lambda tree: tree["annotations"][3].update(image_id=99), "that are of an image that it does not list"),
        (lambda tree: tree["annotations"][3].update(segmentation=[]), "have no segmentation (a box alone"),
        (lambda tree: tree["annotations"][3].update(segmentation=[[0, 0, 1e9, 0, 5, 5]]), "far outside of the image"),
        (lambda tree: tree["annotations"][3].update(segmentation=[[0, 0, float("nan"), 0, 5, 5]]), "far outside"),
        (lambda tree: tree["annotations"][3].update(segmentation=[[0, 0, 1, 0, 5, 5, 7]]), "7 coordinates"),
        (lambda tree: tree["annotations"][4]["segmentation"].update(counts=[5, 3]), "do not add up to 384 pixels"),
        (lambda tree: tree["annotations"][4]["segmentation"].update(counts=[-5, 389]), "do not add up"),
        (lambda tree: tree["annotations"][4]["segmentation"].update(counts=""), "do not add up"),
        (lambda tree: tree["annotations"][4]["segmentation"].update(counts="zz~"), "no string of COCO's"),
        (lambda tree: tree["annotations"][4]["segmentation"].update(counts="P"), "are cut off"),
        (lambda tree: tree["annotations"][4]["segmentation"].update(size=[24, 16]), "its size is [24, 16]"),
        (lambda tree: tree["images"][0].update(height=15), "says that the image of annotation 0 is 24x15, and it is"),
        (lambda tree: tree["images"][0].update(file_name="x/y.jpg"), "names 10 images, of which 1 are not there"),
        (lambda tree: tree["images"][0].update(file_name="a_001.png"), "lists train2017/a_001.png twice"),
        (lambda tree: tree["images"][0].pop("file_name"), "is not as COCO has it (KeyError"),
        (lambda tree: tree["images"][0].update(id=1), "has 2 images of the id 1"),
        (lambda tree: tree["categories"][0].update(name="car"), "has 2 categories of the name car"),
        (lambda tree: tree["categories"][0].update(name="car "), "has 2 categories of the name car"),
        (lambda tree: tree["images"][0].update(height=float("inf")), "is not as COCO has it (OverflowError"),
        (lambda tree: tree["annotations"][3].update(segmentation=[[0, 0, 10**400, 0, 5, 5]]), "cannot be drawn"),
        (lambda tree: tree["annotations"][4]["segmentation"].update(counts=[10**30]), "do not add up"),
    ],
)
def test_coco(change, said, source, fails):
    coco_with(source, change)
    fails("instances_train2017.json", said, progress=True)


def test_coco_of_one_image_in_two_files(source, fails):
    exports.coco_itself(source)
    again = source / "annotations" / "person_keypoints_train2017.json"
    again.write_bytes((source / "annotations" / "instances_train2017.json").read_bytes())
    fails("person_keypoints_train2017.json: lists train2017/a_000.png, as annotations/instances_train2017.json does")
    again.unlink()
    exports.write_png(source / "more" / "a_001.png", exports.picture("a", 1))
    (source / "train2017").rename(source / "others")
    fails("names the image a_001.png, which is there 2 times (more/a_001.png, others/a_001.png)")


def test_without_pycocotools(source, fails, monkeypatch):
    exports.coco_itself(source)
    monkeypatch.setitem(sys.modules, "pycocotools.mask", None)
    fails("pycocotools: fills COCO's polygons, and is not installed", "make install-import")


def test_labelme(source, fails):
    exports.labelme(source)
    path = source / "train" / "a_001.json"
    tree = json.loads(path.read_text())
    exports.write_json(path, {**tree, "imageData": None})
    fails("a_001.json: names 20 images, of which 1 are not there")
    exports.write_json(path, {**tree, "imageData": tree["imageData"][:24]})
    fails("a_001.png: is damaged or no image", progress=True)
    exports.write_json(path, {**tree, "imagePath": "a_000.png"})
    fails("a_001.json: is of train/a_000.png, as train/a_000.json is")
    exports.write_json(path, {**tree, "imageHeight": 32, "imageWidth": 48})
    fails("a_001.json: says that its image is 48x32, and it is 24x16", progress=True)
    exports.write_json(path, {**tree, "imageHeight": float("inf"), "imageWidth": 24})
    fails("a_001.json: is not as labelme has it (OverflowError")
    tree["shapes"][1]["points"] = [[0, 0], [10**400, 1]]
    exports.write_json(path, tree)
    fails("a_001.json: has a rectangle of road that cannot be drawn", progress=True)
    tree["shapes"][1]["points"] = [[0, 0], [1, 1], [2, 2]]
    exports.write_json(path, tree)
    fails("a_001.json: has a rectangle of road that cannot be drawn (it has 3 points, not 2)", progress=True)


def test_places(source, fails, refused, tmp_path):
    fails("is no folder")
    exports.colour_masks(source)
    fails("holds images and masks, and nothing says what their colours mean; give a table with --colours")
    table = exports.table(tmp_path / "colours.txt")
    refused(command.main, [source, source / "new"], "lies in")
    exports.write_png(source / "val" / "masks" / "other.png", np.zeros((4, 4), np.uint8))
    fails("is one of 1 masks without an image", more=("--colours", table))
    (source / "val" / "masks" / "other.png").unlink()
    (source / "val" / "images" / "b_003.png").write_bytes(b"no image")
    fails("b_003.png", more=("--colours", table), progress=True)
    assert read_bytes(source / "val" / "images" / "b_003.png") == b"no image"
    empty = tmp_path / "empty"
    empty.mkdir()
    argv = [empty, tmp_path / "out"]
    refused(command.main, argv, "holds nothing that is known here, in 0 files", "of the unpacked export")
    refused(command.main, [*argv, "--colours", table], "put images into images/ and masks")


@pytest.mark.parametrize(
    ("file", "text", "said"),
    [
        ("annotations.xml", '<?xml version="1.0"?>\n<annotations>\n  <version>1.1', '"Segmentation mask 1.1"'),
        ("Annotations/a_001.xml", "<annotation>\n  <object><bndbox>", "boxes, which do not say which pixels"),
        ("labels/a_001.txt", "0 0.5 0.5 0.25 1\n", "is of YOLO"),
        ("train/labels/a_001.txt", "12 0.1 .5 0 1 1.0 2e-05\n3 0 0 1 1", "is of YOLO"),
        ("project.json", [{"data": {"image": "a.png"}, "annotations": [{"result": []}]}], 'export polygons as "COCO"'),
        ("min.json", [{"image": "a.png", "label": [{"polygonlabels": ["car"]}], "annotation_id": 1}], '"COCO"'),
    ],
)
def test_exports_that_are_not_read_here(file, text, said, source, fails):
    exports.write_png(source / "a_001.png", exports.picture("a", 1))
    (source / file).parent.mkdir(parents=True, exist_ok=True)
    (source / file).write_text(text if isinstance(text, str) else json.dumps(text))
    (source / "README.txt").write_text("0 1 files")
    fails(file, said)
    (source / file).rename(source / "notes.md")
    fails("holds nothing that is known here, in 3 files")
