"""Opens a video, images, a camera or standard input as a stream of pictures with times."""

from __future__ import annotations

import contextlib
import glob
import io
import os
import stat
import sys
from collections.abc import Iterator, Sequence

from cffm_jax.errors import InputError, first_few
from cffm_jax.media.frame import Selection, Source

STDIN = "-"


@contextlib.contextmanager
def open_source(inputs: Sequence[str], selection: Selection, rate: float) -> Iterator[Source]:
    """Opens a video, images, a folder or pattern of images, a camera's index, or standard input.

    Args:
      inputs: what the user named, more than one for images.
      selection: which frames are wanted.
      rate: frames a second of images.

    Raises:
      InputError: nothing such is there, or it cannot be read; also while its frames are read.
    """
    from cffm_jax.media import cameras, images, videos

    with contextlib.ExitStack() as stack:
        name = inputs[0]
        if len(inputs) == 1 and name == STDIN:
            source = stack.enter_context(videos.open_stream(_standard_input(), "standard input", selection))
        elif len(inputs) == 1 and name.isdecimal() and name.isascii() and not os.path.lexists(name):
            source = stack.enter_context(cameras.open_camera(name, selection))
        else:
            paths = list(inputs) if len(inputs) > 1 else _paths(name)
            shown = first_few(inputs, 1)
            if os.path.isdir(name) or images.is_image(paths[0]):
                source = images.open_images(paths, shown, selection, rate)
                if os.path.isdir(name):
                    source.warnings.extend(images.left_out(name, paths))
            elif len(paths) > 1:
                problem = "is no image, and of several files each is a frame"
                remedy = f"name videos alone, or images alone (of HEIC: {images.INSTALL_HEIF})"
                raise InputError(paths[0], problem, remedy)
            else:
                source = stack.enter_context(videos.open_video(paths[0], selection))
        yield source


def has_magic(name: str) -> bool:
    """Whether it is a pattern of files, if there is none of this name."""
    return any(char in name for char in "*?[")


def _paths(name: str) -> list[str]:
    """The files of one argument: itself, a folder's images, or those that fit a pattern."""
    from cffm_jax.media import images

    try:
        mode = os.stat(name).st_mode
    except OSError as error:
        paths = sorted(glob.glob(name, recursive=True)) if has_magic(name) else []
        paths = [path for path in paths if os.path.isfile(path)]
        if paths:
            return images.in_order(paths)
        problem = "fits no file" if has_magic(name) else f"cannot be read ({error.strerror})"
        raise InputError(
            name, problem, "name a video, an image, a folder of images, a pattern in quotes or -"
        ) from error
    if stat.S_ISDIR(mode):
        return images.list_images(name)
    if stat.S_ISFIFO(mode):
        raise InputError(name, "is a pipe", "give - and redirect the pipe to standard input")
    if not stat.S_ISREG(mode):
        raise InputError(name, "is no ordinary file", "name a video, an image or a folder of images")
    return [name]


def _standard_input() -> io.BufferedReader:
    if not isinstance(sys.stdin, io.TextIOWrapper) or sys.stdin.closed or sys.stdin.isatty():
        raise InputError("standard input", "holds nothing to read", "pipe a video into it: python predict.py - < a.mkv")
    return sys.stdin.buffer
