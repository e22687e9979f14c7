"""The first code cell of every notebook, and the one place that says where fdlib comes from."""

REPOSITORY = "https://github.com/fdlib/fdlib"  # moved? change it here, then `make sync` re-writes every notebook

FIRST_CELL = f"""\
# The same first cell in every notebook: finds fdlib, or installs it (and nothing else), then looks at this machine.
import importlib.util, os, subprocess, sys

if getattr(importlib.util.find_spec("fdlib"), "origin", None) is None:  # a mere folder of that name does not count
    source = os.environ.get("FDLIB_SOURCE", "git+{REPOSITORY}")
    subprocess.run([sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", source], check=True)
    importlib.invalidate_caches()

from fdlib import course

profile = course.bootstrap(drive=False)  # on Colab, drive=True keeps your training runs on Google Drive\
"""
