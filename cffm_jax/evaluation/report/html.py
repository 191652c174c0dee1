"""Elements of the page: what they hold is escaped when they are written."""

from __future__ import annotations

import base64
import xml.etree.ElementTree as ET

from cffm_jax.data.layouts import classes

NONE = "\N{EN DASH}"
"""Stands where nothing was there to measure."""


def element(tag: str, *children: ET.Element | str, **attributes: object) -> ET.Element:
    """An element; its texts and attributes are escaped when written. ``class_`` is its class."""
    named = {name.rstrip("_"): str(value) for name, value in attributes.items()}
    named = {name if name in _CAMEL else name.replace("_", "-"): value for name, value in named.items()}
    element = ET.Element(tag, {name: value for name, value in named.items() if name != "class" or value})
    last = None
    for child in children:
        if isinstance(child, ET.Element):
            element.append(child)
            last = child
        elif last is None:
            element.text = (element.text or "") + child
        else:
            last.tail = (last.tail or "") + child
    return element


_CAMEL = ("viewBox", "preserveAspectRatio")


def scrolling(table: ET.Element, label: str, kind: str = "scroll") -> ET.Element:
    """Wraps an element that may be wider than the page: it scrolls by itself, by keyboard too."""
    return element("div", table, class_=kind, tabindex=0, role="region", aria_label=label)


def chip(dataset: classes.Classes, k: int) -> ET.Element:
    red, green, blue = dataset.colours[k].tolist()
    return element("span", class_="chip", style=f"background: rgb({red} {green} {blue})")


def class_name(dataset: classes.Classes, k: int) -> ET.Element:
    """The name of a class as an element: its direction of writing does not move its neighbours."""
    return element("bdi", dataset.names[k].replace("_", " "))


def frame_class(strip: int, shot: int) -> str:
    """CSS class with a frame's picture: each is there once, below all of its masks."""
    return f"frame-{strip}-{shot}"


def data_uri(data: bytes, kind: str) -> str:
    return f"data:image/{kind};base64,{base64.b64encode(data).decode()}"


def percent(share: float | None) -> str:
    return NONE if share is None else f"{100 * share:.2f}"


def signed(difference: float) -> str:
    """A difference in percent, with its sign."""
    return f"{difference:+.2f}".replace("-", "\N{MINUS SIGN}")


def counted(number: int, noun: str) -> str:
    plural = f"{noun}es" if noun.endswith("s") else f"{noun}s"
    return f"{number:,} {noun if number == 1 else plural}"


def first_of_group(i: int) -> str:
    return "first" if i == 0 else ""


def series(i: int) -> int:
    return min(i, 5)
