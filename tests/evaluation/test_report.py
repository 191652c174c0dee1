"""The report: it loads nothing, its numbers are the JSON's, what it is given cannot become markup, its size is bounded.

How it looks and moves in a browser: test_report_in_browser.py.
"""

import base64
import dataclasses
import io
import re
import xml.etree.ElementTree as ET
from html.parser import HTMLParser

import numpy as np
import pytest
from PIL import Image

from cffm_jax.data.class_names import CITYSCAPES
from cffm_jax.data.layouts import folder as plain_layout
from cffm_jax.data.layouts.classes import Classes
from cffm_jax.drawing.palette import palette
from cffm_jax.errors import InputError
from cffm_jax.evaluation.report import figures, write
from cffm_jax.evaluation.score_tables import to_json
from cffm_jax.inference.whole_videos import Chunk
from cffm_jax.metrics.all_metrics import METRICS
from cffm_jax.metrics.scores import Scores, score_video
from cffm_jax.tables.rows import TABLE1

from helpers.datasets import write_own
from helpers.reports import DATASET, ROWS, made_about, made_report, made_scores, made_videos, shifted_masks

VIDEOS = 20
EMPTY = {"meta", "link", "img", "input", "hr", "br"}


class Reading(HTMLParser):
    """What a page holds: (tag, attributes) in order, and texts by the elements around them."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.texts, self._open = [], [], []
        self.feed(text)
        self.close()
        assert not self._open, f"{self._open} stay open"

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in EMPTY:
            self._open.append(tag)

    def handle_endtag(self, tag):
        assert self._open.pop() == tag

    def handle_data(self, data):
        self.texts.append((tuple(self._open), data))

    def all(self, tag, **attributes):
        return [a for t, a in self.tags if t == tag and all(a.get(k.strip("_")) == v for k, v in attributes.items())]

    def visible(self):
        return " ".join(text for around, text in self.texts if not {"style", "script"} & set(around))


def tables_of(text):
    """Cells of every table's rows."""
    found = []
    for table in re.findall("<table.*?</table>", text, re.DOTALL):
        lines = re.findall("<tr>(.*?)</tr>", table, re.DOTALL)
        found.append([[re.sub("<[^>]*>", "", c) for c in re.findall("<t[hd].*?</t[hd]>", line)] for line in lines])
    return found


@pytest.fixture(scope="module")
def split(tmp_path_factory):
    """(page of many videos, their scores, those as JSON)."""
    folder = tmp_path_factory.mktemp("report")
    videos = made_videos(folder / "frames", VIDEOS, size=(180, 320))
    scored = made_scores(videos)
    path = made_report(folder / "new" / "report", videos, scored)
    assert [file.name for file in path.parent.iterdir()] == ["index.html"]
    assert [file.name for file in path.parents[1].iterdir()] == ["report"]
    return path.read_text(), scored, to_json(scored, DATASET.names)


@pytest.fixture(scope="module")
def own(tmp_path_factory):
    """Videos in the plain layout: one labelled throughout, one in two frames."""
    root = write_own(tmp_path_factory.mktemp("own") / "data", {"a": (20, range(20)), "b": (5, (1, 3))}, classes=3)
    return plain_layout.LAYOUT.videos(str(root), "train", True)


def written(folder, rows, videos, dataset, about=None, samples=None):
    """The page's text."""
    names = tuple(rows)
    samples = samples or (lambda video: shifted_masks(video, names, len(dataset.names)))
    about = about or made_about("cffm_b1", dataset=dataset)
    return write.write_report(folder / "report", rows, about, dataset, videos, samples).read_text()


THREE = Classes(("sky", "road", "person"), palette(3))


# --- laws of the page


def test_loads_nothing_and_refers_to_what_is_there(split):
    text = split[0]
    page = Reading(text)
    ids = [attributes["id"] for _, attributes in page.tags if "id" in attributes]
    assert len(ids) == len(set(ids))
    for attribute in ("href", "data-truth", "for", "aria-labelledby"):
        asked = [a[attribute] for _, a in page.tags if attribute in a and a[attribute] != "data:,"]
        assert {name.removeprefix("#") for name in asked} <= set(ids), attribute
    assert page.all("a") and all(a["href"].startswith("#") for a in page.all("a"))
    sources = [a["src"] for _, a in page.tags if "src" in a]
    assert sources and all(source.startswith("data:image/png;base64,") for source in sources)
    assert set(re.findall(r"url\((.{10})", text)) == {"data:image"}
    assert "http" not in text and "@import" not in text and "@font-face" not in text
    used = {name for _, a in page.tags for name in a.get("class", "").split() if name.startswith("frame-")}
    assert used == set(re.findall(r"\.(frame-\d+-\d+) \{", text)) and len(used) == 30


