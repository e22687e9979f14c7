"""The U-Net of Ho et al. (2020), in the three parts that later chapters take apart.

    Encoder      x_t  ->  h_enc, the features at every layer of the way down           thesis equation 2.2
    MiddleBlock  h_enc[-1]  ->  h_mid                                                   thesis equation 2.3
    Decoder      h_mid and all of h_enc (through the skips)  ->  an image

Widths of thesis 2.4 (C = 128): 64 px ``multipliers=(1, 2, 3, 4), blocks=3``; 128 px ``multipliers=(1, 1, 2, 3, 4), blocks=2``.
For CPUs, ``fold=2`` turns every 2x2 block of pixels into channels at the stem, so that all layers run on a quarter of the
positions.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fdlib.denoiser import QUANTITIES, Denoiser, Prediction, check_size


def timestep_embedding(t: Tensor, channels: int, max_period: float = 10000.0) -> Tensor:
    """(B, channels) sines and cosines of t at geometrically spaced frequencies (Vaswani et al. 2017, section 3.5)."""
    half = channels // 2
    frequencies = torch.exp(-math.log(max_period) * torch.arange(half, device=t.device, dtype=torch.float32) / half)
    angles = t.float()[:, None] * frequencies
    return torch.cat([angles.sin(), angles.cos()], dim=1)


def norm(channels: int) -> nn.GroupNorm:
    """Group normalisation: 32 groups as in Ho et al., fewer in narrow layers so that a group keeps 4 channels or more."""
    groups = next(g for g in range(min(32, max(1, channels // 4)), 0, -1) if channels % g == 0)
    return nn.GroupNorm(groups, channels)


class PositionNorm(nn.LayerNorm):
    """Each position's channels (B, C, H, W) are normalised by themselves (Ba et al. 2016): nothing passes between positions."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.movedim(1, -1)).movedim(-1, 1)


def norm_by_position(module: nn.Module) -> None:
    """Put a new ``PositionNorm`` in the place of every group normalisation inside ``module``."""
    for name, child in module.named_children():
        if isinstance(child, nn.GroupNorm):
            setattr(module, name, PositionNorm(child.num_channels))
        else:
            norm_by_position(child)


def zero_init(module: nn.Module) -> nn.Module:
    """The module with all its parameters 0, so that a residual branch starts as the identity."""
    for parameter in module.parameters():
        nn.init.zeros_(parameter)
    return module


class ResBlock(nn.Module):
    """Two 3x3 convolutions with the time embedding added between them, and a shortcut around."""

    def __init__(self, channels_in: int, channels_out: int, channels_emb: int, dropout: float = 0.0):
        super().__init__()
        self.norm1, self.conv1 = norm(channels_in), nn.Conv2d(channels_in, channels_out, 3, padding=1)
        self.emb = nn.Linear(channels_emb, channels_out)
        self.norm2, self.conv2 = norm(channels_out), zero_init(nn.Conv2d(channels_out, channels_out, 3, padding=1))
        self.dropout = nn.Dropout(dropout)
        self.shortcut = nn.Conv2d(channels_in, channels_out, 1) if channels_in != channels_out else nn.Identity()

    def forward(self, x: Tensor, emb: Tensor) -> Tensor:
        h = self.conv1(F.silu(self.norm1(x))) + self.emb(emb)[:, :, None, None]
        h = self.conv2(self.dropout(F.silu(self.norm2(h))))
        return self.shortcut(x) + h


class SelfAttention(nn.Module):
    """Every position looks at every other one; a residual branch."""

    def __init__(self, channels: int, heads: int = 1):
        super().__init__()
        self.heads = heads
        self.norm = norm(channels)
        self.qkv = nn.Linear(channels, 3 * channels)
        self.out = zero_init(nn.Linear(channels, channels))

    def forward(self, x: Tensor) -> Tensor:
        B, C, H, W = x.shape
        h = self.norm(x).flatten(2).transpose(1, 2)  # (B, HW, C)
        # each of q, k, v: (B, heads, HW, C/heads)
        q, k, v = self.qkv(h).reshape(B, H * W, 3, self.heads, C // self.heads).permute(2, 0, 3, 1, 4)
        h = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(B, H * W, C)
        return x + self.out(h).transpose(1, 2).reshape(B, C, H, W)


class Stage(nn.Module):
    """One residual block, followed by attention where the stage has it."""

    def __init__(self, channels_in: int, channels_out: int, channels_emb: int, heads: int, dropout: float):
        super().__init__()
        self.block = ResBlock(channels_in, channels_out, channels_emb, dropout)
        self.attention = SelfAttention(channels_out, heads) if heads else nn.Identity()

    def forward(self, x: Tensor, emb: Tensor) -> Tensor:
        return self.attention(self.block(x, emb))


class Downsample(nn.Module):
    """Half the size, by a convolution of stride 2."""

    def __init__(self, channels: int):
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, stride=2, padding=1)

    def forward(self, x: Tensor, emb: Tensor) -> Tensor:
        return self.conv(x)


