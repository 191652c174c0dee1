"""Settings from config files, stored JSON and the command line; faults are one line and exit status 2."""

import builtins
import dataclasses
import functools
import io
import json
import os
import signal
import subprocess
import sys
import typing
from functools import partial
from pathlib import Path

import pytest
import tyro

from cffm_jax.commands.convert import convert_command
from cffm_jax.commands.eval import eval_command
from cffm_jax.commands.train import TrainOptions, train_command
from cffm_jax.config import EVALUATED, SETTINGS, Config, DataConfig, ModelConfig
from cffm_jax.config.checks import check_settings, require_crop
from cffm_jax.errors import InputError
from cffm_jax.evaluation.options import EvalOptions
from cffm_jax.models import cfm
from cffm_jax.models.create import METHODS, create_model
from cffm_jax.rules import about, option_name, require_together, values, with_changes
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
    model = create_model(config.model.name, config.model.num_classes or 3, dtype=config.model.dtype)
    assert model.public_name == config.model.name
    if path.stem.endswith("_vspw") and model.family == "cffm":
        assert config.model.name == f"cffm_{path.stem.removesuffix('_vspw')}"
        assert config.workdir == f"runs/cffm_{path.stem}"
        assert config.init.encoder == "required"
        others = dataclasses.replace(config, workdir=Config().workdir, model=Config().model, init=Config().init)
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


@pytest.mark.parametrize("name", ["b1_vspw", "b1_vspw_pp", "synthetic.py"])
def test_configs_by_name(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path = ROOT / "configs" / f"{name.removesuffix('.py')}.py"
    assert load_config(name) == load_config(path)
    if name.endswith(".py"):
        write(tmp_path / name, "def get_config():\n    return Config(workdir='mine')")
        assert load_config(name).workdir == "mine", "a file that is there goes before"


def test_a_runs_folder_and_its_file_are_configs(tmp_path):
    config = dataclasses.replace(Config(), workdir="elsewhere", data=dataclasses.replace(Config().data, root="films"))
    (tmp_path / "config.json").write_text(json.dumps(dataclasses.asdict(config)))
    assert load_config(tmp_path) == load_config(tmp_path / "config.json") == config
    for text, told in [("{", "cannot be read as JSON"), ('{"trane": 1}', "unknown trane"), ("[]", "is no section")]:
        (tmp_path / "config.json").write_text(text)
        with pytest.raises(InputError, match=told):
            load_config(tmp_path)


def test_configs_build_on_those_of_the_package(tmp_path):
    path = write(tmp_path / "mine.py", "import b2_vspw\n\ndef get_config():\n    return b2_vspw.get_config()")
    assert load_config(path).model.name == "cffm_b2"


def test_unknown_names_of_configs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert fault_of(load_config, "b1_vpsw").startswith("b1_vpsw: no such config file; did you mean b1_vspw, ")
    assert "no such config file; name a file, or one of accel_r101_cityscapes, " in fault_of(load_config, "zzzz")


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


def test_sizes_that_were_stored_width_first_come_back():
    """Under the names that they had; no option and no config file may have these any more."""
    stored = dataclasses.asdict(Config())
    del stored["data"]["frame_size"], stored["eval"]["tile_size"]
    stored["data"]["scale"], stored["eval"]["tile"] = [1024, 512], [96, 64]
    read = config_from_dict(json.loads(json.dumps(stored)), "config.json")
    assert read == with_changes(Config(), [("data.frame_size", (512, 1024)), ("eval.tile_size", (64, 96))])
    stored["eval"]["tile"] = []
    assert config_from_dict(stored, "config.json").eval == Config().eval
    stored["eval"]["tile"] = 96
    assert fault_of(config_from_dict, stored, "config.json").startswith("config.json: stored config: eval.tile cannot")


@pytest.mark.parametrize(
    ("argument", "now"),
    [("--data.scale", "frame-size"), ("--data.scale=853", "frame-size"), ("--eval.tile", "tile-size")],
)
def test_an_earlier_name_says_what_it_is_now(argument, now, tmp_path):
    name = argument.removeprefix("--").partition("=")[0]
    section, _, field = name.partition(".")
    now = f"is --{section}.{now} now, the height before the width; "
    assert fault_of(parse, argument, "480") == f"--{name}: {now}give it by this name, in this order"
    path, made = tmp_path / "mine.py", f"Config({section}={section.title()}Config({field}=(9, 6)))"
    path.write_text(f"from cffm_jax.config import *\ndef get_config():\n    return {made}\n")
    assert fault_of(load_config, path).startswith(f"{path}: {name} {now}")


def test_fields_younger_than_a_stored_config_have_their_default():
    stored = json.loads(json.dumps(dataclasses.asdict(Config(workdir="elsewhere"))))
    del stored["train"]["seed"], stored["eval"]
    assert config_from_dict(stored, "config.json") == Config(workdir="elsewhere")


# --- command line --------------------------------------------------------------------------------------------------


def test_options_change_the_config():
    argv = "--workdir runs/x --model.name cffm_b0 --optim.rate 1e-4 --data.frame_size 160 320"
    settings = parse(*argv.split(), "--train.steps=7", "--data.offsets", "6", "3").settings
    assert settings.workdir == "runs/x" and settings.model == ModelConfig(name="cffm_b0")
    assert settings.optim.rate == 1e-4 and settings.data.frame_size == (160, 320)
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
        (["--data.frame-size", "320"], "--data.frame-size"),
        (["--model.dtype", "float64"], "float64"),
        (["--config"], "--config: needs a file"),
    ],
)
def test_faulty_options(argv, told):
    assert told in fault_of(parse, *argv)


