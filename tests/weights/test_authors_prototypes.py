"""Prototypes that the authors' code computed: a folder, a zip of it, or one .safetensors."""

import io
import zipfile
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import safetensors.numpy

from cffm_jax.errors import InputError
from cffm_jax.inference.video_prototypes import ImportedPrototypes
from cffm_jax.weights import authors_prototypes
from cffm_jax.weights.authors_prototypes import find_centres, read_centres

from helpers.weight_files import TorchFile, torch_file

VIDEOS = ("127_abc", "1_def", "80_ghi")
CENTRES = {name: np.random.default_rng(i).standard_normal((4, 256)).astype("f4") for i, name in enumerate(VIDEOS)}


def write_folder(folder: Path) -> Path:
    """Tensors by themselves, in both formats, one with a dimension more."""
    for i, (video, array) in enumerate(CENTRES.items()):
        (folder / video).mkdir(parents=True)
        file = TorchFile(legacy=i == 0)
        file.write(folder / video / "centers.pt", file.tensor(array[None] if i == 1 else array))
    return folder


def write_zip(path: Path, prefix: str, folder: Path, **more: bytes) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(f"{prefix}readme.txt", "centres")
        for video in VIDEOS:
            archive.writestr(f"{prefix}{video}/", b"")
            archive.write(folder / video / "centers.pt", f"{prefix}{video}/centers.pt")
        for name, data in more.items():
            archive.writestr(name, data)
    return path


@pytest.fixture(params=["folder", "zip", "zip of folders", "safetensors"])
def source(request, tmp_path):
    folder = write_folder(tmp_path / "cluster_centers")
    match request.param:
        case "zip":
            return write_zip(tmp_path / "centres.zip", "", folder)
        case "zip of folders":
            junk = {"__MACOSX/data/val/._centers.pt": b"x"}
            return write_zip(tmp_path / "centres.zip", "data/cluster_centers/val/", folder, **junk)
        case "safetensors":
            path = tmp_path / "centres.safetensors"
            safetensors.numpy.save_file({video: np.squeeze(array) for video, array in CENTRES.items()}, path)
            return path
    return folder


def test_every_source_gives_the_same_arrays(source):
    found = read_centres(source)
    assert list(found) == sorted(VIDEOS)
    for video, stored in found.items():
        array = stored.load()
        assert array.shape == stored.shape and array.dtype == stored.dtype == np.float32
        np.testing.assert_array_equal(array.reshape(4, 256), CENTRES[video])
    imported = ImportedPrototypes(str(source), 256)
    for video, array in CENTRES.items():
        np.testing.assert_array_equal(imported.of(SimpleNamespace(name=video)), array)
    with pytest.raises(InputError, match="holds no prototypes of video other"):
        imported.of(SimpleNamespace(name="other"))


def test_names_alone_are_looked_at(tmp_path):
    """One damaged file is no matter to the other videos."""
    folder = write_folder(tmp_path / "centres")
    (folder / VIDEOS[0] / "centers.pt").write_bytes(b"damaged")
    for path, place in ((folder, folder), (write_zip(tmp_path / "a.zip", "x/", folder), tmp_path / "a.zip" / "x")):
        found = find_centres(path)
        np.testing.assert_array_equal(found[VIDEOS[2]].load(), CENTRES[VIDEOS[2]])
        with pytest.raises(InputError) as caught:
            found[VIDEOS[0]].load()
        assert str(caught.value).startswith(f"{place / VIDEOS[0] / 'centers.pt'}: is a text file")


@pytest.mark.parametrize(
    "array, problem",
    [
        (np.zeros((4, 128), np.float32), r"video a is \[4, 128\], not \[prototypes, 256\]"),
        (np.zeros((2, 4, 256), np.float32), r"is \[2, 4, 256\]"),
        (np.zeros((0, 256), np.float32), r"is \[0, 256\]"),
        (np.zeros(256, np.float32), r"is \[256\]"),
        (np.full((4, 256), np.inf, np.float16), "not finite"),
    ],
)
def test_wrong_arrays(tmp_path, array, problem):
    (tmp_path / "a").mkdir()
    path = torch_file(tmp_path / "a" / "centers.pt", {"centers": array})
    with pytest.raises(InputError, match=problem) as caught:
        ImportedPrototypes(str(tmp_path), 256).of(SimpleNamespace(name="a"))
    assert str(caught.value).startswith(f"{path}: ")


def test_wrong_sources(tmp_path):
    def refused(path: Path, problem: str) -> None:
        with pytest.raises(InputError, match=problem) as caught:
            find_centres(path)
        assert str(caught.value).startswith(f"{path}: ") and "\n" not in str(caught.value)

    folder = write_folder(tmp_path / "centres")
    refused(tmp_path / "none", "no such folder or file")
    refused(tmp_path, "holds no <video>/centers.pt")
    path = write_zip(tmp_path / "a.zip", "val/", folder, **{f"train/{VIDEOS[0]}/centers.pt": b"x"})
    refused(path, f"of video {VIDEOS[0]} twice")
    refused(write_zip(path, "../", folder), "leads elsewhere")
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("centers.pt", b"x")
    refused(path, "holds no <video>/centers.pt")
    refused(torch_file(path, CENTRES), "holds no <video>/centers.pt")
    path.write_bytes(b"text")
    refused(path, "is a text file")
    path.write_text('{"a": 1}')
    refused(path, "is neither a folder, nor a zip")


def test_limits_of_a_zip(tmp_path, monkeypatch):
    path = write_zip(tmp_path / "a.zip", "", write_folder(tmp_path / "centres"))
    monkeypatch.setattr(authors_prototypes, "MAX_BYTES", 100)
    with pytest.raises(InputError, match="more than 100 bytes"):
        read_centres(path)


def test_a_zip_in_a_zip_of_npz(tmp_path):
    """A member must be torch's."""
    out = io.BytesIO()
    np.savez(out, np.zeros((4, 256)))
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr("a/centers.pt", out.getvalue())
    with pytest.raises(InputError, match="is no file of torch"):
        read_centres(tmp_path / "a.zip")
