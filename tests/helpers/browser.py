"""A headless Chromium for the tests that look at a page as a person would; skipped where there is none."""

import atexit
import contextlib
import functools
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

CHROMIUM, DRIVER = "/usr/bin/chromium", "/usr/bin/chromedriver"
FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)

needs_browser = pytest.mark.skipif(
    not (Path(CHROMIUM).exists() and Path(DRIVER).exists() and shutil.which("chromium")),
    reason="needs Debian's chromium and chromium-driver",
)


@functools.cache
def _driver() -> Any:
    """One browser for the process: starting one takes seconds. It ends with the process."""
    from selenium import webdriver
    from selenium.webdriver.chrome.options import Options
    from selenium.webdriver.chrome.service import Service

    profile = tempfile.TemporaryDirectory(prefix="espalier-browser-", ignore_cleanup_errors=True)
    options = Options()
    options.binary_location = CHROMIUM
    for flag in (*FLAGS, f"--user-data-dir={profile.name}"):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    driver = webdriver.Chrome(options=options, service=Service(DRIVER))
    # The last entered is the first called.
    atexit.register(profile.cleanup)
    atexit.register(driver.quit)
    return driver


@contextlib.contextmanager
def browser(width: int = 1440, height: int = 900) -> Iterator[Any]:
    """A selenium driver in a window of its own: what was emulated, logged or set as a cookie before is gone.

    Its console log is kept (`get_log("browser")`).
    """
    driver = _driver()
    home = driver.current_window_handle
    driver.get_log("browser")
    driver.switch_to.new_window("window")
    driver.set_window_size(width, height)
    driver.execute_cdp_cmd("Network.clearBrowserCookies", {})
    try:
        yield driver
    finally:
        driver.close()
        driver.switch_to.window(home)


def wait_for(condition: Callable[[], Any], seconds: float = 40) -> Any:
    """The first true value of `condition`, or its last value when the time is over."""
    deadline = time.monotonic() + seconds
    while not (value := condition()) and time.monotonic() < deadline:
        time.sleep(0.2)
    return value


def text_of(driver: Any) -> str:
    """What the page shows as text."""
    return driver.execute_script("return document.body.innerText")
