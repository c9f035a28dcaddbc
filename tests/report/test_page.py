"""The report in a real browser: wide and narrow, light and dark, by mouse and by keyboard."""

from __future__ import annotations

import io
import shutil

import numpy as np
import pytest
from makers import tiny, write_images
from PIL import Image

from featstore.extraction.extract import extract
from featstore.fitting.fit import fit
from featstore.report.write import write_report
from featstore.store.feature_store import open_store

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "chrome", "msedge")

# Colours as the browser has them, of all elements with text of their own.
CONTRASTS = """
() => {
  const channels = (c) => c.match(/[\\d.]+/g).map(Number);
  const light = (c) => c.map((v) => v / 255)
    .map((v) => v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4)
    .reduce((sum, v, i) => sum + v * [0.2126, 0.7152, 0.0722][i], 0);
  const over = (c, below) => {
    const [r, g, b, a = 1] = channels(c);
    return [r, g, b].map((v, i) => a * v + (1 - a) * below[i]);
  };
  const behind = (e) => e ? over(getComputedStyle(e).backgroundColor, behind(e.parentElement))
    : [255, 255, 255];
  const own = (e) => [...e.childNodes].some((n) => n.nodeType === 3 && n.textContent.trim());
  return [...document.body.querySelectorAll("*:not(script):not(svg *)")].filter(own).map((e) => {
    const below = behind(e), text = over(getComputedStyle(e).color, below);
    const pair = [light(text), light(below)].sort((a, b) => b - a);
    return [e.tagName, e.textContent.trim().slice(0, 30), (pair[0] + 0.05) / (pair[1] + 0.05)];
  });
}
"""


# Words of the main table's names that stand on two lines.
BROKEN_WORDS = """
() => [...document.querySelectorAll("table.wide tbody th a")].flatMap((e) => {
  const broken = [];
  for (const node of e.childNodes) if (node.nodeType === 3) {
    for (const word of node.textContent.matchAll(/[\\p{L}\\d]+/gu)) {
      const range = document.createRange();
      range.setStart(node, word.index);
      range.setEnd(node, word.index + word[0].length);
      const tops = new Set([...range.getClientRects()].map((box) => Math.round(box.top)));
      if (tops.size > 1) broken.push(word[0]);
    }
  }
  return broken;
})
"""


@pytest.fixture(scope="module")
def browser():
    playwright = pytest.importorskip("playwright.sync_api")
    path = next(filter(None, map(shutil.which, BROWSERS)), None)
    if path is None:
        pytest.skip("no browser here: " + ", ".join(BROWSERS))
    with playwright.sync_playwright() as started:
        opened = started.chromium.launch(executable_path=path)
        yield opened
        opened.close()


@pytest.fixture(scope="module")
def page_path(tmp_path_factory):
    """Write a report of 5 runs on small pictures, some of which are mislabelled."""
    tmp_path = tmp_path_factory.mktemp("page")
    images = write_images(tmp_path / "images")
    for i in range(3):
        wrong = images / "test" / "water" / f"moved{i}.png"
        shutil.copy(images / "test" / "sand" / f"sand{i:02d}.png", wrong)
    store = open_store(tmp_path / "store")
    extract(store=store, **tiny(images, layers="conv1,fc"))
    runs = fit(store, ["logreg", "ridge"], layers=["conv1", "fc"], n_jobs=1)
    runs += fit(store, "softmax", layers="conv1,fc", n_epochs=5)
    left_out = ["sat4: found no sat-4-full.mat; looked in " + "a/very/long/path/" * 12]
    path = tmp_path / "report.html"
    write_report(store, runs, path, projection="pca", left_out=left_out, command="featstore x")
    return path


@pytest.fixture
def show(browser, page_path):
    """Open the page as a screen of some width shows it; nothing may be fetched or go wrong."""
    opened, trouble = [], []

    def open_page(width=1200, scheme="light", **options):
        page = browser.new_page(
            viewport={"width": width, "height": 900}, color_scheme=scheme, **options
        )
        page.on("pageerror", lambda error: trouble.append(str(error)))
        page.on("console", lambda message: trouble.append(message.text))
        fetched = lambda r: trouble.append(r.url) if not r.url.startswith(("file:", "data:")) else 0  # noqa: E731
        page.on("request", fetched)
        page.goto(page_path.as_uri())
        opened.append(page)
        return page

    yield open_page
    for page in opened:
        page.close()
    assert trouble == []


