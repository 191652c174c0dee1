"""Weights by name, of a small hub on loopback: what is fetched, what is told, what is refused."""

import json
import os
import re
import sys
import time
from pathlib import Path

import huggingface_hub.constants
import jax
import numpy as np
import pytest
import safetensors.numpy

import cffm_jax
from cffm_jax.commands.convert import convert_command
from cffm_jax.commands.eval import eval_command
from cffm_jax.commands.predict import predict_command
from cffm_jax.commands.train import train_command
from cffm_jax.config import Config, InitConfig, ModelConfig
from cffm_jax.errors import InputError
from cffm_jax.models.encoders.mit import NON_COMMERCIAL
from cffm_jax.training.setup import initial_weights
from cffm_jax.weights import summary
from cffm_jax.weights.hub import fetch, file_name
from cffm_jax.weights.naming.match import key_map
from cffm_jax.weights.open import beside, open_stored

from helpers import hub as loopback
from helpers.runs import finished

NAME = "owner/segformer"
CARD = b"---\nlicense: other\nlicense_name: mine\nlicense_link: https://a.b/c\ntags: [x]\n---\n# A model\n"
FILES = {"config.json": b"{}", "README.md": CARD, "run_me.py": b"raise SystemExit(1)", "tf_model.h5": b"tf"}
LABELS = ("wall", "sky", "sea")


@pytest.fixture(scope="module")
def model():
    """A SegFormer as save_pretrained writes it, of three classes with names."""
    arrays = {
        key: np.zeros(layout.save(np.empty(shape, bool)).shape, np.float16)
        for key, (_, _, layout, shape) in key_map(cffm_jax.create_model("segformer_b0", 3)).items()
    }
    config = {"model_type": "segformer", "id2label": dict(enumerate(LABELS))}
    whole = safetensors.numpy.save(arrays, {"format": "pt"})
    return {**FILES, "model.safetensors": whole, "config.json": json.dumps(config).encode()}


@pytest.fixture
def hub(monkeypatch, tmp_path):
    with loopback.running(monkeypatch, tmp_path / "cache") as hub:
        yield hub


def in_shards(whole):
    arrays = safetensors.numpy.load(whole)
    keys = list(arrays)
    shards = {
        f"model-{i}.safetensors": safetensors.numpy.save({key: arrays[key] for key in keys[i::2]}) for i in (0, 1)
    }
    places = {key: f"model-{i}.safetensors" for i in (0, 1) for key in keys[i::2]}
    return {**shards, "model.safetensors.index.json": json.dumps({"weight_map": places}).encode()}


def test_what_is_fetched_and_what_is_told(hub, model, capfd):
    commit = hub.add(NAME, **model)
    with open_stored(f"hf:{NAME}") as weights:
        assert weights.source == f"hf:{NAME}@{commit}"
        assert weights.classes.names == LABELS and not weights.problems
        assert NON_COMMERCIAL in weights.licence
        assert weights.licence.endswith("; its model card states other (mine, https://a.b/c)")
        assert weights.licence in summary.description(weights)
    assert hub.fetched == ["model.safetensors", "config.json", "README.md"]
    assert capfd.readouterr().err == ""
    hub.asked.clear()
    with open_stored(Path(weights.source)):  # Nothing is fetched twice.
        assert hub.fetched == []


def test_a_file_a_revision_and_shards(hub, model):
    hub.add(NAME, **FILES)
    commit = hub.add(NAME, "v1", **FILES, **{"sub/net.pth": b"weights"})
    found = fetch(f"hf:{NAME}:sub/net.pth@v1")
    assert found.file.read_bytes() == b"weights" and found.source == f"hf:{NAME}:sub/net.pth@{commit}"
    assert fetch(found.source) == found
    assert hub.fetched == ["sub/net.pth", "README.md"]

    hub.add("owner/shards", **in_shards(model["model.safetensors"]))
    with open_stored("hf:owner/shards") as weights:
        assert weights.file.format == "safetensors, 2 shards" and not weights.problems
        assert weights.licence.endswith("its model card states no licence")


def test_the_order_is_that_of_a_folder(hub):
    hub.add(NAME, **{name: name.encode() for name in ("pytorch_model.bin", "model.safetensors", "net.pth")})
    assert fetch(f"hf:{NAME}").file.read_text() == "model.safetensors"


@pytest.mark.long
def test_the_notice_goes_along_the_chain(hub, model, tmp_path):
    hub.add(NAME, **model)
    config = Config(model=ModelConfig("segformer_b0", 3), init=InitConfig(model=f"hf:{NAME}"))
    net = cffm_jax.create_model("segformer_b0", 3)
    _, said, licence = initial_weights(net, config, jax.random.key(0))
    named = f"hf:{NAME}@{hub.commits[NAME, 'main']}"
    assert licence.startswith(f"inherited from {named}: ") and "its model card states other (mine" in licence
    assert f"from {named} (" in said
    convert_command([f"hf:{NAME}", str(tmp_path / "ours.safetensors")])
    with open_stored(tmp_path / "ours.safetensors") as weights:
        assert weights.licence.endswith("its model card states other (mine, https://a.b/c)")
        history = json.loads(weights.file.metadata["provenance"])
    assert history["source"] == named and len(history["sha256"]) == 64


