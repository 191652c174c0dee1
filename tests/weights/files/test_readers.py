"""What the readers of weight files read, in every format."""

import hashlib
import json
import zipfile
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
import safetensors.numpy

from cffm_jax.errors import InputError
from cffm_jax.weights.files.read import file_digest, open_weights, read_array, read_state_dict

from helpers.weight_files import (
    ARRAYS,
    ORDERED,
    STORAGES,
    WRITERS,
    Build,
    Call,
    Global,
    New,
    Raw,
    TorchFile,
    assert_same,
    every_format,
    fault_of,
    opcodes,
    torch_file,
    write_safetensors,
)  # fmt: skip


@every_format
def test_a_file_gives_its_arrays(tmp_path, name):
    assert_same(read_state_dict(WRITERS[name](tmp_path / name)), ARRAYS)
    assert_same(read_state_dict(str(tmp_path / name)), ARRAYS)


@every_format
def test_the_content_tells_the_format_not_the_name(tmp_path, name):
    path = WRITERS[name](tmp_path / name).rename(tmp_path / "weights")
    assert_same(read_state_dict(path), ARRAYS)


@pytest.mark.parametrize("prefix", ["archive/", "mit_b0/", ""])
def test_any_folder_inside_the_zip(tmp_path, prefix):
    assert_same(read_state_dict(torch_file(tmp_path / "weights.pth", ARRAYS, prefix=prefix)), ARRAYS)


@pytest.mark.parametrize("key", ["state_dict", "model"])
@pytest.mark.parametrize("legacy", [False, True])
def test_a_checkpoint_is_unwrapped(tmp_path, key, legacy):
    """As mmcv writes them: the weights beside notes and the optimiser's state, some of classes not here."""

    def wrap(weights: dict) -> dict:
        run = Build(New(Global("mmcv.utils.config", "ConfigDict"), ()), {"lr": 6e-5})
        moments = {0: {"step": 3, "exp_avg": list(weights.values())}}
        meta = {
            "epoch": 3,
            "iter": 160000,
            "time": "now",
            "config": run,
            "CLASSES": ("wall", "floor"),
            "env": [None, True, 1.5],
        }
        return {"meta": meta, key: weights, "optimizer": {"state": moments, "param_groups": [{"params": [0, 1]}]}}

    path = torch_file(tmp_path / "weights.pth", ARRAYS, wrap, legacy=legacy)
    with open_weights(path) as weights:
        assert weights.path == path and weights.files == (path,)
        assert weights.format == ("torch (legacy)" if legacy else "torch (zip)")
        assert weights.metadata == {
            "epoch": 3, "iter": 160000, "time": "now", "CLASSES": ("wall", "floor"), "env": [None, True, 1.5],
        }  # fmt: skip
        assert set(weights.ignored) == {"meta", "optimizer"}
        assert_same({name: array.load() for name, array in weights.arrays.items()}, ARRAYS)


def test_an_ordered_state_dict_with_metadata(tmp_path):
    file = TorchFile()
    items = {key: file.tensor(array) for key, array in ARRAYS.items()}
    filled = opcodes(ORDERED) + opcodes(items)[1:]  # The empty dict's opcode is replaced by the ordered one.
    path = file.write(tmp_path / "weights.pth", Build(Raw(filled), {"_metadata": {"": {"version": 1}}}))
    loaded = read_state_dict(path)
    assert_same(loaded, ARRAYS)
    assert list(loaded) == list(ARRAYS)


def test_the_outermost_weights_are_taken_and_averaged_ones_only_without_others(tmp_path):
    file = TorchFile()
    raw, averaged = ({"a": file.tensor(np.full(2, value, np.float32))} for value in (1, 2))
    value = {"state_dict_ema": averaged, "model": {"epoch": file.tensor(ARRAYS["count"]), "state_dict": raw}}
    path = file.write(tmp_path / "weights.pth", value)
    assert_same(read_state_dict(path), {"a": np.ones(2, np.float32)})
    path = file.write(path, {"state_dict_ema": averaged, "epoch": 3})
    assert_same(read_state_dict(path), {"a": np.full(2, 2, np.float32)})


def test_values_that_are_no_arrays_are_named(tmp_path):
    file = TorchFile()
    value = {"a": file.tensor(ARRAYS["scalar"]), "note": "text", "thing": Call(Global("x.y", "Thing"), ())}
    with open_weights(file.write(tmp_path / "weights.pth", value)) as weights:
        assert list(weights.arrays) == ["a"] and weights.ignored == ("note", "thing") and weights.metadata == {}


