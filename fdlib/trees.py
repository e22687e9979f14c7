"""Masks within masks as a tree that opens at a click: the interactive sibling of ``viz.show_tree``.

    tree_view(image, masks, model.regions_per_level)

One row a level. A row shows the regions that the open node of the row above is cut into, each as the part of the image that
it holds, and a button that opens it. Pages without a kernel get the whole tree too, as parts of the page that open at a click.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence

import torch
from torch import Tensor

from fdlib.hierarchical import coarsen
from fdlib.images import Images, as_pixels, image_grid, png_bytes

try:
    import ipywidgets
    from IPython.display import display

    from fdlib.widgets import display_still, embedded
except ImportError as error:
    raise ImportError("fdlib.trees needs ipywidgets: pip install 'fdlib[course]'") from error

SIDE = 120  # screen pixels of a region's picture
GREY = 0.5  # what a region does not hold


class TreeView(ipywidgets.VBox):
    """One image's regions, level by level; made by `tree_view`.

    Attributes:
        path: the open nodes, one index a level: () shows the first level, (2,) what its region 2 is cut into.
        buttons: those of each row on show, to be clicked by a program too.
    """

    def __init__(self, image: Tensor, levels: list[Tensor], regions: tuple[int, ...]):
        self._image, self._levels, self._regions = image, levels, regions
        self.buttons: list[list[ipywidgets.Button]] = []
        super().__init__()
        self.unfold(())

    def unfold(self, path: Sequence[int]) -> None:
        """Show the levels down to the children of the node at ``path``.

        Raises:
            ValueError: a path that leads to no node that is cut.
        """
        path = tuple(path)
        if len(path) >= len(self._regions) or any(not 0 <= k < K for k, K in zip(path, self._regions)):
            raise ValueError(
                f"path must name a node that is cut, at most {len(self._regions) - 1} indices for regions={self._regions}, "
                f"got {path}"
            )
        self.path, self.buttons, rows = path, [], []
        for level in range(len(path) + 1):
            rows.append(self._row(level, path[:level], path[level] if level < len(path) else None))
        self.children = rows

    def _row(self, level: int, above: tuple[int, ...], opened: int | None) -> ipywidgets.Widget:
        name = f"level {level + 1}" + (f", inside {'.'.join(map(str, above))}" if above else "")
        cells, buttons = [], []
        for k in range(self._regions[level]):
            picture, share = self._part((*above, k))
            picture = ipywidgets.Image(value=picture, format="png", width=SIDE)
            picture.add_class("fdlib-picture")
            cut = level < len(self._regions) - 1
            button = ipywidgets.Button(
                description=f"{k}: {share:.0%}" + (" ▾" if k == opened else " ▸" if cut else ""),
                tooltip="cut further" if cut else "a leaf",
                disabled=not cut,
                layout={"width": f"{SIDE}px"},
            )
            button.on_click(lambda _, path=(*above, k): self.unfold(path if path != self.path else path[:-1]))
            buttons.append(button)
            cells.append(ipywidgets.VBox([picture, button]))
        self.buttons.append(buttons)
        return ipywidgets.VBox([ipywidgets.HTML(name), ipywidgets.HBox(cells)])

    def _part(self, path: tuple[int, ...]) -> tuple[bytes, float]:
        """A PNG of what the node at ``path`` holds of the image, and how much that is."""
        node = 0
        for k, K in zip(path, self._regions):
            node = node * K + k
        mask = self._levels[len(path) - 1][node]
        part = self._image * mask + GREY * (1 - mask)
        return png_bytes(image_grid(part[None] * 2 - 1, 1)), float(mask.mean())

    def _page(self, path: tuple[int, ...] = ()) -> str:
        """The children of the node at ``path`` as HTML; what is cut further opens at a click, without a kernel."""
        cells = []
        for k in range(self._regions[len(path)]):
            below = (*path, k)
            picture, share = self._part(below)
            shown = f"{embedded(picture, f'region {below}', SIDE)}<br>{'.'.join(map(str, below))}: {share:.0%}"
            if len(below) < len(self._regions):
                is_open = " open" if below == self.path[: len(below)] else ""
                shown = f"<details{is_open}><summary>{shown}</summary>{self._page(below)}</details>"
            cells.append(f'<div style="margin:4px;padding:4px;border:1px solid #bbb">{shown}</div>')
        return f'<div style="display:flex;flex-wrap:wrap;align-items:flex-start">{"".join(cells)}</div>'

    def _ipython_display_(self, **kwargs) -> None:
        """The tree for pages without widgets, then the widget itself; in an export the first alone."""
        exported = os.environ.get("FDLIB_EXPORT", "") not in ("", "0")
        if exported or "google.colab" not in sys.modules:  # Colab would show both
            display_still(self._page())
        if exported:
            return
        if hasattr(super(), "_ipython_display_"):  # ipywidgets 7, which Colab has
            super()._ipython_display_(**kwargs)
        else:
            display(self._repr_mimebundle_(**kwargs), raw=True)


def tree_view(image: Images, masks: Tensor, regions: Sequence[int]) -> TreeView:
    """A tree of regions whose branches open and close at a click.

    Args:
        image: one image, of any kind that ``fdlib.images`` takes.
        masks: (leaves, H, W) or (1, leaves, H, W), of a ``HierarchicalUNet``.
        regions: of each level, ``model.regions_per_level``.

    The buttons say how much of the image a region holds. Raises ValueError for several images, or masks of another tree.
    """
    pixels, leaves = as_pixels(image), masks.detach().float().cpu()
    leaves = leaves[None] if leaves.ndim == 3 else leaves
    if len(pixels) != 1 or len(leaves) != 1:
        raise ValueError(f"tree_view shows one image, got {len(pixels)} images and masks of {len(leaves)}")
    levels = [coarsen(leaves, regions, level)[0] for level in range(1, len(regions) + 1)]
    return TreeView(torch.from_numpy(pixels[0]).permute(2, 0, 1) / 255, levels, tuple(regions))
