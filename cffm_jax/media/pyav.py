"""PyAV, which is optional, and the file objects that FFmpeg gets in place of paths."""

from __future__ import annotations

import errno
import io
import types

from cffm_jax.errors import InputError


def require_av(where: object, instead: str = "") -> types.ModuleType:
    """PyAV. If not installed, InputError that names what needs it and what to do ``instead``."""
    try:
        import av
    except ImportError as error:
        remedy = f"install it (make install-video, or pip install 'av<19'){instead and ', or '}{instead}"
        raise InputError(where, "is about a video, which needs PyAV, and that is not installed", remedy) from error
    return av


class Piped:
    """A file that FFmpeg only reads forwards. It gets no path, which its protocols could interpret.

    What goes wrong with the file is kept in ``error`` for `reraise`: PyAV reports it as an error of
    its own, and a signal not at all. Of reading FFmpeg sees an end in its place.
    """

    def __init__(self, file: io.BufferedIOBase):
        self.file = file
        self.error: BaseException | None = None

    def read(self, count: int) -> bytes:
        if self.error is None:
            try:
                return self._read(count)
            except BaseException as error:  # A signal's too: raised again where FFmpeg has returned.
                self.error = error
        return b""

    def _read(self, count: int) -> bytes:
        return self.file.read1(count)  # What there is: frames are decoded as they come.

    def reraise(self) -> None:
        """Raises what went wrong with the file itself, if anything did."""
        if self.error is not None:
            raise self.error


class Seekable(Piped):
    """A file on a disk."""

    def _read(self, count: int) -> bytes:
        return self.file.read(count)

    def write(self, data: bytes) -> int:
        try:
            return self.file.write(data)
        except OSError as error:
            self.error = self.error or error
            raise

    def seek(self, *where: int) -> int:
        try:
            return self.file.seek(*where)
        except OSError as error:
            if error.errno == errno.EINVAL:  # A place that no file has: FFmpeg's to tell, of a damaged one.
                return -1
            self.error = self.error or error
            raise

    def tell(self) -> int:
        return self.file.tell()
