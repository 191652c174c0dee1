"""Weight files against PyTorch and Hugging Face, which write what is read here and read what is written here."""

import sys
from collections import OrderedDict
from pathlib import Path
from types import ModuleType, SimpleNamespace

import ml_dtypes
import numpy as np
import pytest

from cffm_jax.errors import InputError
from cffm_jax.weights.files.read import open_weights, read_array, read_state_dict
from cffm_jax.weights.files.write import write_safetensors, write_torch

from helpers.reference import Lazily, torch, transformers

pytestmark = pytest.mark.reference

TYPES = ("float16", "bfloat16", "float32", "float64", "int64", "int32", "int16", "int8", "uint8", "bool")
YOUNG = ("float8_e4m3fn", "float8_e5m2", "uint16", "uint32", "uint64")
of_torch = Lazily("safetensors.torch")
formats = pytest.mark.parametrize("zipped", [True, False], ids=["zip", "legacy"])


def save(value, path: Path, zipped: bool, **options) -> Path:
    torch.save(value, path, _use_new_zipfile_serialization=zipped, **options)
    return path


def to_numpy(tensor) -> np.ndarray:
    """Any type of torch's, by its bytes."""
    name = str(tensor.dtype).removeprefix("torch.")
    flat = tensor.detach().contiguous().reshape(-1).view(torch.uint8).numpy()
    return flat.view(np.dtype(getattr(ml_dtypes, name, name))).reshape(tuple(tensor.shape))


def assert_equal(loaded: dict[str, np.ndarray], tensors: dict) -> None:
    assert list(loaded) == list(tensors)
    for key, tensor in tensors.items():
        expected = to_numpy(tensor)
        assert loaded[key].dtype == expected.dtype and loaded[key].shape == expected.shape, key
        assert loaded[key].tobytes() == expected.tobytes(), key


def some_tensors() -> OrderedDict:
    base = torch.randn(4, 6, generator=torch.Generator().manual_seed(0))
    tensors = OrderedDict((name, base.abs().to(getattr(torch, name))) for name in TYPES)
    tensors |= {
        "parameter": torch.nn.Parameter(base),
        "buffer": torch.nn.Buffer(base[0].clone()),
        "shared": base[1:3],
        "transposed": base.T,
        "strided": base[::2, 1::3],
        "expanded": base[:1, :1].expand(2, 3),
        "scalar": torch.tensor(3),
        "empty": torch.zeros(0, 3),
        "channels last": torch.randn(2, 3, 4, 5).to(memory_format=torch.channels_last),
    }
    return tensors


@formats
@pytest.mark.parametrize("protocol", [2, 4, 5])
def test_tensors(tmp_path, zipped, protocol):
    tensors = some_tensors()
    path = save(tensors, tmp_path / "a.pth", zipped, pickle_protocol=protocol)
    assert_equal(read_state_dict(path), tensors)


@formats
def test_types_without_a_storage_class(tmp_path, zipped):
    tensors = {name: torch.arange(6).reshape(2, 3).to(getattr(torch, name)) for name in YOUNG}
    assert_equal(read_state_dict(save(tensors, tmp_path / "a.pth", zipped)), tensors)


@formats
def test_a_single_tensor(tmp_path, zipped):
    tensor = torch.randn(3, 4)
    np.testing.assert_array_equal(read_array(save(tensor, tmp_path / "a.pt", zipped)), tensor.numpy())


@formats
def test_a_checkpoint_of_a_training_run(tmp_path, zipped, monkeypatch):
    """As mmengine writes them: with classes that are not there when it is read, and logs as arrays of numpy."""
    module = ModuleType("mmengine_logging")

    class HistoryBuffer:
        def __init__(self):
            self.history, self.count, self.methods = np.random.rand(1000), np.ones(1000, int), {"mean": len}

    HistoryBuffer.__module__, HistoryBuffer.__qualname__ = module.__name__, "HistoryBuffer"
    module.HistoryBuffer = HistoryBuffer
    monkeypatch.setitem(sys.modules, module.__name__, module)
    network = torch.nn.Sequential(torch.nn.Conv2d(3, 8, 3), torch.nn.BatchNorm2d(8), torch.nn.Linear(8, 4))
    optimizer = torch.optim.AdamW(network.parameters())
    network(torch.randn(1, 3, 10, 10))[..., 0].sum() if False else network[0](
        torch.randn(1, 3, 10, 10)
    ).sum().backward()
    optimizer.step()
    plain = {"epoch": 3, "iter": 160000, "time": "20221124", "CLASSES": ("wall",)}
    meta = plain | {"best": np.float64(0.5), "array": np.arange(3), "space": SimpleNamespace(a=1), "set": {1, 2}}
    value = {
        "meta": meta,
        "message_hub": {"log": OrderedDict(loss=HistoryBuffer()), "seen": {Path("a"), Path("b")}},
        "state_dict": network.state_dict(),
        "optimizer": optimizer.state_dict(),
        "param_schedulers": [torch.optim.lr_scheduler.StepLR(optimizer, 2).state_dict()],
        "device": torch.device("cpu"),
        "shape": torch.Size([1, 2]),
        "type": torch.float32,
        "storage": torch.zeros(3).untyped_storage(),
        "sparse": torch.eye(3).to_sparse(),
        "quantised": torch.randn(3).half(),
    }
    path = save(value, tmp_path / "a.pth", zipped)
    monkeypatch.delitem(sys.modules, module.__name__)
    with open_weights(path) as weights:
        assert_equal({key: array.load() for key, array in weights.arrays.items()}, network.state_dict())
        assert {key: weights.metadata[key] for key in plain} == plain and "best" not in weights.metadata
        assert set(weights.ignored) == set(value) - {"state_dict"}


