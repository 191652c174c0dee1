"""Weights in wrappers of any kind: under any prefix, and beside other weights."""

import dataclasses
import functools

import numpy as np
import pytest
import safetensors.numpy

import cffm_jax
from cffm_jax.commands.convert import convert_command
from cffm_jax.errors import InputError
from cffm_jax.models.variables import flatten
from cffm_jax.runtime.command_line import run_command
from cffm_jax.weights import summary
from cffm_jax.weights.convert import convert
from cffm_jax.weights.naming.match import key_map
from cffm_jax.weights.naming.recognise import RULE
from cffm_jax.weights.open import open_stored

from helpers.weight_files import TorchFile, torch_file

MODEL = cffm_jax.create_model("segformer_b0", 3)


@functools.cache
def keys():
    return {key: layout.save(np.empty(shape, bool)).shape for key, (_, _, layout, shape) in key_map(MODEL).items()}


def released(value=1.0):
    """A SegFormer-B0 in the released layout, all of one number, which tells the sets apart."""
    return {key: np.full(shape, value, np.float16) for key, shape in keys().items()}


def under(prefix, value=1.0):
    return {prefix + key: array for key, array in released(value).items()}


def value_of(weights):
    """The number that all of the weights are."""
    assert not weights.problems
    [number] = {float(leaf.load().flat[0]) for leaf in weights.leaves.values()}
    return number


def written(path, arrays):
    safetensors.numpy.save_file(arrays, path)
    return path


PREFIXES = (
    "_orig_mod.", "module._orig_mod.", "_orig_mod.module.", "module.module._orig_mod.", "model.", "net.segmentor.",
    "_fsdp_wrapped_module._orig_mod.", "model._orig_mod.", "_orig_mod.model.module.", "student.",
)  # fmt: skip


@pytest.mark.parametrize("prefix", PREFIXES)
def test_any_prefix(tmp_path, prefix):
    with open_stored(written(tmp_path / "a.safetensors", under(prefix))) as weights:
        assert value_of(weights) == 1 and not weights.ignored and weights.model == MODEL
        assert weights.taken == f"what is under {prefix}"
        assert f"taken         what is under {prefix}" in summary.description(weights)


@pytest.mark.parametrize("prefix", ["_orig_mod.", "encoder.", "net.backbone._orig_mod."])
def test_any_prefix_of_an_encoder_alone(tmp_path, prefix):
    bare = {k.removeprefix("backbone."): v for k, v in released().items() if k.startswith("backbone.")}
    arrays = {prefix + key: array for key, array in bare.items()} | {"loss.weight": np.ones(3, np.float16)}
    with open_stored(written(tmp_path / "a.safetensors", arrays)) as weights:
        assert weights.part == "encoder" and value_of(weights) == 1 and weights.ignored == ("loss.weight",)


@pytest.mark.parametrize("wrapper", ["_orig_mod.", "module.", "_checkpoint_wrapped_module."])
@pytest.mark.parametrize("part", ["backbone.", "decode_head.", "backbone.block2."])
def test_parts_that_are_wrapped_by_themselves(tmp_path, wrapper, part):
    arrays = {key.replace(part, part + wrapper): array for key, array in released().items()}
    with open_stored(written(tmp_path / "a.safetensors", arrays)) as weights:
        assert value_of(weights) == 1 and not weights.ignored and not weights.taken


def test_a_missing_key_below_a_prefix_is_named(tmp_path):
    arrays = under("net.")
    del arrays["net.backbone.block1.0.norm1.weight"]
    with open_stored(written(tmp_path / "a.safetensors", arrays | {"metric.sum": np.ones(1, np.float16)})) as weights:
        assert weights.problems == ("missing backbone.block1.0.norm1.weight",)
        assert weights.ignored == ("metric.sum",)