def test_a_download_that_breaks_off_is_resumed(hub, monkeypatch, capfd):
    monkeypatch.setattr(time, "sleep", lambda _: None)
    data = np.random.default_rng(0).bytes(300_000)
    hub.add(NAME, **{"model.safetensors": data})
    hub.cut = 200_000
    found = fetch(f"hf:{NAME}")
    assert found.file.read_bytes() == data and hub.fetched == ["model.safetensors"] * 2
    assert capfd.readouterr().err == ""


def test_without_a_network_the_cache_serves(hub, model, monkeypatch, capfd):
    hub.add(NAME, **model)
    found = fetch(f"hf:{NAME}")
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    hub.asked.clear()
    assert fetch(f"hf:{NAME}") == fetch(found.source) == found
    assert hub.asked == [] and capfd.readouterr().err == ""
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    hub.down = 503
    assert fetch(f"hf:{NAME}") == found
    [line] = capfd.readouterr().err.splitlines()
    assert line.startswith(f"warning: hf:{NAME}: {hub.address} cannot be reached (")
    assert line.endswith("the copy in the cache is used")


def test_an_older_copy_is_told(hub, monkeypatch, capfd):
    """The hub answers which commit is the newest, and not for the file."""
    old = hub.add(NAME, **{"model.safetensors": b"old", "README.md": CARD})
    found = fetch(f"hf:{NAME}")
    new = hub.add(NAME, **{"model.safetensors": b"new", "config.json": b"{}"})
    asked = huggingface_hub.HfApi.model_info

    def and_no_more(*args, **named):
        info = asked(*args, **named)
        hub.down = 503
        return info

    monkeypatch.setattr(huggingface_hub.HfApi, "model_info", and_no_more)
    assert fetch(f"hf:{NAME}") == found and found.source.endswith(old)
    said = f"its commit {new} cannot be fetched from {hub.address}: the copy in the cache is used"
    assert capfd.readouterr().err == f"warning: hf:{NAME}: {said}\n"


def test_damaged_files_are_named_by_their_address(hub, model):
    shards = in_shards(model["model.safetensors"])
    shards["model-1.safetensors"] = shards["model-1.safetensors"][:-9]
    hub.add("owner/cut", **{"model.safetensors": model["model.safetensors"][:-9]})
    hub.add("owner/shards", **shards)
    for address, name in {"hf:owner/cut": "model", "hf:owner/shards@main": "model-1"}.items():
        with pytest.raises(InputError) as caught, open_stored(address):
            pass
        assert caught.value.where == address and "cut off" in caught.value.problem
        assert re.search(rf"\(in the cache: /.*/{name}\.safetensors\)$", caught.value.remedy)


def down(hub, monkeypatch):
    hub.down = 503


def no_hub(hub, monkeypatch):
    hub.down = 200


def offline(hub, monkeypatch):
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)


def closed(hub, monkeypatch):
    monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", "http://127.0.0.1:9")


def gated(hub, monkeypatch):
    hub.gated.add(NAME)


def gated_with_another_token(hub, monkeypatch):
    hub.gated.add(NAME)
    monkeypatch.setenv("HF_TOKEN", "hf_of_somebody")


def not_installed(hub, monkeypatch):
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)


REFUSED = [
    (NAME, offline, "is not in the cache, and HF_HUB_OFFLINE is set"),
    (NAME, closed, "http://127.0.0.1:9 cannot be reached ([Errno 111] Connection refused), and the cache has no copy"),
    (NAME, down, "cannot be fetched (HTTP 503 of the hub)"),
    (NAME, no_hub, "answers is not a hub's (Expecting value: line 1 column 1 (char 0)); check HF_ENDPOINT"),
    (NAME, gated, "is gated; ask for access at http://127.0.0.1:"),
    (NAME, gated_with_another_token, "is gated; ask for access at http://127.0.0.1:"),
    (NAME, not_installed, "needs huggingface_hub, and it is not installed; install it: make install-hub"),
    ("owner/nothing", None, "there is no such repository at http://127.0.0.1:"),
    (f"{NAME}@v9", None, "there is no revision v9; name a branch"),
    (f"{NAME}:net.pth", None, "holds no net.pth; name another, of model.safetensors"),
    ("owner/named", None, "or pytorch_model.bin.index.json; name one of its files: hf:owner/named:FILE, of a.pth"),
    ("owner/named@main", None, "name one of its files: hf:owner/named:FILE, of a.pth"),
    ("owner/empty", None, "or pytorch_model.bin.index.json; name another repository or revision"),
    ("owner/lacking", None, "lacks model-1.safetensors, a shard that model.safetensors.index.json names"),
    ("owner/outside", None, "names a shard outside its folder: ../../x"),
    ("owner", None, "names no repository of the Hugging Face hub; write hf:owner/name"),
    (f"{NAME}:../x.pth", None, "names no repository of the Hugging Face hub"),
    (f"{NAME}:a\\..\\x.pth", None, "names no repository of the Hugging Face hub"),
    (f"{NAME}@../../../z", None, "names no repository of the Hugging Face hub"),
    ("a--b/c", None, "names no repository of the Hugging Face hub"),
    ("//owner/name", None, "write hf:owner/name"),
]


