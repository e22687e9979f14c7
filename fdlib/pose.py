"""NeRF inside diffusion (thesis chapter 3): denoise a view by finding its camera and rendering a 3D scene from there.

    poses, s_pose = encoder(x_t, t)                    N candidate cameras and a score for each
    x0            = render(field, pose)                the only way to an answer leads through a camera and a scene
    L             = min_i |x0_i - x_0|^2 + lambda CrossEntropy(s_pose, argmin_i)        equation 3.4

With one candidate this is algorithm 3 (the minimum and the scores fall away), with several algorithm 4. No pose is ever given.
What is assumed, and measured in chapter 10: the intrinsics; and for ``cameras="sphere"`` the radius, what is up, the range of
elevations, and that all cameras look at the origin.

Beyond the thesis: **balanced assignment**. With the plain minimum a candidate that is a little better everywhere can take
all views, and views of opposite sides end on one camera. So for the first part of training a batch may be shared out evenly
among the candidates (``balance``), then the minimum takes over. On the toy car of ``benchmarks/poses.py`` this makes the cameras
more accurate on three of the four seeds where both ways succeed; it does not decide whether they succeed, and no seed is
certain (``benchmarks/results/poses_*.json``). What mattered more on the car was to train on low noise (``PowerT(2)``), at
which a view still shows where its camera is: 3 degrees in place of 14 on the one seed compared. On NeRF's Lego, seen from a half
sphere, balance decides, if the candidates form bands of elevation (``rows``): 2 degrees on training views, against 26 with
the plain minimum and 66 without bands (one seed; ``benchmarks/results/lego_ablation.json``).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fdlib import nerf
from fdlib.cameras import camera_to_world, candidate_directions, look_at, pixel_rays, rodrigues
from fdlib.denoiser import Denoiser, Prediction, batch_images, check_images, check_size
from fdlib.process import TimestepDistribution, add_noise, uniform_t
from fdlib.schedule import NoiseSchedule
from fdlib.unet import Encoder, TimeEmbedding, check_stages

Assignment = Literal["balanced", "minimum"]


class PoseEncoder(nn.Module):
    """From a noisy view to numbers: the encoder half of a U-Net, then two linear layers (thesis 3.4.1, figure 3.12).

    ``forward(x_t, t) -> (B, outputs)``, small at the start. The thesis: channels=64, multipliers=(1, 1, 2, 2, 4), blocks=2.
    Any image size that the stages can halve.
    """

    def __init__(
        self,
        image_size: int,
        outputs: int,
        channels: int = 64,
        multipliers: Sequence[int] = (1, 1, 2, 2, 4),
        blocks: int = 2,
        fold: int = 1,
        hidden: int = 128,
    ):
        super().__init__()
        check_stages(image_size, channels, multipliers, blocks, 1, fold)
        self.fold = fold
        size, last = image_size // fold, channels * multipliers[-1]
        self.time = TimeEmbedding(channels, 4 * channels)
        self.encoder = Encoder(size, 3 * fold**2, channels, multipliers, blocks, (), 1, 4 * channels, dropout=0.0)
        positions = (size >> (len(multipliers) - 1)) ** 2
        # where something is in the view tells where the camera is, so positions are kept, not averaged
        self.head = nn.Sequential(nn.SiLU(), nn.Flatten(), nn.Linear(last * positions, hidden), nn.SiLU())
        self.out = nn.Linear(hidden, outputs)
        nn.init.normal_(self.out.weight, std=0.01)
        nn.init.zeros_(self.out.bias)
        self.to(memory_format=torch.channels_last)

    def forward(self, x_t: Tensor, t: Tensor) -> Tensor:
        return self.out(self.head(self.encoder(F.pixel_unshuffle(x_t, self.fold), self.time(t))[-1]))


class PoseDenoiser(Denoiser):
    """A denoiser of the views of one scene: an encoder that guesses cameras, and the scene that is rendered from the best.

    Args:
        image_size: pixels along a side of the square views.
        focal: focal length in pixels. near, far: where the scene begins and ends before the camera.
        candidates: N cameras to choose from. 1 is algorithm 3 of the thesis, more is algorithm 4.
        cameras: "sphere", on a sphere around the scene, looking at its centre, each candidate within its own sector (and a
            little over its edge); or "free": its own rotation and translation (forward-facing scenes). These begin all in one
            place, ``radius`` before the scene's middle and looking at it, which only fixes the unit of length and the world's
            axes; each of the six numbers stays within half a radian, or half a radius, of it.
        radius: of the sphere. elevation: lowest and highest in radians (``half_sphere`` of thesis 3.4: (0, pi / 2)).
        rows: bands of elevation that the candidates form; N / rows sectors of azimuth in each.
        resolution: voxels along a side of the scene's grid; 0 takes the MLP of Mildenhall et al. instead.
        bound: half the side of the cube that holds the scene.
        samples: on each ray.
        channels, multipliers, blocks, fold: of the encoder.
        views: 0, or the number of training views of NeRF-- (Wang et al. 2021), the thesis's comparator: every view then has
            trainable cameras of its own in place of the encoder, looked up by ``index``, and no other view can be localised.

    ``forward`` returns a ``Prediction`` with ``x0`` rendered from the chosen candidate, ``poses`` (B, N, 4, 4) in OpenGL axes
    and ``pose_logits`` (B, N). All samplers take it as it is.
    """

    def __init__(
        self,
        image_size: int,
        focal: float,
        near: float,
        far: float,
        candidates: int = 8,
        cameras: Literal["sphere", "free"] = "sphere",
        radius: float = 4.0,
        elevation: tuple[float, float] = (0.0, 1.2),
        rows: int = 1,
        resolution: int = 32,
        bound: float = 1.0,
        samples: int = 32,
        channels: int = 16,
        multipliers: Sequence[int] = (1, 2, 4),
        blocks: int = 1,
        fold: int = 2,
        views: int = 0,
    ):
        super().__init__()
        if candidates < 1:
            raise ValueError(f"candidates must be at least 1, got {candidates}")
        if cameras not in ("sphere", "free"):
            raise ValueError(f"cameras must be sphere or free, got {cameras!r}")
        if not 0 <= near < far:
            raise ValueError(f"near and far must satisfy 0 <= near < far, got {near} and {far}")
        if not (radius > 0 and focal > 0 and samples >= 1):
            raise ValueError(f"radius and focal must be positive and samples >= 1, got {radius}, {focal}, {samples}")
        self.image_size, self.focal, self.near, self.far = image_size, focal, near, far
        self.candidates, self.cameras, self.radius, self.samples = candidates, cameras, radius, samples
        if cameras == "sphere":
            self.sectors = candidate_directions(candidates, half_sphere=False, rows=rows, elevation=tuple(elevation))
            self.lowest, self.highest = elevation
        self.numbers = 2 if cameras == "sphere" else 6  # that describe one camera
        outputs = candidates * (self.numbers + 1)
        self.views = views
        if views:
            self.encoder = nn.Embedding(views, outputs)
            nn.init.normal_(self.encoder.weight, std=0.01)
        else:
            self.encoder = PoseEncoder(image_size, outputs, channels, multipliers, blocks, fold)
        self.field = nerf.GridField(resolution, bound) if resolution else nerf.MLPField()
        self.register_buffer("progress", torch.zeros(()))  # share of the training that is done; the objective counts

    @torch.no_grad()
    def grown(self, image_size: int, resolution: int | None = None, samples: int | None = None) -> PoseDenoiser:
        """The same model for larger views of the same scene, to go on with: coarse views find cameras sooner and cheaper.

        The encoder folds m times as many pixels into a channel, and finds for a view of m S pixels exactly the cameras that it
        found for its average over m x m boxes; the scene's grid is interpolated to ``resolution`` voxels.

        Raises:
            ValueError: image_size is no multiple of the present one; a model with ``views``.
        """
        m, rest = divmod(image_size, self.image_size)
        if rest or m < 1 or self.views:
            raise ValueError(
                f"image_size must be a multiple of {self.image_size}, and the model have an encoder, got {image_size}"
            )
        settings = dict(self._hub_mixin_config)
        settings |= {"image_size": image_size, "focal": m * self.focal, "fold": m * self.encoder.fold}
        settings |= {"samples": samples or self.samples}
        state = self.state_dict()
        if isinstance(self.field, nerf.GridField):
            settings["resolution"] = resolution or self.field.resolution
            state["field.grid"] = self.field.resized(settings["resolution"])
        stem = state["encoder.encoder.stem.weight"]  # (C, 3 fold^2, 3, 3), folded pixels by channel, row, column
        square = stem.unflatten(1, (3, self.encoder.fold, self.encoder.fold)) / m**2
        for dim in (2, 3):
            square = square.repeat_interleave(m, dim)
        state["encoder.encoder.stem.weight"] = square.flatten(1, 3)
        larger = PoseDenoiser(**settings).to(stem.device)
        larger.load_state_dict(state)
        larger.progress.zero_()
        return larger

    # ------------------------------------------------------------------ cameras

    def predict(self, x_t: Tensor, t: Tensor, index: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Candidate cameras (B, N, 4, 4) and their scores (B, N) of noisy views (B, 3, S, S)."""
        check_size(x_t, "x_t", 3, self.image_size)
        if self.views and index is None:
            raise ValueError(
                "index is missing: with views=… every training view has its own cameras, so say which view it is"
            )
        out = (
            (self.encoder(index) if self.views else self.encoder(x_t, t))
            .float()
            .unflatten(1, (self.candidates, self.numbers + 1))
        )
        return self.camera(out[..., :-1]), out[..., -1]

    def camera(self, numbers: Tensor) -> Tensor:
        """Camera-to-world matrices (..., N, 4, 4) of the encoder's numbers (..., N, 2) or (..., N, 6)."""
        if (
            self.cameras == "free"
        ):  # thesis equation 3.2 and 3.3.1; untilted OpenGL axes at (0, 0, r) look at the origin
            # A turn and a step aside move the picture alike, but for the parallax. Who photographs a scene in front of them
            # steps more than they turn, so turns learn four times slower. A camera that flew off would see nothing, and
            # learn nothing any more: hence the bounds.
            rates = numbers.new_tensor([0.5, 0.5, 0.5, 2.0, 2.0, 2.0])
            turn, step = (0.5 * torch.tanh(rates * numbers)).split(3, dim=-1)
            return camera_to_world(rodrigues(turn), self.radius * (turn.new_tensor([0.0, 0.0, 1.0]) + step))
        # a little over the sector's edge, so that no view falls between two candidates
        offsets = 1.3 * torch.tanh(numbers)
        azimuth = self.sectors.azimuth.to(offsets) + self.sectors.azimuth_extent.to(offsets) / 2 * offsets[..., 0]
        elevation = self.sectors.elevation.to(offsets) + self.sectors.elevation_extent.to(offsets) / 2 * offsets[..., 1]
        elevation = elevation.clamp(-1.55, 1.55)
        flat = elevation.cos()
        eye = self.radius * torch.stack([flat * azimuth.cos(), flat * azimuth.sin(), elevation.sin()], dim=-1)
        return look_at(eye)

    # ------------------------------------------------------------------ rendering

    def render(
        self,
        c2w: Tensor,
        pixels: Tensor | None = None,
        generator: torch.Generator | None = None,
        samples: int | None = None,
    ) -> Tensor:
        """What cameras (..., 4, 4) see: (..., 3, P) in [-1, 1] at pixels (P,) or (..., P), or whole images (..., 3, S, S)."""
        size = self.image_size
        where = torch.arange(size * size, device=c2w.device) if pixels is None else pixels
        origins, directions = pixel_rays(c2w, where, size, size, self.focal)
        seen = nerf.render_rays(
            self.field,
            origins,
            directions,
            self.near,
            self.far,
            samples or self.samples,
            generator=generator,
            keep_weights=False,
        )
        colours = seen.colour.movedim(-1, -2) * 2 - 1
        return colours if pixels is not None else colours.unflatten(-1, (size, size))

    def forward(
        self,
        x_t: Tensor,
        t: Tensor,
        choose: Callable[[Tensor, Tensor], Tensor] | None = None,
        pixels: Tensor | None = None,
        generator: torch.Generator | None = None,
        index: Tensor | None = None,
    ) -> Prediction:
        """Denoise views x_t (B, 3, S, S).

        Args:
            choose: (poses, pose_logits) -> the candidate to render for each view, (B,); by default the one with the highest
                score, which is all that can be done where the clean view is not known.
            pixels: (P,), render these only: then ``x0`` is (B, 3, P).
            generator: of the places along the rays; without it their middles.
            index: (B,), which training views these are; only for a model with ``views``.
        """
        poses, logits = self.predict(x_t, t, index)
        chosen = logits.argmax(dim=1) if choose is None else choose(poses, logits)
        best = poses[torch.arange(len(poses), device=poses.device), chosen]
        return Prediction(x0=self.render(best, pixels, generator), poses=poses, pose_logits=logits)

    @torch.no_grad()
    def localise(
        self,
        images: Tensor,
        schedule: NoiseSchedule,
        t: int | None = None,
        generator: torch.Generator | None = None,
        batch_size: int = 100,
    ) -> Tensor:
        """Cameras (N, 4, 4) of clean views, seen in training or not: a little noise, one pass, the highest score (thesis 3.3.4).

        Args:
            images: (N, 3, S, S) in [-1, 1].
            t: how much noise; 5 % of the schedule by default.
            generator: of the noise; seed 0 by default.
        """
        check_images(images, "images", 3, self.image_size)
        if self.views:
            raise ValueError(
                "a model with views=… (NeRF--) cannot localise: it has cameras for its training views only"
            )
        t = schedule.T // 20 if t is None else t
        generator = generator or torch.Generator(images.device).manual_seed(0)
        training = self.training
        self.eval()
        found = []
        for part in images.split(batch_size):
            noise = torch.randn(part.shape, generator=generator, device=part.device, dtype=part.dtype)
            poses, logits = self.predict(
                add_noise(schedule, part, t, noise), torch.full((len(part),), t, device=part.device)
            )
            found.append(poses[torch.arange(len(part), device=poses.device), logits.argmax(dim=1)])
        self.train(training)
        return torch.cat(found)


