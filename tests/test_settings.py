"""Settings from config files, stored JSON and the command line; faults are one line and exit status 2."""

import builtins
import dataclasses
import io
import json
import os
import re
import signal
import subprocess
import sys
import typing
from pathlib import Path

import pytest

from cffm_jax.commands.evaluate import eval_command
from cffm_jax.commands.train import TrainOptions, train_command
from cffm_jax.config import Config, ModelConfig
from cffm_jax.errors import InputError
from cffm_jax.evaluation.options import EvalOptions
from cffm_jax.models.create import create_model
from cffm_jax.runtime import command_line
from cffm_jax.runtime.command_line import parse_command, run_command
from cffm_jax.settings import config_from_dict, load_config

ROOT = Path(__file__).parents[1]
CONFIGS = sorted((ROOT / "configs").glob("*.py"))
each_config = pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)


def parse(*argv: str, make=lambda _: TrainOptions()) -> TrainOptions:
    return parse_command(TrainOptions, argv, make, "")


def fault_of(call, *arguments) -> str:
    with pytest.raises(InputError) as caught:
        call(*arguments)
    message = str(caught.value)
    assert "\n" not in message
    return message


def fields(cls: type, prefix: str = "") -> dict[str, object]:
    """Dotted names of all fields with their types."""
    result = {}
    for name, kind in typing.get_type_hints(cls).items():
        result |= fields(kind, f"{prefix}{name}.") if dataclasses.is_dataclass(kind) else {prefix + name: kind}
    return result


# --- config files --------------------------------------------------------------------------------------------------


def test_there_are_configs():
    assert {f"b{i}_vspw" for i in range(6)} | {"synthetic"} <= {path.stem for path in CONFIGS}


@each_config
def test_config_files_load(path):
    config = load_config(path)
    assert isinstance(config, Config)
    assert create_model(config.model.name, config.model.num_classes, dtype=config.model.dtype).local_blocks
    if path.stem.endswith("_vspw"):
        assert config.model.name == f"cffm_{path.stem.removesuffix('_vspw')}"
        assert config.workdir == f"runs/cffm_{path.stem}"
        others = dataclasses.replace(config, workdir=Config().workdir, model=Config().model)
        assert others == Config(), "the sizes differ in the backbone alone"


@each_config
def test_config_headers_give_command_cost_and_score(path):
    header = path.read_text().split('"""')[1]
    assert all(word in header for word in ("Command:", "Cost:", "Expected:"))
    assert f"--config configs/{path.name}" in header


def test_loading_leaves_the_import_path_alone():
    before = list(sys.path)
    load_config(ROOT / "configs" / "b0_vspw.py")
    assert sys.path == before


def write(path: Path, body: str) -> Path:
    path.write_text(f"import dataclasses\nfrom cffm_jax.config import Config, ModelConfig\n\n{body}\n")
    return path


@pytest.mark.parametrize(
    ("body", "told"),
    [
        ("def get_config():\n    return Config(model=ModelConfig(nam='cffm_b1'))", "nam"),
        ("def get_config():\n    return dataclasses.replace(Config(), optimiser=1)", "optimiser"),
        ("def get_config():\n    return {'model': 1}", "returned dict, not Config"),
        ("def get_config():\n    return None", "returned NoneType, not Config"),
        ("def config():\n    return Config()", "get_config"),
        ("import no_such_neighbour", "no_such_neighbour"),
        ("def get_config(:", "invalid syntax"),
        ("def get_config():\n    return Confog()", "Confog"),
        ("def get_config():\n    return Config(model=ModelConfig(*range(99)))", "positional"),
        ("def get_config():\n    raise ValueError", "ValueError"),
        ("def get_config():\n    return {}['crop']", "crop"),
    ],
)
def test_faulty_config_files(tmp_path, body, told):
    path = write(tmp_path / "faulty.py", body)
    message = fault_of(load_config, path)
    assert message.startswith(f"{path}: ") and told in message


def test_missing_config_files(tmp_path):
    assert "no such config file" in fault_of(load_config, tmp_path / "none.py")
    assert "no such config file" in fault_of(load_config, tmp_path)


def test_files_that_are_no_python(tmp_path):
    path = tmp_path / "config.yaml"
    path.write_text("model: cffm_b1\n")
    assert "no Python file" in fault_of(load_config, path)


# --- stored configs ------------------------------------------------------------------------------------------------


@each_config
def test_a_stored_config_comes_back(path):
    config = load_config(path)
    stored = json.loads(json.dumps(dataclasses.asdict(config)))
    assert config_from_dict(stored, "config.json") == config