class Upsample(nn.Module):
    """Twice the size: repeat every pixel, then convolve."""

    def __init__(self, channels: int):
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(F.interpolate(x, scale_factor=2, mode="nearest"))


class Encoder(nn.Module):
    """The way down: stem, then in each stage ``blocks`` residual blocks and, but for the last stage, a down-sampling.

    ``forward(x, emb) -> h_enc``: the list of features after the stem, after every block and after every down-sampling;
    ``skip_channels`` are their widths. The last of them enters the middle block.
    """

    def __init__(
        self,
        size: int,
        channels_in: int,
        channels: int,
        multipliers: Sequence[int],
        blocks: int,
        attention: Sequence[int],
        heads: int,
        channels_emb: int,
        dropout: float,
    ):
        super().__init__()
        self.stem = nn.Conv2d(channels_in, channels, 3, padding=1)
        self.layers = nn.ModuleList()
        self.skip_channels = [width := channels]
        for level, multiplier in enumerate(multipliers):
            for _ in range(blocks):
                self.layers.append(
                    Stage(width, channels * multiplier, channels_emb, heads if size in attention else 0, dropout)
                )
                self.skip_channels.append(width := channels * multiplier)
            if level < len(multipliers) - 1:
                self.layers.append(Downsample(width))
                self.skip_channels.append(width)
                size //= 2

    def forward(self, x: Tensor, emb: Tensor) -> list[Tensor]:
        h_enc = [self.stem(x.contiguous(memory_format=torch.channels_last))]  # the layout that all layers then keep
        for layer in self.layers:
            h_enc.append(layer(h_enc[-1], emb))
        return h_enc


class MiddleBlock(nn.Module):
    """Residual block, attention, residual block at the lowest resolution."""

    def __init__(self, channels: int, heads: int, channels_emb: int, dropout: float):
        super().__init__()
        self.stage = Stage(channels, channels, channels_emb, heads, dropout)
        self.block = ResBlock(channels, channels, channels_emb, dropout)

    def forward(self, h: Tensor, emb: Tensor) -> Tensor:
        return self.block(self.stage(h, emb), emb)


class Decoder(nn.Module):
    """The way up: in each stage ``blocks`` + 1 residual blocks, each joined by one skip, and an up-sampling between stages.

    ``forward(h_mid, h_enc, emb) -> (B, channels_out, size, size)``. ``h_enc`` is what ``Encoder`` returned; it is not changed.
    ``extra`` counts channels that are appended to ``h_mid`` and to each of ``h_enc`` (chapter 5's ``concat`` has some).
    """

    def __init__(
        self,
        size: int,
        channels_out: int,
        channels: int,
        multipliers: Sequence[int],
        blocks: int,
        attention: Sequence[int],
        heads: int,
        channels_emb: int,
        dropout: float,
        skip_channels: Sequence[int],
        extra: int = 0,
    ):
        super().__init__()
        size, skips = size >> (len(multipliers) - 1), [width + extra for width in skip_channels]
        width = channels * multipliers[-1] + extra
        self.layers = nn.ModuleList()
        for level, multiplier in reversed(list(enumerate(multipliers))):
            for _ in range(blocks + 1):
                heads_here = heads if size in attention else 0
                self.layers.append(Stage(width + skips.pop(), channels * multiplier, channels_emb, heads_here, dropout))
                width = channels * multiplier
            if level > 0:
                self.layers.append(Upsample(width))
                size *= 2
        self.norm, self.head = norm(width), zero_init(nn.Conv2d(width, channels_out, 3, padding=1))

    def forward(self, h_mid: Tensor, h_enc: Sequence[Tensor], emb: Tensor) -> Tensor:
        h, skips = h_mid, list(h_enc)
        for layer in self.layers:
            h = layer(h) if isinstance(layer, Upsample) else layer(torch.cat([h, skips.pop()], dim=1), emb)
        return self.head(F.silu(self.norm(h)))


