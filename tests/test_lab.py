"""The page itself: JupyterLab in a headless browser runs a chapter, and its slider moves the picture.

Skipped, with the reason, where Chromium and its driver are missing; in continuous integration (`CI` is set) that is a
failure.
"""

import json
import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

import pytest

from fdlib.course.notebooks import from_script, to_ipynb

ROOT = Path(__file__).resolve().parents[1]
CHAPTER = ROOT / "notebooks" / "01_ddpm_basics.ipynb"
START_S, RUN_S, MOVE_S = 90, 420, 60  # how long the page, all cells and a picture may take

STAND_IN = """\
# %% [markdown]
# # A stand-in chapter

# %%
import io
import ipywidgets
import numpy as np
from PIL import Image

def picture(t):
    buffer = io.BytesIO()
    Image.fromarray(np.full((32, 32), 5 * t, np.uint8)).save(buffer, "PNG")
    return buffer.getvalue()

slider = ipywidgets.IntSlider(value=10, min=0, max=50, description="t")
image = ipywidgets.Image(value=picture(10))
slider.observe(lambda change: setattr(image, "value", picture(change.new)), "value")
ipywidgets.VBox([slider, image])
"""
DEAD = STAND_IN + "\n# %%\npicture = 'a name that the slider still needs'\n"
BROKEN = "# %%\nraise RuntimeError('this chapter is broken')\n"
STUCK = "# %%\nimport time\ntime.sleep(3600)\n"


@pytest.fixture(scope="module")
def browser(chromium):
    quiet = ("--disable-quic", "--disable-component-update", "--disable-sync")
    return chromium(START_S, *quiet, "--window-size=1400,1600")


@pytest.fixture
def lab(tmp_path):
    """`lab(folder)` starts JupyterLab and returns a function from a notebook's name to its URL; stopped at the end."""
    processes = []

    def start(folder):
        settings = tmp_path / "settings"
        write_settings(settings)
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        base = f"http://127.0.0.1:{port}"
        # A home of its own: nobody's kernels, extensions or settings.
        own = {
            name: str(tmp_path / name.lower())
            for name in ("JUPYTER_CONFIG_DIR", "JUPYTER_DATA_DIR", "JUPYTER_RUNTIME_DIR", "IPYTHONDIR")
        }
        own |= {"JUPYTERLAB_SETTINGS_DIR": str(settings), "JUPYTERLAB_WORKSPACES_DIR": str(tmp_path / "workspaces")}
        log = open(tmp_path / "lab.log", "wb")  # noqa: SIM115 (the server writes to it until it is stopped)
        command = [
            sys.executable,
            "-m",
            "jupyter",
            "lab",
            "--no-browser",
            "--allow-root",
            f"--port={port}",
            "--ip=127.0.0.1",
        ]
        command += [
            "--expose-app-in-browser",
            "--ServerApp.port_retries=0",
            f"--ServerApp.root_dir={folder}",
            "--IdentityProvider.token=test",
        ]
        process = subprocess.Popen(command, cwd=folder, env=os.environ | own, stdout=log, stderr=subprocess.STDOUT)
        processes.append((process, log))
        deadline = time.monotonic() + START_S
        while True:
            try:
                urllib.request.urlopen(f"{base}/api/status?token=test", timeout=5).close()
                return lambda notebook: f"{base}/lab/tree/{notebook}?token=test&reset"
            except (urllib.error.URLError, OSError):
                if process.poll() is not None or time.monotonic() > deadline:
                    tail = (tmp_path / "lab.log").read_text(errors="replace")[-3000:]
                    pytest.fail(f"JupyterLab did not start:\n{tail}")
                time.sleep(0.3)

    yield start
    for process, log in processes:
        process.terminate()
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        log.close()


def write_settings(folder):
    """All cells in the page, also those out of view, and no question about news."""
    for name, value in {
        "notebook-extension/tracker": {"windowingMode": "none"},
        "apputils-extension/notification": {"fetchNews": "false", "checkForUpdates": False},
    }.items():
        file = folder / "@jupyterlab" / f"{name}.jupyterlab-settings"
        file.parent.mkdir(parents=True)
        file.write_text(json.dumps(value))


# ------------------------------------------------------------------------------ what a student does

# From the notebook's model rather than from the page, where an error looks like anything else written to stderr.
STATE = r"""
const panel = window.jupyterapp && window.jupyterapp.shell.currentWidget;
if (!panel || !panel.content || !panel.content.widgets) return {cells: 0, waiting: 0, errors: []};
const cells = panel.content.widgets.map(widget => widget.model).filter(model => model.type === 'code');
const outputs = cells.flatMap(cell => cell.outputs.toJSON());
return {
    kernel: panel.sessionContext.session?.kernel?.status,
    cells: cells.length,
    waiting: cells.filter(cell => cell.sharedModel.source.trim() && cell.executionCount === null).length,
    errors: outputs.filter(output => output.output_type === 'error')
        .map(error => `${error.ename}: ${error.evalue}\n${error.traceback.join('\n')}`.slice(0, 4000)),
};
"""