def test_lightning_with_other_members(tmp_path):
    file = TorchFile()
    members = under("segmentor.") | {"criterion.weight": np.ones(3, np.float32), "miou.confmat": np.ones((3, 3))}
    tensors = {key: file.tensor(array) for key, array in members.items()}
    value = {
        "epoch": 3, "pytorch-lightning_version": "2.5", "state_dict": tensors, "callbacks": {"best": {"score": 0.5}},
        "optimizer_states": [{"state": {}}], "hyper_parameters": {"lr": 1e-4},
    }  # fmt: skip
    with open_stored(file.write(tmp_path / "last.ckpt", value)) as weights:
        assert value_of(weights) == 1 and weights.taken == "what is under segmentor."
        assert {"criterion.weight", "miou.confmat", "optimizer_states", "callbacks"} <= set(weights.ignored)


@pytest.mark.parametrize("entry", ["segmentor", "params", "generator.weights"])
def test_any_entry_of_a_checkpoint(tmp_path, entry):
    def wrap(tensors):
        for name in reversed(entry.split(".")):
            tensors = {name: tensors, "epoch": 3}
        return tensors

    with open_stored(torch_file(tmp_path / "a.pth", released(), wrap)) as weights:
        assert value_of(weights) == 1 and "epoch" in weights.ignored


@pytest.mark.parametrize("place", ["", "models", "state_dict"])
def test_a_list_of_models(tmp_path, place):
    def wrap(tensors):
        return {place: [tensors, {"lr": 1e-4}]} if place else ([tensors],)

    with open_stored(torch_file(tmp_path / "a.pth", released(), wrap)) as weights:
        assert value_of(weights) == 1


def test_a_long_history_beside_the_weights(tmp_path):
    """It took minutes: what is beside was listed anew for each of its items."""
    history = [(i, float(i)) for i in range(20_000)]
    with open_stored(torch_file(tmp_path / "a.pth", released(), lambda x: {"model": x, "log": history})) as weights:
        assert value_of(weights) == 1 and weights.ignored == ("log",)


def test_averaged_models_of_torch(tmp_path):
    arrays = under("module.") | {"n_averaged": np.array(7)}
    for name, wrap in (("bare", lambda x: x), ("wrapped", lambda x: {"state_dict": x})):
        with open_stored(torch_file(tmp_path / name, arrays, wrap)) as weights:
            assert value_of(weights) == 1 and weights.ignored == ("n_averaged",)


# --- two sets of weights: one is chosen by the rule, and told


def test_the_two_of_ema_pytorch(tmp_path):
    more = {"initted": np.array(True), "step": np.array(7)}
    arrays = under("online_model.", 1) | under("ema_model.", 2) | more
    with open_stored(torch_file(tmp_path / "both.pt", arrays)) as weights:
        assert value_of(weights) == 1
        assert weights.taken == f"online_model.*, not ema_model.* ({RULE})"
        assert {"initted", "step"} <= set(weights.ignored)
        assert weights.taken in summary.description(weights)
    with open_stored(torch_file(tmp_path / "one.pt", under("ema_model.", 2) | more)) as weights:
        assert value_of(weights) == 2 and weights.taken == "what is under ema_model."


def test_the_hook_of_mmcv(tmp_path):
    """Its names have underscores for the dots; the plain ones are what mmcv itself would load."""
    averages = {f"ema_{key.replace('.', '_')}": array for key, array in released(2).items()}
    for prefix in ("", "module."):
        arrays = {prefix + key: array for key, array in (released(1) | averages).items()}
        with open_stored(torch_file(tmp_path / "a.pth", arrays, lambda x: {"state_dict": x, "meta": {}})) as weights:
            assert value_of(weights) == 1 and f"not state_dict: {prefix}ema_*" in weights.taken
            assert set(averages) <= {key.removeprefix(prefix) for key in weights.ignored}
        with open_stored(tmp_path / "a.pth", take=f"state_dict: {prefix}ema_*") as weights:
            assert value_of(weights) == 2