@pytest.mark.parametrize(
    ("width", "scheme"),
    [
        (320, "light"),
        (1920, "dark"),
        *(pytest.param(w, s, marks=pytest.mark.soak) for w, s in [(390, "dark"), (768, "light")]),
    ],
)
def test_the_page_fits_its_screen(show, width, scheme):
    page = show(width, scheme)
    for details in page.locator("details").all():
        details.evaluate("e => e.open = true")
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    # The main table needs no scrolling, and no name in it is broken inside a word.
    boxes = page.locator("div[aria-label^='All runs']")
    assert boxes.evaluate_all("all => all.every((e) => e.scrollWidth <= e.clientWidth)")
    # A phone cuts off no figure and no table.
    cut = page.locator("figure, .scroll").evaluate_all(
        "all => all.filter((e) => e.scrollWidth > e.clientWidth + 1).map((e) => e.ariaLabel)"
    )
    assert cut == []
    broken = page.evaluate(BROKEN_WORDS)
    assert broken == []
    # What is wider scrolls by itself, and can be reached by keyboard.
    stuck = page.evaluate(
        """() => [...document.querySelectorAll("div, figure")].filter((e) =>
          e.scrollWidth > e.clientWidth + 1 && getComputedStyle(e).overflowX === "auto"
          && e.tabIndex < 0).map((e) => e.outerHTML.slice(0, 80))"""
    )
    assert stuck == []
    picture = np.asarray(Image.open(io.BytesIO(page.screenshot(full_page=True))).convert("L"))
    corner = picture[0, 0]
    assert (corner < 60) == (scheme == "dark")
    # There is something to see all the way down.
    for band in np.array_split(picture, 6):
        assert (np.abs(band.astype(int) - corner) > 60).any()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_all_text_stands_out_from_its_background(show, scheme):
    faint = [entry for entry in show(scheme=scheme).evaluate(CONTRASTS) if entry[2] < 4.5]
    assert faint == []


def test_figures_have_a_name_and_readable_text_in_the_pages_colour(show):
    page = show(scheme="dark")
    for svg in page.locator("svg").all():
        assert svg.get_attribute("role") == "img"
        assert len(svg.get_attribute("aria-label")) > 10
    ink = page.evaluate("getComputedStyle(document.body).color")
    fills = page.evaluate(
        "[...document.querySelectorAll('figure.bars svg text')].map(t => getComputedStyle(t).fill)"
    )
    assert fills
    assert set(fills) == {ink}
    sizes = page.evaluate(
        "[...document.querySelectorAll('svg text')].map(t => t.getBoundingClientRect().height)"
        ".filter(h => h > 0)"
    )
    assert min(sizes) >= 8


def test_a_button_copies_the_command_that_labels_new_images(show):
    page = show()
    page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    box = page.locator(".copy").first
    box.locator("button").click()
    page.wait_for_function("document.querySelector('.copy button').textContent === 'Copied'")
    copied = page.evaluate("navigator.clipboard.readText()")
    assert copied == box.locator("pre").inner_text()
    assert copied.startswith("featstore predict images-resnet18-")
    assert " images/ --store " in copied


def test_pictures_are_shown_and_named(show):
    page = show()
    pictures = page.locator("img")
    assert pictures.count() >= 4
    for picture in pictures.all():
        assert picture.evaluate("e => e.complete && e.naturalWidth") > 0
        assert "labelled" in picture.get_attribute("alt")


def values(page, table, column):
    cells = page.locator(table).first.locator(f"tbody tr > :nth-child({column})")
    return [float(cell.get_attribute("data-value")) for cell in cells.all()]


def test_tables_are_sorted_by_mouse_and_by_keyboard(show):
    page = show()
    table = "div[aria-label^='All runs'] table"
    head = page.locator(table).first.locator("thead th").nth(1)
    before = values(page, table, 2)
    head.locator("button").click()
    assert head.get_attribute("aria-sort") == "descending"
    assert values(page, table, 2) == sorted(before, reverse=True)
    head.locator("button").focus()
    page.keyboard.press("Enter")
    assert head.get_attribute("aria-sort") == "ascending"
    assert values(page, table, 2) == sorted(before)
    first = page.locator(table).first.locator("thead th").nth(0)
    first.locator("button").focus()
    page.keyboard.press("Space")
    names = page.locator(table).first.locator("tbody tr > :nth-child(1)").all_inner_texts()
    assert names == sorted(names)
    assert head.get_attribute("aria-sort") is None


def test_a_link_in_the_table_opens_its_run(show):
    page = show()
    link = page.locator("div[aria-label^='All runs'] tbody th a").last
    target = link.get_attribute("href")
    details = page.locator(target)
    assert not details.evaluate("e => e.open")
    link.focus()
    page.keyboard.press("Enter")
    # The browser tells of the new address in a turn of its own.
    page.wait_for_function("id => document.querySelector(id).open", arg=target)
    assert details.evaluate("e => Math.abs(e.getBoundingClientRect().top) < 900")


def test_headings_go_down_by_one_and_tables_have_heads(show):
    page = show()
    levels = [
        int(tag[1])
        for tag in page.evaluate(
            "[...document.querySelectorAll('h1,h2,h3,h4')].map(h => h.tagName)"
        )
    ]
    assert levels[0] == 1
    assert levels.count(1) == 1
    assert all(b - a <= 1 for a, b in zip(levels, levels[1:], strict=False))
    assert page.evaluate("[...document.querySelectorAll('thead th')].every(h => h.scope)")
    assert page.evaluate("document.documentElement.lang") == "en"


def test_without_scripts_everything_is_there(show, browser, page_path):
    context = browser.new_context(java_script_enabled=False)
    page = context.new_page()
    page.goto(page_path.as_uri())
    assert page.locator("details").count() == 6
    page.locator("details summary").last.click()
    assert page.locator("details").last.get_attribute("open") is not None
    context.close()
