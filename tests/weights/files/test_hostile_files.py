"""Files of torch that would run something, or take all memory: refused in one line, and nothing in them is run."""

import pickle
import struct
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cffm_jax.errors import InputError
from cffm_jax.weights.files import unpickle
from cffm_jax.weights.files.read import read_state_dict

from helpers.weight_files import (
    ARRAYS,
    LEGACY_START,
    Build,
    Call,
    FileRefusal,
    Global,
    New,
    Raw,
    Reference,
    TorchFile,
    opcodes,
    torch_file,
)

pytestmark = pytest.mark.long

WEIGHT = ARRAYS["backbone.norm.weight"]


@pytest.fixture
def refused(tmp_path, capfd):
    return FileRefusal(tmp_path, capfd)


# --- pickles that would run something --------------------------------------------------------------------------------


def shell(sentinel: str) -> str:
    return f"touch {sentinel}"


def python(sentinel: str) -> str:
    return f"open({sentinel!r}, 'w').close()"


def text(value: str) -> bytes:
    return opcodes(value)


ATTACKS: dict[str, Callable[[str], Any]] = {
    "os.system": lambda s: Call(Global("os", "system"), (shell(s),)),
    "posix.system": lambda s: Call(Global("posix", "system"), (shell(s),)),
    "eval": lambda s: Call(Global("builtins", "eval"), (python(s),)),
    "exec": lambda s: Call(Global("builtins", "exec"), (python(s),)),
    "exec, as Python 2 named it": lambda s: Call(Global("__builtin__", "exec"), (python(s),)),
    "open": lambda s: Call(Global("builtins", "open"), (s, "w")),
    "subprocess": lambda s: Call(Global("subprocess", "call"), (["touch", s],)),
    "runpy of a file": lambda s: Call(Global("runpy", "run_path"), (str(Path(s).with_name("program.py")),)),
    "a call of a call": lambda s: Call(
        Call(Global("builtins", "getattr"), (Call(Global("builtins", "__import__"), ("os",)), "system")), (shell(s),)
    ),
    "a nested name": lambda s: Raw(
        text("cffm_jax.runtime.atomic") + text("os.system") + b"\x93" + opcodes((shell(s),)) + b"R"
    ),
    "a pickle in a pickle": lambda s: Call(
        Global("pickle", "loads"), (Raw(b"B" + struct.pack("<I", len(INNER(s))) + INNER(s)),)
    ),
    "INST": lambda s: Raw(b"(" + text(shell(s)) + b"ios\nsystem\n"),
    "OBJ": lambda s: Raw(b"(cos\nsystem\n" + text(shell(s)) + b"o"),
    "STACK_GLOBAL": lambda s: Raw(text("os") + text("system") + b"\x93" + opcodes((shell(s),)) + b"R"),
    "NEWOBJ of a class": lambda s: New(Global("subprocess", "Popen"), (["touch", s],)),
    "NEWOBJ_EX": lambda s: Raw(
        b"csubprocess\nPopen\n" + opcodes((["touch", s],)) + opcodes({"shell": False}) + b"\x92"
    ),
    "BUILD of a partial": lambda s: Call(
        Build(
            Call(Global("functools", "partial"), (Global("builtins", "print"),)),
            (Global("os", "system"), (shell(s),), {}, None),
        ),
        (),
    ),
    "BUILD of a module's state": lambda s: Build(Global("os", "system"), (None, {"__doc__": s})),
}
INNER: Callable[[str], bytes] = lambda s: b"\x80\x02" + opcodes(ATTACKS["exec"](s)) + b"."  # noqa: E731
HARMLESS_IN_PICKLE = {"exec, as Python 2 named it", "NEWOBJ of a class", "NEWOBJ_EX", "BUILD of a module's state"}


@pytest.mark.parametrize("attack", ATTACKS)
@pytest.mark.parametrize("legacy", [False, True], ids=["zip", "legacy"])
@pytest.mark.parametrize("place", ["beside the weights", "as a weight", "as a key", "as the whole file"])
def test_nothing_in_a_pickle_is_run(tmp_path, attack, legacy, place, refused):
    sentinel = tmp_path / "sentinel"
    (tmp_path / "program.py").write_text(python(str(sentinel)))
    bomb = ATTACKS[attack](str(sentinel))
    file = TorchFile(legacy)
    weights = {key: file.tensor(array) for key, array in ARRAYS.items()}
    value = {
        "beside the weights": {"meta": bomb, "state_dict": weights},
        "as a weight": {**weights, "bomb": bomb},
        "as a key": Raw(opcodes(weights) + opcodes(bomb) + b"Ns"),
        "as the whole file": bomb,
    }[place]
    refused(file.write(tmp_path / "weights.pth", value), "do not trust it")
    assert not sentinel.exists()