def test_metadata_is_plain_and_bounded(tmp_path):
    deep: list = []
    for _ in range(30):
        deep = [deep]
    twice: Any = ("ab",)
    for _ in range(40):
        twice = Raw(opcodes(twice) + b"2\x86")  # The same object twice in a tuple, forty times over.
    meta = {
        "kept": {"a": [1, (2.5, None)], 3: "b"}, "deep": deep, "large": 2**70, "long": "x" * (1 << 21), "bomb": twice,
        "scalar": Call(Global("numpy.core.multiarray", "scalar"), (1, "x")), "list": list(range(30_000)),
        "itself": Raw(b"]q\x05h\x05a"),
    }  # fmt: skip
    meta["large"] = Raw(b"\x8a\x09" + b"\xff" * 8 + b"\x7f")
    file = TorchFile()
    value = {"meta": meta, "state_dict": {"a": file.tensor(ARRAYS["scalar"])}}
    with open_weights(file.write(tmp_path / "weights.pth", value)) as weights:
        assert weights.metadata == {"kept": {"a": [1, (2.5, None)], 3: "b"}}


@pytest.mark.parametrize("dtype", STORAGES)
@pytest.mark.parametrize("legacy", [False, True])
def test_every_type_of_storage(tmp_path, dtype, legacy):
    kind = np.dtype(getattr(ml_dtypes, dtype, dtype))
    array = np.array([[0, 1, 2], [3, 100, 1]]).astype(kind)
    assert_same(read_state_dict(torch_file(tmp_path / "weights.pth", {"a": array}, legacy=legacy)), {"a": array})