def test_stored_configs_name_what_does_not_fit():
    stored = json.loads(json.dumps(dataclasses.asdict(Config())))
    stored["model"]["height"] = 256
    message = fault_of(config_from_dict, stored, "config.json")
    assert message.startswith("config.json: stored config: unknown model.height;")
    stored = {"optimizer": {}, "model": 3}
    assert "unknown optimizer" in fault_of(config_from_dict, stored, "config.json")
    assert "model is no section" in fault_of(config_from_dict, {"model": 3}, "config.json")


def test_fields_younger_than_a_stored_config_have_their_default():
    stored = json.loads(json.dumps(dataclasses.asdict(Config(workdir="elsewhere"))))
    del stored["train"]["seed"], stored["eval"]
    assert config_from_dict(stored, "config.json") == Config(workdir="elsewhere")


# --- command line --------------------------------------------------------------------------------------------------


def test_options_change_the_config():
    argv = "--workdir runs/x --model.name cffm_b0 --optim.rate 1e-4 --data.scale 320 160"
    settings = parse(*argv.split(), "--train.steps=7", "--data.offsets", "6", "3").settings
    assert settings.workdir == "runs/x" and settings.model == ModelConfig(name="cffm_b0")
    assert settings.optim.rate == 1e-4 and settings.data.scale == (320, 160)
    assert settings.train.steps == 7 and settings.data.offsets == (6, 3)
    assert settings.eval == Config().eval


@pytest.mark.parametrize("argv", [["--config", "a.py"], ["--config=a.py"], ["--train.steps", "3", "--config", "a.py"]])
def test_options_go_on_top_of_the_config_file(argv):
    asked = []

    def make(path: str) -> TrainOptions:
        asked.append(path)
        return TrainOptions(path, dataclasses.replace(Config(), workdir="from the file"))

    options = parse(*argv, make=make)
    assert asked == ["a.py"] and options.config == "a.py"
    assert options.settings.workdir == "from the file"
    assert options.settings.train.steps == (3 if "3" in argv else Config().train.steps)


def test_without_options_the_defaults_hold():
    assert parse() == TrainOptions()


@pytest.mark.parametrize(
    ("argv", "told"),
    [
        (["--optim.rat", "1"], "did you mean --optim.rate?"),
        (["--model.nmae", "cffm_b0"], "did you mean --model.name?"),
        (["--train.step=3"], "did you mean --train.steps?"),
        (["--wrokdir", "x"], "did you mean --workdir?"),
        (["--settings.workdir", "x"], "is no option"),
        (["--zzzzzz", "x"], "--zzzzzz: is no option or config key; see --help"),
        (["stray"], "stray: is no option"),
        (["--train.steps", "many"], "many"),
        (["--train.steps", "1.5"], "1.5"),
        (["--train.steps"], "--train.steps"),
        (["--data.scale", "320"], "--data.scale"),
        (["--model.dtype", "float64"], "float64"),
        (["--config"], "--config: needs a file"),
    ],
)
def test_faulty_options(argv, told):
    assert told in fault_of(parse, *argv)


def test_faults_have_no_colours():
    """As tyro has them on a terminal."""
    box = "\x1b[31m╭─ Value\x1b[0m \x1b[31merror ─╮\x1b[0m\n│ \x1b[mFor\x1b[0m full helptext │"
    assert command_line._one_line(box) == "Value error"


def test_help_exits_with_zero(capsys):
    with pytest.raises(SystemExit) as caught:
        parse("--help")
    assert not caught.value.code
    assert "--optim.rate" in capsys.readouterr().out


# --- commands ------------------------------------------------------------------------------------------------------


def test_an_input_error_is_one_line_and_status_2(capsys):
    def main(_):
        raise InputError("weights.pth", "no such file", "name one")

    assert run_command(main, []) == 2
    captured = capsys.readouterr()
    assert captured.err == "error: weights.pth: no such file; name one\n" and captured.out == ""


def test_success_is_status_0_and_other_errors_are_not_hidden():
    seen = []
    assert run_command(seen.append, ["a", "b"]) == 0 and seen == [["a", "b"]]
    with pytest.raises(ZeroDivisionError):
        run_command(lambda _: 1 / 0, [])


def test_what_cannot_be_encoded_is_escaped(monkeypatch):
    said = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(said, encoding="ascii"))
    assert run_command(lambda _: print("vidéo_1 \udcff"), []) == 0
    sys.stdout.flush()
    assert said.getvalue() == b"vid\\xe9o_1 \\udcff\n"


