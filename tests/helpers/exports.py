"""Labels of two short videos as annotation programs export them, all of the same masks."""

import base64
import csv
import json

import numpy as np
from PIL import Image

from helpers.datasets import frame, write_png

SIZE, LENGTH = (16, 24), 10
NAMES = ("car", "road", "sky")
COLOURS = ((250, 50, 0), (128, 64, 128), (70, 130, 180))
VIDEOS = {"a": "train", "b": "val"}
OVERLAP = 36 * LENGTH * len(VIDEOS)
"""Pixels of cars, that lie over sky and road."""


def regions(i):
    """Name and box (left, top, right, bottom; right and bottom are outside) in the order of drawing."""
    return ("sky", (0, 0, 24, 8)), ("road", (0, 8, 24, 16)), ("car", (2 + i, 5, 8 + i, 11))


def inside(box):
    where = np.zeros(SIZE, bool)
    where[box[1] : box[3], box[0] : box[2]] = True
    return where


def truth(i):
    """u8[16,24]: places in NAMES."""
    labels = np.full(SIZE, 255, np.uint8)
    for name, box in regions(i):
        labels[inside(box)] = NAMES.index(name)
    return labels


def picture(video, i):
    return frame([i, *video.encode()], SIZE)


def each_frame():
    return [(video, i, f"{video}_{i:03}") for video in VIDEOS for i in range(LENGTH)]


def write_json(path, tree):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(tree))


def table(path, form="{0}:{1},{2},{3}::"):
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = [form.format(name, *colour) for name, colour in zip(NAMES, COLOURS)]
    path.write_text("\n".join(["# label:color_rgb:parts:actions", *lines]) + "\n")
    return path


def cvat_masks(root):
    """Masks in RGB, with a palette, and with opaque pixels."""
    table(root / "labelmap.txt")
    for video, i, name in each_frame():
        write_png(root / "JPEGImages" / f"{name}.png", picture(video, i))
        mask = Image.fromarray(np.array(COLOURS, np.uint8)[truth(i)])
        (root / "SegmentationClass").mkdir(exist_ok=True)
        mask = [mask, mask.quantize(8), mask.convert("RGBA")][i % 3]
        mask.save(root / "SegmentationClass" / f"{name}.png")
    for video, split in VIDEOS.items():
        lists = root / "ImageSets" / "Segmentation" / f"{split}.txt"
        lists.parent.mkdir(parents=True, exist_ok=True)
        lists.write_text("".join(f"{name}\n" for each, _, name in each_frame() if each == video))


def roboflow(root):
    for video, i, name in each_frame():
        folder = root / {"train": "train", "val": "valid"}[VIDEOS[video]]
        stem = f"{name}_png.rf.{'0a' * 4}{i}"
        write_png(folder / f"{stem}.png", picture(video, i))
        write_png(folder / f"{stem}_mask.png", truth(i))
        with (folder / "_classes.csv").open("w", newline="") as file:
            csv.writer(file).writerows([("Pixel Value", " Class"), *((k, f" {name}") for k, name in enumerate(NAMES))])


def label_studio(root):
    tasks = []
    for task, (video, i, name) in enumerate(each_frame(), 1):
        write_png(root / VIDEOS[video] / f"{name}.png", picture(video, i))
        results = []
        for label, box in regions(i):
            mask = f"task-{task}-annotation-{task + 90}-by-1-tag-{label}-0.png"
            write_png(root / mask, inside(box).astype(np.uint8) * 255)
            value = {"format": "rle", "rle": [0], "brushlabels": [label]}
            results.append({"from_name": "tag", "type": "brushlabels", "value": value})
        data = {"image": f"/data/upload/1/0123abcd-{name}.png"}
        tasks.append({"id": task, "data": data, "annotations": [{"id": task + 90, "result": results}]})
    write_json(root / "project.json", tasks)


def colour_masks(root):
    for video, i, name in each_frame():
        write_png(root / VIDEOS[video] / "images" / f"{name}.png", picture(video, i))
        write_png(root / VIDEOS[video] / "masks" / f"{name}.png", np.array(COLOURS, np.uint8)[truth(i)])