@formats
@pytest.mark.parametrize(
    "make, problem",
    [
        (lambda: {"a": torch.eye(3).to_sparse()}, "a is no plain tensor"),
        (lambda: {"a": torch.ones(3, dtype=torch.complex64), "b": torch.ones(1)}, "a has the type complex64"),
        (lambda: torch.nn.Linear(2, 3), "a whole object: torch.nn.modules.linear.Linear"),
        (lambda: {"state_dict": {}, "epoch": 3}, "holds no state dict"),
    ],
    ids=["sparse", "complex", "module", "none"],
)
def test_what_is_no_state_dict_of_numbers(tmp_path, zipped, make, problem):
    with pytest.raises(InputError, match=problem):
        read_state_dict(save(make(), tmp_path / "a.pth", zipped))


def test_a_negated_view(tmp_path):
    negated = torch.ones(3, dtype=torch.complex64).conj().imag
    assert negated.is_neg()
    with pytest.raises(InputError, match="a is no plain tensor"):
        read_state_dict(save({"a": negated}, tmp_path / "a.pth", True))


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_torchscript(tmp_path):
    torch.jit.script(torch.nn.Linear(2, 3)).save(str(tmp_path / "a.pt"))
    with pytest.raises(InputError, match="is a TorchScript program"):
        read_state_dict(tmp_path / "a.pt")


# --- written here ----------------------------------------------------------------------------------------------------


def some_arrays() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    drawn = {name: rng.integers(0, 2, (3, 5)).astype(getattr(ml_dtypes, name, name)) for name in TYPES}
    return drawn | {
        "normal": rng.standard_normal((4, 6)).astype(np.float32).T,
        "scalar": np.array(7, np.int64),
        "empty": np.zeros((0, 3), np.float32),
        "empty too": np.zeros((2, 0), ml_dtypes.bfloat16),
    }


@pytest.mark.parametrize("mapped", [False, True])
def test_torch_reads_what_is_written_for_it(tmp_path, mapped):
    arrays, meta = some_arrays(), {"epoch": 3, "classes": ["wall", "Wände"], "config": {"a": None, "b": (1.5, True)}}
    write_torch(tmp_path / "a.pth", arrays, meta)
    loaded = torch.load(tmp_path / "a.pth", weights_only=True, mmap=mapped)
    assert loaded["meta"] == meta and isinstance(loaded["state_dict"], OrderedDict)
    assert_equal(arrays, loaded["state_dict"])
    assert all(tensor.is_contiguous() for tensor in loaded["state_dict"].values())


def test_safetensors_of_torch_reads_what_is_written(tmp_path):
    arrays = some_arrays()
    write_safetensors(tmp_path / "a.safetensors", arrays, {"format": "pt"})
    loaded = of_torch.load_file(tmp_path / "a.safetensors")
    assert_equal(arrays, {key: loaded[key] for key in arrays})


# --- Hugging Face ----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def segformer():
    config = transformers.SegformerConfig(
        hidden_sizes=[8, 16, 24, 32], depths=[1, 1, 1, 1], decoder_hidden_size=16, num_labels=5
    )
    return transformers.SegformerForSemanticSegmentation(config)


@pytest.mark.parametrize("size", ["5GB", "60KB"])
def test_save_pretrained(tmp_path, size, segformer):
    segformer.save_pretrained(tmp_path, max_shard_size=size)
    shards = sorted(tmp_path.glob("*.safetensors"))
    assert (len(shards) > 2) == (size == "60KB")
    state = {key: tensor for shard in shards for key, tensor in of_torch.load_file(shard).items()}
    assert len(state) == len(segformer.state_dict())
    with open_weights(tmp_path) as weights:
        assert_equal({key: weights.arrays[key].load() for key in state}, state)
        assert set(weights.arrays) == set(state) and not weights.ignored
        assert weights.metadata["format"] == "pt" and weights.metadata["config"]["hidden_sizes"] == [8, 16, 24, 32]
        assert weights.format == ("safetensors" if size == "5GB" else f"safetensors, {len(shards)} shards")
        index = [] if size == "5GB" else [tmp_path / "model.safetensors.index.json"]
        assert weights.files == (*index, *shards)