# Every picture of the output that holds the slider, as its pixels: the address of a blob changes even if they do not.
PICTURES = """
const done = arguments[arguments.length - 1];
const slider = document.querySelectorAll('.jp-OutputArea-output .widget-slider')[arguments[0]];
const output = slider.closest('.jp-OutputArea');
const pixels = async image => {
    try { await image.decode(); } catch (error) { return 'loading'; }
    const canvas = document.createElement('canvas');
    canvas.width = image.naturalWidth; canvas.height = image.naturalHeight;
    canvas.getContext('2d').drawImage(image, 0, 0);
    return canvas.toDataURL();
};
Promise.all([...output.querySelectorAll('img')].map(pixels))
    .then(images => done(images.concat([...output.querySelectorAll('canvas')].map(canvas => canvas.toDataURL()))));
"""


def until(page, seconds, what, question, pause=0.3):
    """Ask until the answer is true; a page that never gets there fails with what was waited for and what it shows."""
    deadline = time.monotonic() + seconds
    while True:
        answer = question()
        if answer:
            return answer
        if time.monotonic() > deadline:
            state = page.execute_script(STATE)
            pytest.fail(f"gave up after {seconds} s waiting for {what}; the page: {state}")
        time.sleep(pause)


def click(page, selector, text=None):
    from selenium.webdriver.common.by import By

    def find():
        found = [
            e
            for e in page.find_elements(By.CSS_SELECTOR, selector)
            if e.is_displayed() and (text is None or e.text == text)
        ]
        return found[0] if found else None

    until(page, START_S, f"{text or selector} to click on", find).click()


def open_and_run_all(page, address, seconds):
    """Open a notebook, choose Run > Run All Cells, wait for the last cell; returns the page's final state."""
    page.get(address)
    click(page, ".lm-DockPanel-tabBar .lm-TabBar-tab")  # a page without the focus has no current notebook
    until(page, START_S, "the notebook and its kernel", lambda: page.execute_script(STATE).get("kernel") == "idle")
    click(page, ".lm-MenuBar-itemLabel", "Run")
    click(page, ".lm-Menu-item[data-command='runmenu:run-all']")

    def finished():
        state = page.execute_script(STATE)
        return state if state["errors"] or not state["waiting"] else None

    return until(page, seconds, "all cells to finish", finished)


def sliders_move_their_pictures(page):
    """Focus each slider, press an arrow a few times, see other pixels; returns the number of sliders."""
    from selenium.webdriver.common.by import By
    from selenium.webdriver.common.keys import Keys

    def handles():
        return page.find_elements(By.CSS_SELECTOR, ".jp-OutputArea-output .widget-slider .noUi-handle")

    def pictures(index):
        seen = page.execute_async_script(PICTURES, index)
        return None if not seen or "loading" in seen else seen

    until(page, MOVE_S, "a slider", handles)
    for index, handle in enumerate(handles()):
        before = until(page, MOVE_S, f"a picture beside slider {index}", lambda index=index: pictures(index))
        page.execute_script("arguments[0].scrollIntoView({block: 'center'})", handle)
        value = handle.get_attribute("aria-valuenow")
        for key in (Keys.ARROW_RIGHT, Keys.ARROW_LEFT):  # left: it may stand at its right end
            if handle.get_attribute("aria-valuenow") == value:
                for _ in range(5):
                    handle.send_keys(key)
        assert handle.get_attribute("aria-valuenow") != value, f"slider {index} does not move"
        until(
            page,
            MOVE_S,
            f"the picture of slider {index} to change (does a later cell re-bind a name that its function uses?)",
            lambda index=index, before=before: (pictures(index) or before) != before,
        )
    return len(handles())


# ------------------------------------------------------------------------------ tests


@pytest.mark.slow
def test_the_first_chapter_runs_and_its_sliders_move_their_pictures(browser, lab, tmp_path):
    folder = tmp_path / "notebooks"
    shutil.copytree(CHAPTER.parent, folder)
    state = open_and_run_all(browser, lab(folder)(CHAPTER.name), RUN_S)
    assert not state["errors"], "\n".join(state["errors"])
    assert sliders_move_their_pictures(browser) >= 1


@pytest.mark.slow
def test_the_test_sees_a_slider_a_dead_slider_a_broken_and_a_stuck_chapter(browser, lab, tmp_path, monkeypatch):
    folder = tmp_path / "notebooks"
    folder.mkdir()
    for name, source in {"good": STAND_IN, "dead": DEAD, "broken": BROKEN, "stuck": STUCK}.items():
        (folder / f"{name}.ipynb").write_text(to_ipynb(from_script(source)))
    address = lab(folder)

    good = open_and_run_all(browser, address("good.ipynb"), RUN_S)
    assert good["cells"] == 2 and not good["errors"]
    assert sliders_move_their_pictures(browser) == 1

    dead = open_and_run_all(browser, address("dead.ipynb"), RUN_S)
    assert not dead["errors"]  # what the slider's function raises is nowhere to be seen in the page
    monkeypatch.setitem(globals(), "MOVE_S", 5)
    with pytest.raises(pytest.fail.Exception, match="picture of slider 0 to change"):
        sliders_move_their_pictures(browser)

    broken = open_and_run_all(browser, address("broken.ipynb"), RUN_S)
    assert len(broken["errors"]) == 1 and "this chapter is broken" in broken["errors"][0]

    with pytest.raises(pytest.fail.Exception, match="waiting for all cells to finish"):
        open_and_run_all(browser, address("stuck.ipynb"), 8)
