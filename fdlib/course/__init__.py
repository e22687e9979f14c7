"""What a notebook needs to be a lesson: profiles, one bootstrap for Colab and laptop, assets, run folders.

    from fdlib import course

    profile = course.bootstrap()                            # the first cell of every notebook
    steps = profile.pick(ci=40, laptop=1500, gpu=6000)      # one code, three sizes
    folder = course.asset("shapes32_unet")                  # a shipped checkpoint: a folder for `from_pretrained`
    runs = course.run_folder("02_unet")                     # where this notebook's own training lives

Importing this package is quick: torch and pooch are imported only by the functions that need them.
"""

from fdlib.course.assets import AssetError, asset, results
from fdlib.course.first_cell import FIRST_CELL, REPOSITORY
from fdlib.course.profiles import PROFILES, Profile, profile, sabotaged
from fdlib.course.session import bootstrap, device, mount_drive, on_colab, precision, run_folder

__all__ = [
    "FIRST_CELL",
    "PROFILES",
    "REPOSITORY",
    "AssetError",
    "Profile",
    "asset",
    "bootstrap",
    "device",
    "mount_drive",
    "on_colab",
    "precision",
    "profile",
    "results",
    "run_folder",
    "sabotaged",
]