def test_pictures_and_controls_have_words(split):
    page = Reading(split[0])
    (languages,) = page.all("html")
    assert languages["lang"] == "en"
    words = [a["alt"] for a in page.all("img") if "src" in a]
    assert len(words) == len(set(words)) == 10 * 3 * (len(ROWS) + 1)
    assert all(re.fullmatch(r".+, frame \d+ of \d+_video", text) for text in words)
    for attributes in page.all("svg") + [a for a in page.all("input") if "step" in a] + page.all("div", role="img"):
        assert attributes["aria-label"]
    assert all(a["type"] == "range" for a in page.all("input")) and len(page.all("input")) == 11


def test_figures_are_the_jsons_and_the_papers(split):
    text, _, tree = split
    (over, heads, *lines), _ = tables_of(text)
    assert over == ["", "here", "as published"]
    assert heads == ["%", *ROWS, "CFFM++, B1", "CFFM, B1", "SegFormer, B1"]
    for line, metric in zip(lines, METRICS, strict=True):
        assert line[:5] == [metric.title, *(f"{100 * tree[row][metric.key]:.2f}" for row in ROWS)]
    papers = {metric.key: [cell.strip() for cell in line[5:]] for line, metric in zip(lines, METRICS)}
    assert papers["miou"] == ["39.9", "38.5", "36.5"] and papers["weighted_iou"] == ["60.7", "60.0", "58.8"]
    assert papers["vc8"] == ["89.1", "88.6", "84.7"] and papers["vc16"] == ["84.9", "84.1", "79.9"]
    assert papers["flicker"] == papers["vc8_paper"] == ["", "", ""]
    own = tree["CFFM++"]
    tiles = re.findall(r'class="tile">([^<]+)<b>([^<]+)</b>', text)
    assert tiles == [
        (m.title, f"{100 * own[m.key]:.2f}") for m in METRICS if m.key in ("miou", "weighted_iou", "vc8", "vc16")
    ]


def test_classes_are_sorted_and_the_jsons(split):
    text, _, tree = split
    own, frames = (tree[row]["per_class"] for row in (ROWS[0], ROWS[-1]))
    section = text.partition('id="classes"')[2].partition("</section>")[0]
    found = re.findall(
        r"</span><bdi>([^<]+)</bdi><small>.*?--share: ([\d.]+)%; --mark: ([\d.]+)%"
        r'.*?number">([\d.]+)<.*?number">([^<]+)<',
        section,
    )
    by_name = {c["name"].replace("_", " "): (c, other) for c, other in zip(own, frames)}
    assert {name for name, *_ in found} == set(by_name) and len(found) == 124
    for name, share, mark, iou, change in found:
        assert share == iou == f"{100 * by_name[name][0]['iou']:.2f}" and mark == f"{100 * by_name[name][1]['iou']:.2f}"
        assert float(change.replace("\N{MINUS SIGN}", "-")) == pytest.approx(float(iou) - float(mark), abs=0.0101)
    ious = [float(iou) for *_, iou, _ in found]
    assert ious == sorted(ious, reverse=True)


def test_confusions_are_the_largest(split):
    text, scored, _ = split
    counts = scored["CFFM++"].confusion().counts
    section = text.partition('id="confusions"')[2].partition("</section>")[0]
    found = re.findall(
        r"</span><bdi>([^<]+)</bdi> → <span[^>]*></span><bdi>([^<]+)</bdi></span>"
        r'.*?number">([\d.]+)<.*?number">([\d.]+)<',
        section,
    )
    names = [name.replace("_", " ") for name in DATASET.names]
    wrong = counts.sum() - np.trace(counts)
    pairs = sorted(
        ((counts[i, j], i, j) for i in range(124) for j in range(124) if i != j), key=lambda p: (-p[0], p[1:])
    )
    expected = [
        (names[i], names[j], f"{100 * count / wrong:.2f}", f"{100 * count / counts[i].sum():.2f}")
        for count, i, j in pairs[:15]
    ]
    assert found == expected


