"""How many classes a run has: what it states, else what its data say."""

import pytest

from cffm_jax.config import Config, DataConfig, ModelConfig
from cffm_jax.data.layouts.classes import with_num_classes
from cffm_jax.data.prepare import command as prepare
from cffm_jax.errors import InputError

from helpers.datasets import fails, write_own


def counted(root, layout, stated=0):
    config = Config(model=ModelConfig(num_classes=stated), data=DataConfig(root=str(root), layout=layout))
    return with_num_classes(config).model.num_classes


def test_the_class_file_counts_before_the_layout(tmp_path):
    assert [counted(tmp_path, name) for name in ("vspw", "cityscapes")] == [124, 19]
    (tmp_path / "classes.json").write_text('["a", "b", "c"]')
    assert [counted(tmp_path, name) for name in ("vspw", "cityscapes", "folder")] == [3, 3, 3]
    assert counted(tmp_path, "folder", stated=7) == 7, "what differs is told where the names are read"


def test_records_have_those_of_what_was_prepared(tmp_path):
    own = write_own(tmp_path / "own", {"a": (2, {0})}, classes=2)
    (own / "classes.txt").write_text("one\ntwo\n")
    prepare.main([str(own), str(tmp_path / "records"), "--layout", "folder"])
    (root,) = (tmp_path / "records").glob("*/*")
    assert counted(root, "records") == 2


def test_where_nothing_names_them_the_way_on_is_said(tmp_path):
    message = fails("has no classes.txt or classes.json", counted, tmp_path, "folder")
    assert message.endswith(f"name the classes in {tmp_path / 'classes.txt'}, one a line, or give their number")


@pytest.mark.parametrize(
    ("root", "told"),
    [
        ("", "--data.root: is missing"),
        ("none", "none: there is no such folder; point --data.root to the dataset's folder"),
        ("x/synthetic", "make the built-in videos there: python -m cffm_jax.data.synthetic x/synthetic"),
    ],
)
def test_data_that_are_not_there(root, told, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError) as caught:
        counted(root, "vspw")
    assert told in str(caught.value)
