"""Words on pictures: as large as the picture allows to be read, and no wider than their room."""

from __future__ import annotations

from PIL import ImageFont

Font = ImageFont.FreeTypeFont | ImageFont.ImageFont


def text_size(size: tuple[int, int], least: int, part: int, most: int = 80) -> int:
    """Height of letters in pixels: ``part`` of them fill the shorter side of a picture of this
    size, but for small and very large ones."""
    return min(most, max(least, min(size) // part))


def shortened(words: str, font: Font, room: float) -> str:
    """The words if they have room (pixels), else their beginning with "..."; "" if that has none.

    Examples:
      >>> font = ImageFont.load_default(12)
      >>> shortened("traveling case or trolley case", font, 500)
      'traveling case or trolley case'
      >>> shortened("traveling case or trolley case", font, 100)
      'traveling case...'
    """
    if font.getlength(words) <= room:
        return words
    kept = words
    while kept and font.getlength(f"{kept.rstrip()}...") > room:
        kept = kept[:-1]
    return f"{kept.rstrip()}..." if kept else ""
