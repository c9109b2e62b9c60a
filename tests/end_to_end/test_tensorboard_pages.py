"""TensorBoard pages of a real run in headless Chromium; needs the extra `browser`, Chromium and chromedriver."""

import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

webdriver = pytest.importorskip("selenium.webdriver", reason="needs the extra `browser`")
DRIVER = shutil.which("chromedriver")

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(600),  # a page of many images takes a busy machine more than a minute
    pytest.mark.skipif(DRIVER is None, reason="needs chromedriver and Chromium, from the system's packages"),
    # Of selenium and of processes that end with the test.
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
]

REPOSITORY = Path(__file__).resolve().parent.parent.parent

# All text of a page, through the shadow roots that TensorBoard hides its elements in.
TEXT = """
const read = node => {
  if (["SCRIPT", "STYLE", "TEMPLATE"].includes(node.nodeName)) return "";
  const own = node.nodeType === 3 ? node.textContent : "";
  const inside = node.shadowRoot ? read(node.shadowRoot) : "";
  return own + inside + [...node.childNodes].map(read).join(" ");
};
return read(document.body);
"""


@pytest.fixture(scope="module")
def address(tmp_path_factory) -> Iterator[str]:
    """A TensorBoard that shows a short run with every diagnostic."""
    runs = tmp_path_factory.mktemp("runs")
    configs = ["--config", "configs/digits_mlp.yaml", "--config", "configs/callbacks/full.yaml"]
    options = ["--trainer.max_epochs", "3", "--trainer.enable_progress_bar", "false", "--runs_dir", str(runs)]
    fit = [sys.executable, "-m", "steepest", "fit", *configs, *options]
    subprocess.run(fit, cwd=REPOSITORY, check=True, capture_output=True, timeout=250)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "tensorboard.main", "--logdir", str(runs), "--port", str(port)]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        try:
            address = f"http://127.0.0.1:{port}"
            _wait_until(lambda: b"digits_mlp" in urllib.request.urlopen(f"{address}/data/runs", timeout=5).read())
            yield address
        finally:
            process.terminate()


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    options = webdriver.ChromeOptions()
    for argument in ("--headless=new", "--no-sandbox", "--disable-dev-shm-usage", "--window-size=1500,2000"):
        options.add_argument(argument)
    driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(DRIVER))
    yield driver
    driver.quit()


def _wait_until(condition: Any, seconds: float = 120.0) -> None:
    deadline = time.monotonic() + seconds
    while True:
        try:
            if condition():
                return
        except OSError:
            pass
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.3)


@pytest.mark.parametrize(
    ("page", "expected"),
    [
        ("timeseries", ["train", "grad", "sharpness", "spectral", "noise", "lr"]),
        # The page opens the first two groups.
        (
            "images",
            [
                "grad/gradient_norm_by_layer",
                "landscape/loss_landscape_contour",
                "noise",
                "sharpness",
                "spectral",
                "update",
            ],
        ),
        ("custom_scalars", ["sharpness and its threshold", "gradient and weight norm", "learning rate", "Matches (3)"]),
        ("hparams", ["optimizer/lr", "Digits", "final/val/loss"]),
        ("text", ["network.hidden1.weight"]),
    ],
)
def test_page_shows_the_run(address, browser, page, expected):
    browser.get(f"{address}/#{page}")
    browser.refresh()
    _wait_until(lambda: all(text in browser.execute_script(TEXT) for text in expected))