@pytest.mark.parametrize("attack", [name for name in ATTACKS if name not in HARMLESS_IN_PICKLE])
def test_the_attacks_are_live(tmp_path, attack):
    """Python's own unpickler runs them, so that the test above can fail."""
    sentinel = tmp_path / "sentinel"
    (tmp_path / "program.py").write_text(python(str(sentinel)))
    opened = pickle.loads(b"\x80\x04" + opcodes(ATTACKS[attack](str(sentinel))) + b".")
    if hasattr(opened, "close"):
        opened.close()
    assert sentinel.exists()


@pytest.mark.parametrize("place", range(4))
def test_every_pickle_of_the_old_format_is_read_as_data(tmp_path, place, refused):
    sentinel = tmp_path / "sentinel"
    parts = [LEGACY_START[:15], LEGACY_START[15:], b"\x80\x02}.", b"\x80\x02}."]
    parts[place] = (LEGACY_START[:13] if place == 0 else b"\x80\x02") + opcodes(ATTACKS["exec"](str(sentinel))) + b"."
    path = tmp_path / "weights.pth"
    path.write_bytes(b"".join(parts))
    refused(path)
    assert not sentinel.exists()


def test_unknown_names_are_neither_imported_nor_changed(tmp_path, monkeypatch):
    """Classes of modules that could be imported here, made, filled and given state, are left alone."""
    (tmp_path / "hostile_module.py").write_text(python(str(tmp_path / "imported")))
    monkeypatch.syspath_prepend(tmp_path)
    before = dict(vars(InputError))
    file = TorchFile()
    ours = Global("cffm_jax.errors", "InputError")
    meta = [
        Call(Global("hostile_module", "Thing"), ()),
        Build(Global("hostile_module", "Thing"), {"a": 1}),
        Build(ours, (None, {"__init__": None, "__doc__": "changed"})),
        Raw(opcodes(New(ours, ())) + b"(" + text("a") + b"Nu"),
        Raw(opcodes(New(Global("collections", "OrderedDict"), ())) + opcodes({"items": 3}) + b"b"),
    ]
    value = {"meta": meta, "state_dict": {"a": file.tensor(WEIGHT)}}
    assert list(read_state_dict(file.write(tmp_path / "weights.pth", value))) == ["a"]
    assert not (tmp_path / "imported").exists()
    assert dict(vars(InputError)) == before


# --- pickles that would take memory, time or the process --------------------------------------------------------------

BOMBS: dict[str, Callable[[], Any]] = {
    "a far memo index": lambda: Raw(b"Nr\xff\xff\xff\xff"),
    "a far memo index in text": lambda: Raw(b"Np99999999999999\n"),
    "bytes by the exabyte": lambda: Raw(b"\x8e" + struct.pack("<Q", 2**62)),
    "a bytearray by the gigabyte": lambda: Raw(b"\x96" + struct.pack("<Q", 2**36)),
    "text by the exabyte": lambda: Raw(b"\x8d" + struct.pack("<Q", 2**63)),
    "text by the gigabyte": lambda: Raw(b"X" + struct.pack("<I", 2**32 - 1)),
    "an integer by the gigabyte": lambda: Raw(b"\x8b" + struct.pack("<i", 2**31 - 1)),
    "an integer of negative length": lambda: Raw(b"\x8b" + struct.pack("<i", -5)),
    "digits": lambda: Raw(b"L" + b"9" * 100_000 + b"L\n"),
    "a frame by the exabyte": lambda: Raw(b"\x95" + struct.pack("<Q", 2**62) + b"N" * 5),
    "a key of deep tuples": lambda: Raw(b"})" + b"\x85" * 200_000 + b"Ns"),
    "deep lists": lambda: Raw(b"]" * 100_000 + b"a" * 99_999),
    "deep calls": lambda: Raw(b"cx\ny\n" + b")R" * 60_000),
    "many marks": lambda: Raw(b"(" * 100_000),
    "an extension": lambda: Raw(b"\x82\x01"),
    "a wide extension": lambda: Raw(b"\x84\x01\x00\x00\x00"),
    "a buffer out of band": lambda: Raw(b"\x97"),
    "a persistent id in text": lambda: Raw(b"Pstorage\n"),
    "a list that holds itself": lambda: Raw(b"]q\x00h\x00a"),
    "a wrapper that holds itself": lambda: Raw(b"}q\x00" + text("state_dict") + b"h\x00s"),
    "an empty stack": lambda: Raw(b"0"),
    "a mark without a start": lambda: Raw(b"t"),
    "a memo entry that is not there": lambda: Raw(b"h\x07"),
    "no end": lambda: Raw(b"N" * 10),
    "an odd number of items": lambda: Raw(b"}(NNNu"),
    "items for a number": lambda: Raw(b"K\x01(NNu"),
    "state of nothing": lambda: Raw(b"b"),
}


