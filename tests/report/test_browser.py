"""The report in a real browser: it requests nothing else, and every control works."""

import json
import time
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from tests.finished_run import (
    EVIL_NAME,
    HEIGHT,
    WIDTH,
    write_pair_tables,
    write_results,
    write_stages,
)
from tests.report.browsing import PAIRS, choose, count, paper, prefer, press, reset, resize, show_all, shown

from orl.config import save_config
from orl.datasets.image_table import ImageTable, save_image_table
from orl.datasets.labels import LabelledSplit
from orl.recipes import demo
from orl.report.options import Annotations, GalleryOptions
from orl.report.report import write_report
from orl.rundir import RunDir

NUM_IMAGES, PAGE = 20, 12
HOSTILE_NAMES = (EVIL_NAME, "</script><script>alert(2)</script>.png", "'><img src=x onerror=alert(3)>.png")


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write the report of a run; some of its images have hostile names."""
    root = tmp_path_factory.mktemp("browser")
    run = RunDir(root / "run")
    generator = np.random.default_rng(0)
    numbered = (f"image_{index}.png" for index in range(NUM_IMAGES))
    names = tuple(hostile.replace("/", "∕") for hostile in HOSTILE_NAMES) + tuple(numbered)
    (root / "images").mkdir()
    for name in names:
        noise = generator.integers(0, 255, (HEIGHT // 8, WIDTH // 8, 3), dtype=np.uint8)
        Image.fromarray(noise.repeat(8, axis=0).repeat(8, axis=1)).save(root / "images" / name)
    digests = tuple(f"{index:x}" for index in range(len(names)))
    sizes_wh = ((WIDTH, HEIGHT),) * len(names)
    save_image_table(ImageTable(root=root / "images", names=names, sizes_wh=sizes_wh, digests=digests), run.images)
    run.rejected.write_text(f'name,reason\nx.jpg,"{HOSTILE_NAMES[1]}"\n')
    images = np.arange(len(names), dtype=np.int32)
    write_pair_tables(run, images, np.stack([(images + step) % len(names) for step in (1, 2, 3)], axis=1))
    write_stages(run)
    write_results(run)
    options = GalleryOptions(attention_side_px=64)
    save_config(demo(root / "images", run.root), run.config)
    return write_report([run.root], options=options, annotate=lambda _: Annotations(labels=labels_of(names)))


def labels_of(names: tuple[str, ...]) -> LabelledSplit:
    """Return labels: an object at the first box of every even image and at the second of every third."""
    boxes = [[[8, 8, 40, 40]] * (index % 2 == 0) + [[30, 10, 90, 60]] * (index % 3 == 0) for index in range(len(names))]
    return LabelledSplit(
        root=Path(),
        names=names,
        classes=("cat", "</option><script>alert(4)</script>"),
        labels=np.full((len(names), 2), -1, dtype=np.int8),
        boxes=tuple(np.array(each, dtype=np.float32).reshape(-1, 4) for each in boxes),
        box_classes=tuple(np.arange(len(each), dtype=np.int64) % 2 for each in boxes),
        box_difficult=tuple(np.zeros(len(each), dtype=bool) for each in boxes),
    )


@pytest.fixture
def browser(session, report: Path):
    """Open the report at the size of a desktop, in a light system."""
    resize(session, 1280, 900)
    prefer(session, "light")
    for kind in ("browser", "performance"):
        session.get_log(kind)
    session.get(report.as_uri())
    yield session
    session.execute_script("try { localStorage.clear() } catch {}")


def test_the_page_requests_nothing_else_and_logs_nothing(browser, report):
    time.sleep(0.3)
    events = [json.loads(entry["message"])["message"] for entry in browser.get_log("performance")]
    requests = [event["params"] for event in events if event["method"] == "Network.requestWillBeSent"]
    requested = [request["request"]["url"] for request in requests]
    assert requested[0] == report.as_uri()
    assert [url[:60] for url in requested[1:] if not url.startswith(("data:", "blob:"))] == []
    assert browser.get_log("browser") == []
    assert browser.execute_script("return performance.getEntriesByType('resource').length") == 0


def test_every_picture_loads_and_has_a_description(browser):
    pictures = browser.execute_async_script(
        """
        const done = arguments[0];
        const decoded = (address) => { const image = new Image(); image.src = address;
          return image.decode().then(() => image.naturalWidth, () => 0); };
        const images = [...document.images].map(async each => [await decoded(each.src), each.alt]);
        const thumbnails = [...document.querySelectorAll('image')]
          .map(async each => [await decoded(each.href.baseVal), each.id]);
        Promise.all([...images, ...thumbnails]).then(done);
        """
    )
    assert len(pictures) > NUM_IMAGES
    assert all(width > 0 and words.strip() for width, words in pictures)
    drawings = browser.execute_script(
        "return [...document.querySelectorAll('svg[role=img]')].map(each => [each.getAttribute('aria-label'),"
        " [...each.querySelectorAll('use')].every(use => document.querySelector(use.getAttribute('href')))])"
    )
    assert all(words and is_complete for words, is_complete in drawings)
    assert (
        browser.execute_script("return document.querySelector('svg[role=img] use').getBoundingClientRect().width") > 50
    )


def test_hostile_names_are_shown_and_run_no_script(browser):
    text = browser.execute_script("return document.body.textContent")
    for number in range(1, 5):
        assert f"alert({number})" in text
    scripts, handlers = browser.execute_script(
        "return [document.scripts.length, [...document.querySelectorAll('*')].filter(each => "
        "[...each.attributes].some(attribute => attribute.name.startsWith('on'))).length]"
    )
    assert (scripts, handlers) == (3, 0)
    browser.execute_script(
        "const added = document.createElement('script'); added.textContent = 'window.ran = true';"
        "document.head.append(added)"
    )
    assert browser.execute_script("return window.ran ?? null") is None, "a script that is not ours has run"


def test_each_order_sorts_the_pairs(browser):
    first = shown(browser, "similarity")
    assert len(first) == PAGE
    assert first == sorted(first, key=float, reverse=True)
    show_all(browser)
    all_similarities = shown(browser, "similarity")
    assert len(all_similarities) > PAGE
    choose(browser, "sort", "lowest")
    assert shown(browser, "similarity") == sorted(all_similarities, key=float)[:PAGE]
    choose(browser, "sort", "name")
    show_all(browser)
    names = [name for name in shown(browser, "query") if name.startswith("image_")]
    assert names == sorted(names, key=lambda name: int(name[6:-4]))
    assert len(set(names)) > 3
    orders = []
    for _ in range(4):
        choose(browser, "sort", "random")
        show_all(browser)
        orders.append(tuple(shown(browser, "similarity")))
    assert len(set(orders)) > 1
    assert all(sorted(order) == sorted(all_similarities) for order in orders)


def test_each_filter_selects_its_pairs_and_counts_them(browser):
    show_all(browser)
    all_pairs = list(zip(*(shown(browser, name) for name in ("kinds", "names", "similarity", "covers"))))
    assert count(browser) == f"{len(all_pairs)} pairs shown"
    filters = {
        ("kind", "random"): lambda kinds, names, similarity, covers: "random" in kinds.split(),
        ("kind", "lowest"): lambda kinds, names, similarity, covers: "lowest" in kinds.split(),
        ("text", "IMAGE_1"): lambda kinds, names, similarity, covers: "image_1" in names,
        ("text", "alert(2)</script>".replace("/", "∕")): lambda kinds, names, similarity, covers: "alert(2)" in names,
        ("least", "0.8"): lambda kinds, names, similarity, covers: float(similarity) >= 0.8,
        ("covers", "both"): lambda kinds, names, similarity, covers: "both" in covers.split(),
        ("covers", "same"): lambda kinds, names, similarity, covers: "same" in covers.split(),
        ("covers", "none"): lambda kinds, names, similarity, covers: covers == "none",
    }
    for (name, value), holds in filters.items():
        reset(browser)
        choose(browser, name, value)
        show_all(browser)
        expected = [pair for pair in all_pairs if holds(*pair)]
        found = list(zip(*(shown(browser, each) for each in ("kinds", "names", "similarity", "covers"))))
        assert found == expected, (name, value)
        assert count(browser) == f"{len(expected)} of {len(all_pairs)} pairs shown"
        assert len(expected) < len(all_pairs), (name, value)
    choose(browser, "covers", "")
    choose(browser, "text", "no such image")
    assert shown(browser, "names") == []
    assert count(browser) == f"0 of {len(all_pairs)} pairs shown"


def test_reset_shows_all_pairs_in_the_first_order(browser):
    before = shown(browser, "names"), count(browser)
    for name, value in {"sort": "lowest", "kind": "query", "text": "image", "least": "0.7"}.items():
        choose(browser, name, value)
    assert (shown(browser, "names"), count(browser)) != before
    reset(browser)
    assert (shown(browser, "names"), count(browser)) == before


def test_show_more_adds_a_page_and_moves_the_focus_to_it(browser):
    assert f"pairs match, {PAGE} shown" in count(browser)
    browser.find_element("css selector", ".more").send_keys("\ue007")
    assert len(shown(browser, "names")) == 2 * PAGE
    focused = browser.execute_script(
        f"const pairs = (() => {{ {PAIRS} }})(); return pairs.indexOf(document.activeElement.closest('figure'))"
    )
    assert focused == PAGE


def test_arrow_keys_step_through_enlarged_pictures(browser):
    choose(browser, "kind", "top")
    captions = browser.execute_script(f"{PAIRS}.map(each => each.querySelector('figcaption').textContent)")
    is_open = "return document.querySelector('dialog').open"
    caption = "return document.querySelector('dialog figcaption').textContent"
    small = browser.execute_script(
        "return document.querySelector('.explorer figure svg').getBoundingClientRect().width"
    )
    browser.execute_script("document.querySelector('.explorer figure .zoom').focus()")
    press(browser, "\ue007")  # enter
    assert browser.execute_script(is_open)
    large = browser.execute_script("return document.querySelector('dialog svg').getBoundingClientRect().width")
    assert large > 1.5 * small
    assert browser.execute_script(caption) == captions[0]
    press(browser, "\ue012")  # left: there is none before the first
    assert browser.execute_script(caption) == captions[0]
    for expected in captions[1:]:
        press(browser, "\ue014")  # right
        assert browser.execute_script(caption) == expected
    assert browser.execute_script("return document.querySelector('dialog .where').textContent") == f"{PAGE} of {PAGE}"
    assert browser.execute_script("return document.querySelector('dialog').contains(document.activeElement)")
    press(browser, "\ue012")
    assert browser.execute_script(caption) == captions[-2]
    press(browser, "\ue00c")  # escape
    assert not browser.execute_script(is_open)
    time.sleep(0.1)  # the dialog sends its close event a little later
    focused = "return document.activeElement.closest('figure').querySelector('figcaption').textContent"
    assert browser.execute_script(focused) == captions[-2]


def test_a_click_enlarges_charts_and_neighbours(browser):
    for section in ("attention", "neighbours", "proposals-and-kept-rois", "training-curves"):
        zoom = browser.find_element("css selector", f"#{section} .zoom")
        browser.execute_script("arguments[0].scrollIntoView({block: 'center', behavior: 'instant'})", zoom)
        zoom.click()
        assert (
            browser.execute_script("return document.querySelector('dialog .picture').getBoundingClientRect().width")
            > 600
        )
        browser.find_element("css selector", "dialog .bar-top button:last-child").click()
        assert not browser.execute_script("return document.querySelector('dialog').open")


def test_a_chosen_theme_overrides_the_system_and_is_remembered(browser):
    light = paper(browser)
    prefer(browser, "dark")
    dark = paper(browser)
    assert light != dark
    radio = "document.querySelector('.theme [value={}]').click()"
    browser.execute_script(radio.format("light"))
    assert paper(browser) == light
    for _ in range(10):  # Chromium stores the choice asynchronously, and may load the page before it has
        browser.refresh()
        if paper(browser) == light:
            break
        time.sleep(0.2)
    assert paper(browser) == light
    assert browser.execute_script("return document.querySelector('.theme :checked').value") == "light"
    browser.execute_script(radio.format("auto"))
    assert paper(browser) == dark
    prefer(browser, "light")
    browser.execute_script(radio.format("dark"))
    assert paper(browser) == dark


def test_the_theme_changes_without_local_storage(browser, report):
    broken = "Object.defineProperty(window, 'localStorage', {get() { throw new DOMException('no', 'SecurityError') }})"
    script = browser.execute_cdp_cmd("Page.addScriptToEvaluateOnNewDocument", {"source": broken})
    try:
        browser.get(report.as_uri())
        light = paper(browser)
        browser.execute_script("document.querySelector('.theme [value=dark]').click()")
        assert paper(browser) != light
        assert len(shown(browser, "names")) == PAGE
        assert browser.get_log("browser") == []
    finally:
        browser.execute_cdp_cmd("Page.removeScriptToEvaluateOnNewDocument", script)


@pytest.mark.parametrize("width", [320, 360])
def test_a_phone_needs_no_sideways_scrolling(browser, width):
    resize(browser, width, 740)
    assert browser.execute_script("return document.documentElement.scrollWidth") <= width
    outside = browser.execute_script(
        "return [...document.querySelectorAll('.controls *, .theme *, .more, .plain')].filter(each => "
        "each.getBoundingClientRect().right > innerWidth + 0.5).map(each => each.outerHTML.slice(0, 80))"
    )
    assert outside == []
    browser.execute_script("document.querySelector('.explorer .zoom').click()")
    assert browser.execute_script("return document.querySelector('dialog').getBoundingClientRect().right") <= width
    buttons = "return [...document.querySelectorAll('dialog button')].map(each => each.getBoundingClientRect().right)"
    assert max(browser.execute_script(buttons)) <= width


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_has_enough_contrast(browser, scheme):
    prefer(browser, scheme)
    ratios = browser.execute_script(
        """
        const parse = (colour) => colour.match(/[\\d.]+/g).map(Number);
        const light = ([r, g, b]) => [r, g, b].map(each => each / 255)
          .map(each => each <= 0.04045 ? each / 12.92 : ((each + 0.055) / 1.055) ** 2.4)
          .reduce((sum, each, index) => sum + each * [0.2126, 0.7152, 0.0722][index], 0);
        const ground = (element) => { const colour = parse(getComputedStyle(element).backgroundColor);
          return colour.length < 4 || colour[3] === 1 ? colour : ground(element.parentElement); };
        const words = document.querySelectorAll('h1, h2, h3, p, td, th, dt, dd, label, a, figcaption, caption, summary,'
          + ' .chip, .tile span, .cell, .theme span, button.plain, .range, .missing, footer li');
        return [...words].filter(each => each.textContent.trim() && each.checkVisibility()).map(each => {
          const [a, b] = [light(parse(getComputedStyle(each).color)), light(ground(each))];
          const ratio = (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
          return [ratio, each.className, each.tagName, each.textContent.slice(0, 30)];
        });
        """
    )
    assert len(ratios) > 100
    assert [ratio for ratio in ratios if ratio[0] < 4.5] == []


def test_without_scripts_all_pairs_are_visible(browser, report):
    browser.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": True})
    try:
        browser.get(report.as_uri())
        # Without scripts the driver cannot ask whether the page is complete: on a busy machine it may return before.
        wait = pytest.importorskip("selenium.webdriver.support.ui").WebDriverWait(browser, 30)
        wait.until(lambda driver: len(driver.find_elements("css selector", "footer")) == 1)
        figures = browser.find_elements("css selector", ".explorer figure")
        assert len(figures) > PAGE
        assert all(figure.is_displayed() for figure in figures)
        hidden = browser.find_elements("css selector", ".controls, .theme, .more")
        assert len(hidden) == 3
        assert not any(each.is_displayed() for each in hidden)
    finally:
        browser.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": False})


def test_headings_step_down_one_by_one(browser):
    levels = browser.execute_script(
        "return [...document.querySelectorAll('h1, h2, h3, h4')].map(each => +each.tagName[1])"
    )
    assert levels[0] == 1
    assert levels.count(1) == 1
    assert all(after <= before + 1 for before, after in pairwise(levels))


def test_scrolling_is_not_animated_if_the_system_prefers_reduced_motion(browser):
    moves = "return getComputedStyle(document.documentElement).scrollBehavior"
    assert browser.execute_script(moves) == "auto"
    prefer(browser, "light", motion="no-preference")
    assert browser.execute_script(moves) == "smooth"