class UNet(Denoiser):
    """The plain denoiser: encoder, middle block, decoder (Ho et al. 2020, appendix B; widths of thesis 2.4).

    Args:
        image_size: height and width of the images in pixels.
        channels: C, the width of the first stage.
        multipliers: width of each stage in units of C, from the highest resolution down.
        blocks: residual blocks in each stage.
        attention: feature-map sizes at which blocks are followed by self-attention.
        heads: attention heads.
        image_channels: 3 for colour.
        fold: 2 turns 2x2 pixels into channels at the stem (4 times fewer positions, for CPUs); 1 is the paper's.
        classes: number of classes for a conditional model, trained and sampled with ``label=`` (B,) in 0 .. classes-1.
        dropout: between the two convolutions of a block.
        predicts: "noise", "x0" or "velocity".

    >>> UNet(image_size=64, channels=128, multipliers=(1, 2, 3, 4), blocks=3).parameter_count   # 108.6 million
    108577155
    """

    def __init__(
        self,
        image_size: int,
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
    ):
        super().__init__()
        check_stages(image_size, channels, multipliers, blocks, heads, fold)
        if predicts not in QUANTITIES:
            raise ValueError(f"predicts must be one of {', '.join(QUANTITIES)}, got {predicts!r}")
        self.image_size, self.image_channels, self.fold = image_size, image_channels, fold
        self.classes, self.predicts = classes, predicts
        size, pixels, channels_emb = image_size // fold, image_channels * fold**2, 4 * channels
        shape = dict(
            channels=channels,
            multipliers=multipliers,
            blocks=blocks,
            attention=attention,
            heads=heads,
            channels_emb=channels_emb,
            dropout=dropout,
        )
        self.time = TimeEmbedding(channels, channels_emb, classes)
        self.encoder = Encoder(size, pixels, **shape)
        self.middle = MiddleBlock(channels * multipliers[-1], heads, channels_emb, dropout)
        self.decoder_shape = dict(
            shape, size=size, skip_channels=self.encoder.skip_channels
        )  # for chapter 3's second one
        self.decoder = Decoder(channels_out=pixels, **self.decoder_shape)
        self.to(memory_format=torch.channels_last)  # same numbers, faster convolutions and attention on CPUs and GPUs

    def encode(self, x_t: Tensor, t: Tensor, label: Tensor | None = None) -> tuple[Tensor, list[Tensor], Tensor]:
        """(h_mid, h_enc, emb): all that decoders get to see (thesis equations 2.2 and 2.3)."""
        check_size(x_t, "x_t", self.image_channels, self.image_size)
        emb = self.time(t, label)
        h_enc = self.encoder(F.pixel_unshuffle(x_t, self.fold), emb)
        return self.middle(h_enc[-1], emb), h_enc, emb

    def forward(self, x_t: Tensor, t: Tensor, label: Tensor | None = None) -> Prediction:
        """Predict from (B, image_channels, image_size, image_size) at times t (B,); ``label`` (B,) for conditional models."""
        value = self.decoder(*self.encode(x_t, t, label))
        return Prediction(**{self.predicts: F.pixel_shuffle(value, self.fold).contiguous()})


class TimeEmbedding(nn.Module):
    """t, and the class where there is one, as the vector that enters every residual block (its SiLU already applied)."""

    def __init__(self, channels: int, channels_emb: int, classes: int | None = None):
        super().__init__()
        self.channels, self.classes = channels, classes
        self.mlp = nn.Sequential(nn.Linear(channels, channels_emb), nn.SiLU(), nn.Linear(channels_emb, channels_emb))
        self.label = nn.Embedding(classes, channels_emb) if classes else None

    def forward(self, t: Tensor, label: Tensor | None = None) -> Tensor:
        if not isinstance(t, Tensor) or t.ndim != 1:
            raise TypeError(
                f"t must be a tensor (B,) with one index an image, got {t!r}: for one index use torch.full((B,), t)"
            )
        emb = self.mlp(timestep_embedding(t, self.channels).to(self.mlp[0].weight.dtype))
        if (label is None) != (self.label is None):
            raise ValueError(
                "this model was built without classes: call it without label"
                if self.label is None
                else f"this model was built with classes={self.classes}: pass label, "
                f"a (B,) tensor of 0 .. {self.classes - 1}"
            )
        return F.silu(emb if label is None else emb + self.label(label))


def check_stages(
    image_size: int, channels: int, multipliers: Sequence[int], blocks: int, heads: int, fold: int
) -> None:
    """Refuse sizes and widths that do not fit the stages, before anything is built."""
    if not multipliers or min(multipliers) < 1 or blocks < 1 or channels < 4 or channels % 2:
        raise ValueError(
            "channels must be an even number >= 4, multipliers one or more numbers >= 1, blocks >= 1; got "
            f"channels={channels}, multipliers={tuple(multipliers)}, blocks={blocks}"
        )
    divisor = fold * 2 ** (len(multipliers) - 1)
    if fold < 1 or image_size < divisor or image_size % divisor:
        raise ValueError(
            f"image_size={image_size} does not fit {len(multipliers)} stages with fold={fold}: it is halved "
            f"{len(multipliers) - 1} times after folding, so it must be a multiple of {divisor}"
        )
    if heads < 1 or any(channels * m % heads for m in multipliers):
        raise ValueError(
            f"heads={heads} must divide every stage's width, channels * multipliers = "
            f"{[channels * m for m in multipliers]}"
        )