@pytest.mark.parametrize("bomb", BOMBS)
@pytest.mark.parametrize("legacy", [False, True], ids=["zip", "legacy"])
def test_bombs_in_a_pickle(tmp_path, bomb, legacy, refused):
    refused(TorchFile(legacy).write(tmp_path / "weights.pth", BOMBS[bomb]()))


def test_keys_of_one_hash_take_no_time(tmp_path):
    """In a dictionary of Python each of them would meet all others: minutes."""
    keys = b"".join(b"\x8a\x10" + (i * (2**61 - 1)).to_bytes(16, "little") + b"N" for i in range(60_000))
    file = TorchFile()
    value = {"optimizer": Raw(b"}(" + keys + b"u"), "state_dict": {"a": file.tensor(WEIGHT)}}
    assert list(read_state_dict(file.write(tmp_path / "weights.pth", value))) == ["a"]


@pytest.mark.parametrize("place", [b"r\xff\xff\xff\xff", b"p2305843009213693951\n", b"p-1\n"])
def test_far_memo_indices(tmp_path, place, refused):
    file = TorchFile()
    path = file.write(tmp_path / "weights.pth", {"a": file.tensor(WEIGHT), "note": Raw(b"N" + place)})
    refused(path, "its pickle is damaged")


def test_limits_of_a_pickle(tmp_path, monkeypatch, refused):
    path = torch_file(tmp_path / "weights.pth", ARRAYS)
    monkeypatch.setattr(unpickle, "MAX_OPCODES", 50)
    refused(path, "more than 50 opcodes")
    monkeypatch.setattr(unpickle, "MAX_BYTES", 100)
    refused(path, "larger than 100 bytes")
    refused(torch_file(tmp_path / "legacy.pth", ARRAYS, legacy=True), "cannot be read")


# --- tensors ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "change",
    [
        {"offset": 1},
        {"offset": -1},
        {"offset": 2**62},
        {"shape": (2, 4)},
        {"shape": (3, 3)},
        {"shape": (-2, 3)},
        {"stride": (3, 2)},
        {"stride": (-3, 1)},
        {"stride": (1,)},
        {"shape": (2, 3, 1)},
        {"stride": (2**62, 1)},
        {"shape": (10**9,), "stride": (0,)},
        {"shape": (1,) * 40, "stride": (1,) * 40},
        {"shape": (0, 2**62), "stride": (1, 1)},
        {"shape": ("a", 3)},
        {"shape": (True, 3)},
        {"shape": None},
        {"storage": "text"},
        {"storage": Call(Global("x", "y"), ())},
    ],
    ids=lambda change: " ".join(f"{key} {value}"[:30] for key, value in change.items()),
)
@pytest.mark.parametrize("legacy", [False, True], ids=["zip", "legacy"])
def test_tensors_beyond_their_storage(tmp_path, change, legacy, refused):
    file = TorchFile(legacy)
    path = file.write(tmp_path / "weights.pth", {"a": file.tensor(WEIGHT, **change)})
    refused(path, "cannot be read")


@pytest.mark.parametrize(
    "fault", ["too short", "too long", "absent", "no torch type", "unknown reference", "elsewhere"]
)
@pytest.mark.parametrize("legacy", [False, True], ids=["zip", "legacy"])
def test_faulty_storages(tmp_path, fault, legacy, refused):
    file = TorchFile(legacy)
    pid = list(file.storage(WEIGHT).pid)
    if fault in ("too short", "too long"):
        pid[4] += 1000 if fault == "too short" else -3
    elif fault in ("absent", "elsewhere"):
        pid[2] = "77" if fault == "absent" else "../data.pkl"
    elif fault == "no torch type":
        pid[1] = Global("builtins", "dict")
    else:
        pid[0] = "something"
    tensor = file.tensor(WEIGHT[:1], storage=Reference(tuple(pid)))
    refused(file.write(tmp_path / "weights.pth", {"a": tensor}), "cannot be read")


