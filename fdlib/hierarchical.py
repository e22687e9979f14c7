"""Hierarchical factorization (thesis 2.5.1): each region of a factorized denoiser is cut again by a factorized denoiser.

    m_i^0, h_i^0  = masks and branch predictions of the first level, from x_t              figure 2.15
    m_j^1, h_j^1  = those of the second level, for each i from m_i^0 * x_t
    prediction    = sum_i m_i^0 (h_i^0 + sum_j h_j^1 m_j^1) / 2

Deeper than two levels the thesis gives no formula. Its own one, read as a recursion, is what this module computes:

    f_L(x) = sum_j m_j h_j                         the last level: an ordinary factorized denoiser
    f_l(x) = sum_i m_i (h_i + f_{l+1}(m_i x)) / 2  every other level

A *leaf* is a path i, j, ... down the tree. Its mask is the product of the masks along it, so leaves sum to their parent, and all
of them to 1. Inner levels need no masks of their own: ``coarsen`` adds up a node's leaves.

A tree can be trained at once, or grown: train a level, ``grow`` the next below it, train on. Every region is cut, also one that
is one thing already; ``explained`` finds cuts that say nothing, without a label, and ``prune`` takes them back.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import prod

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fdlib.denoiser import Denoiser, Prediction
from fdlib.factorized import FactorizedUNet, Segments

_MASK_HEAD = "mask_generator.decoder.head."


class HierarchicalUNet(Segments, Denoiser):
    """Factorized U-Nets, one for each level, nested by their masks.

    All branches of a level share one network and run as one batch: level l works on B * K_1 ... K_{l-1} pictures, so time and
    memory grow with the number of leaves.

    Args:
        image_size: height and width of the images in pixels.
        depth: number of levels; with 1 the model is the ``FactorizedUNet``.
        regions: regions that each node is cut into, one number for all levels or one for each.
        others: as for ``FactorizedUNet``, for every level. ``decoding="concat"`` has no branches, so it cannot be nested.

    ``forward`` returns a ``Prediction`` whose ``masks`` (B, leaves, H, W) are the leaves', those of the first region's children
    first; ``coarsen(masks, model.regions_per_level, level)`` gives the masks of a level.

    Raises:
        ValueError: depth < 1, regions that do not match depth, decoding="concat" at depth > 1; and all that FactorizedUNet
            refuses.

    >>> model = HierarchicalUNet(32, depth=2, regions=(3, 2), channels=8, multipliers=(1, 2), blocks=1, attention=())
    >>> model.regions, model.regions_per_level
    (6, (3, 2))
    """

    def __init__(
        self,
        image_size: int,
        depth: int = 2,
        regions: int | Sequence[int] = 3,
        channels: int = 128,
        multipliers: Sequence[int] = (1, 2, 3, 4),
        blocks: int = 3,
        attention: Sequence[int] = (16,),
        heads: int = 1,
        image_channels: int = 3,
        fold: int = 1,
        classes: int | None = None,
        dropout: float = 0.0,
        predicts: str = "noise",
        decoding: str = "parallel",
        mask_resize: str = "area",
        mask_upsample: str = "bilinear",
        mask_centred: int = 0,
        decoder_norm: str = "group",
    ):
        super().__init__()
        if not isinstance(depth, int) or depth < 1:
            raise ValueError(f"depth must be a whole number >= 1, got {depth!r}")
        per_level = (regions,) * depth if isinstance(regions, int) else tuple(regions)
        if len(per_level) != depth:
            raise ValueError(
                f"regions must be one number, or one for each of the depth={depth} levels, got {len(per_level)}: {per_level}"
            )
        if depth > 1 and decoding == "concat":
            raise ValueError('decoding="concat" has no branches to cut further: take "parallel", or depth=1')
        self.image_size, self.image_channels, self.predicts = image_size, image_channels, predicts
        self.regions_per_level, self.regions = per_level, prod(per_level)
        self.levels = nn.ModuleList(
            FactorizedUNet(
                image_size,
                channels,
                multipliers,
                blocks,
                attention,
                heads,
                image_channels,
                fold,
                classes,
                dropout,
                predicts,
                K,
                decoding,
                mask_resize,
                mask_upsample,
                mask_centred,
                decoder_norm,
            )
            for K in per_level
        )

    def forward(self, x_t: Tensor, t: Tensor, label: Tensor | None = None) -> Prediction:
        """Predict from x_t (B, image_channels, image_size, image_size) at times t (B,); the leaves' masks come along."""
        value, masks = self._level(0, x_t, t, label)
        return Prediction(**{self.predicts: value}, masks=masks)

    def _level(self, level: int, x: Tensor, t: Tensor, label: Tensor | None) -> tuple[Tensor, Tensor]:
        """f_l(x) and the masks of the leaves below, (B, leaves, H, W)."""
        network, last = self.levels[level], level == len(self.levels) - 1
        h_mid, h_enc, emb = network.encode(x, t, label)
        m = network.mask_generator(h_mid, h_enc, emb)
        if last:
            return network.decode(h_mid, h_enc, emb, m), m
        h = network.branches(h_mid, h_enc, emb, m)  # (B, K, C, H, W)
        below, leaves = self._level(level + 1, *_children(x, m, t, label))
        below, leaves = (value.unflatten(0, (-1, network.regions)) for value in (below, leaves))  # (B, K, ...)
        value = torch.einsum("bkchw,bkhw->bchw", (h + below) / 2, m)
        return value, (m.unsqueeze(2) * leaves).flatten(1, 2)

    def masks(self, x_t: Tensor, t: Tensor, label: Tensor | None = None) -> Tensor:
        """The leaves' masks alone, (B, leaves, H, W): no decoder is run."""
        leaves, x = None, x_t
        for level, network in enumerate(self.levels):
            m = network.masks(x, t, label)
            if level < len(self.levels) - 1:
                x, t, label = _children(x, m, t, label)
            # nodes of the level above are the rows of m
            leaves = m if leaves is None else leaves.flatten(0, 1).unsqueeze(1) * m
            leaves = leaves.reshape(len(x_t), -1, *m.shape[2:])
        return leaves


