"""The thesis's experiments as presets: at its own scale, and cut down to what a laptop trains in minutes.

Chapter 2 (section 2.4): C = 128; at 64 px [C, 2C, 3C, 4C] and 3 blocks, at 128 px [C, C, 2C, 3C, 4C] and 2 blocks; K = 3; Adam at
1e-4, EMA .9999; linear schedule, T = 1000; Flower and CUB 50 000 steps, FFHQ 500 000, batch 128; ImageNet, given the class,
500 000 steps of batch 512.
Chapter 3 (section 3.4): encoder C = 64, [C, C, 2C, 2C, 4C], 2 blocks; 100 denoising steps; 200 000 steps at 1e-4 (scene) and 2e-5
(encoder).

Where the text is silent we had to choose, and each preset says so. For all: dropout 0, one attention head at 16x16, no warm-up,
gradients cut at norm 1, plain crops, no mirroring.
"""

from __future__ import annotations

from dataclasses import replace

from fdlib.experiments import Architecture, Data, Experiment, SceneExperiment, SceneLoss, SceneModel, Schedule
from fdlib.training import TrainingConfig

SILENT = "The text is silent on dropout, attention, warm-up and mirroring: none but attention at 16x16."


def _picture(name: str, size: int, steps: int, batch: int = 128, classes: int | None = None) -> Experiment:
    multipliers, blocks = ((1, 2, 3, 4), 3) if size == 64 else ((1, 1, 2, 3, 4), 2)
    return Experiment(
        Architecture(size, 128, multipliers, blocks, regions=3, classes=classes),
        Data("prepared", name=name),
        Schedule(),
        TrainingConfig(steps=steps, batch_size=batch, learning_rate=1e-4, ema_decay=0.9999, save_every=5000, workers=4),
    )


def _laptop(full: Experiment, steps: int) -> Experiment:
    """The same experiment at half the size or less, C = 16, thousands of steps: the pipeline, not the quality."""
    size, small = (32, (1, 2, 2)) if full.model.image_size == 64 else (64, (1, 1, 2, 2))
    model = replace(full.model, image_size=size, channels=16, multipliers=small, blocks=1, attention=(), fold=2)
    training = TrainingConfig(
        steps=steps, batch_size=16, learning_rate=2e-3, warmup=100, ema_decay=0.99, log_every=50, save_every=500
    )
    return Experiment(model, replace(full.data), Schedule(power=1.5), training)


NAMES = {
    "flower": ("flowers102", "Flowers-102", 50_000),
    "cub": ("cub200", "CUB-200-2011", 50_000),
    "ffhq": ("ffhq", "FFHQ", 500_000),
}

PICTURES: dict[str, tuple[str, Experiment]] = {}
for _name, (_data, _title, _steps) in NAMES.items():
    for _size, _gpus in ((64, 8), (128, 32)):
        PICTURES[f"{_name}{_size}"] = (
            f"Thesis 2.4: {_title} at {_size} px, on {_gpus} V100 there. {SILENT}",
            _picture(_data, _size, _steps),
        )
PICTURES["imagenet64"] = (
    f"Thesis 2.4: ImageNet at 64 px, given the class; on 32 V100 there. {SILENT}",
    _picture("imagenet", 64, 500_000, 512, classes=1000),
)
PICTURES["shapes3d"] = (
    "Thesis 2.5.1: the two-level hierarchy (3 x 3) on 3D Shapes. The text gives no width, batch, rate or length: those of "
    "Flower-64, 10 000 pictures of the official camera.",
    replace(
        _picture("shapes3d", 64, 50_000),
        model=Architecture(64, 128, (1, 2, 3, 4), 3, regions=(3, 3)),
        data=Data("shapes3d", count=10_000),
    ),
)

LAPTOP: dict[str, tuple[str, Experiment]] = {
    f"{name}-laptop": (
        f"{name} cut down to {_laptop(full, 1).model.image_size} px and C = 16, for minutes on 2 CPU cores. Not tuned.",
        _laptop(full, {"shapes3d": 2500}.get(name, 1500 if full.model.image_size == 128 else 4000)),
    )
    for name, (_, full) in PICTURES.items()
}

# ---------------------------------------------------------------------- chapter 3

THESIS_SCENE = SceneExperiment(
    # one MLP, as the thesis has it for 360 degrees; 64 + 128 samples are NeRF's
    model=SceneModel(channels=64, multipliers=(1, 1, 2, 2, 4), blocks=2, fold=1, resolution=0, samples=192),
    loss=SceneLoss(score_pixels=64, score_samples=64, render_pixels=1024),
    training=TrainingConfig(steps=200_000, batch_size=4, learning_rate=1e-4, ema_decay=0.999, save_every=5000),
)
POSES_SILENT = (
    "The text is silent on lambda (.1 here), and its linear schedule with T = 100 would not end in noise (cosine here). 4 views "
    "x 1024 rays are NeRF's 4096; rates stay constant, where NeRF's fall."
)
LLFF = ("fern", "flower", "fortress", "horns", "leaves", "orchids", "room", "trex")

THESIS_SCENES: dict[str, tuple[str, SceneExperiment]] = {
    f"llff-{scene}": (
        f"Thesis 3.4: LLFF {scene}, one free camera a view (algorithm 3). 378x504 there; here the middle square at 368 px, the "
        f"nearest that five stages can halve. No NDC. {POSES_SILENT}",
        THESIS_SCENE.with_(source="llff", scene=scene, size=368, candidates=1, cameras="free"),
    )
    for scene in LLFF
}
for _k in range(1, 6):
    THESIS_SCENES[f"car{_k}"] = (
        f"Thesis 3.4: ShapeNet car {_k} of 5 at 128 px, 8 candidates in the octants. Which five cars the text does not say: "
        f"pass --views.path. {POSES_SILENT}",
        THESIS_SCENE.with_(source="srn", scene=f"car{_k}", size=128, candidates=8, rows=2),
    )
for _scene in ("lego", "drums"):
    THESIS_SCENES[_scene] = (
        f"Thesis 3.4: synthetic {_scene} at 128 px, 12 candidates over the quadrants of a half sphere (3 bands). {POSES_SILENT}",
        THESIS_SCENE.with_(source="blender", scene=_scene, size=128, candidates=12, elevation=(0.0, 1.5), rows=3),
    )

SHORT_SCENE = SceneExperiment(
    loss=SceneLoss(power=2.0, assignment="balanced", blur=1.5, field_rate=1e-2, encoder_rate=1e-3),
    training=TrainingConfig(
        steps=2000, batch_size=16, learning_rate=1e-2, decay="cosine", ema_decay=0.99, log_every=50, save_every=500
    ),
)

SCENE_LAPTOP: dict[str, tuple[str, SceneExperiment]] = {
    "llff-laptop": (
        "LLFF cut down to 48 px, a voxel scene and one free camera a view, for minutes on 2 CPU cores. Not tuned.",
        SHORT_SCENE.with_(source="llff", size=48, candidates=1, cameras="free"),
    ),
    "car-laptop": (
        "The rendered toy car of chapter 10 at 32 px, 8 candidates, for minutes on 2 CPU cores (--views.source srn: ShapeNet's).",
        SHORT_SCENE.with_(elevation=(0.1, 1.0)),
    ),
    **{
        f"{scene}-laptop": (
            f"Synthetic {scene} cut down to 32 px and a voxel scene, 12 candidates in 3 bands, for minutes on 2 CPU cores.",
            SHORT_SCENE.with_(source="blender", scene=scene, candidates=12, elevation=(0.0, 1.5), rows=3),
        )
        for scene in ("lego", "drums")
    },
}
