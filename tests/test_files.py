"""What the readers of weight files read."""

# --- what is read --------------------------------------------------------------------------------------------------


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
def test_a_checkpoint_is_unwrapped(tmp_path, key):
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

    assert_same(read_state_dict(torch_file(tmp_path / "weights.pth", ARRAYS, wrap)), ARRAYS)


def test_an_ordered_state_dict_with_metadata(tmp_path):
    file = TorchFile()
    items = {key: file.tensor(array) for key, array in ARRAYS.items()}
    filled = opcodes(ORDERED) + opcodes(items)[1:]  # The empty dict's opcode is replaced by the ordered one.
    metadata = opcodes({"_metadata": {"": {"version": 1}}}) + b"b"
    path = file.write(tmp_path / "weights.pth", {})
    with zipfile.ZipFile(path) as archive:
        entries = {name: archive.read(name) for name in archive.namelist()}
    entries["archive/data.pkl"] = b"\x80\x02" + filled + metadata + b"."
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in entries.items():
            archive.writestr(name, data)
    loaded = read_state_dict(path)
    assert_same(loaded, ARRAYS)
    assert list(loaded) == list(ARRAYS)


@pytest.mark.parametrize("dtype", STORAGES)
def test_every_type_of_storage(tmp_path, dtype):
    kind = np.dtype(getattr(ml_dtypes, dtype, dtype))
    array = np.array([[0, 1, 2], [3, 100, 1]]).astype(kind)
    assert_same(read_state_dict(torch_file(tmp_path / "weights.pth", {"a": array})), {"a": array})


def test_views_of_one_storage(tmp_path):
    base = np.arange(24, dtype=np.float32)
    file = TorchFile()
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


def test_parameters_are_their_data(tmp_path):
    file = TorchFile()
    parameter = Call(Global("torch._utils", "_rebuild_parameter"), (file.tensor(ARRAYS["scalar"]), True, ORDERED))
    assert_same(
        read_state_dict(file.write(tmp_path / "weights.pth", {"scalar": parameter})), {"scalar": ARRAYS["scalar"]}
    )


@every_format
def test_arrays_can_be_changed_and_outlive_the_file(tmp_path, name):
    path = WRITERS[name](tmp_path / name)
    loaded = read_state_dict(path)
    path.unlink()
    loaded["backbone.norm.bias"] += 1
    np.testing.assert_array_equal(loaded["backbone.norm.bias"], [2.5, -1.5])


