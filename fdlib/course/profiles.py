"""Three profiles, one code: a profile changes sizes and numbers of steps, never what is done.

`FDLIB_PROFILE` chooses: `ci` (seconds to a few minutes a notebook; what the tests run), `laptop` (two CPU cores, at
most ten minutes a notebook) or `gpu` (a Colab T4). Unset, it is `gpu` where CUDA is there and `laptop` elsewhere.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import TypeVar

T = TypeVar("T")

PROFILES = ("ci", "laptop", "gpu")
MEANING = {
    "ci": "as short as a test may be: look at the code, not at the pictures",
    "laptop": "two CPU cores, at most ten minutes a notebook",
    "gpu": "a Colab T4 or better",
}


@dataclass(frozen=True)
class Profile:
    """One of `PROFILES`; `pick` chooses the value that belongs to it.

    >>> Profile("laptop").pick(ci=20, laptop=1500, gpu=6000)
    1500
    """

    name: str

    def __post_init__(self) -> None:
        if self.name not in PROFILES:
            raise ValueError(
                f"FDLIB_PROFILE: there is no profile {self.name!r}. Choose one of {', '.join(PROFILES)}, "
                "or leave it unset: gpu where CUDA is there, laptop elsewhere."
            )

    def pick(self, *, ci: T, laptop: T, gpu: T) -> T:
        """The value for this profile. All three are asked for, so that no profile is forgotten."""
        return {"ci": ci, "laptop": laptop, "gpu": gpu}[self.name]

    def __str__(self) -> str:
        return self.name

    def _repr_html_(self) -> str:
        return f"Profile <b>{self.name}</b>: {MEANING[self.name]}"


def profile() -> Profile:
    """The profile that `FDLIB_PROFILE` names, else `gpu` where CUDA is there, else `laptop`."""
    name = os.environ.get("FDLIB_PROFILE", "").strip()
    if name:
        return Profile(name)
    import torch

    return Profile("gpu" if torch.cuda.is_available() else "laptop")


def sabotaged() -> bool:
    """Whether the claims test runs: training then returns untrained weights, and each claim about learning must fail.

    See tests/test_claims.py. Only `fdlib.training` asks; a notebook never does.
    """
    return os.environ.get("FDLIB_SABOTAGE", "") not in ("", "0")