def _children(x: Tensor, m: Tensor, t: Tensor, label: Tensor | None) -> tuple[Tensor, Tensor, Tensor | None]:
    """What the next level sees: m_k * x for every region k, (B K, C, H, W), with the times and classes of each."""
    K = m.shape[1]
    cut = (m.unsqueeze(2) * x.unsqueeze(1)).flatten(0, 1)
    return cut, t.repeat_interleave(K), None if label is None else label.repeat_interleave(K)


def grow(
    model: FactorizedUNet | HierarchicalUNet, regions: int | None = None, head_start: float = 0.0
) -> HierarchicalUNet:
    """The model with one level more: each of its leaves is cut again.

    The levels that are there keep their weights. The new one starts as a copy of the last, but for the last convolution of its
    mask generator, which starts anew: what to cut a region into is for training to find out. (Before that, the tree denoises
    a little worse than the model did.)

    Args:
        model: trained; it is not changed.
        regions: that each leaf is cut into; as many as in the last level by default.
        head_start: added to the logit of a node's first part. With 0 every region is cut soon, whether it has parts or not
            (``prune`` takes back what says nothing); with more, a cut must pay before it is made, and may never be.

    Raises:
        TypeError: a model without masks. ValueError: decoding="concat", or what ``HierarchicalUNet`` refuses.

    >>> flat = FactorizedUNet(32, regions=4, channels=8, multipliers=(1, 2), blocks=1, attention=())
    >>> grow(flat, 2).regions_per_level
    (4, 2)
    """
    if not isinstance(model, (FactorizedUNet, HierarchicalUNet)):
        raise TypeError(f"model must be a FactorizedUNet or HierarchicalUNet, got {type(model).__name__}")
    levels = [model] if isinstance(model, FactorizedUNet) else list(model.levels)
    per_level = (*(level.regions for level in levels), levels[-1].regions if regions is None else regions)
    tree = HierarchicalUNet(**{**model._hub_mixin_config, "depth": len(per_level), "regions": per_level})
    for new, old in zip(tree.levels, [*levels, levels[-1]], strict=True):
        weights = old.state_dict()
        if new is tree.levels[-1]:
            weights |= {name: value for name, value in new.state_dict().items() if name.startswith(_MASK_HEAD)}
        new.load_state_dict(weights)
    with torch.no_grad():
        tree.levels[-1].mask_generator.decoder.head.bias[0] += head_start
    return tree.to(next(model.parameters()).device)


