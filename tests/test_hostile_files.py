"""Files that are damaged, hostile or something else: each is refused in one line, and nothing in it is run."""

# --- what is refused -----------------------------------------------------------------------------------------------


def test_a_missing_file_and_a_folder(tmp_path):
    assert "no such file" in fault_of(tmp_path / "missing.pth")
    assert "model.safetensors.index.json" in fault_of(tmp_path)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"x",
        b"not weights at all\n" * 100,
        b"PK\x03\x04" + b"\0" * 100,
        b"PK\x05\x06" + b"\0" * 18,
        b"\x80\x02}q\x00.",
    ],
    ids=["empty", "one byte", "text", "start of a zip", "empty zip", "bare pickle"],
)
def test_other_files_are_refused(tmp_path, content):
    path = tmp_path / "weights.pth"
    path.write_bytes(content)
    fault_of(path)


def test_text_that_looks_like_safetensors(tmp_path):
    path = tmp_path / "weights.safetensors"
    path.write_bytes((100).to_bytes(8, "little") + b"{ this is no header }" * 10)
    assert "cannot be read" in fault_of(path)


@every_format
@pytest.mark.parametrize("share", [0.05, 0.3, 0.6, 0.9, 0.99])
def test_truncated_files_are_refused(tmp_path, name, share):
    path = WRITERS[name](tmp_path / name)
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * share)])
    fault_of(path)


@pytest.mark.parametrize("name", ["weights.npz", "weights.pth"])
def test_a_flipped_byte_is_noticed(tmp_path, name):
    """A zip holds a checksum of each entry."""
    path = WRITERS[name](tmp_path / name)
    data = bytearray(path.read_bytes())
    place = bytes(data).index(ARRAYS["backbone.norm.weight"].tobytes())
    data[place + 5] ^= 1
    path.write_bytes(bytes(data))
    assert "cannot be read" in fault_of(path)


def test_a_compressed_npz_with_a_damaged_stream(tmp_path):
    path = tmp_path / "weights.npz"
    np.savez_compressed(path, a=np.random.default_rng(0).standard_normal(2000))
    data = bytearray(path.read_bytes())
    data[len(data) // 2 : len(data) // 2 + 50] = b"\xff" * 50
    path.write_bytes(bytes(data))
    assert "cannot be read" in fault_of(path)


def test_python_objects_in_an_npz_are_refused(tmp_path):
    path = tmp_path / "weights.npz"
    np.savez(path, a=np.array([{"a": 1}], object), b=np.ones(2))
    assert "cannot be read" in fault_of(path)


def test_a_zip_of_something_else(tmp_path):
    path = tmp_path / "weights.pth"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("readme.txt", "hello")
    assert "neither torch's nor numpy's" in fault_of(path)


@pytest.mark.parametrize(
    "value",
    [{}, [1, 2], 3, None, {"state_dict": {}}, {"state_dict": {"a": 1}}, Call(Global("module", "Model"), ())],
    ids=["empty", "list", "number", "none", "empty state dict", "no tensors", "whole module"],
)
def test_pickles_without_weights(tmp_path, value):
    assert "holds no state dict" in fault_of(TorchFile().write(tmp_path / "weights.pth", value))


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
    ],
    ids=lambda change: " ".join(f"{key} {value}" for key, value in change.items()),
)
def test_tensors_beyond_their_storage_are_refused(tmp_path, change):
    file = TorchFile()
    path = file.write(tmp_path / "weights.pth", {"a": file.tensor(ARRAYS["backbone.norm.weight"], **change)})
    assert "cannot be read" in fault_of(path)


@pytest.mark.parametrize("fault", ["too short", "absent", "no torch type", "unknown reference"])
def test_faulty_storages_are_refused(tmp_path, fault):
    file, array = TorchFile(), ARRAYS["backbone.norm.weight"]
    storage = file.storage(array, count=1000 if fault == "too short" else None)
    if fault == "absent":
        storage = Reference((*storage.pid[:2], "77", *storage.pid[3:]))
    elif fault == "no torch type":
        storage = Reference(("storage", Global("builtins", "dict"), *storage.pid[2:]))
    elif fault == "unknown reference":
        storage = Reference(("module", *storage.pid[1:]))
    path = file.write(tmp_path / "weights.pth", {"a": file.tensor(array, storage=storage)})
    assert "cannot be read" in fault_of(path)