def test_faults_are_all_that_is_said(capfd):
    """Nothing of what tyro draws on a terminal."""
    for argv in (["--train.steps"], ["--train.steps", "x"], ["--model.dtype", "x"], ["--x"], ["-x"]):
        fault_of(parse, *argv)
    assert not any(capfd.readouterr())


@pytest.mark.parametrize(
    ("argv", "told"),
    [
        (["--data.verify", "--train.steps"], "command line: --train.steps needs 1 value; see --help"),
        (["--data.frame-size=320", "--workdir", "x"], "command line: --data.frame-size needs 2 values; see --help"),
        (["--train.steps", "many"], "command line: --train.steps is many; give INT"),
        (["--data.offsets", "3", "b"], "command line: --data.offsets is 3 b; give [INT [INT ...]]"),
        (["--model.dtype", "float64"], "command line: --model.dtype is float64; give one of float32, bfloat16"),
    ],
)
def test_faults_name_the_option(argv, told):
    assert fault_of(parse, *argv) == told


def test_arguments_are_parsed_once(monkeypatch):
    """Whatever they go on top of."""
    calls = []
    parse_with_tyro = command_line.tyro.cli
    monkeypatch.setattr(
        command_line.tyro, "cli", lambda *args, **kwargs: (calls.append(args), parse_with_tyro(*args, **kwargs))[1]
    )
    line = command_line.CommandLine(EvalOptions, ["--checkpoint", "run", "--eval.chunk", "3", "--data.no-verify"], "")
    assert line.given == {"checkpoint": "run", "eval.chunk": 3, "data.verify": False}
    for config in (Config(), Config(model=ModelConfig(name="cffm_b2"), data=DataConfig(verify=True))):
        options = line.over(EvalOptions(settings=config))
        assert options.settings == with_changes(config, [("eval.chunk", 3), ("data.verify", False)])
    assert len(calls) == 1


def test_what_is_missing_is_named():
    @dataclasses.dataclass
    class Options:
        root: tyro.conf.Positional[str]

    make = partial(Options, tyro.MISSING)
    assert fault_of(parse_command, Options, [], lambda _: make(), "") == "command line: ROOT is missing; see --help"
    assert parse_command(Options, ["a"], lambda _: make(), "").root == "a"


def test_help_exits_with_zero(capsys):
    with pytest.raises(SystemExit) as caught:
        parse("--help", make=lambda _: TrainOptions(settings=Config(workdir="of_this_config")))
    assert not caught.value.code
    said = capsys.readouterr().out
    assert "--optim.rate" in said and "(default: of_this_config)" in said


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
        (convert_command, ["a", "--output", "b"], "--output: is no option: OUTPUT is given without a name"),
        (convert_command, ["a", "b", "--outpu", "b"], "--outpu: is no option or config key; see --help"),
    ],
)
def test_faults_of_the_commands(command, argv, told, capsys, monkeypatch):
    monkeypatch.chdir(ROOT)
    assert run_command(command, argv) == 2
    captured = capsys.readouterr()
    assert captured.err.startswith("error: ") and captured.err.count("\n") == 1
    assert told in captured.err


