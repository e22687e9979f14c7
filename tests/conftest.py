"""What several test files share: a headless Chromium."""

import os
import shutil

import pytest

CHROMIUM_FLAGS = (
    "--headless=new",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--no-first-run",
    "--disable-background-networking",
)


@pytest.fixture(scope="module")
def chromium(tmp_path_factory):
    """A function that opens a headless Chromium with an empty profile: ``chromium(timeout, *flags)``.

    Without the browser, tests are skipped; in CI they fail.
    """
    program = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    driver = shutil.which("chromedriver")
    if not program or not driver:
        reason = "Chromium and its driver are not installed (Debian: apt-get install chromium chromium-driver)"
        if os.environ.get("CI", "").lower() in ("1", "true"):
            pytest.fail(reason)
        pytest.skip(reason)
    from selenium import webdriver

    pages = []

    def start(timeout, *flags):
        options = webdriver.ChromeOptions()
        options.binary_location = program
        for flag in (*CHROMIUM_FLAGS, *flags, f"--user-data-dir={tmp_path_factory.mktemp('chromium')}"):
            options.add_argument(flag)
        options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
        pages.append(webdriver.Chrome(options=options, service=webdriver.ChromeService(driver)))
        pages[-1].set_page_load_timeout(timeout)
        return pages[-1]

    yield start
    for page in pages:
        page.quit()
