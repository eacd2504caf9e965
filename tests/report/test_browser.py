"""The page in a real browser: it draws, series are switched, files are saved, and nothing is asked of a network."""

from __future__ import annotations

import csv
import io
import shutil
import time
import xml.etree.ElementTree as ElementTree

import pytest
from reporting import about, data_of, everything, put, write

pytestmark = pytest.mark.slow
CHROMIUM, DRIVER = shutil.which("chromium"), shutil.which("chromedriver")
FLAGS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync",
)  # fmt: skip
WAIT = 60  # seconds
SVG = "{http://www.w3.org/2000/svg}"


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    if CHROMIUM is None or DRIVER is None:
        pytest.skip("there is no browser here: apt-get install -y --no-install-recommends chromium chromium-driver")
    from selenium import webdriver
    from selenium.webdriver.chrome.service import Service

    options = webdriver.ChromeOptions()
    for flag in (*FLAGS, f"--user-data-dir={tmp_path_factory.mktemp('profile')}"):
        options.add_argument(flag)
    options.binary_location = CHROMIUM
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    driver = webdriver.Chrome(options=options, service=Service(DRIVER))
    yield driver
    driver.quit()


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    """(page, rows)"""
    return write(tmp_path_factory.mktemp("report"), everything())


@pytest.fixture
def shown(browser, report):
    show(browser, report[0], 1280)
    return browser


def show(browser, path, width):
    size = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": False}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    browser.get(path.as_uri())
    wait(lambda: browser.execute_script("return document.documentElement.dataset.ready") == "yes")


def wait(until):
    end = time.monotonic() + WAIT
    while not (found := until()):
        assert time.monotonic() < end, "the browser takes too long"
        time.sleep(0.1)
    return found


def visible(browser, figure):
    """The series of a figure that are drawn."""
    script = (
        f"return [...document.querySelectorAll('#{figure} .plot')].flatMap(p => p._fullData)"
        ".filter(t => t.visible === true).map(t => t.meta)"
    )
    return set(browser.execute_script(script))


def saved(browser, folder, figure, kind):
    browser.execute_cdp_cmd("Browser.setDownloadBehavior", {"behavior": "allow", "downloadPath": str(folder)})
    browser.find_element("css selector", f"#{figure} [data-save='{kind}']").click()
    path = folder / f"{figure}.{kind}"
    wait(lambda: path.exists() and path.stat().st_size)
    return path.read_text(encoding="utf-8")


def test_every_panel_is_drawn_and_nothing_complains(shown, report):
    assert shown.get_log("browser") == []
    figures = data_of(report[0])["figures"]
    n_panels = sum(len(figure["panels"]) for figure in figures)
    assert n_panels == len(shown.find_elements("css selector", ".plot .main-svg:first-child"))
    assert shown.title == "layertool report", "a name has run"
    lines = shown.find_elements("css selector", "#figure-1-0 .scatterlayer .js-line")
    assert len(lines) >= 5


def test_a_click_and_a_key_switch_a_series(shown):
    from selenium.webdriver.common.keys import Keys

    button = shown.find_element("css selector", "#figure-1 .legend button[data-series='s1']")
    before = visible(shown, "figure-1")
    assert "s1" in before
    button.click()
    wait(lambda: visible(shown, "figure-1") == before - {"s1"})
    assert button.get_attribute("aria-pressed") == "false"
    for key, there in ((Keys.ENTER, before), (Keys.SPACE, before - {"s1"})):
        button.send_keys(key)
        wait(lambda there=there: visible(shown, "figure-1") == there)


def test_arrow_keys_read_the_points(shown):
    from selenium.webdriver.common.keys import Keys

    plot = shown.find_element("id", "figure-1-0")
    said = shown.find_element("css selector", "#figure-1 .live")
    plot.send_keys(Keys.ARROW_DOWN)
    plot.send_keys(Keys.ARROW_RIGHT)
    assert said.text == "base, T0; 0.3333; chance 0.1; n = 1 133"
    assert shown.find_elements("css selector", "#figure-1-0 .hoverlayer .hovertext")


def test_the_pointer_reads_a_number(shown):
    from selenium.webdriver import ActionChains

    (point, *_) = shown.find_elements("css selector", "#figure-1-0 .scatterlayer .point")
    ActionChains(shown).move_to_element(point).perform()
    wait(
        lambda: (
            "n = 1 133" in shown.execute_script("return document.querySelector('#figure-1-0 .hoverlayer').textContent")
        )
    )


def test_rows_are_saved_as_they_are(shown, report, tmp_path):
    path, rows = report
    for figure in data_of(path)["figures"][:3]:
        found = list(csv.reader(io.StringIO(saved(shown, tmp_path, figure["id"], "csv"))))
        assert found[0] == list(rows.columns)
        assert len(found) == len(figure["rows"]) + 1
        for line, k in zip(found[1:], figure["rows"], strict=True):
            known = rows.loc[k]
            for name, cell in zip(found[0], line, strict=True):
                if isinstance(known[name], str):
                    assert cell == known[name]
                else:
                    assert (cell == "" and known[name] != known[name]) or float(cell) == known[name]


def test_a_drawing_is_saved_with_panels_and_legend(shown, tmp_path):
    button = shown.find_element("css selector", "#figure-1 .legend button[data-series='s1']")
    button.click()
    text = saved(shown, tmp_path, "figure-1", "svg")
    root = ElementTree.fromstring(text)
    words = ["".join(node.itertext()) for node in root.iter(f"{SVG}text")]
    assert {"phone", "word", "base", "mel", "T2", "layer"} <= set(words)
    assert "large" not in words, "it was switched off"
    assert len(list(root.iter(f"{SVG}svg"))) > 2
    assert "<script" not in text
    assert float(root.get("width")) > 300


@pytest.mark.parametrize("width", [1280, 400])
def test_it_fits_and_asks_for_nothing(browser, report, width):
    show(browser, report[0], width)
    for details in browser.find_elements("css selector", "details"):
        browser.execute_script("arguments[0].open = true", details)
    needed, there = browser.execute_script("return [document.documentElement.scrollWidth, innerWidth]")
    assert there == width
    assert needed <= width
    asked = browser.execute_script("return performance.getEntriesByType('resource').map(r => r.name)")
    assert [name for name in asked if not name.startswith(("data:", "blob:"))] == []
    plots = browser.execute_script(
        "return [...document.querySelectorAll('.plot')].map(p => [p.clientWidth, p.layout.width])"
    )
    assert all(drawn <= place for place, drawn in plots)


def test_panels_follow_the_window(browser, report):
    show(browser, report[0], 1280)
    size = {"width": 400, "height": 900, "deviceScaleFactor": 1, "mobile": False}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    wait(
        lambda: browser.execute_script(
            "return [...document.querySelectorAll('.plot')].every(p => p.layout.width === p.clientWidth)"
        )
    )
    assert browser.execute_script("return document.documentElement.scrollWidth") <= 400


def test_provenance_is_printed(browser, tmp_path):
    put(tmp_path / "stores/base", about())
    page, _ = write(tmp_path, everything())
    show(browser, page, 1280)
    state = "return [...document.querySelectorAll(\"section[aria-labelledby='provenance'] details\")].map(d => d.open)"
    assert not any(browser.execute_script(state))
    browser.execute_script("dispatchEvent(new Event('beforeprint'))")
    assert all(browser.execute_script(state))
    browser.execute_script("dispatchEvent(new Event('afterprint'))")
    assert not any(browser.execute_script(state))