def test_the_hook_of_mmengine(tmp_path):
    file = TorchFile()
    plain = {key: file.tensor(array) for key, array in released(1).items()}
    other = {key: file.tensor(array) for key, array in (under("module.", 2) | {"steps": np.array(7)}).items()}
    for order in (("state_dict", "ema_state_dict"), ("ema_state_dict", "state_dict")):
        both = {"state_dict": plain, "ema_state_dict": other}
        value = {"meta": {"iter": 7}, **{name: both[name] for name in order}}
        with open_stored(file.write(tmp_path / "iter_7.pth", value)) as weights:
            assert value_of(weights) == 1 and "state_dict, not ema_state_dict: module.*" in weights.taken
            assert "ema_state_dict" in weights.ignored
    with open_stored(file.write(tmp_path / "ema.pth", {"ema_state_dict": other, "meta": {}})) as weights:
        assert value_of(weights) == 2


def test_plain_names_come_before_a_prefix(tmp_path):
    arrays = released(1) | under("teacher.", 2) | under("copy.", 3)
    with open_stored(written(tmp_path / "a.safetensors", arrays)) as weights:
        assert value_of(weights) == 1 and "copy.*" in weights.taken and "teacher.*" in weights.taken


def test_two_sets_that_the_rule_does_not_tell_apart_are_refused(tmp_path):
    path = written(tmp_path / "a.safetensors", under("left.", 1) | under("right.", 2))
    with pytest.raises(InputError, match=r"holds several sets of weights: left\.\* and right\.\*; name one with"):
        with open_stored(path):
            pass
    path = torch_file(tmp_path / "a.pth", released(), lambda tensors: {"left": tensors, "right": {**tensors}})
    with pytest.raises(InputError, match="holds several sets of weights: left and right"), open_stored(path):
        pass


@pytest.mark.long
def test_one_of_several_by_name(tmp_path):
    path = torch_file(tmp_path / "a.pt", under("online_model.", 1) | under("ema_model.", 2) | under("left.", 3))
    for name, value in (("ema_model.*", 2), ("left.*", 3)):
        with open_stored(path, take=name) as weights:
            assert value_of(weights) == value and weights.taken.startswith(f"{name}, not ")
            assert weights.taken.endswith("(as asked)")
    said = "holds no weights 'none'; name one of left"
    with pytest.raises(InputError, match=said), open_stored(path, take="none"):
        pass
    assert run_command(convert_command, [str(path), str(tmp_path / "ours"), "--take", "ema_model.*"]) == 0
    variables = cffm_jax.load(tmp_path / "ours").variables
    assert all((leaf == 2).all() for leaf in flatten(variables).values())
    with pytest.raises(InputError, match="leave out --take"), open_stored(tmp_path / "ours", take="ema_model.*"):
        pass


def test_what_is_beside_is_left_over_where_nothing_can_tell_it():
    """`convert_state_dict` has no report: it refuses."""
    state_dict = under("module.") | {"n_averaged": np.array(7)}
    with pytest.raises(InputError, match="left over n_averaged"):
        cffm_jax.convert_state_dict(state_dict, MODEL)
    del state_dict["n_averaged"]
    found = flatten(cffm_jax.convert_state_dict(state_dict, MODEL))
    assert len(found) == len(keys()) and all((leaf == 1).all() for leaf in found.values())


def test_a_chosen_entry_is_what_a_conversion_writes(tmp_path):
    path = torch_file(tmp_path / "a.pth", under("net."), lambda tensors: {"epoch": 1, "weights": tensors})
    said = convert(path, tmp_path / "ours.safetensors", "cffm_jax")
    assert "weights: net." in said or "under net." in said
    weights = cffm_jax.load(tmp_path / "ours.safetensors")
    assert all((leaf == 1).all() for leaf in flatten(weights.variables).values())
    assert dataclasses.asdict(weights.config.model)["name"] == "segformer_b0"