def coarsen(masks: Tensor, regions: Sequence[int], level: int) -> Tensor:
    """The masks of a level, from those of the leaves: each node is the sum of the leaves below it.

    Args:
        masks: (B, leaves, H, W), as a ``HierarchicalUNet`` gives them.
        regions: of each level, ``model.regions_per_level``.
        level: 1 is the first; ``len(regions)`` gives the leaves back.

    Raises:
        ValueError: a level that there is not, or masks of another tree.

    Example: with regions (3, 2) and level 1, masks (B, 6, H, W) become (B, 3, H, W), the sums of each pair.
    """
    if not 1 <= level <= len(regions):
        raise ValueError(f"level must lie in 1 .. {len(regions)} for regions={tuple(regions)}, got {level}")
    if masks.ndim != 4 or masks.shape[1] != prod(regions):
        raise ValueError(
            f"masks must be (B, {prod(regions)}, H, W), the leaves of regions={tuple(regions)}, got {tuple(masks.shape)}"
        )
    nodes = prod(regions[:level])
    return masks.unflatten(1, (nodes, -1)).sum(2)


def explained(images: Tensor, masks: Tensor, regions: Sequence[int]) -> Tensor:
    """What the last cuts say about the pictures: the share of each node's variance of colour that its parts explain.

    Each pixel counts for the leaf with its largest mask. Within a node, the variance around the mean colour of each part is
    set against that around the mean colour of the node, picture by picture, summed over pictures. No label is read.

    Args:
        images: (N, C, H, W) clean pictures.
        masks: (N, leaves, H, W), their leaves.
        regions: of each level, ``model.regions_per_level``.

    Returns:
        (nodes,) in [0, 1], a number for each node that the last level cuts; 0 for one that is empty or of one colour.
    """
    leaf = F.one_hot(masks.argmax(1).flatten(1), masks.shape[1]).to(images).double()  # (N, pixels, leaves)
    colours = images.double().flatten(2).transpose(1, 2)  # (N, pixels, C)
    squares = leaf.transpose(1, 2) @ colours.square().sum(2, keepdim=True)  # (N, leaves, 1)
    sums, sizes = leaf.transpose(1, 2) @ colours, leaf.sum(1).unsqueeze(2)

    def spread(squares: Tensor, sums: Tensor, sizes: Tensor) -> Tensor:
        return (squares.squeeze(2) - sums.square().sum(2) / sizes.squeeze(2).clamp(min=1)).sum(0)

    parts = spread(squares, sums, sizes).unflatten(0, (-1, regions[-1])).sum(1)
    nodes = spread(*(value.unflatten(1, (-1, regions[-1])).sum(2) for value in (squares, sums, sizes)))
    return torch.where(nodes > 1e-9, 1 - parts / nodes.clamp(min=1e-9), 0.0).clamp(0, 1).float()


def prune(masks: Tensor, regions: Sequence[int], keep: Tensor | Sequence[bool]) -> Tensor:
    """Leaves (B, leaves, H, W) with some of the last cuts taken back: the first part gets all of the node, the others nothing.

    Args:
        masks: (B, leaves, H, W).
        regions: of each level.
        keep: for each node that the last level cuts, whether the cut stays; ``explained(...) > 0.25``, say.

    Raises:
        ValueError: not one entry for each node.
    """
    parts = masks.unflatten(1, (-1, regions[-1]))
    keep = torch.as_tensor(keep, device=masks.device)
    if keep.shape != parts.shape[1:2]:
        raise ValueError(
            f"keep must have an entry for each of the {parts.shape[1]} nodes, got the shape {tuple(keep.shape)}"
        )
    whole = torch.zeros_like(parts)
    whole[:, :, 0] = parts.sum(2)
    return torch.where(keep[None, :, None, None, None], parts, whole).flatten(1, 2)
