"""Factorized diffusion (thesis 2.3): a denoiser that must cut the picture into regions before it may denoise it.

    h_mid, h_enc  = encoder and middle block of the U-Net            equations 2.2, 2.3
    m             = softmax(mask generator(h_mid, h_enc, t))         equation 2.4: K soft regions that sum to 1
    noise_k       = decoder(h_mid, h_enc * m_k, t)                   equation 2.6: one decoder, K looks at the picture
    noise         = sum_k m_k * noise_k                              equation 2.7

Trained with the plain denoising loss, the masks come to follow objects: no label says so and no regulariser asks for it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fdlib import samplers
from fdlib.denoiser import Denoiser, Prediction, check_images
from fdlib.process import add_noise
from fdlib.schedule import NoiseSchedule
from fdlib.unet import Decoder, UNet, norm_by_position

Decoding = Literal["parallel", "concat", "mask_mid", "unshared"]
DECODINGS: tuple[Decoding, ...] = ("parallel", "concat", "mask_mid", "unshared")
MASK_RESIZES = ("area", "bilinear", "nearest")
MASK_UPSAMPLES = ("bilinear", "shuffle")
DECODER_NORMS = ("group", "position")


class MaskGenerator(nn.Module):
    """A second decoder that ends in a softmax over regions (thesis equation 2.4).

    ``forward(h_mid, h_enc, emb) -> (B, regions, image_size, image_size)``, positive and summing to 1 over the regions.

    Args:
        regions: K.
        fold: pixels that one position of the features covers, along a side.
        upsample: how a folded network's logits become pixels. "bilinear": one logit a position, interpolated, so masks are
            smooth within a block; "shuffle": ``fold**2`` logits a position, free to differ (they form a checkerboard).
        centred: for so many passes in training, the mean over the batch is taken from each region's logits, so that no region can
            win everywhere; its running mean is taken ever after.
        decoder_shape: the arguments of ``fdlib.unet.Decoder``.

    The last convolution starts *small but not at zero*: with equal logits everywhere the masks never receive a gradient
    (chapter 3 shows why).
    """

    def __init__(self, regions: int, fold: int = 1, upsample: str = "bilinear", centred: int = 0, **decoder_shape):
        super().__init__()
        self.fold, self.upsample, self.centred = fold, upsample, centred
        if centred:
            self.register_buffer("mean", torch.zeros(regions))
            self.register_buffer("passes", torch.tensor(0))
        self.decoder = Decoder(channels_out=regions * (fold**2 if upsample == "shuffle" else 1), **decoder_shape)
        small_init(self.decoder.head)

    def logits(self, h_mid: Tensor, h_enc: Sequence[Tensor], emb: Tensor) -> Tensor:
        """What the softmax is taken of, (B, regions, image_size, image_size)."""
        logits = self.decoder(h_mid, h_enc, emb)
        if self.fold > 1 and self.upsample == "shuffle":
            logits = F.pixel_shuffle(logits, self.fold)
        elif self.fold > 1:
            logits = F.interpolate(logits, scale_factor=self.fold, mode="bilinear", align_corners=False)
        return logits - self._mean_of(logits)[:, None, None] if self.centred else logits

    def _mean_of(self, logits: Tensor) -> Tensor:
        if not self.training:
            return self.mean
        centring = self.passes < self.centred  # a tensor, so that a GPU need not be waited for
        mean = torch.where(centring, logits.mean(dim=(0, 2, 3)).to(self.mean.dtype), self.mean.clone())
        self.mean.lerp_(mean.detach(), 0.05)
        self.passes += 1
        return mean

    def forward(self, h_mid: Tensor, h_enc: Sequence[Tensor], emb: Tensor) -> Tensor:
        return self.logits(h_mid, h_enc, emb).softmax(dim=1)


class Segments:
    """What every denoiser with masks can do: segment clean pictures. It needs ``masks(x_t, t, **condition)``."""

    @torch.no_grad()
    def segment(
        self,
        images: Tensor,
        t: int = 30,
        *,
        schedule: NoiseSchedule | None = None,
        generator: torch.Generator | None = None,
        batch_size: int = 250,
        **condition,
    ) -> Tensor:
        """Soft region masks (N, K, H, W) of clean images, by one forward pass at time t (thesis 2.3.4).

        Args:
            images: (N, C, H, W) in [-1, 1].
            t: how much noise is added before; the thesis takes 30.
            schedule: the one that the model was trained on; linear with T = 1000 by default.
            generator: of the noise, on the images' device; seed 0 by default, so that the same images give the same masks.
            batch_size: images a pass.
            condition: what a conditional model wants, one row an image (``label=``).

        Raises:
            TypeError, ValueError: images that are no float (N, C, H, W) in [-1, 1] of the model's size; t outside the schedule.
        """
        check_images(images, "images", self.image_channels, self.image_size)
        schedule = schedule or NoiseSchedule.linear(1000)
        if not 0 <= t < schedule.T:
            raise ValueError(f"t must lie in 0 .. {schedule.T - 1} for this schedule, got {t}")
        generator = generator or torch.Generator(images.device).manual_seed(0)
        device, training = next(self.parameters()).device, self.training
        self.eval()
        masks = []
        for start in range(0, len(images), batch_size):
            part = images[start : start + batch_size]
            noise = torch.randn(part.shape, generator=generator, device=part.device, dtype=part.dtype)
            x_t = add_noise(schedule, part, t, noise).to(device)
            rows = {key: value[start : start + batch_size].to(device) for key, value in condition.items()}
            masks.append(self.masks(x_t, torch.full((len(part),), t, device=device), **rows).to(images.device))
        self.train(training)
        return torch.cat(masks)


class FactorizedUNet(Segments, UNet):
    """The U-Net with a bottleneck of K region masks (thesis 2.3, figure 2.2).

    Args:
        regions: K, the number of regions; with 1 the model is the plain U-Net.
        decoding: how the masks enter the decoder. "parallel" is the thesis's method (equations 2.6 and 2.7), the others
            are its ablations (2.4.3): "concat" hands masks to one decoder as extra channels (equation 2.5); "mask_mid"
            masks h_mid instead of the skips; "unshared" has a decoder of its own for each region.
        mask_resize: how masks are brought to the skips' resolutions: "area" (the mean of the pixels that a position covers),
            "bilinear" or "nearest". The thesis does not say.
        mask_upsample: how a folded network's mask logits become pixels, "bilinear" or "shuffle" (see ``MaskGenerator``).
        mask_centred: passes in training during which no region may win everywhere (see ``MaskGenerator``).
        decoder_norm: "group", as in the U-Net; or "position" for decoder and mask generator. A group's mean and deviation are
            those of a region, which makes any cut of the frame pay; on photos that hides all else (``benchmarks/flowers.md``).
        others: as for ``fdlib.unet.UNet``.

    ``forward`` returns a ``Prediction`` with ``masks`` (B, K, H, W).

    Raises:
        ValueError: regions < 1, an unknown decoding or way of resizing, sizes that do not fit the stages.

    >>> with torch.device("meta"):
    ...     FactorizedUNet(64, 128, (1, 2, 3, 4), blocks=3, regions=3).parameter_count   # 174.4 million
    174424198
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
        regions: int = 3,
        decoding: Decoding = "parallel",
        mask_resize: str = "area",
        mask_upsample: str = "bilinear",
        mask_centred: int = 0,
        decoder_norm: str = "group",
    ):
        _check("regions", regions, regions >= 1, "at least 1")
        _check("mask_centred", mask_centred, mask_centred >= 0, "at least 0")
        for name, value, choices in (
            ("decoding", decoding, DECODINGS),
            ("mask_resize", mask_resize, MASK_RESIZES),
            ("mask_upsample", mask_upsample, MASK_UPSAMPLES),
            ("decoder_norm", decoder_norm, DECODER_NORMS),
        ):
            _check(name, value, value in choices, f"one of {', '.join(choices)}")
        super().__init__(
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
        )
        self.regions, self.decoding, self.mask_resize = regions, decoding, mask_resize
        shape, pixels = self.decoder_shape, image_channels * fold**2
        self.mask_generator = MaskGenerator(regions, fold, mask_upsample, mask_centred, **shape)
        if decoding == "concat":
            self.decoder = Decoder(channels_out=pixels, **shape, extra=regions)
        elif decoding == "unshared":
            self.decoder = nn.ModuleList(Decoder(channels_out=pixels, **shape) for _ in range(regions))
        for decoder in self.decoder if decoding == "unshared" else [self.decoder]:
            small_init(decoder.head)  # a decoder that answers 0 to everything sends no gradient to the masks either
        if decoder_norm == "position":
            norm_by_position(self.decoder)
            norm_by_position(self.mask_generator)
        self.to(memory_format=torch.channels_last)

    def forward(self, x_t: Tensor, t: Tensor, label: Tensor | None = None, masks: Tensor | None = None) -> Prediction:
        """Predict from x_t (B, image_channels, image_size, image_size) at times t (B,); the masks come along.

        ``masks`` (B, K, H, W), if given, take the place of those that the mask generator would make of x_t.

        Raises:
            ValueError: masks of another shape; x_t of another size.
        """
        h_mid, h_enc, emb = self.encode(x_t, t, label)
        if masks is None:
            masks = self.mask_generator(h_mid, h_enc, emb)
        elif masks.shape != (expected := (len(x_t), self.regions, *x_t.shape[2:])):
            raise ValueError(f"masks must have the shape (B, K, H, W) = {expected}, got {tuple(masks.shape)}")
        return Prediction(**{self.predicts: self.decode(h_mid, h_enc, emb, masks)}, masks=masks)

    def decode(self, h_mid: Tensor, h_enc: Sequence[Tensor], emb: Tensor, masks: Tensor) -> Tensor:
        """The prediction for given masks (B, K, H, W): equations 2.6 and 2.7, or what the ablation puts in their place."""
        if self.decoding == "concat":
            h_mid, *h_enc = (torch.cat([h, m[:, :, 0]], dim=1) for h, m in self._with_masks([h_mid, *h_enc], masks))
            return F.pixel_shuffle(self.decoder(h_mid, h_enc, emb), self.fold).contiguous()
        return torch.einsum("bkchw,bkhw->bchw", self.branches(h_mid, h_enc, emb, masks), masks)

    def branches(self, h_mid: Tensor, h_enc: Sequence[Tensor], emb: Tensor, masks: Tensor) -> Tensor:
        """What each region's branch predicts, (B, K, C, H, W): noise_k of equation 2.6. ("concat" has no branches.)"""
        # all K branches in one pass: branch k of image b is row b * K + k
        if self.decoding == "mask_mid":
            h_mid = self._masked([h_mid], masks)[0]
            h_enc = [h.repeat_interleave(self.regions, dim=0) for h in h_enc]
        else:
            h_mid = h_mid.repeat_interleave(self.regions, dim=0)
            h_enc = self._masked(h_enc, masks)
        emb = emb.repeat_interleave(self.regions, dim=0)
        if self.decoding == "unshared":
            parts = [
                decoder(h_mid[k :: self.regions], [h[k :: self.regions] for h in h_enc], emb[k :: self.regions])
                for k, decoder in enumerate(self.decoder)
            ]
            value = torch.stack(parts, dim=1).flatten(0, 1)
        else:
            value = self.decoder(h_mid, h_enc, emb)
        return F.pixel_shuffle(value, self.fold).unflatten(0, (-1, self.regions))

    def _with_masks(self, features: Sequence[Tensor], masks: Tensor) -> list[tuple[Tensor, Tensor]]:
        """Each of the features with the masks at its resolution, (B, K, 1, h, w)."""
        sizes = {h.shape[-2:]: None for h in features}
        resized = {size: resize_masks(masks, size, self.mask_resize).unsqueeze(2) for size in sizes}
        return [(h, resized[h.shape[-2:]]) for h in features]

    def _masked(self, features: Sequence[Tensor], masks: Tensor) -> list[Tensor]:
        """h * m_k for each of the features and all k, (B K, C, h, w)."""
        return [
            (h.unsqueeze(1) * m).flatten(0, 1).contiguous(memory_format=torch.channels_last)
            for h, m in self._with_masks(features, masks)
        ]

    def masks(self, x_t: Tensor, t: Tensor, label: Tensor | None = None) -> Tensor:
        """The masks alone, (B, K, H, W): the decoder is not run."""
        return self.mask_generator(*self.encode(x_t, t, label))