@pytest.mark.parametrize(
    "cls",
    [
        value
        for value in vars(sys.modules[Config.__module__]).values()
        if dataclasses.is_dataclass(value) and value.__module__.startswith(Config.__module__)
    ],
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


# --- rules ---------------------------------------------------------------------------------------------------------


def test_every_number_has_a_rule():
    kinds = fields(Config)
    assert list(kinds) == list(SETTINGS)
    kinds = {name: str(kind) for name, kind in kinds.items() if "Literal" not in str(kind)}
    numbers = [name for name, kind in kinds.items() if "int" in kind or "float" in kind]
    assert len(numbers) > 50
    assert [name for name in numbers if not SETTINGS[name].bounded] == []


def test_names_that_rules_give_exist():
    assert {other for known in SETTINGS.values() for other in known.goes_with} <= set(SETTINGS)
    assert {known.reads_only_if[0] for known in SETTINGS.values() if known.reads_only_if} <= set(SETTINGS)
    of_methods = {name for name, known in SETTINGS.items() if known.part == "method"}
    sections = {f"{name.partition('.')[0]}." for name in of_methods}
    for family in METHODS:
        model = create_model(f"{family}_b0", 19)
        assert {f"model.{name}" for name in model.settings_resolved} <= set(SETTINGS)
        assert set(model.settings_read) <= of_methods | sections
    options = about(EvalOptions)
    assert {other for known in options.values() for other in (known.only_with, known.not_with) if other} <= set(options)


def test_the_configs_keep_the_rules():
    for path in CONFIGS:
        check_settings(load_config(path))


def test_rules_are_those_of_the_model():
    assert SETTINGS["model.width"].multiple_of == cfm.HEADS


@pytest.mark.parametrize("name", [name for name, known in SETTINGS.items() if known.bounded and not known.goes_with])
def test_rules_hold_at_their_bounds(name):
    known, value = SETTINGS[name], values(Config())[name]

    def changed(number):
        numbers = (number,) * (known.lengths or (len(value),))[-1] if isinstance(value, tuple) else number
        return with_changes(Config(), [(name, numbers)])

    step = known.multiple_of or (1 if "int" in str(fields(Config)[name]) else 1e-9)
    for bound, outwards in ((known.least, -step), (known.most, step)):
        if bound is not None:
            check_settings(changed(bound))
            assert fault_of(check_settings, changed(bound + outwards)).startswith(f"{option_name(name)}: ")
    for bound, inwards in ((known.above, 1e-9), (known.below, -1e-9)):
        if bound is not None:
            check_settings(changed(bound + inwards))
            assert fault_of(check_settings, changed(bound)).startswith(f"{option_name(name)}: ")
    assert fault_of(check_settings, changed(float("nan"))).startswith(f"{option_name(name)}: ")


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"data.offsets": (9, 6)}, "--data.offsets: is 9 6; give 3 numbers of at least 1, the largest first; as many"),
        ({"data.offsets": (9, 3, 6)}, "--data.offsets: is 9 3 6; give 3 numbers"),
        ({"data.offsets": (9, 6, 0)}, "--data.offsets: is 9 6 0; give 3 numbers"),
        ({"data.frame_size": (0, 853)}, "--data.frame-size: is 0 853; give a height and a width of at least 1"),
        ({"data.frame_size": (0, 0)}, "--data.frame-size: is 0 0; give a height"),
        ({"eval.tile_size": (512,)}, "--eval.tile-size: is 512; give a height and a width"),
        ({"eval.tile_size": (64, 96), "eval.overlap": 64}, "--eval.overlap: is 64; give a multiple of 32 below 64"),
        ({"data.ratio": (2.0, 0.5)}, "--data.ratio: is 2.0 0.5; give more than 0, the smaller number first"),
        ({"data.ratios": (1.0, 0.0)}, "--data.ratios: is 1.0 0.0; give more than 0"),
        ({"data.padding": "both"}, "--data.padding: is 'both'; give one of end, around"),
        ({"data.contrast": (1.5, 0.5)}, "--data.contrast: is 1.5 0.5; give at least 0, the smaller number first"),
        ({"data.brightness": float("inf")}, "--data.brightness: is inf; give a finite number"),
        ({"data.threads": 0}, "--data.threads: 0 is too small; give at least 1"),
        ({"model.dtype": "float64"}, "--model.dtype: is 'float64'; give one of float32, bfloat16"),
        ({"model.dropout": 1.0}, "--model.dropout: is 1.0; give at least 0 and less than 1"),
        ({"optim.ema": 1.0}, "--optim.ema: is 1.0; give 0 for none, or a decay below 1, such as 0.999"),
        ({"optim.kind": "adam"}, "--optim.kind: is 'adam'; give one of adamw, sgd"),
        ({"optim.least_rate": 1e-4}, "--optim.least-rate: 0.0001 is above --optim.rate; give at most 6e-05"),
        ({"optim.least_rate": -1.0}, "--optim.least-rate: is -1.0; give at least 0"),
        ({"model.blocks": -1}, "--model.blocks: less than 0; give 0 for the papers' numbers"),
    ],
)
def test_what_is_said_of_a_broken_rule(changes, told):
    assert fault_of(check_settings, with_changes(Config(), changes.items())).startswith(told)


def test_a_crop_has_the_sides_that_the_model_takes():
    require_crop((479, 70), 1)
    assert fault_of(functools.partial(require_crop, (480, 70)), 32).startswith("--data.crop: is 480 70; give multiples")


def test_frames_of_their_own_size_are_evaluated():
    """And not trained on."""
    check_settings(with_changes(Config(), [("data.frame_size", (0, 0))]), EVALUATED)


def test_options_that_belong_to_others():
    for known in (EvalOptions(), EvalOptions(submission="x.zip", submission_values="classes", pictures="p")):
        require_together(known)
    refused = fault_of(require_together, EvalOptions(submission_values="classes"))
    assert refused.startswith("--submission-values: has no use without --submission; ")
    refused = fault_of(require_together, EvalOptions(predictions="masks", pictures="p"))
    assert refused.startswith("--pictures: given together with --predictions, which takes no network; ")