# ---------------------------------------------------------------------- which candidate learns from which view


def balance(errors: Tensor, temperature: float = 0.2, iterations: int = 20) -> Tensor:
    """Share a batch of views out evenly among candidates: a plan (B, N) >= 0 whose rows sum to 1 and columns to B / N.

    Sinkhorn's algorithm (Cuturi 2013) on the errors (B, N). ``temperature`` is in units of their spread within a
    view: small values follow the errors closely, large ones share out at random.
    """
    if errors.ndim != 2 or not temperature > 0:
        raise ValueError(f"errors must be (B, N) and temperature > 0, got {tuple(errors.shape)} and {temperature}")
    B, N = errors.shape
    errors = errors.double()
    centred = errors - errors.mean(dim=1, keepdim=True)
    spread = centred.square().mean().sqrt().clamp_min(1e-12)
    log_plan = -centred / (temperature * spread)
    for _ in range(iterations):
        log_plan = log_plan - log_plan.logsumexp(dim=0, keepdim=True) + torch.tensor(B / N).log()
        log_plan = log_plan - log_plan.logsumexp(dim=1, keepdim=True)
    return log_plan.exp()


@dataclass
class PoseObjective:
    """Equation 3.4, on some of the pixels: which candidate fits best, how well it fits, and whether its score says so.

    Args:
        schedule: the noise schedule. Its last alpha_bar must be near 0, or x_T is not noise and sampling from noise fails.
        steps: of the whole training, to know when balancing and blur end.
        assignment: "balanced" for the first ``balanced_share`` of training, then the minimum; or "minimum" throughout (thesis).
        temperature: of ``balance``.
        weight: lambda of equation 3.4.
        score_pixels, score_samples: on how many pixels of a view candidates are compared, and with how many samples a ray,
            without gradient; render_pixels: rendered with gradient.
        blur: standard deviation, in voxels, of the scene's smoothing at the start, falling to 0 at ``blur_share`` of training.
        timesteps: which t to draw.
        clean: give the encoder the clean view: the thesis's autoencoder (3.4.5).
    """

    schedule: NoiseSchedule
    steps: int
    assignment: Assignment = "balanced"
    balanced_share: float = 0.6
    temperature: float = 0.2
    weight: float = 0.1
    score_pixels: int = 48
    score_samples: int = 16
    render_pixels: int = 128
    blur: float = 1.5
    blur_share: float = 0.5
    timesteps: TimestepDistribution = uniform_t
    clean: bool = False

    def __post_init__(self) -> None:
        if self.assignment not in ("balanced", "minimum"):
            raise ValueError(f"assignment must be balanced or minimum, got {self.assignment!r}")
        if min(self.steps, self.score_pixels, self.score_samples, self.render_pixels) < 1:
            raise ValueError("steps, score_pixels, score_samples and render_pixels must be at least 1")
        last = float(self.schedule.alpha_bars[-1])
        if last > 0.001 and not self.clean:
            raise ValueError(
                f"the schedule ends at alpha_bar = {last:.3f}, so x_T still shows the view and sampling from noise would fail: "
                "take NoiseSchedule.cosine(T) or NoiseSchedule.linear(T, rescale=True)"
            )

    def __call__(
        self, denoiser, batch: Tensor | Mapping, generator: torch.Generator | None = None
    ) -> tuple[Tensor, dict[str, float]]:
        model: PoseDenoiser = getattr(denoiser, "module", denoiser)
        x0 = batch_images(batch)
        check_images(x0, "the batch's images", 3, model.image_size)
        done = float(model.progress)
        if hasattr(model.field, "set_blur"):
            model.field.set_blur(self.blur * max(0.0, 1 - done / self.blur_share) if self.blur_share else 0.0)
        t = self.timesteps(len(x0), self.schedule.T, generator, x0.device)
        noise = torch.randn(x0.shape, generator=generator, device=x0.device, dtype=x0.dtype)
        x_t = x0 if self.clean else add_noise(self.schedule, x0, t, noise)
        t = torch.zeros_like(t) if self.clean else t
        everything = torch.randperm(model.image_size**2, generator=generator, device=x0.device)
        to_score, to_render = everything[: self.score_pixels], everything[: self.render_pixels]
        balanced = self.assignment == "balanced" and done < self.balanced_share
        chosen: list[Tensor] = []

        @torch.no_grad()
        def choose(poses: Tensor, logits: Tensor) -> Tensor:
            if poses.shape[1] == 1:
                chosen.append(torch.zeros(len(poses), dtype=torch.long, device=poses.device))
                return chosen[0]
            seen = model.render(poses, to_score, samples=self.score_samples)  # (B, N, 3, P)
            errors = (seen - x0.flatten(2)[:, None, :, to_score]).square().mean(dim=(2, 3))
            chosen.append(balance(errors, self.temperature).argmax(1) if balanced else errors.argmin(1))
            return chosen[0]

        which = {"index": torch.as_tensor(batch["index"], device=x0.device)} if model.views else {}
        prediction = denoiser(x_t, t, choose=choose, pixels=to_render, generator=generator, **which)
        error = F.mse_loss(prediction.x0, x0.flatten(2)[:, :, to_render])
        loss, log = error, {"error": error.detach()}
        if model.candidates > 1:
            entropy = F.cross_entropy(prediction.pose_logits, chosen[0])
            use = torch.bincount(chosen[0], minlength=model.candidates) / len(x0)
            right = (prediction.pose_logits.argmax(1) == chosen[0]).float().mean()
            loss = loss + self.weight * entropy
            log |= {"cross_entropy": entropy.detach(), "most_used": use.max(), "score_is_right": right}
        if model.training:
            model.progress += 1 / self.steps
        return loss, log


def parameter_groups(model: PoseDenoiser, field: float = 1e-4, encoder: float = 2e-5) -> list[dict]:
    """The two learning rates of thesis 3.4.1 (its values by default), for ``train(parameters=...)``."""
    return [
        {"params": list(model.field.parameters()), "lr": field},
        {"params": list(model.encoder.parameters()), "lr": encoder},
    ]