def small_init(head: nn.Conv2d, std: float = 0.02) -> None:
    """Weights of a last convolution that are small but break the symmetry of identical masks."""
    nn.init.normal_(head.weight, std=std)
    nn.init.zeros_(head.bias)


def resize_masks(masks: Tensor, size: tuple[int, int], how: str = "area") -> Tensor:
    """Masks (B, K, H, W) at another resolution (B, K, *size); they still sum to 1 over K."""
    if masks.shape[-2:] == tuple(size):
        return masks
    if how == "area":
        return F.adaptive_avg_pool2d(masks, size)
    if how == "bilinear":
        return F.interpolate(masks, size=size, mode="bilinear", align_corners=False)
    return F.interpolate(masks, size=size, mode="nearest")


# ---------------------------------------------------------------------- image and mask together


@dataclass
class Generated:
    """Pictures with their regions.

    images: (N, C, H, W), clamped to [-1, 1]. masks: (N, K, H, W), of the last evaluation (thesis algorithm 2).
    times: the t of every step; x0: the clean picture guessed there, and steps: its masks, one (N, ...) tensor a step.
    """

    images: Tensor
    masks: Tensor
    times: list[int]
    x0: list[Tensor]
    steps: list[Tensor]


def generate(
    denoiser: Denoiser,
    schedule: NoiseSchedule,
    x_T: Tensor,
    steps: int | None = None,
    sampler: Callable = samplers.ddpm,
    **options,
) -> Generated:
    """Image and masks together, from noise (thesis algorithm 2), with the masks of every step.

    Args:
        denoiser: one whose predictions carry masks.
        x_T: (N, C, H, W) standard normal noise.
        steps, options: of the sampler.
        sampler: ``samplers.ddpm`` (the thesis's), ``ddim``, ``dpm_solver_pp`` or ``ode``.

    Raises:
        ValueError: the denoiser predicts no masks.
    """
    seen, chained = [], options.pop("callback", None)

    def collect(step: samplers.SamplerStep) -> None:
        if step.prediction.masks is None:
            raise ValueError(
                f"denoiser: a {type(denoiser).__name__} predicts no masks; use a factorized model, or the sampler itself"
            )
        seen.append((step.t, step.x0.clamp(-1, 1).cpu(), step.prediction.masks.cpu()))
        if chained:
            chained(step)

    images = sampler(denoiser, schedule, x_T, steps=steps, callback=collect, **options)
    times, x0, masks = (list(column) for column in zip(*seen, strict=True))
    return Generated(images.clamp(-1, 1).cpu(), masks[-1], times, x0, masks)


def _check(name: str, value, good: bool, wanted: str) -> None:
    if not good:
        raise ValueError(f"{name} must be {wanted}, got {value!r}")