def test_every_videos_figures_and_the_best_and_the_worst(split):
    text, _, tree = split
    _, (_, heads, *lines) = tables_of(text)
    assert heads == ["video", "frames", *(3 * ROWS)] and len(lines) == VIDEOS
    for line, *videos in zip(lines, *(tree[row]["per_video"] for row in ROWS), strict=True):
        assert line[:2] == [videos[0]["name"], "20"]
        told = [video[field] for field in ("miou", "vc8_paper", "vc16_paper") for video in videos]
        assert line[2:] == [f"{100 * share:.2f}" for share in told]
    order = sorted(tree["CFFM++"]["per_video"], key=lambda video: -video["miou"])
    shown = re.findall(r"<article.*?<h3>([^<]+)</h3>", text)
    assert shown == [video["name"] for video in order[:5] + order[:-6:-1]]
    for path in re.findall(r'<path d="([^"]+)"', text):
        dots = [tuple(map(float, dot.split())) for dot in re.findall(r"M([^h]+)h0", path)]
        assert len(dots) == VIDEOS and all(0 <= x <= 100 and 0 <= y <= 100 for x, y in dots)


# --- size


def test_many_videos_stay_small(split):
    assert 1e6 < len(split[0].encode()) < 10e6


def test_pictures_have_only_so_much_room(tmp_path):
    """Noise compresses to nothing: fewer videos are shown, of the best and of the worst."""
    videos = made_videos(tmp_path / "frames", 12, frames=3, size=(270, 480))

    def noise(video):
        rng = np.random.default_rng(0)
        return {t: {row: rng.integers(0, 124, (270, 480), np.uint8) for row in ROWS} for t in range(3)}

    text = written(tmp_path, made_scores(videos), videos, DATASET, samples=noise)
    assert 9e6 < len(text) < 13e6 and "of the best and the worst videos have no room here." in text
    assert 4 < text.count("<article") < 10 and "<h3>Best</h3>" in text and "<h3>Worst</h3>" in text


def test_kept_masks_are_few_and_the_models(tmp_path):
    """A few kilobytes a video; masks no larger than they are shown, the nearest pixels of what the model said."""
    (video,) = made_videos(tmp_path, 1, frames=24)
    samples = write.MaskSamples((video,), first=9)
    masks = np.repeat(np.arange(24, dtype=np.uint8), 480 * 853).reshape(24, 480, 853)
    masks[:, :240] = 7
    for start in range(0, 24, 5):
        part = masks[start : start + 5]
        samples(Chunk(video, start, part, {"CFFM": part, "per-frame (SegFormer)": part + np.uint8(1)}))
    kept = samples.of(video)
    assert list(kept) == [9, 16, 23]
    for time, rows in kept.items():
        assert list(rows) == ["CFFM", "per-frame (SegFormer)"] and rows["CFFM"].shape == (270, 480)
        assert (rows["CFFM"][:135] == 7).all() and (rows["per-frame (SegFormer)"][135:] == time + 1).all()


# --- pictures


def test_masks_are_the_classes_colours(own, tmp_path):
    rows = made_scores(own, ("CFFM", "per-frame (SegFormer)"), 3)
    unlabelled = {}

    def samples(video):
        (time,) = video.targets[:1]
        mask = np.full((64, 128), 2, np.uint8)
        mask[:, 64:] = 0
        unlabelled[video.name] = time
        return {time: {"CFFM": mask, "per-frame (SegFormer)": np.zeros_like(mask)}}

    page = Reading(written(tmp_path, rows, own, THREE, samples=samples))
    pictures = {a["alt"]: a["src"] for a in page.all("img") if "src" in a}
    assert set(unlabelled) == {"a", "b"} and len(pictures) == 6
    with Image.open(io.BytesIO(base64.b64decode(pictures["CFFM, frame 0 of a"].split(",")[1]))) as image:
        assert image.mode == "P" and image.size == (256, 128)
        colours = np.asarray(image.convert("RGB"))
    assert (colours[:, :128] == THREE.colours[2]).all() and (colours[:, 128:] == THREE.colours[0]).all()


