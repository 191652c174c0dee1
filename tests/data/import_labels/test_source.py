"""What the folders and files of a source may be: links, addresses as names, encodings."""

import json

import pytest

from cffm_jax.data.import_labels import command
from cffm_jax.data.import_labels.colour_table import read_table
from cffm_jax.data.import_labels.source import Source
from cffm_jax.runtime.command_line import run_command

from helpers import exports


@pytest.fixture
def source(tmp_path):
    return tmp_path / "source"


@pytest.fixture
def masks(source, tmp_path, capfd):
    """Imports the source -> the values of each mask, and what the command said."""

    def masks(*more):
        capfd.readouterr()
        status = run_command(command.main, [str(source), str(tmp_path / "out"), *map(str, more)])
        said = capfd.readouterr()
        assert status == 0, said.err
        found = sorted((tmp_path / "out").glob("*/masks/*.png"))
        return [exports.mask_values(path)[0].tolist() for path in found]

    return masks


TRUTH = [exports.truth(i).tolist() for _, i, _ in exports.each_frame()]


def test_folders_that_are_links(source, tmp_path, masks, refused):
    exports.colour_masks(source)
    (source / "val").rename(tmp_path / "video")
    (source / "val").symlink_to(tmp_path / "video")
    (source / "train" / "images").rename(tmp_path / "pictures")
    (source / "train" / "images").symlink_to("../../pictures")
    colours = "--colours", exports.table(tmp_path / "colours.txt")
    assert masks(*colours) == TRUTH
    (tmp_path / "video" / "more").symlink_to(tmp_path / "pictures")
    (tmp_path / "pictures" / "more").symlink_to(tmp_path / "video")
    refused(command.main, [source, tmp_path / "new", *colours], "more/more: is a link to a folder that it lies in")
    (tmp_path / "pictures" / "more").unlink()
    (tmp_path / "pictures" / "all").symlink_to(tmp_path)
    refused(command.main, [source, tmp_path / "new", *colours], "all: is a link to a folder that it lies in")


@pytest.mark.parametrize("name", ["coco", "label-studio"])
def test_addresses_with_a_token(name, source, masks):
    {"coco": exports.coco_itself, "label-studio": exports.label_studio}[name](source)
    for path in source.rglob("*.json"):
        tree = json.loads(path.read_text())
        for each in tree if name == "label-studio" else tree["images"]:
            where, key = (each["data"], "image") if name == "label-studio" else (each, "file_name")
            where[key] = f"https://host/{where[key].lstrip('/')}?token=a%2Fb/c.d&expires=7"
        path.write_text(json.dumps(tree))
    assert masks() == TRUTH


def test_a_name_with_a_question_mark_is_itself(source):
    source.mkdir()
    for name in ("a.png", "a.png?b.png"):
        (source / name).touch()
    assert Source(source).find("x.json", "a.png?b.png") == "a.png?b.png"
    assert Source(source).find("x.json", "a.png?c.png") == "a.png"


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "utf-32"])
def test_json_in_other_encodings(encoding, source, masks):
    exports.coco_itself(source)
    for path in source.rglob("*.json"):
        path.write_bytes(path.read_text().encode(encoding))
    assert masks() == TRUTH


def test_text_that_is_in_no_unicode(source, tmp_path, refused):
    exports.coco_itself(source)
    path = source / "annotations" / "instances_val2017.json"
    path.write_bytes(path.read_text().replace("car", "Straße").encode("latin-1"))
    said = "instances_val2017.json: is no text in UTF-8 ('utf-8' codec can't decode", "save it in UTF-8"
    refused(command.main, [source, tmp_path / "out"], *said)


@pytest.mark.parametrize(
    ("line", "name", "colour"),
    [
        ("lane 1 2 3:10,20,30::", "lane 1 2 3", [10, 20, 30]),
        ("lane 1 2 3: 10 20 30", "lane 1 2 3", [10, 20, 30]),
        ("lane 1 2 3,10,20,30", "lane 1 2 3", [10, 20, 30]),
        ("lane 1 2 3 10 20 30", "lane 1 2 3", [10, 20, 30]),
        ("lane:10,20,30:a,b:", "lane", [10, 20, 30]),
        ("lane:10,20,30:1,2,3:", "lane", [10, 20, 30]),
        ("lane 10 20 30", "lane", [10, 20, 30]),
    ],
)
def test_names_that_end_in_numbers(line, name, colour, tmp_path):
    (tmp_path / "labelmap.txt").write_text(line, encoding="utf-16")
    table = read_table(tmp_path / "labelmap.txt")
    assert table.names == (name,) and table.colours.tolist() == [colour]
