"""The report in headless Chromium, without a network: it loads without a word in the console, moves, and shows."""

import io
import os
import shutil

import numpy as np
import pytest
from PIL import Image

from helpers.reports import made_report, made_videos

pytestmark = pytest.mark.browser
CHROMIUM = ("chromium", "chromium-browser", "chromium-headless-shell", "google-chrome", "chrome")
PHONE = {"width": 375, "height": 812}


@pytest.fixture(scope="module")
def browser():
    api = pytest.importorskip("playwright.sync_api", reason="needs playwright: make test-browser installs it")
    found = os.environ.get("CHROMIUM") or next(filter(None, map(shutil.which, CHROMIUM)), None)
    if found is None:
        pytest.skip(f"no Chromium: none of {', '.join(CHROMIUM)} is in PATH; install one, or set CHROMIUM to its file")
    with api.sync_playwright() as playwright:
        # Its sandbox needs rights that containers and root do not have; the pages are the tests' own.
        browser = playwright.chromium.launch(executable_path=found, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    folder = tmp_path_factory.mktemp("report")
    return made_report(folder / "report", made_videos(folder, 24, size=(120, 214))).as_uri()


@pytest.fixture
def opened(browser, report):
    """``opened(scheme, viewport)`` -> the page; at the end it must have said and asked for nothing."""
    contexts, heard = [], []

    def open_page(scheme="light", viewport=None):
        context = browser.new_context(color_scheme=scheme, viewport=viewport, offline=True)
        contexts.append(context)
        page = context.new_page()
        page.on("console", lambda message: heard.append(message.text))
        page.on("pageerror", lambda error: heard.append(str(error)))
        page.on("request", lambda request: heard.append(request.url) if not request.url.startswith("data:") else None)
        page.goto(report)
        return page

    yield open_page
    for context in contexts:
        context.close()
    assert heard == [report] * len(contexts)


def picture(target):
    return np.asarray(Image.open(io.BytesIO(target.screenshot())).convert("RGB")).astype(int)


@pytest.mark.parametrize("viewport", [{"width": 1280, "height": 900}, PHONE], ids=["wide", "phone"])
def test_is_shown_light_and_dark(opened, viewport):
    shots = {scheme: picture(opened(scheme, viewport)) for scheme in ("light", "dark")}
    papers = {scheme: np.median(shot, (0, 1)).mean() for scheme, shot in shots.items()}
    assert papers["light"] > 230 and papers["dark"] < 50
    for scheme, shot in shots.items():
        assert (abs(shot.mean(-1) - papers[scheme]) > 100).mean() > 0.005  # Ink on paper.
        assert len(np.unique(shot.reshape(-1, 3), axis=0)) > 50


def test_fits_a_phone(opened):
    page = opened(viewport=PHONE)
    assert page.evaluate("document.documentElement.scrollWidth") == 375
    assert all(box["x"] >= 0 and box["x"] + box["width"] <= 375 for box in map(boxes_of, page.locator("article").all()))
    assert page.evaluate("[...document.images].every((image) => image.complete && image.naturalWidth > 0)")


def boxes_of(locator):
    return locator.bounding_box()


def test_slider_moves_the_cut(opened):
    page = opened()
    video = page.locator("article").first
    video.scroll_into_view_if_needed()
    stage, slider = video.locator(".compare .frame"), video.locator(".compare input")
    middle = picture(stage)
    slider.focus()
    page.keyboard.press("Home")
    assert slider.input_value() == "0"
    truth = picture(stage)
    page.keyboard.press("ArrowRight")
    assert slider.input_value() == "1"
    page.keyboard.press("End")
    prediction = picture(stage)
    box = stage.bounding_box()
    page.mouse.click(box["x"] + box["width"] / 2, box["y"] + 5)
    assert abs(float(slider.input_value()) - 50) <= 1
    # At the upper edge, where no label lies: left of the cut is the prediction, right of it the truth.
    height, width = truth.shape[0] // 2, truth.shape[1]
    left, right = slice(5, int(0.45 * width)), slice(int(0.55 * width), width - 5)
    for part, same, other in ((left, prediction, truth), (right, truth, prediction)):
        np.testing.assert_allclose(middle[:height, part], same[:height, part], atol=2)
        assert (abs(middle[:height, part] - other[:height, part]).max(-1) > 20).mean() > 0.05


def test_chosen_mask_comes_beside_the_truth(opened):
    page = opened()
    video = page.locator("article").first
    cells = video.locator("button")
    assert cells.count() == 12 and video.locator("button[aria-pressed=true]").count() == 1
    assert video.locator(".tag.left").inner_text() == "CFFM++"
    before = picture(video.locator(".compare .frame"))
    cells.first.focus()
    page.keyboard.press("Enter")
    assert video.locator(".tag.left").inner_text() == "per-frame (SegFormer)"
    assert cells.first.get_attribute("aria-pressed") == "true"
    shown = video.locator(".compare img").evaluate_all("(images) => images.map((image) => image.alt)")
    name = video.locator("h3").inner_text()
    assert shown == [f"per-frame (SegFormer), frame 0 of {name}", f"ground truth, frame 0 of {name}"]
    assert (abs(picture(video.locator(".compare .frame")) - before).max(-1) > 20).mean() > 0.05


def test_prints_pictures_and_whole_tables(opened):
    page = opened()
    page.locator("details").evaluate_all("(parts) => parts.forEach((part) => part.open = true)")
    page.emulate_media(media="print")
    looks = page.locator("article .frame, .bar i, .chip").evaluate_all(
        "(parts) => parts.map((part) => getComputedStyle(part).printColorAdjust)"
    )
    assert len(looks) > 100 and set(looks) == {"exact"}
    assert not page.locator("input[type=range]").first.is_visible()
    assert page.locator(".tall").evaluate("(table) => table.scrollHeight <= table.clientHeight")


def test_masks_fade(opened):
    page = opened()
    cell = page.locator("article button").first
    slider = page.locator(".cover input")
    seen = []
    for value in ("70", "100", "0"):
        slider.fill(value)
        assert float(cell.locator("img").evaluate("(image) => getComputedStyle(image).opacity")) == int(value) / 100
        seen.append(picture(cell))
    assert all(abs(a - b).mean() > 5 for a, b in zip(seen, seen[1:]))


def test_table_is_sorted_by_a_column(opened):
    page = opened()
    page.locator("summary", has_text="24 videos").click()
    button = page.locator("#all-videos th[data-column='2'] button")

    def column(number):
        return [
            float(text) for text in page.locator(f"#all-videos tbody tr td:nth-child({number + 1})").all_inner_texts()
        ]

    button.click()
    assert column(2) == sorted(column(2), reverse=True) and len(column(2)) == 24
    button.click()
    assert column(2) == sorted(column(2))
    page.locator("#all-videos th[data-column='0'] button").click()
    names = page.locator("#all-videos tbody th").all_inner_texts()
    assert names == [f"{n}_video" for n in range(24)]


def test_shows_its_pictures_without_scripts(browser, report):
    context = browser.new_context(java_script_enabled=False, offline=True)
    page = context.new_page()
    page.goto(report)
    assert page.locator(".compare").first.is_hidden()
    assert len(np.unique(picture(page.locator("article button img").first).reshape(-1, 3), axis=0)) > 3
    context.close()
