"""The channels of a dataset's frames, and how their values are normalised."""

from __future__ import annotations

import dataclasses

RGB = ("red", "green", "blue")
MEAN = (123.675, 116.28, 103.53)
STD = (58.395, 57.12, 57.375)
"""ImageNet's statistics of RGB in 0..255."""


@dataclasses.dataclass(frozen=True)
class Channels:
    """What a frame's channels are, in the order of the files.

    Attributes:
      names: of the channels.
      mean, std: of each, in the files' units; () where they are not known yet.
    """

    names: tuple[str, ...] = RGB
    mean: tuple[float, ...] = MEAN
    std: tuple[float, ...] = STD

    def __len__(self) -> int:
        return len(self.names)

    @property
    def coloured(self) -> bool:
        """Whether frames are bytes in RGB; all others are float32 with the files' own values."""
        return self.names == RGB

    @property
    def dtype(self) -> str:
        """Of a frame's values until they are normalised."""
        return "uint8" if self.coloured else "float32"


COLOURS = Channels()
