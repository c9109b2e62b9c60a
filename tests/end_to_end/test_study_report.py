"""A study's report in headless Chromium; needs the extra `browser`, Chromium and chromedriver."""

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy
import pytest
import torch
from PIL import Image

from steepest.diagnostics.landscape.objective_path import ObjectivePath
from steepest.lightning_modules.objectives import Rosenbrock
from steepest.study.report.page import write_report
from steepest.study.trials.results import load_results
from tests.steepest.study.synthetic import TUNING, write_study

webdriver = pytest.importorskip("selenium.webdriver", reason="needs the extra `browser`")
DRIVER = shutil.which("chromedriver")

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(DRIVER is None, reason="needs chromedriver and Chromium, from the system's packages"),
    # Of selenium and of processes that end with the test.
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
]

FIGURES = """\
figures:
- {kind: curves}
- {kind: bars}
- {kind: panels}
- {kind: sensitivity}
- {kind: targets}
- {kind: layers}
- {kind: trajectories}
- {kind: gallery, file: figures/map.png}
"""


@pytest.fixture(scope="module")
def page(tmp_path_factory) -> Path:
    """A report with every kind of picture: SVG, PNG, GIF, wide, side by side, and one that is missing."""
    folder = write_study(tmp_path_factory.mktemp("study"), TUNING + FIGURES, question="A " + "long" * 40 + " word?")
    surface = Rosenbrock()
    path = ObjectivePath()
    for step in range(60):
        path.append(step, torch.tensor([-1.2 + 0.03 * step, 1.0 - 0.01 * step]))
    table = path.table(surface)
    objective = {"class_path": "steepest.lightning_modules.objectives.Rosenbrock"}
    for result in load_results(folder):
        run = folder / result.run_folder
        (run / "figures").mkdir(parents=True)
        Image.new("RGB", (900, 600), "teal").save(run / "figures/map.png")
        numpy.savez_compressed(run / "trajectory.npz", **table)
        (run / "config.yaml").write_text(json.dumps({"model": {"init_args": {"objective": objective}}}))
    return write_report(folder)


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    options = webdriver.ChromeOptions()
    for argument in ("--headless=new", "--no-sandbox", "--disable-dev-shm-usage"):
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(DRIVER))
    yield driver
    driver.quit()


@pytest.mark.parametrize("width", [1280, 390])
def test_report_fits_the_screen_and_needs_no_network(page, browser, width):
    screen = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 500}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", screen)
    browser.get_log("performance")
    browser.get(page.as_uri())
    images = browser.execute_async_script(
        """
        const done = arguments[0], images = [...document.images];
        Promise.allSettled(images.map(image => image.decode())).then(outcomes => done(images.map((image, place) =>
          [outcomes[place].status, image.naturalWidth, image.getBoundingClientRect().width, image.alt])));
        """
    )
    assert len(images) == 5 + 2 + 3  # of the figures, of the trajectories, of the gallery
    for status, natural, shown, alternative in images:
        assert status == "fulfilled"
        assert natural > 100
        assert shown > 100
        assert alternative
    # The open list of commands has the longest words.
    browser.execute_script("document.querySelector('details').open = true")
    page_width, room, window = browser.execute_script(
        "const root = document.documentElement; return [root.scrollWidth, root.clientWidth, window.innerWidth]"
    )
    assert (page_width, window) == (room, width)
    # Nothing sticks out of the page but what has a box of its own to scroll in.
    outside = browser.execute_script(
        """
        return [...document.querySelectorAll('body *')].filter(node =>
          node.getBoundingClientRect().right > window.innerWidth + 0.5 && !node.closest('.scroll, .card')
        ).map(node => node.outerHTML.slice(0, 100))
        """
    )
    assert outside == []
    assert [entry for entry in browser.get_log("browser") if entry["level"] in ("SEVERE", "WARNING")] == []
    events = [json.loads(entry["message"])["message"] for entry in browser.get_log("performance")]
    requests = [e["params"]["request"]["url"] for e in events if e["method"] == "Network.requestWillBeSent"]
    assert [url for url in requests if not url.startswith("data:")] == [page.as_uri()]