def test_ignored_pixels_show_the_frame():
    mask = np.array([[0, 255], [2, 2]], np.uint8)
    with Image.open(io.BytesIO(write._coloured_png(mask, palette(3)))) as image:
        pixels = np.asarray(image.convert("RGBA"))
    np.testing.assert_array_equal(pixels[..., 3], [[255, 0], [255, 255]])
    np.testing.assert_array_equal(pixels[1, :, :3], [palette(3)[2]] * 2)


# --- unusual evaluations


def test_what_is_given_stays_text(own, tmp_path):
    evil = "<script>alert('&')</script>\"><img src=x>"
    videos = tuple(dataclasses.replace(video, name=f"{evil}{i}") for i, video in enumerate(own))
    dataset = Classes((evil, "$title", "\udcff ]]> <!--"), palette(3))
    rows = made_scores(videos, (evil, "per-frame (SegFormer)"), 3)
    about = made_about(evil, root=evil, facts={"checkpoint": evil, evil: "$body"}, dataset=dataset)
    text = written(tmp_path, rows, videos, dataset, about)
    page = Reading(text)
    assert text.count("<script>") == text.count("<title>") == 1 and not page.all("img", src="x")
    assert page.visible().count(evil) > 10 and "$title" in page.visible() and "$body" in page.visible()
    assert any(a["alt"].startswith(evil) for a in page.all("img"))


@pytest.mark.parametrize("rows", [("SegFormer",), ROWS])
def test_one_row_and_four(own, tmp_path, rows):
    text = written(tmp_path, made_scores(own[:1], rows, 3), own[:1], THREE)
    (heads, *_), (_, video_heads, *lines) = tables_of(text)
    assert heads == ["%", *rows] and len(lines) == 1 and video_heads == ["video", "frames", *(3 * rows)]
    assert ("--mark: " in text) == (len(rows) > 1)
    labels = re.findall(r'alt="([^"]+?), frame 0 of a"', text)
    assert labels == [*reversed(rows), "ground truth"] and "The papers have no figures" in text


def test_sparse_masks_have_no_consistency(own, tmp_path):
    videos = own[1:]
    scored = made_scores(videos, ("CFFM", "per-frame (SegFormer)"), 3)
    text = written(tmp_path, scored, videos, THREE)
    page = Reading(text)
    assert "There is no video consistency" in page.visible() and not page.all("svg")
    assert [c for line in tables_of(text)[0] for c in line[1:] if line[0].startswith("VC")] == ["\N{EN DASH}"] * 8
    assert set(re.findall(r"frame (\d+) of b", text)) == {"1", "3"}
    assert tables_of(text)[1][0] == ["", "", "mIoU", "pixel acc."]


def test_without_a_label_or_an_error_or_a_second_class(own, tmp_path):
    one = Classes(("all",), palette(1))
    mask = np.zeros((64, 128), np.uint8)
    masks = [Image.fromarray(mask), Image.fromarray(mask + np.uint8(255))]
    cases = {}
    for kind, image in zip(("right", "unlabelled"), masks, strict=True):
        path = tmp_path / f"{kind}.png"
        image.save(path)
        video = dataclasses.replace(own[0], masks=(str(path),) * 20)
        rows = {"CFFM": Scores(1, (score_video("a", [(np.asarray(image), mask)] * 20, 1),))}
        (tmp_path / kind).mkdir()
        cases[kind] = written(tmp_path / kind, rows, (video,), one, samples=lambda _: {3: {"CFFM": mask}})
    assert "No labelled pixel is wrong." in cases["right"] and ">100.00<" in cases["right"]
    assert cases["unlabelled"].count("No counted video has a labelled pixel.") == 2  # Classes and confusions.
    assert "No labelled pixel is wrong." not in cases["unlabelled"] and "<article" in cases["unlabelled"]
    assert "nan" not in Reading(cases["unlabelled"]).visible()