def test_a_reader_that_leaves_ends_a_command(capsys, monkeypatch):
    for text in ("at the end", 99_999 * "at once "):
        reading, writing = os.pipe()
        os.close(reading)
        with monkeypatch.context() as within, open(writing, "w") as gone:
            within.setattr(sys, "stdout", gone)
            assert run_command(lambda argv: print(*argv), [text]) == 141
        assert capsys.readouterr().err == "stopped by SIGPIPE\n"

    def other(_):
        raise BrokenPipeError

    with pytest.raises(BrokenPipeError):  # Some other pipe.
        run_command(other, [])


@pytest.mark.parametrize("command", [train_command, eval_command])
def test_a_signal_waits_while_modules_are_loaded(command, capsys, monkeypatch):
    """Raised within an extension's own code it would end in an abort."""
    load, loaded = builtins.__import__, []

    def loading(name, *rest):
        if name == "cffm_jax.runtime.cluster" and not loaded:
            signal.raise_signal(signal.SIGINT)
            loaded.append(name)
        return load(name, *rest)

    argv = ["--config", str(ROOT / "configs" / "synthetic.py"), "--checkpoint", "none"]
    monkeypatch.setattr(builtins, "__import__", loading)
    assert run_command(command, argv if command is eval_command else argv[:2]) == 130
    assert loaded and capsys.readouterr().err == "stopped by SIGINT\n"


@pytest.mark.parametrize(
    ("command", "argv", "told"),
    [
        (train_command, [], "--config: is missing"),
        (train_command, ["--config", "configs/none.py"], "configs/none.py: no such config file"),
        (train_command, ["--config", "configs/b1_vspw.py", "--optim.rat", "1"], "did you mean --optim.rate?"),
        (eval_command, [], "--checkpoint: give either"),
        (eval_command, ["--checkpoint", "a", "--predictions", "b"], "--checkpoint: give either"),
        (eval_command, ["--chekpoint", "a"], "did you mean --checkpoint?"),
    ],
)
def test_faults_of_the_commands(command, argv, told, capsys, monkeypatch):
    monkeypatch.chdir(ROOT)
    assert run_command(command, argv) == 2
    captured = capsys.readouterr()
    assert captured.err.startswith("error: ") and captured.err.count("\n") == 1
    assert told in captured.err


@pytest.mark.parametrize(("script", "options"), [("train.py", TrainOptions), ("eval.py", EvalOptions)])
def test_help_lists_every_field(script, options):
    done = subprocess.run(
        [sys.executable, ROOT / script, "--help"], capture_output=True, text=True, check=True, cwd=ROOT
    )
    names = [name.removeprefix("settings.").replace("_", "-") for name in fields(options)]
    assert len(names) > 40
    text = done.stdout.replace("_", "-")
    assert [name for name in names if not re.search(rf"--{re.escape(name)}[ ,\n]", text)] == []


def test_a_faulty_command_line_ends_with_status_2():
    argv = [sys.executable, ROOT / "train.py", "--config", "configs/b0_vspw.py", "--train.stesp", "3"]
    done = subprocess.run(argv, capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 2 and done.stdout == ""
    assert done.stderr == "error: --train.stesp: is no option or config key; did you mean --train.steps?\n"


@pytest.mark.parametrize(
    "cls", [value for value in vars(sys.modules[Config.__module__]).values() if dataclasses.is_dataclass(value)]
)
def test_every_setting_is_documented_and_frozen(cls):
    assert cls.__dataclass_params__.frozen
    source = (
        Path(sys.modules[cls.__module__].__file__).read_text().split(f"class {cls.__name__}:")[1].split("@dataclass")[0]
    )
    lines = [line.strip() for line in source.splitlines()]
    for field in dataclasses.fields(cls):
        if not dataclasses.is_dataclass(field.default):
            place = next(i for i, line in enumerate(lines) if line.startswith(f"{field.name}: "))
            assert lines[place + 1].startswith('"""'), f"{cls.__name__}.{field.name} has a comment"


@pytest.mark.parametrize(("status", "said"), [(130, "kept\n"), (2, "kept\nended\n")])
def test_a_signal_ends_the_process_at_once_and_loses_no_words(status, said):
    code = (
        "import atexit; from cffm_jax.runtime.command_line import leave; atexit.register(print, 'ended'); print('kept')"
    )
    argv = [sys.executable, "-c", f"{code}; leave({status})"]
    process = subprocess.run(argv, capture_output=True, text=True, cwd=ROOT)
    assert (process.returncode, process.stdout) == (status, said)
