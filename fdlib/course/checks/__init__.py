"""Checks that a student runs in the cell below an exercise: seconds, a message that names the mistake, no grader needed.

    from fdlib.course.checks import ch01 as check

    check.jump(jump)        # ✓ From t to u in one jump          or        CheckFailed: your v is a standard deviation …

One module a chapter, one function an exercise. A check is a function of the student's own objects and of nothing else: it
computes what is right by another road than the solution (a simulation, autograd, the library), compares, and where the
answer equals what a typical mistake gives, says which mistake that is. It prints one line if all is well, raises
``CheckFailed`` if not, and never writes to stderr: for nbgrader that alone would cost all points.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping

import torch
from torch import Tensor

RELATIVE, ABSOLUTE = 1e-4, 1e-6  # how exact an answer must be, unless a check says otherwise


class CheckFailed(AssertionError):
    """An answer that is not right yet; the message says what is wrong with it, to the student."""

    def _render_traceback_(self) -> list[str]:
        """What IPython shows: the message, without the check's own code around it."""
        return [f"Not yet: {self}"]


def check(title: str) -> Callable:
    """Make a check of a function that raises ``CheckFailed``: refuse empty answers first, report success at the end."""

    def decorate(function: Callable) -> Callable:
        @functools.wraps(function)
        def run(*answers) -> None:
            if any(answer is None or answer is ... for answer in answers):
                raise CheckFailed("there is no answer yet: fill in the cell above, run it, then run this one again")
            function(*answers)
            print(f"✓ {title}")

        run.title = title
        return run

    return decorate


def numbers(value, what: str, shape: tuple[int, ...] | None = None) -> Tensor:
    """``value`` (a number, a sequence or a tensor) as a float64 tensor without gradient, of this shape, all finite."""
    if value is None or value is ...:
        raise CheckFailed(f"{what} is None: does your function end in `return`?")
    try:
        tensor = torch.as_tensor(value).detach().cpu().double()
    except (TypeError, ValueError, RuntimeError):
        raise CheckFailed(f"{what} must be a number or a tensor of numbers, got {type(value).__name__}") from None
    if shape is not None and tuple(tensor.shape) != tuple(shape):
        raise CheckFailed(f"{what} must have the shape {tuple(shape)}, yours has {tuple(tensor.shape)}")
    if not torch.isfinite(tensor).all():
        raise CheckFailed(
            f"{what} contains {'nan' if tensor.isnan().any() else 'inf'}: where do you divide by 0, or take log 0?"
        )
    return tensor


def parts(value, *names: str) -> tuple:
    """``value``, if it is a tuple or list with one entry for each of ``names``."""
    if not isinstance(value, tuple | list) or len(value) != len(names):
        raise CheckFailed(f"return {len(names)} things, {', '.join(names)}, in this order")
    return tuple(value)


def close(got: Tensor, right: Tensor, rtol: float = RELATIVE, atol: float = ABSOLUTE) -> bool:
    """Whether two tensors agree in shape and numbers."""
    return got.shape == right.shape and torch.allclose(got, right.to(got.dtype), rtol=rtol, atol=atol)


def touched(given: Tensor, before: Tensor) -> bool:
    """Whether an answer changed a tensor that it was given. In the grader it gets a copy, and the judge leaves a mark."""
    return getattr(given, "touched_by_answer", False) or not torch.equal(given, before)


def compare(
    got,
    right,
    what: str,
    mistakes: Mapping[str, object] | None = None,
    *,
    where: str = "",
    rtol: float = RELATIVE,
    atol: float = ABSOLUTE,
) -> None:
    """Raise ``CheckFailed`` unless ``got`` is ``right``.

    Args:
        what: what the student calls it, for the message.
        mistakes: message -> the value that this mistake gives; the first that fits is reported.
        where: for which input, for the message if no mistake fits.
    """
    right = torch.as_tensor(right).detach().cpu().double()
    got = numbers(got, what, tuple(right.shape))
    if close(got, right, rtol, atol):
        return
    for message, wrong in (mistakes or {}).items():
        wrong = torch.as_tensor(wrong).detach().cpu().double()
        if close(got, wrong.expand_as(right) if wrong.ndim == 0 else wrong, rtol, atol):
            raise CheckFailed(message)
    worst = (got - right).abs().flatten().argmax()
    raise CheckFailed(
        f"{what} is wrong{f' for {where}' if where else ''}: it should be {right.flatten()[worst]:.5g}, "
        f"yours is {got.flatten()[worst]:.5g}{' (the worst entry)' if right.numel() > 1 else ''}"
    )


def seeded(seed: int) -> torch.Generator:
    """The same random numbers in every run."""
    return torch.Generator().manual_seed(seed)