def test_many_large_views_of_one_storage(tmp_path, refused):
    """Each is allowed, but a file of 100 KB would become 100 MB."""
    file, base = TorchFile(), np.zeros(25_000, np.float32)
    storage = file.storage(base)
    views = {f"a{i}": file.tensor(base, storage=storage) for i in range(1000)}
    refused(file.write(tmp_path / "weights.pth", views), "its tensors share storage")


@pytest.mark.parametrize("name", ["_rebuild_sparse_tensor", "_rebuild_qtensor", "_rebuild_nested_tensor"])
def test_tensors_of_other_kinds_are_refused_by_name(tmp_path, name, refused):
    tensor = Call(Global("torch._utils", name), (1, 2))
    file = TorchFile()
    path = file.write(tmp_path / "weights.pth", {"a.b": tensor, "c": file.tensor(WEIGHT)})
    refused(path, "a.b is no plain tensor", name)


def test_a_negated_view_is_refused(tmp_path, refused):
    file = TorchFile()
    call = file.tensor(WEIGHT)
    path = file.write(tmp_path / "weights.pth", {"a": Call(call.function, (*call.arguments, {"neg": True}))})
    refused(path, "a is no plain tensor")


@pytest.mark.parametrize("key", ["a\nb", "", "a" * 600, "\x1b[31m", "\u202e"])
def test_keys_that_would_spoil_a_message(tmp_path, key, refused):
    refused(torch_file(tmp_path / "weights.pth", {key: WEIGHT}), "a key that is no name")
    if key:
        np.savez(tmp_path / "weights.npz", **{key: WEIGHT})
        refused(tmp_path / "weights.npz")


@pytest.mark.parametrize(
    "array",
    [np.ones(2, np.complex64), np.array(["a"]), np.zeros(2, "f4,i4"), np.zeros(1, "M8[s]"), np.array([{}], object)],
    ids=["complex", "text", "structured", "dates", "objects"],
)
def test_arrays_that_are_no_numbers(tmp_path, array, refused):
    path = tmp_path / "weights.npz"
    np.savez(path, **{"a.b": array, "c": WEIGHT})
    refused(path, "a.b ")


def test_complex_tensors(tmp_path, refused):
    file = TorchFile()
    file.storages["0"] = b"\0" * 16
    storage = Reference(("storage", Global("torch", "ComplexFloatStorage"), "0", "cpu", 2))
    path = file.write(tmp_path / "weights.pth", {"a.b": file.tensor(np.ones(2, np.float32), storage=storage)})
    refused(path, "a.b has the type complex64")


@pytest.mark.parametrize(
    "value",
    [{}, [1, 2], 3, None, {"state_dict": {}}, {"state_dict": {"a": 1}}, Global("module", "Model")],
    ids=["empty", "list", "number", "none", "empty state dict", "no tensors", "a class"],
)
def test_pickles_without_weights(tmp_path, value, refused):
    refused(TorchFile().write(tmp_path / "weights.pth", value), "holds no state dict")


@pytest.mark.parametrize("wrap", [lambda x: x, lambda x: {"model": x, "epoch": 3}], ids=["alone", "wrapped"])
def test_a_pickled_module(tmp_path, wrap, refused):
    module = Build(New(Global("mmseg.models", "EncoderDecoder"), ()), {"training": False})
    path = TorchFile().write(tmp_path / "weights.pth", wrap(module))
    refused(path, "a whole object: mmseg.models.EncoderDecoder", "save model.state_dict()")


def test_a_process_of_its_own_ends_in_peace(tmp_path):
    """Crashes that Python cannot catch would end it: deep tuples as keys, deep structures that are freed."""
    paths = []
    for i, bomb in enumerate(("a key of deep tuples", "deep lists", "deep calls")):
        paths.append(str(TorchFile().write(tmp_path / f"{i}.pth", BOMBS[bomb]())))
    program = (
        "import sys\nfrom cffm_jax.weights.files.read import read_state_dict\nfrom cffm_jax.errors import InputError\n"
        "for path in sys.argv[1:]:\n    try:\n        read_state_dict(path)\n"
        "    except InputError:\n        print('refused')\n"
    )
    root = str(Path(__file__).parents[3])
    done = subprocess.run([sys.executable, "-c", program, *paths], capture_output=True, text=True, cwd=root)
    assert done.returncode == 0 and done.stdout.split() == ["refused"] * 3 and not done.stderr, done.stderr