# --- hostile pickles -----------------------------------------------------------------------------------------------

ATTACKS: dict[str, Callable[[str], Any]] = {
    "os.system": lambda sentinel: Call(Global("os", "system"), (f"touch {sentinel}",)),
    "posix.system": lambda sentinel: Call(Global("posix", "system"), (f"touch {sentinel}",)),
    "eval": lambda sentinel: Call(Global("builtins", "eval"), (f"open({sentinel!r}, 'w').close()",)),
    "exec": lambda sentinel: Call(Global("builtins", "exec"), (f"open({sentinel!r}, 'w').close()",)),
    "open": lambda sentinel: Call(Global("builtins", "open"), (sentinel, "w")),
    "subprocess": lambda sentinel: Call(Global("subprocess", "call"), (["touch", sentinel],)),
    "new": lambda sentinel: New(Global("subprocess", "Popen"), ()),
    "a call of a call": lambda sentinel: Call(
        Call(Global("builtins", "getattr"), (Call(Global("builtins", "__import__"), ("os",)), "system")),
        (f"touch {sentinel}",),
    ),
    "state": lambda sentinel: Build(
        New(Global("functools", "partial"), (Global("os", "system"), f"touch {sentinel}")), {"a": 1}
    ),
}
HARMLESS_IN_PICKLE = {"new", "state"}


@pytest.mark.parametrize("attack", ATTACKS)
@pytest.mark.parametrize("place", ["beside the weights", "as a weight", "as the whole file"])
def test_nothing_in_a_pickle_is_run(tmp_path, attack, place):
    sentinel = tmp_path / "sentinel"
    bomb = ATTACKS[attack](str(sentinel))
    file = TorchFile()
    weights = {key: file.tensor(array) for key, array in ARRAYS.items()}
    value = {
        "beside the weights": {"meta": bomb, "state_dict": weights},
        "as a weight": {**weights, "bomb": bomb},
        "as the whole file": bomb,
    }[place]
    path = file.write(tmp_path / "weights.pth", value)
    assert "do not trust it" in fault_of(path)
    assert not sentinel.exists()


@pytest.mark.parametrize("attack", [name for name in ATTACKS if name not in HARMLESS_IN_PICKLE])
def test_the_attacks_are_live(tmp_path, attack):
    """Python's own unpickler runs them, so that the test above can fail."""
    sentinel = tmp_path / "sentinel"
    opened = pickle.loads(b"\x80\x02" + opcodes(ATTACKS[attack](str(sentinel))) + b".")
    if hasattr(opened, "close"):
        opened.close()
    assert sentinel.exists()


def test_nothing_is_imported_by_a_pickle(tmp_path, monkeypatch):
    (tmp_path / "hostile_module.py").write_text(f"open({str(tmp_path / 'imported')!r}, 'w').close()\n")
    monkeypatch.syspath_prepend(tmp_path)
    file = TorchFile()
    value = {"meta": Call(Global("hostile_module", "Thing"), ()), "state_dict": {"a": file.tensor(ARRAYS["scalar"])}}
    read_state_dict(file.write(tmp_path / "weights.pth", value))
    assert not (tmp_path / "imported").exists()


@pytest.mark.parametrize("name", [*WRITERS, "compressed.npz"])
def test_damage_anywhere_is_an_input_error(tmp_path, name):
    """Random bytes at random places: the file is still read or refused, never anything else."""
    path = tmp_path / name
    if name in WRITERS:
        WRITERS[name](path)
    else:
        np.savez_compressed(path, a=np.random.default_rng(0).standard_normal(300), b=np.zeros(1000))
    data, rng = path.read_bytes(), np.random.default_rng(1)
    refused = 0
    for _ in range(300):
        damaged = bytearray(data)
        for _ in range(rng.integers(1, 4)):
            damaged[rng.integers(len(data))] = rng.integers(256)
        path.write_bytes(bytes(damaged))
        try:
            read_state_dict(path)
        except InputError as error:
            assert "\n" not in str(error)
            refused += 1
    assert refused > 100


def test_a_file_that_may_not_be_read(tmp_path, monkeypatch):
    path = write_npz(tmp_path / "weights.npz")

    def refuse(*_, **__):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "open", refuse)
    monkeypatch.setattr("builtins.open", refuse)
    fault_of(path)
