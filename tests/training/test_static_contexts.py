"""Rows B and E of Table 8: training with static contexts alone reads no past frame in any part."""

import dataclasses

import jax
import numpy as np
import pytest

import cffm_jax
from cffm_jax.config import DataConfig
from cffm_jax.errors import InputError
from cffm_jax.models.create import build_model
from cffm_jax.models.losses import cross_entropy
from cffm_jax.models.normalise import normalise
from cffm_jax.rules import with_changes
from cffm_jax.settings import load_config
from cffm_jax.training import notes, setup

from helpers.drawn import lively
from helpers.runs import CONFIG, DEPTHS, SIZE, WIDTH

TINY = {"depths": DEPTHS, "width": WIDTH, "references": "self", "dropout": 0.0, "drop_path": 0.0}


@pytest.mark.parametrize("name", ["cffm_b0", "cffmpp_b0"])
def test_a_clip_is_its_target(name):
    model = cffm_jax.create_model(name, 4, references="self")
    assert model.clip_frames == 1 and model.training_offsets((9, 6, 3)) == () and not model.reference_names


def test_settings_that_a_method_does_not_read_are_told():
    changed = [("model.mining", "positions"), ("prototypes.count", 5), ("model.dropout", 0.2)]
    config = with_changes(load_config(CONFIG), [("model.name", "segformer_b0"), *changed])
    (line,) = notes.unread_notes(config, build_model(config.model))
    assert line == "without effect on segformer_b0: model.mining, prototypes.count"
    config = with_changes(config, [("model.name", "cffmpp_b0")])
    assert notes.unread_notes(config, build_model(config.model)) == ()


def test_settings_that_a_loss_does_not_read_are_told():
    changed = [("loss.focal_gamma", 3.0), ("loss.ohem_kept", 7), ("loss.dice", 1.0), ("loss.label_smoothing", 0.1)]
    config = with_changes(load_config(CONFIG), changed)
    model = build_model(config.model)
    assert notes.unread_notes(config, model) == (
        "without effect: loss.focal_gamma, as loss.focal is 0",
        "without effect: loss.ohem_kept, as loss.ohem_threshold is 0",
    )
    config = with_changes(config, [("loss.cross_entropy", 0.0)])
    *_, last = notes.unread_notes(config, model)
    assert last == "without effect: loss.ohem_kept, as loss.ohem_threshold is 0"
    assert "without effect: loss.label_smoothing, as loss.cross_entropy is 0" in notes.unread_notes(config, model)
    config = with_changes(config, [("loss.focal", 1.0), ("loss.ohem_threshold", 0.7), ("loss.label_smoothing", 0.0)])
    assert notes.unread_notes(config, model) == ()


def test_settings_that_another_choice_does_not_read_are_told():
    changed = [("optim.momentum", 0.8), ("optim.betas", (0.8, 0.9)), ("data.ratio", (0.5, 1.0))]
    config = with_changes(load_config(CONFIG), changed)
    model = build_model(config.model)
    assert notes.unread_notes(config, model) == ("without effect: optim.momentum, with --optim.kind adamw",)
    config = with_changes(config, [("optim.kind", "sgd"), ("data.ratios", (0.8, 1.0))])
    assert notes.unread_notes(config, model) == (
        "without effect: data.ratio, with --data.ratios 0.8 1.0",
        "without effect: optim.betas, with --optim.kind sgd",
    )


@pytest.mark.parametrize("name", ["cffm_b0", "cffmp_b0", "cffmpp_b0", "stppm_b0"])
def test_methods_of_clips_are_not_trained_on_single_frames(name):
    data, frames = DataConfig(), DataConfig(samples="frames")
    model = cffm_jax.create_model(name, 4)
    setup.require_samples(model, data)
    setup.require_samples(cffm_jax.create_model("segformer_b0", 4), frames)
    with pytest.raises(InputError, match=f"^--data.samples: is frames, and {name} trains on clips; give clips, or "):
        setup.require_samples(model, frames)


@pytest.mark.long
def test_the_loss_is_that_of_the_target():
    """Of the target's clip logits and of its own per-frame logits, nothing else; and the work is one frame's."""
    model = cffm_jax.create_model("cffm_b0", 4, **TINY)
    variables, rng = lively(model), np.random.default_rng(0)
    frames = rng.integers(0, 256, (2, 1, 64, 64, 3)).astype(np.uint8)
    labels = rng.integers(0, 4, (2, 1, 64, 64)).astype(np.uint8)
    batch = {"frames": frames, "labels": labels, "size": np.full((2, 2), 64, np.int32)}
    # BatchNorm's batch statistics are those of the targets: the encoder sees no other frame.
    apply = jax.jit(model.apply, static_argnames=("method", "mutable", "train", "frame_loss_weight"))
    rngs = {"dropout": jax.random.key(0)}
    (loss, parts), _ = apply(variables, batch, frame_loss_weight=0.5, method="loss", mutable="batch_stats", rngs=rngs)
    outputs, _ = apply(
        variables, normalise(frames, batch["size"]), train=True, method="clip_outputs", mutable="batch_stats",
        rngs=rngs,
    )  # fmt: skip
    assert outputs.frame_logits.shape[1] == 1
    clip = cross_entropy(outputs.logits, labels[:, 0])
    frame = cross_entropy(outputs.frame_logits[:, 0], labels[:, 0])
    np.testing.assert_allclose(loss, clip + 0.5 * frame, rtol=1e-5)
    np.testing.assert_allclose(parts["frame_loss"], frame, rtol=1e-5)
    past = cffm_jax.create_model("cffm_b0", 4, depths=DEPTHS, width=WIDTH)
    once, four = (m.training_macs(64, 64, prototypes=100) for m in (model, past))
    assert four - once == 3 * 3 * sum(model.frame_macs(64, 64, executed=True).values())


@pytest.mark.long
def test_the_loader_reads_one_frame_a_clip(data, tmp_path):
    """Of a prepared training run; a run with past frames reads four."""
    config = load_config(CONFIG)
    config = dataclasses.replace(config, workdir=str(tmp_path / "run"))
    config = with_changes(config, [
        ("data.root", str(data)), ("data.frame_size", SIZE), ("data.crop", (64, 64)), ("train.batch_size", 2),
        ("train.devices", 1), ("eval.devices", 1), ("model.depths", DEPTHS), ("model.width", WIDTH),
    ])  # fmt: skip
    for references, frames in (("self", 1), ("past", 4)):
        with setup.prepare(with_changes(config, [("model.references", references)])) as run:
            batch = next(iter(run.clips))
        assert batch["frames"].shape == (2, frames, 64, 64, 3) and batch["labels"].shape == (2, frames, 64, 64)