@pytest.mark.parametrize(("name", "how", "said"), REFUSED)
def test_one_line_for_what_there_is_not(hub, monkeypatch, refused, tmp_path, name, how, said):
    shards = in_shards(safetensors.numpy.save({"a": np.zeros(1), "b": np.zeros(1)}))
    hub.add(NAME, **{"model.safetensors": b"x", "README.md": CARD})
    hub.add("owner/named", **{"a.pth": b"x", "README.md": CARD})
    hub.add("owner/empty", **FILES)
    hub.add("owner/lacking", **{name: data for name, data in shards.items() if name != "model-1.safetensors"})
    hub.add(NAME, "../../../z", **{"model.safetensors": b"x"})
    hub.add("owner/outside", **{"model.safetensors.index.json": b'{"weight_map": {"a": "../../x"}}'})
    (tmp_path / "cache").mkdir()
    if how:
        how(hub, monkeypatch)
    before = {*tmp_path.rglob("*")}
    with pytest.raises(InputError) as caught:
        fetch(f"hf:{name}")
    assert said in str(caught.value) and str(caught.value).startswith(f"hf:{name}: ")
    assert (caught.value.problem + caught.value.remedy).isprintable()
    assert all("cache" in path.parts for path in {*tmp_path.rglob("*")} - before)
    assert not [path for path in (tmp_path / "cache").rglob("*.incomplete")]


def test_the_token_opens_what_is_gated(hub, monkeypatch):
    hub.add(NAME, **{"model.safetensors": b"x"})
    hub.gated.add(NAME)
    monkeypatch.setenv("HF_TOKEN", hub.token)
    assert fetch(f"hf:{NAME}").file.read_bytes() == b"x"


@pytest.mark.parametrize(
    ("card", "said"),
    [
        (b"---\nlicense: [mit, cc0-1.0]\n---\n", "its model card states mit, cc0-1.0"),
        (b"# nothing\n", "its model card states no licence"),
        (b"---\nlicense: &a [*a]\n---\n", "its model card states no licence"),
        (b"---\n{license: [\n---\n", "its model card cannot be read"),
        (b"\xff\xfe", "its model card cannot be read"),
        (b"---\nlicense: 'a\\nb'\n---\n", "its model card states a\\nb"),
    ],
)
def test_the_licence_of_a_card(hub, card, said):
    hub.add(NAME, **{"model.safetensors": b"x", "README.md": card})
    assert fetch(f"hf:{NAME}").licence == said


@pytest.mark.parametrize(
    ("main", "argv"),
    [
        (convert_command, ("--inspect", "{}")),
        (eval_command, ("--checkpoint", "{}")),
        (predict_command, ("in.png", "--checkpoint", "{}")),
        (train_command, ("--config", "synthetic", "--init.encoder", "{}")),
    ],
)
def test_addresses_of_hf_tell_the_form(main, argv, refused):
    refused(main, [each.format("hf://owner/name") for each in argv], "write hf:owner/name")


def test_what_belongs_to_them_lies_here(hub):
    address = f"hf:{NAME}:sub/net.pth@v1"
    assert beside(address, "eval.json") == Path("owner--segformer--sub--net.pth@v1.eval.json")
    assert file_name(address) == "owner--segformer--sub--net.pth@v1"


@pytest.mark.long
def test_the_real_command_with_its_environment(hub, model, tmp_path):
    hub.add(NAME, **model)
    environment = {**os.environ, "HF_ENDPOINT": hub.address, "HF_HOME": str(tmp_path / "home")}
    for switch in ({}, {"HF_HUB_OFFLINE": "1"}):
        status, out, err = finished("convert.py", "--inspect", f"hf:{NAME}", env=environment | switch)
        assert (status, err) == (0, "") and "wall, sky, sea (id2label of config.json)" in out
    assert len(hub.fetched) == 3 and (tmp_path / "home" / "hub" / "models--owner--segformer").is_dir()
    status, _, err = finished("convert.py", "--inspect", "hf:owner/other", env=environment)
    assert status == 2 and err.startswith("error: hf:owner/other: there is no such repository") and err.count("\n") == 1