@pytest.mark.parametrize("legacy", [False, True])
def test_views_of_one_storage(tmp_path, legacy):
    base = np.arange(24, dtype=np.float32)
    file = TorchFile(legacy)
    storage = file.storage(base)
    views = {
        "all": base.reshape(4, 6),
        "row": base[6:12],
        "transposed": base.reshape(4, 6).T,
        "corner": base.reshape(4, 6)[2:, 3:],
        "element": base.reshape(4, 6)[3, 5],
        "repeated": np.broadcast_to(base[5], (3,)),
    }
    offsets = {"all": 0, "row": 6, "transposed": 0, "corner": 15, "element": 23, "repeated": 5}
    described = {
        key: file.tensor(
            base,
            storage=storage,
            offset=offsets[key],
            shape=np.shape(view),
            stride=tuple(s // 4 for s in np.asarray(view).strides),
        )
        for key, view in views.items()
    }
    loaded = read_state_dict(file.write(tmp_path / "weights.pth", described))
    for key, view in views.items():
        np.testing.assert_array_equal(loaded[key], view, err_msg=key)
        assert loaded[key].shape == np.shape(view)


def test_a_shared_storage_is_read_once(tmp_path, monkeypatch):
    file, base = TorchFile(), np.arange(400, dtype=np.float32)
    storage, other = file.storage(base), file.storage(-base)
    described = {}
    for i in range(100):
        for name, place in (("a", storage), ("b", other)):
            described[f"{name}{i}"] = file.tensor(base[:4], storage=place, offset=4 * i)
    path = file.write(tmp_path / "weights.pth", described)
    read, opened = [], zipfile.ZipFile.read
    monkeypatch.setattr(zipfile.ZipFile, "read", lambda *args: read.append(args[1]) or opened(*args))
    loaded = read_state_dict(path)
    assert read.count("archive/data/0") == read.count("archive/data/1") == 1
    for i in range(100):
        np.testing.assert_array_equal(loaded[f"a{i}"], base[4 * i : 4 * i + 4])
        np.testing.assert_array_equal(loaded[f"b{i}"], -base[4 * i : 4 * i + 4])
    loaded["a0"][:] = 7
    assert loaded["a1"][0] == 4


def test_tied_weights_become_arrays_of_their_own(tmp_path):
    file, base = TorchFile(), np.arange(6, dtype=np.float32)
    tensor = file.tensor(base)
    loaded = read_state_dict(file.write(tmp_path / "weights.pth", {"a": tensor, "b": tensor}))
    loaded["a"][:] = 7
    loaded["b"][0] += 1
    np.testing.assert_array_equal(loaded["a"], np.full(6, 7))
    np.testing.assert_array_equal(loaded["b"], [1, 1, 2, 3, 4, 5])


def test_a_view_of_a_storage_as_torch_0_3_described_it(tmp_path):
    file = TorchFile(legacy=True)
    storage = file.storage(np.arange(6, dtype=np.float32), view=("view", 2, 3))
    path = file.write(tmp_path / "weights.pth", {"a": file.tensor(np.zeros(2, np.float32), storage=storage, offset=1)})
    assert_same(read_state_dict(path), {"a": np.array([3, 4], np.float32)})
    storage = file.storage(np.arange(6, dtype=np.float32), view=("view", 2, 5))
    fault_of(file.write(path, {"a": file.tensor(np.zeros(2, np.float32), storage=storage)}))


@pytest.mark.parametrize(
    "wrap",
    [
        lambda tensor: Call(Global("torch._utils", "_rebuild_parameter"), (tensor, True, ORDERED)),
        lambda tensor: Call(Global("torch._utils", "_rebuild_parameter_with_state"), (tensor, True, ORDERED, {})),
        lambda tensor: Call(Global("torch.nn.parameter", "Parameter"), (tensor, True)),
        lambda tensor: Call(
            Global("torch._tensor", "_rebuild_from_type_v2"),
            (tensor.function, Global("my.tensors", "Tensor"), tensor.arguments, {"note": 1}),
        ),
    ],
    ids=["parameter", "parameter with state", "parameter by its class", "a class derived from tensors"],
)
def test_wrapped_tensors_are_their_data(tmp_path, wrap):
    file = TorchFile()
    path = file.write(tmp_path / "weights.pth", {"scalar": wrap(file.tensor(ARRAYS["scalar"]))})
    assert_same(read_state_dict(path), {"scalar": ARRAYS["scalar"]})


@every_format
def test_arrays_can_be_changed_and_outlive_the_file(tmp_path, name):
    path = WRITERS[name](tmp_path / name)
    loaded = read_state_dict(path)
    path.unlink()
    for array in loaded.values():
        assert array.flags.writeable and array.flags.c_contiguous
    loaded["backbone.norm.bias"] += 1
    np.testing.assert_array_equal(loaded["backbone.norm.bias"], [2.5, -1.5])


@pytest.mark.parametrize("format", ["npz", "safetensors", "zip", "legacy"])
def test_a_description_reads_no_array(tmp_path, format):
    """Shape and type are known though the data are cut off meanwhile; ``load`` then names the file."""
    path, arrays = tmp_path / "weights", {"a": np.ones((1000, 100), np.float32)}
    if format == "npz":
        np.savez(path.with_suffix(".npz"), **arrays)
        path = path.with_suffix(".npz")
    elif format == "safetensors":
        safetensors.numpy.save_file(arrays, path)
    else:
        torch_file(path, arrays, legacy=format == "legacy")
    with open_weights(path) as weights:
        array = weights.arrays["a"]
        assert array.shape == (1000, 100) and array.dtype == np.float32 and array.nbytes == 400_000
        with path.open("r+b") as file:
            file.truncate(200_000)
        with pytest.raises(InputError, match=f"{path}: cannot be read"):
            array.load()


def test_an_error_of_the_caller_is_not_the_files(tmp_path):
    path = WRITERS["weights.npz"](tmp_path / "weights.npz")
    with pytest.raises(ZeroDivisionError), open_weights(path):
        raise ZeroDivisionError


# --- npz and safetensors -------------------------------------------------------------------------------------------


def test_an_npz_in_other_layouts(tmp_path):
    array = np.arange(6, dtype=np.float32).reshape(2, 3)
    np.savez(tmp_path / "a.npz", fortran=np.asfortranarray(array), big=array.astype(">f4"), half=array.astype("f2"))
    assert_same(read_state_dict(tmp_path / "a.npz"), {"fortran": array, "big": array, "half": array.astype("f2")})


def test_every_type_of_safetensors(tmp_path):
    names = ("float64", "float32", "float16", "bfloat16", "int64", "uint16", "uint8", "bool", "float8_e4m3fn",
             "float8_e5m2")  # fmt: skip
    arrays = {name: np.array([[0, 1, 2], [3, 0, 1]]).astype(np.dtype(getattr(ml_dtypes, name, name))) for name in names}
    safetensors.numpy.save_file(arrays, tmp_path / "a.safetensors", metadata={"format": "pt", "a": "b"})
    with open_weights(tmp_path / "a.safetensors") as weights:
        assert weights.format == "safetensors" and weights.metadata == {"format": "pt", "a": "b"}
        assert_same({key: array.load() for key, array in weights.arrays.items()}, arrays)


# --- shards and folders --------------------------------------------------------------------------------------------


def write_shards(folder: Path, suffix: str = ".safetensors", **changes: str | None) -> Path:
    """ARRAYS in two files and their index, of which ``changes`` replaces places."""
    folder.mkdir(exist_ok=True)
    keys = list(ARRAYS)
    places = {}
    stem = "model" if suffix == ".safetensors" else "pytorch_model"
    for i, part in enumerate((keys[:2], keys[2:]), 1):
        name = f"{stem}-{i:05}-of-00002{suffix}"
        arrays = {key: ARRAYS[key] for key in part}
        if suffix == ".safetensors":
            safetensors.numpy.save_file(arrays, folder / name, metadata={"format": "pt"})
        else:
            torch_file(folder / name, arrays)
        places |= dict.fromkeys(part, name)
    index = folder / f"{stem}{suffix}.index.json"
    places |= changes
    index.write_text(json.dumps({"metadata": {"total_size": 100}, "weight_map": places}))
    return index


@pytest.mark.parametrize("suffix", [".safetensors", ".bin"])
def test_shards(tmp_path, suffix):
    index = write_shards(tmp_path / "model", suffix)
    for path in (index, index.parent):
        assert_same(read_state_dict(path), ARRAYS)
        with open_weights(path) as weights:
            assert weights.path == path and weights.format.endswith(", 2 shards")
            assert weights.files == (index, *sorted(index.parent.glob(f"*of-00002{suffix}")))
    first = next(index.parent.glob(f"*00001*{suffix}"))
    assert set(read_state_dict(first)) == set(list(ARRAYS)[:2])


@pytest.mark.parametrize("name", ["model.safetensors", "pytorch_model.bin"])
def test_a_folder_with_one_file(tmp_path, name):
    writer = write_safetensors if name.endswith("safetensors") else WRITERS["weights.pth"]
    path = writer(tmp_path / name)
    (tmp_path / "config.json").write_text('{"model_type": "segformer", "depths": [2, 2]}')
    with open_weights(tmp_path) as weights:
        assert weights.path == tmp_path and weights.files == (path,)
        assert weights.metadata["config"] == {"model_type": "segformer", "depths": [2, 2]}
    assert_same(read_state_dict(tmp_path), ARRAYS)
    (tmp_path / "config.json").write_text("{")
    with open_weights(tmp_path) as weights:
        assert weights.metadata["config"] is None


@pytest.mark.parametrize("name", ["../model-00001-of-00002.safetensors", "/etc/passwd", "a\\b", "..", "", "c:a"])
def test_shards_outside_the_folder_are_refused(tmp_path, name):
    assert "outside its folder" in fault_of(write_shards(tmp_path / "model", scalar=name))


def test_shards_that_do_not_fit_their_index(tmp_path):
    folder = tmp_path / "model"
    assert "has no other" in fault_of(write_shards(folder, other="model-00002-of-00002.safetensors"))
    index = write_shards(folder, other="gone.safetensors")
    with pytest.raises(InputError, match=r"gone.safetensors: no such file"):
        read_state_dict(index)
    index = write_shards(folder)
    shard = folder / "model-00002-of-00002.safetensors"
    shard.write_bytes(shard.read_bytes()[:-4])
    with pytest.raises(InputError, match=r"model-00002-of-00002.safetensors: cannot be read"):
        read_state_dict(index)
    shard.write_bytes(index.read_bytes())
    with pytest.raises(InputError, match="the index names it as a shard"):
        read_state_dict(index)
    index.write_text('{"weight_map": {"a": "a%s"}}' % ('", "b": "b' * 3))
    with pytest.raises(InputError):
        read_state_dict(index)
    for text in ('{"weight_map": 3}', '{"a": 1}', '{"weight_map": {"a": 3}}', '{"weight_map": {}}', "{", "{" * 100_000):
        index.write_text(text)
        fault_of(index)


# --- single arrays and digests -------------------------------------------------------------------------------------


@pytest.mark.parametrize("legacy", [False, True])
def test_a_tensor_by_itself(tmp_path, legacy):
    array = ARRAYS["backbone.norm.weight"]
    path = torch_file(tmp_path / "a.pt", {"a": array}, legacy=legacy)
    np.testing.assert_array_equal(read_array(path), array)
    file = TorchFile(legacy)
    np.testing.assert_array_equal(read_array(file.write(path, file.tensor(array))), array)
    np.savez(tmp_path / "a.npz", array)
    np.testing.assert_array_equal(read_array(tmp_path / "a.npz"), array)
    with pytest.raises(InputError, match="holds no array, or several"):
        read_array(torch_file(path, ARRAYS, legacy=legacy))


def test_digests(tmp_path):
    for name, text in (("a", b"abc"), ("b", b"")):
        (tmp_path / name).write_bytes(text)
    one = hashlib.sha256(b"abc").hexdigest()
    assert file_digest([tmp_path / "a"]) == one
    both = file_digest([tmp_path / "a", tmp_path / "b"])
    assert both == hashlib.sha256((one + hashlib.sha256(b"").hexdigest()).encode()).hexdigest()
    with pytest.raises(InputError, match="cannot be read"):
        file_digest([tmp_path / "c"])
