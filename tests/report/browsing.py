"""A headless browser for tests of the report: start it, act on a page, read the page."""

import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

ARGUMENTS = (
    *("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync"),
    *("--disable-background-networking", "--disable-component-update", "--disable-dev-shm-usage"),
)
NAMES = ("chromium", "chromium-browser", "google-chrome")
PAIRS = "return [...document.querySelectorAll('.explorer figure')].filter(each => !each.hidden)"


@contextmanager
def opened_browser(profile: Path) -> Iterator:
    """Open a headless Chromium with a new profile; skip the test if there is none."""
    webdriver = pytest.importorskip("selenium.webdriver", reason="no selenium here: pip install selenium")
    chromium, driver = next(filter(None, map(shutil.which, NAMES)), None), shutil.which("chromedriver")
    if chromium is None or driver is None:
        pytest.skip("no chromium and chromedriver here: install both to test the report in a browser")
    options = webdriver.ChromeOptions()
    options.binary_location = chromium
    for argument in (*ARGUMENTS, f"--user-data-dir={profile}"):
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    browser = webdriver.Chrome(options=options, service=webdriver.ChromeService(executable_path=driver))
    try:
        browser.set_script_timeout(20)
        yield browser
    finally:
        browser.quit()


def resize(browser, width: int, height: int) -> None:
    metrics = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 500}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)


def prefer(browser, scheme: str, motion: str = "reduce") -> None:
    """Set the colour scheme and the motion that the system prefers."""
    preferences = {"prefers-color-scheme": scheme, "prefers-reduced-motion": motion}
    features = [{"name": name, "value": value} for name, value in preferences.items()]
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})


def shown(browser, attribute: str) -> list[str]:
    """Return an attribute of the visible pairs, in their order."""
    return browser.execute_script(f"{PAIRS}.map(each => each.dataset.{attribute})")


def choose(browser, name: str, value: str) -> None:
    """Set a field and send the event that a person's input sends."""
    browser.execute_script(
        "const field = document.querySelector(`.controls [name=${arguments[0]}]`);"
        "field.value = arguments[1]; field.dispatchEvent(new Event('input', {bubbles: true}))",
        name,
        value,
    )


def reset(browser) -> None:
    browser.find_element("css selector", ".controls [type=reset]").click()
    time.sleep(0.05)


def count(browser) -> str:
    """Return the text of the page about the number of visible pairs."""
    return browser.execute_script("return document.querySelector('.controls .count').textContent")


def show_all(browser) -> None:
    browser.execute_script("const more = document.querySelector('.more'); while (!more.hidden) more.click()")


def press(browser, key: str) -> None:
    browser.switch_to.active_element.send_keys(key)


def paper(browser) -> str:
    """Return the background colour of the page."""
    return browser.execute_script("return getComputedStyle(document.body).backgroundColor")
