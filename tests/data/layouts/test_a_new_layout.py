"""A layout takes one object: here that of DAVIS' folders, which no file of the package knows, serves all who read."""

import dataclasses
import os
import re
from concurrent.futures import ThreadPoolExecutor
from typing import get_args

import numpy as np
import pytest
from PIL import Image

from cffm_jax.config import Config, DataConfig, LayoutName
from cffm_jax.data import consistency
from cffm_jax.data.check.survey import survey
from cffm_jax.data.layouts import read as layouts
from cffm_jax.data.layouts.classes import read_classes
from cffm_jax.data.layouts.layout import Layout, stop
from cffm_jax.data.layouts.names import list_files, read_names
from cffm_jax.data.layouts.video import Video, plain_coding
from cffm_jax.data.pipeline import training_batches
from cffm_jax.data.prepare import builders
from cffm_jax.errors import InputError
from cffm_jax.evaluation.options import evaluation_videos
from cffm_jax.evaluation.predictions import prediction_paths
from cffm_jax.inference.read_frames import load_chunks

from helpers.datasets import SIZE, classes_of, fails, frame, write_png

FRAMES, CLASSES = 12, ("background", "dog", "kite")


class Davis(Layout):
    name = "davis"
    class_names, class_colours = CLASSES, ((0, 0, 0), (128, 0, 0), (0, 128, 0))
    split_place, split_files = "ImageSets/480p/{}.txt", False

    def videos(self, root, split, masks, fault=stop):
        found = []
        for name in read_names(os.path.join(root, self.split_place.format(split))):
            frames = list_files(os.path.join(root, "JPEGImages", "480p", name), (".jpg",))
            labels = list_files(os.path.join(root, "Annotations", "480p", name), (".png",)) if masks else {}
            for stem in [*frames] if masks else ():
                if stem not in labels:
                    fault(InputError(frames[stem], "has no mask", "add it or remove the frame"))
                    del frames[stem]
            files = tuple(labels[stem] for stem in frames) if masks else ()
            found.append(Video(name, tuple(frames.values()), files, plain_coding()))
        return tuple(found)


@pytest.fixture
def root(tmp_path):
    for seed, (split, name) in enumerate((("train", "bear"), ("train", "camel"), ("val", "swan"))):
        for i in range(FRAMES):
            picture = frame([seed, i])
            write_png(tmp_path / "JPEGImages" / "480p" / name / f"{i:05}.jpg", picture)
            write_png(tmp_path / "Annotations" / "480p" / name / f"{i:05}.png", classes_of(picture, len(CLASSES)))
        path = tmp_path / "ImageSets" / "480p" / f"{split}.txt"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(path.read_text() + f"{name}\n" if path.exists() else f"{name}\n")
    return tmp_path


@pytest.fixture
def data(root):
    return dataclasses.replace(DataConfig(root=str(root), frame_size=SIZE, crop=(64, 64)), layout=Davis())


def test_training_reads_it(data):
    videos = layouts.read_videos(data, data.train_split)
    assert [(video.name, len(video.frames)) for video in videos] == [("bear", FRAMES), ("camel", FRAMES)]
    with training_batches(videos, data, num_classes=len(CLASSES), batch_size=2, seed=0) as batches:
        batch = next(batches)
    assert batch["frames"].shape == (2, 4, 64, 64, 3) and batch["labels"].shape == (2, 4, 64, 64)
    assert {*np.unique(batch["labels"])} <= {0, 1, 2, 255} and (batch["labels"] < 255).any()
    fails("manifest.sha256", layouts.manifest_of, dataclasses.replace(data, verify=True))


def test_evaluation_reads_it(data, root):
    config = dataclasses.replace(Config(), data=data, model=dataclasses.replace(Config().model, num_classes=3))
    videos = evaluation_videos(config)
    with ThreadPoolExecutor(2) as pool:
        chunks = [loaded for _, _, loaded in load_chunks(pool, videos, 5, config, True, multiple=32)]
    masks = sorted((root / "Annotations" / "480p" / "swan").iterdir())
    labels = np.concatenate([chunk.labels for chunk in chunks])
    np.testing.assert_array_equal(labels, [np.asarray(Image.open(path)) for path in masks])
    assert len(prediction_paths(videos[0], root / "Annotations" / "480p" / "swan")) == FRAMES
    names, colours = read_classes(data.root, len(CLASSES), data.layout)
    assert names == CLASSES and colours[1].tolist() == [128, 0, 0]
    assert consistency.split_consistency(videos).mean_of_pairs() > 0


def test_check_lists_it(data, root):
    splits = layouts.find_splits(data.root, data.layout)
    assert splits == ("train", "val")
    assert not survey(data.root, splits, layout=data.layout).problems
    (root / "Annotations" / "480p" / "bear" / "00003.png").unlink()
    (root / "JPEGImages" / "480p" / "swan" / "00005.jpg").write_bytes(b"")
    report = survey(data.root, splits, layout=data.layout)
    assert [each.file for each in report.problems] == [
        "JPEGImages/480p/bear/00003.jpg",
        "JPEGImages/480p/swan/00005.jpg",
    ]
    assert report.names == CLASSES and len(report.videos["bear"].contents) == FRAMES - 1


def test_prepare_lists_it(data):
    plan = builders.plan(data.root, "val", data.layout, False)
    assert len(plan.frames) == FRAMES and all(each.mask for each in plan.frames)


# --- those of the package


def test_names_are_those_of_the_files():
    assert [layouts.layout_of(name).name for name in get_args(LayoutName)] == [*get_args(LayoutName)]
    prepared = [layouts.layout_of(name).prepared.name for name in layouts.layouts_with(lambda each: each.prepared.name)]
    assert len({*prepared}) == len(prepared) == 3
    assert all(re.fullmatch("[a-z_]+", name) for name in prepared), "names of folders of TFDS"
