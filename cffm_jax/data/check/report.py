"""What `check` says of a dataset: everything as JSON, or a text for people."""

from __future__ import annotations

import itertools
import statistics
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from cffm_jax.config import IGNORED_LABEL
from cffm_jax.data.check.survey import Survey
from cffm_jax.data.layouts.names import count_by_suffix, passed_over_in_words
from cffm_jax.runtime.checksums import relative_name

_BAR = 30
"""Signs of the longest bar."""


def to_json(result: Survey, left_out: Mapping[str, Sequence[str]]) -> dict[str, Any]:
    """Everything about the dataset; lengths are in frames, sizes as "width x height"."""
    videos = result.videos.values()
    lengths = [video.length for video in videos if video.length]
    none = np.zeros(256, np.int64)
    pixels, frames = sum((v.pixels for v in videos), none), sum((v.frames for v in videos), none)
    masks = sum(video.masks for video in videos)
    every = max(1, int(pixels.sum()))
    classes = [
        {
            "index": index,
            "name": name,
            "pixels": int(pixels[index]),
            "pixel_share": int(pixels[index]) / every,
            "frames": int(frames[index]),
            "frame_share": int(frames[index]) / max(1, masks),
        }
        for index, name in enumerate(result.names)
    ]
    sizes: dict[str, int] = {}
    for (width, height), count in itertools.chain.from_iterable(video.sizes.items() for video in videos):
        sizes[f"{width}x{height}"] = sizes.get(f"{width}x{height}", 0) + count
    return {
        "root": result.root,
        "splits": {
            split: {"videos": len(names), "frames": sum(result.videos[name].length for name in names)}
            for split, names in result.splits.items()
        },
        "unlisted_videos": result.unlisted,
        "frames": sum(lengths),
        "masks": masks,
        "lengths": {"min": min(lengths), "median": statistics.median(lengths), "max": max(lengths)} if lengths else {},
        "sizes": dict(sorted(sizes.items(), key=lambda item: -item[1])),
        "classes": classes,
        "ignored_share": int(pixels[IGNORED_LABEL]) / every,
        "problems": [each._asdict() for each in result.problems],
        "passed_over": count_by_suffix(path for video in videos for path in video.passed_over),
        "left_out": {split: list(names) for split, names in left_out.items()},
    }


def as_text(result: Survey, report: Mapping[str, Any], rows: int) -> str:
    """The report for people: problems by group, then what there is."""
    lines = []
    for group, each in itertools.groupby(result.problems, key=lambda problem: problem.group):
        problems = list(each)
        shown = problems[: rows or None]
        wide = [max(len(problem[i]) for problem in shown) for i in (1, 2)]
        lines.append(f"{group} ({len(problems)})")
        lines += [f"  {p.file:{wide[0]}}  {p.problem:{wide[1]}}  {p.remedy}" for p in shown]
        if len(shown) < len(problems):
            lines.append(f"  ... and {len(problems) - len(shown)} more (--rows 0 or --json show them)")
        lines.append("")
    for split, names in report["left_out"].items():
        count = f"{len(names)} of {len(result.splits[split])} videos"
        lines.append(f"{split}.txt: written without {count}, the old one is {split}.txt.bak")
        lines += [f"  {name}" for name in names] + [""]
    for split, counts in report["splits"].items():
        lines.append(f"{split}: {counts['videos']} videos, {counts['frames']} frames")
    if report["unlisted_videos"]:
        lines.append(f"in no split: {report['unlisted_videos']} videos, not read")
    if report["lengths"]:
        lengths = report["lengths"]
        lines.append(f"frames a video: {lengths['min']} to {lengths['max']}, median {lengths['median']:g}")
    lines.append("sizes, width x height: " + ", ".join(f"{size} ({count})" for size, count in report["sizes"].items()))
    others = [relative_name(path, result.root) for video in result.videos.values() for path in video.passed_over]
    lines += [passed_over_in_words(others)] if others else []
    lines += ["", *_class_lines(report)] if report["masks"] else []
    count = len(result.problems)
    lines += ["", f"{count} problem{'s' * (count != 1)}" if count else "no problem found"]
    return "\n".join(lines)


def _class_lines(report: Mapping[str, Any]) -> list[str]:
    """The classes by their share of the pixels, each with a bar."""
    there = sorted((each for each in report["classes"] if each["pixels"]), key=lambda each: -each["pixels"])
    wide = max((len(each["name"]) for each in report["classes"]), default=len("(ignored)"))
    lines = [f"{'class':{wide + 4}}  pixels  frames"]
    for each in there:
        bar = "#" * max(1, round(_BAR * each["pixel_share"] / there[0]["pixel_share"]))
        shares = f"{100 * each['pixel_share']:5.2f} %  {100 * each['frame_share']:4.1f} %"
        lines.append(f"{each['index']:3} {each['name']:{wide}}  {shares}  {bar}")
    lines.append(f"    {'(ignored)':{wide}}  {100 * report['ignored_share']:5.2f} %")
    absent = [each["name"] for each in report["classes"] if not each["pixels"]]
    return [*lines, f"without a pixel: {', '.join(absent)}"] if absent else lines
