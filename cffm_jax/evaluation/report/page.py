"""Builds the report's page: scores and pictures -> one HTML document that loads nothing.

Its frame, with style and script, is ``page.html``; ``docs/metrics.md`` defines the figures.
"""

from __future__ import annotations

import html
import importlib.resources
import string
import xml.etree.ElementTree as ET
from collections.abc import Mapping, Sequence

from cffm_jax.data.layouts import classes
from cffm_jax.evaluation.report.figures import About, classes_section, confusions_section, figures_section
from cffm_jax.evaluation.report.html import data_uri, element, frame_class
from cffm_jax.evaluation.report.side_by_side import side_by_side_section
from cffm_jax.evaluation.report.videos import Strip, consistency_section, videos_section
from cffm_jax.evaluation.score_tables import to_json
from cffm_jax.metrics.scores import Scores


def page(
    rows: Mapping[str, Scores], about: About, dataset: classes.Classes, best: Sequence[Strip], worst: Sequence[Strip]
) -> str:
    """The whole document.

    Args:
      rows: scores by name, the model's own first, its per-frame logits last; then those of other
        sources, if there are any.
      about: what was evaluated.
      dataset: names and colours of the classes.
      best, worst: videos to show; none are the worst where ``best`` are all.
    """
    tree = to_json(rows, dataset.names)
    first_row = next(iter(rows))
    strips = [*best, *worst]
    confusion = rows[first_row].counted().confusion()
    sections = {"figures": ("Figures", figures_section(tree, about))}
    if about.beside:
        compared = side_by_side_section(tree, (first_row, *about.beside), dataset)
        sections["side-by-side"] = ("Side by side", compared)
    sections |= {
        "videos": (
            "Best and worst videos" if worst else "Videos, best first",
            videos_section(tree, dataset, best, worst),
        ),
        "classes": ("Classes", classes_section(tree, dataset)),
        "confusions": ("Confusions", confusions_section(first_row, confusion, dataset)),
        "consistency": ("Consistency of each video", consistency_section(tree, strips)),
    }
    links = [element("a", head, href=f"#{name}") for name, (head, _) in sections.items()]
    facts = [element(tag, text) for fact in about.facts.items() for tag, text in zip(("dt", "dd"), fact)]
    head = element("header", element("h1", about.title), element("dl", *facts, class_="facts"), element("nav", *links))
    main = element(
        "main", *(element("section", element("h2", h), *parts, id=name) for name, (h, parts) in sections.items())
    )
    foot = element("footer", element("p", "Written by cffm_jax. The page holds all that it shows.", class_="note"))
    frames = {frame_class(i, t): shot.frame for i, strip in enumerate(strips) for t, shot in enumerate(strip.shots)}
    template = importlib.resources.files("cffm_jax.evaluation.report").joinpath("page.html").read_text(encoding="utf-8")
    return string.Template(template).substitute(
        title=html.escape(about.title),
        body="\n".join(ET.tostring(part, encoding="unicode", method="html") for part in (head, main, foot)),
        pictures="\n".join(
            f".{name} {{ background-image: url({data_uri(data, 'jpeg')}); }}" for name, data in frames.items()
        ),
    )
