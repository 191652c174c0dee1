"""Options that name files and folders: ``~`` is expanded in all of them, addresses are refused."""

import dataclasses
import os
import typing
from pathlib import Path

import pytest

from cffm_jax.commands.convert import ConvertOptions, convert_command
from cffm_jax.commands.eval import eval_command
from cffm_jax.commands.predict import predict_command
from cffm_jax.commands.train import TrainOptions, train_command
from cffm_jax.config import Config
from cffm_jax.data import consistency, show
from cffm_jax.data.check import command as check
from cffm_jax.data.import_labels import command as import_labels
from cffm_jax.data.prepare import command as prepare
from cffm_jax.data.synthetic import generate
from cffm_jax.errors import InputError
from cffm_jax.evaluation.options import EvalOptions
from cffm_jax.predict.request import Request
from cffm_jax.rules import about, option_name, with_paths
from cffm_jax.runtime.command_line import parse_command
from cffm_jax.settings import load_config
from cffm_jax.study import command as study
from cffm_jax.study import plan

# Each command with its options, those that it cannot do without, and its positional arguments.
COMMANDS = {
    "train": (train_command, TrainOptions, ["--config", "synthetic"], ()),
    "eval": (eval_command, EvalOptions, ["--checkpoint", "run"], ()),
    "predict": (predict_command, Request, ["--checkpoint", "run"], ("inputs",)),
    "convert": (convert_command, ConvertOptions, [], ("file", "output")),
    "study": (study.main, plan.StudyOptions, [], ()),
    "show": (show.main, show.ShowOptions, ["--output", "new"], ()),
    "check": (check.main, check.Command, [], ("root",)),
    "import_labels": (import_labels.main, import_labels.Command, [], ("source", "output")),
    "prepare": (prepare.main, prepare.Command, [], ("root", "output")),
    "synthetic": (generate.main, generate.Command, [], ("root",)),
    "consistency": (consistency.main, consistency.Command, [], ("root",)),
}
NO_PATHS = {
    "model.name", "data.train_split", "data.eval_split", "cluster.coordinator", "tables", "rows", "classes", "splits",
    "unlabelled", "split", "video", "mean", "take", "data.channels", "channels", "names",
    "ignored", "name",
}  # fmt: skip
"""Options that are words, but name neither a file nor a folder."""
OF_WEIGHTS = {
    "checkpoint", "beside", "init.encoder", "init.model", "train.teacher", "prototypes.checkpoint", "file",
}  # fmt: skip
"""Options that take hf:owner/name."""


def words(cls):
    """The options of a command whose values are words, without those of a choice."""
    types = {}

    def collect(section, prefix=""):
        for name, kind in typing.get_type_hints(section).items():
            if dataclasses.is_dataclass(kind):
                collect(kind, f"{prefix}{name}.")
            elif kind in (str, tuple[str, ...]):
                types[f"{prefix}{name}"] = kind

    collect(cls)
    return types


PATHS = [
    (command, name)
    for command, (_, cls, *_) in COMMANDS.items()
    for name in words(cls)
    if name.removeprefix("settings.") not in NO_PATHS
]


@pytest.mark.parametrize(("command", "name"), PATHS, ids=str)
def test_no_option_takes_an_address_for_a_place(command, name, refused, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    main, _, argv, positional = COMMANDS[command]
    named = name.removeprefix("settings.")
    shown = named.upper() if named in positional else option_name(named)
    said = {"gs://bucket/place": "and only files and folders of this machine"}
    if named not in OF_WEIGHTS:
        said["hf:owner/name"] = "and the Hugging Face hub is asked for nothing but the weights that are read"
    for address, why in said.items():
        given = [*argv, *(address if each == named else "here" for each in positional)]
        given += [] if named in positional else [f"--{named}", address]
        refused(main, given, f"error: {shown}: is {address}, {why}")
    assert not [*tmp_path.iterdir()]


def test_weights_alone_go_by_name():
    rules = [pair for _, cls, *_ in COMMANDS.values() for pair in about(cls).items()]
    assert {name.removeprefix("settings.") for name, rule in rules if rule.hub} == OF_WEIGHTS


def test_what_is_for_the_hub_is_written_here(refused):
    refused(convert_command, ["run", "hf:owner/name", "--to", "hub"], "`hf upload OWNER/NAME FOLDER` uploads")


@pytest.mark.parametrize(
    "address", ["gs://b/run", "s3://b", "https://x.org/a.mp4", "rtsp://10.0.0.1:554/1", "smb://nas", "hdfs:/a", "gs:/b"]
)
def test_addresses_are_told_from_paths(address):
    with pytest.raises(InputError, match="only files and folders of this machine"):
        with_paths(Config(workdir=address))


@pytest.mark.parametrize(
    "path", ["", "-", "0", "a:b", "C:/a", "./gs://b", "/gs://b", "runs/a~b", "a*[0-9].png", "./~/a"]
)
def test_paths_stay_as_they_are(path):
    assert with_paths(Request(inputs=(path, "b"), output=path)) == Request(inputs=(path, "b"), output=path)


def test_home_is_expanded_in_options_and_config_files(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    lines = "import b1_vspw\nimport dataclasses\ndef get_config():\n    config = b1_vspw.get_config()\n"
    lines += "    data = dataclasses.replace(config.data, root='~/data')\n"
    (tmp_path / "mine.py").write_text(f"{lines}    return dataclasses.replace(config, workdir='~/runs/a', data=data)\n")
    argv = ["--config=~/mine.py", "--init.model=~/a.pth"]
    options = parse_command(TrainOptions, argv, lambda path: TrainOptions(path, load_config(path)), "")
    found = options.config, options.settings.workdir, options.settings.data.root, options.settings.init.model
    assert found == tuple(str(tmp_path / name) for name in ("mine.py", "runs/a", "data", "a.pth"))


def test_home_is_expanded_for_each_of_several():
    home = os.path.expanduser("~")
    assert with_paths(Request(inputs=("~/a.png", "~/b.png"))).inputs == (f"{home}/a.png", f"{home}/b.png")


def test_a_user_that_there_is_not_makes_no_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match=r"no such user; give \./~nobody-here/run"):
        with_paths(Config(workdir="~nobody-here/run"))
    Path("~lock.png").touch()  # A file of such a name is that file.
    assert with_paths(Request(inputs=("~lock.png",))).inputs == ("~lock.png",)


def test_a_study_may_be_of_a_config_with_home_in_it(tmp_path, monkeypatch):
    """The run's folder of the config is not taken for one that was asked for."""
    monkeypatch.setenv("HOME", str(tmp_path))
    lines = "import synthetic\nimport dataclasses\ndef get_config():\n"
    lines += "    return dataclasses.replace(synthetic.get_config(), workdir='~/run')\n"
    (tmp_path / "mine.py").write_text(lines)
    path = str(tmp_path / "mine.py")
    made = plan.StudyOptions(config=path, settings=load_config(path))
    options = parse_command(plan.StudyOptions, ["table8", "--config", path], lambda _: made, "")
    assert plan.prepare(options)