def test_sources_side_by_side_differ_by_their_figures(own, tmp_path):
    """By hand: each difference is that of the JSON, with the other order its negative; of a source from itself 0."""
    scored = made_scores(own, ("a", "b"), 3)
    tree = to_json(scored, THREE.names)

    def tables(*names):
        rows = {name: scored[name[0]] for name in names}
        about = made_about("", dataset=THREE)._replace(beside=names[1:])
        text = written(tmp_path / "-".join(names), rows, own, THREE, about)
        section = re.search('<section id="side-by-side">.*?</section>', text, re.DOTALL).group(0)
        return {line[0]: [x.replace("\N{MINUS SIGN}", "-") for x in line[1:]] for t in tables_of(section) for line in t}

    forth, back, same = tables("a", "b"), tables("b", "a"), tables("a", "a again")
    expected = {m.title: [m.scale * tree[name][m.key] for name in "ab"] for m in METRICS}
    pairs = zip(tree["a"]["per_class"], tree["b"]["per_class"], strict=True)
    expected |= {a["name"]: [100 * a["iou"], 100 * b["iou"]] for a, b in pairs}
    by_name = [{video["name"]: video["vc16_paper"] for video in tree[n]["per_video"]} for n in "ab"]
    expected |= {name: [100 * of[name] for of in by_name] for name in by_name[0] if by_name[0][name] is not None}
    assert expected.keys() <= forth.keys() and len(expected) == len(METRICS) + 3 + 1
    for what, (a, b) in expected.items():
        assert forth[what] == [f"{a:.2f}", f"{b:.2f}", f"{b - a:+.2f}"], what
        assert back[what] == [f"{b:.2f}", f"{a:.2f}", f"{a - b:+.2f}"], what
        assert same[what] == [f"{a:.2f}", f"{a:.2f}", "+0.00"], what


# --- the papers' rows


def test_published_rows_are_those_of_the_model_and_its_data():
    def found(*arguments):
        return [row.method for row in write.published_rows(*arguments)]

    assert found(DATASET.names, "val", "cffm_b2") == ["CFFM, B2", "SegFormer, B2"]
    assert found(DATASET.names, "val", "segformer_b5") == ["SegFormer, B5"]
    assert found(DATASET.names, "val", "cffmp_b1") == ["CFFM+, B1", "SegFormer, B1"]
    assert found(CITYSCAPES, "val", "cffmpp_b0") == ["CFFM++, B0", "CFFM, B0", "SegFormer, B0"]
    assert not found(DATASET.names, "train", "cffm_b1") and not found(DATASET.names[::-1], "val", "cffm_b1")
    assert not found(DATASET.names, "val", "cffm_pvtv2_b1")
    assert found(DATASET.names, "val", "tcb_ppm_r101") == ["TCB ST-PPM, ResNet-101"]
    here = [row.method for row in TABLE1.rows if row.network]
    assert found(DATASET.names, "val") == [*here, "CFFM+, B1"]


def test_masks_of_an_unknown_network_stand_beside_all_rows_and_none_is_theirs(own):
    tree = to_json(made_scores(own, ("predictions",), 3), THREE.names)
    text = "".join(ET.tostring(part, encoding="unicode") for part in figures.figures_section(tree, made_about("")))
    assert ">SegFormer, B0</th>" in text and "published, " not in text
    assert "trained by itself." in text and "parts of one network" not in text


# --- the folder


def test_folder_is_new_and_whole(own, tmp_path, monkeypatch):
    rows = made_scores(own, ("CFFM",), 3)
    (tmp_path / "report").mkdir()
    write.require_place(tmp_path / "report")  # Empty is new.
    monkeypatch.setattr(write, "page", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        written(tmp_path, rows, own, THREE)
    monkeypatch.undo()
    assert not list((tmp_path / "report").iterdir()) and len(list(tmp_path.iterdir())) == 1
    written(tmp_path, rows, own, THREE)
    with pytest.raises(InputError, match="report: exists and is not empty; name a new folder"):
        write.require_place(tmp_path / "report")
    (tmp_path / "file").write_text("")
    for folder in (tmp_path / "file", tmp_path / "file" / "report"):
        with pytest.raises(InputError):
            write.require_place(folder)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "report"]


def test_frame_that_is_gone_is_named(own, tmp_path):
    rows = made_scores(own, ("CFFM",), 3)
    gone = tuple(dataclasses.replace(video, frames=tuple(f"{f}.gone" for f in video.frames)) for video in own)
    with pytest.raises(InputError, match=r"\.png\.gone"):
        written(tmp_path, rows, gone, THREE, samples=lambda _: {3: {"CFFM": np.zeros((64, 128), np.uint8)}})
    assert not list(tmp_path.iterdir())