def runs(where):
    """COCO's uncompressed run lengths, by columns, background first; counted one by one."""
    counts, value = [0], False
    for pixel in where.T.ravel():
        if pixel != value:
            counts.append(0)
            value = pixel
        counts[-1] += 1
    return counts


def segmentation(box, kind):
    """A box as polygon, run lengths, or those as pycocotools packs them."""
    left, top, right, bottom = box
    if kind == "polygon":
        return [[left, top, right, top, right, bottom, left, bottom]]
    if kind == "runs":
        return {"size": SIZE, "counts": runs(inside(box))}
    from pycocotools import mask

    packed = mask.encode(np.asfortranarray(inside(box).astype(np.uint8)))
    return {"size": SIZE, "counts": packed["counts"].decode()}


KINDS = ("polygon", "runs", "packed")


def coco_tree(split, place="{}.png", kinds=KINDS):
    images, annotations = [], []
    for number, (video, i, name) in enumerate(each_frame()):
        if VIDEOS[video] == split:
            images.append({"id": number, "file_name": place.format(name), "height": SIZE[0], "width": SIZE[1]})
            annotations += [
                {"image_id": number, "category_id": 5 + NAMES.index(label), "segmentation": segmentation(box, kind)}
                for (label, box), kind in zip(regions(i), kinds)
            ]
    categories = [{"id": 5 + k, "name": name, "supercategory": "things"} for k, name in enumerate(NAMES)]
    numbered = [{"id": k, "iscrowd": 0, **each} for k, each in enumerate(annotations)]
    return {"images": images, "annotations": numbered, "categories": categories[::-1]}


def coco_itself(root):
    for split in VIDEOS.values():
        write_json(root / "annotations" / f"instances_{split}2017.json", coco_tree(split))
    for video, i, name in each_frame():
        write_png(root / f"{VIDEOS[video]}2017" / f"{name}.png", picture(video, i))


def coco_of_cvat(root):
    """Subsets with one file name each: the folder of the subset tells them apart."""
    for video, split in VIDEOS.items():
        tree = coco_tree(split)
        for image in tree["images"]:
            image["file_name"] = f"clip/{image['file_name'].removeprefix(f'{video}_')}"
        write_json(root / "annotations" / f"instances_{split}.json", tree)
    for video, i, _ in each_frame():
        write_png(root / "images" / VIDEOS[video] / "clip" / f"{i:03}.png", picture(video, i))


def coco_of_roboflow(root):
    for video, i, name in each_frame():
        folder = {"train": "train", "val": "valid"}[VIDEOS[video]]
        write_png(root / folder / f"{name}_png.rf.a{i}.png", picture(video, i))
    for split, folder in (("train", "train"), ("val", "valid")):
        tree = coco_tree(split)
        for image in tree["images"]:
            stem = image["file_name"].removesuffix(".png")
            image["file_name"] = f"{stem}_png.rf.a{int(stem[-3:])}.png"
        tree["categories"].append({"id": 0, "name": "things", "supercategory": "none"})
        write_json(root / folder / "_annotations.coco.json", tree)


def labelme(root):
    """Every second image lies within its JSON alone."""
    for video, i, name in each_frame():
        folder = root / VIDEOS[video]
        write_png(folder / f"{name}.png", picture(video, i))
        shapes = [
            {"label": label, "points": [[r - 1, b - 1], [left, top]], "shape_type": "rectangle"}
            for label, (left, top, r, b) in regions(i)
        ]
        points = [[0, 0], [SIZE[1] - 1, 0], [SIZE[1] - 1, 7], [0, 7]]
        shapes[0] = {"label": "sky", "points": points, "shape_type": "polygon", "group_id": None}
        data = None
        if i % 2:
            data = base64.b64encode((folder / f"{name}.png").read_bytes()).decode()
            (folder / f"{name}.png").unlink()
        tree = {"version": "5", "shapes": shapes, "imagePath": f"..\\{VIDEOS[video]}\\{name}.png", "imageData": data}
        write_json(folder / f"{name}.json", tree)


def mask_values(path):
    image = Image.open(path)
    return np.asarray(image), np.array(image.getpalette(), np.uint8).reshape(-1, 3)
