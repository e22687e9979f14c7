"""What every test shares: the ci profile, a cache of its own, runs that vanish.

The environment is set here, before torch or a notebook's kernel starts: kernels inherit it, so that a bare
`pytest --nbval notebooks/` runs the chapters in the ci profile too.
"""

import os
import shutil
import tempfile

import pytest

os.environ.setdefault("FDLIB_PROFILE", "ci")
os.environ.setdefault("HF_HUB_OFFLINE", "1")  # no test may depend on somebody's server
os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # threads that spin while they wait starve a busy machine


def pytest_configure(config):
    # Rendered data sets are worth keeping from one test run to the next, in the checkout's own pytest cache.
    if "FDLIB_CACHE" not in os.environ:
        cache = getattr(config, "cache", None)
        os.environ["FDLIB_CACHE"] = str(cache.mkdir("fdlib") if cache else tempfile.mkdtemp(prefix="fdlib-cache-"))
    # Runs are not: a test that resumed somebody's training would pass for the wrong reason. Always a fresh folder.
    config._fdlib_runs = tempfile.mkdtemp(prefix="fdlib-runs-")
    os.environ["FDLIB_RUNS"] = config._fdlib_runs
    os.environ.pop("FDLIB_SABOTAGE", None)


def pytest_unconfigure(config):
    shutil.rmtree(getattr(config, "_fdlib_runs", ""), ignore_errors=True)


# ------------------------------------------------------------------------------ several processes: pytest -n 2

# Each worker takes its share of the cores, and so do the kernels that it starts.
if "PYTEST_XDIST_WORKER" in os.environ:
    workers = int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // workers)))

INDEPENDENT = "tests/test_claims.py"  # its tests take minutes each and share nothing; all other files stay whole


def _long(file):
    """Work of minutes, which must not start last."""
    return file in PARTS or file.endswith(".ipynb") or file.startswith("tests/scripts")


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config, log):
    """A notebook's cells need one kernel, and the tests of a file share what they built: hand out files, in our order."""
    from xdist.scheduler import LoadScopeScheduling

    class ByFile(LoadScopeScheduling):
        def _split_scope(self, nodeid):
            file = nodeid.split("::")[0]
            return nodeid if file == INDEPENDENT else file

    config.option.loadscopereorder = False
    return ByFile(config, log)


def pytest_collection_modifyitems(config, items):
    if hasattr(config, "workerinput"):
        items.sort(key=lambda item: not _long(item.nodeid.split("::")[0]))


# ------------------------------------------------------------------------------ how long each part took

PARTS = {
    "tests/test_notebooks.py": "pairs of notebooks",
    "tests/test_claims.py": "claims with random weights",
    "tests/test_lab.py": "JupyterLab in a browser",
    "tests/test_exercises.py": "exercises and wrong answers",
    "tests/test_site.py": "web site in a browser",
    "tests/test_grading.py": "grading, hostile submissions among them",
}


def _part(nodeid):
    file = nodeid.split("::")[0]
    return file if file.endswith(".ipynb") else PARTS.get(file, "unit tests")


def pytest_terminal_summary(terminalreporter):
    seconds = {}
    for reports in terminalreporter.stats.values():
        for report in reports:
            if hasattr(report, "duration") and hasattr(report, "nodeid"):
                part = _part(report.nodeid)
                seconds[part] = seconds.get(part, 0.0) + report.duration
    if len(seconds) > 1:
        terminalreporter.section("time of each part")
        for part, duration in sorted(seconds.items()):
            terminalreporter.write_line(f"{duration:7.1f} s  {part}")
