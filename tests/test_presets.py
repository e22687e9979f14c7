"""Experiments by name: what a preset builds."""

import json
from dataclasses import asdict, replace

import numpy as np
import pytest
import torch

from fdlib.experiments import SceneExperiment, SceneLoss, SceneModel, Views, keep_settings, load_model, read_changes
from fdlib.presets import FORWARD, LEGO, POSES, PRESETS, SCENES, Architecture, Data, Experiment, Schedule
from fdlib.process import DenoisingObjective, PowerT, uniform_t
from fdlib.training import TrainingConfig


@pytest.mark.parametrize("name", PRESETS)
def test_a_preset_builds_what_it_says(name):
    text, experiment = PRESETS[name]
    assert text.endswith(".") and isinstance(experiment, Experiment)
    with torch.device("meta"):
        net = experiment.model.build()
        size = experiment.model.image_size
        label = {"label": torch.empty(2, dtype=torch.long)} if experiment.model.classes else {}
        t = torch.empty(2, dtype=torch.long)
        assert net(torch.empty(2, 3, size, size), t, **label).value.shape == (2, 3, size, size)
    objective = experiment.objective()
    assert isinstance(objective, DenoisingObjective) and objective.schedule.T == 1000
    assert json.dumps(asdict(experiment), default=str)  # plain values: it can be logged and compared
    assert net._hub_mixin_config["multipliers"] == experiment.model.multipliers


def test_full_scale_presets_are_the_thesis():
    """Section 2.4, number by number."""
    for name, steps, batch in (
        ("flower", 50_000, 128),
        ("cub", 50_000, 128),
        ("ffhq", 500_000, 128),
        ("imagenet", 500_000, 512),
    ):
        for size in (64, 128):
            if (name, size) == ("imagenet", 128):
                continue
            _, experiment = PRESETS[f"{name}{size}"]
            training, model = experiment.training, experiment.model
            assert (training.steps, training.batch_size) == (steps, batch)
            assert (training.learning_rate, training.ema_decay, training.warmup) == (1e-4, 0.9999, 0)
            multipliers, blocks = ((1, 2, 3, 4), 3) if size == 64 else ((1, 1, 2, 3, 4), 2)
            classes = 1000 if name == "imagenet" else None
            assert model == Architecture(size, 128, multipliers, blocks, (16,), 1, regions=3, classes=classes)
            assert experiment.schedule == Schedule("linear", 1000)
    with torch.device("meta"):
        assert PRESETS["flower64"][1].model.build().parameter_count == 174_424_198
        assert replace(PRESETS["flower64"][1].model, regions=0).build().parameter_count == 108_577_155
    assert PRESETS["imagenet64"][1].objective().condition == ("label",)


def test_scenes_are_the_thesis():
    """Section 3.4, number by number."""
    for name, (_, experiment) in SCENES.items():
        if name.endswith("-laptop"):
            continue
        model, loss, training = experiment.model, experiment.loss, experiment.training
        assert (model.channels, model.multipliers, model.blocks, model.fold) == (64, (1, 1, 2, 2, 4), 2, 1)
        assert (loss.T, loss.field_rate, loss.encoder_rate, training.steps) == (100, 1e-4, 2e-5, 200_000)
        assert model.candidates == (1 if name.startswith("llff") else 8 if name.startswith("car") else 12)
        assert experiment.views.size == (368 if name.startswith("llff") else 128)
        assert model.resolution == 0 and loss.assignment == "minimum" and loss.power == 1


def test_views_of_any_size_fit_a_cube():
    """Focal length and distances follow the size and the unit: a point of the scene stays at the same place of the picture."""
    from fdlib.cameras import project

    views = Views(size=24, count=3).build()
    assert views.size == 24 and views.bound == 1 and len(views) == 3
    from fdlib.data.multiview import MultiView

    rendered = MultiView.render("car", views=3, size=24, seed=0)
    point = torch.tensor([[0.3, -0.2, 0.1]])
    scaled = Views(size=16)._fit(MultiView(rendered.images, rendered.c2w, rendered.focal, 2.0, 4.0, 2.0))
    a, b = project(point, rendered.c2w[0], rendered.focal, 24), project(point / 2, scaled.c2w[0], scaled.focal, 16)
    a, b = (x[0] if isinstance(x, tuple) else x for x in (a, b))
    torch.testing.assert_close(a[..., :2] * 16 / 24, b[..., :2], rtol=1e-4, atol=1e-3)
    assert (scaled.near, scaled.far, scaled.bound) == (1.0, 2.0, 1.0)


@pytest.mark.parametrize("name", ["shapes32", "photos64-small"])
def test_presets_for_laptops_are_small(name):
    with torch.device("meta"):
        assert PRESETS[name][1].model.build().parameter_count < 2_000_000


def test_presets_do_not_share_their_parts():
    scenes = [*(e for _, e in SCENES.values()), *POSES.values(), *FORWARD.values(), *LEGO.values()]
    parts = [part for _, e in PRESETS.values() for part in (e.model, e.data, e.schedule, e.training)]
    parts += [part for e in scenes for part in (e.views, e.model, e.loss, e.training)]
    assert len({id(part) for part in parts}) == len(parts)  # an override of one changes no other


def test_schedules():
    assert Schedule().build().name == "linear(T=1000)"
    assert float(Schedule(T=100, rescale=True).build().alpha_bars[-1]) < 1e-4
    assert Schedule("cosine", T=50).build().name == "cosine(T=50)"
    assert Experiment().objective().timesteps is uniform_t
    assert Experiment(schedule=Schedule(power=2.0)).objective().timesteps == PowerT(2.0)


def test_every_setting_of_the_network_has_a_field():
    import inspect

    from fdlib.factorized import FactorizedUNet

    arguments = set(inspect.signature(FactorizedUNet).parameters) - {"image_channels"}
    assert set(asdict(Architecture())) == arguments


def test_regions_make_a_factorized_network():
    small = dict(image_size=16, channels=8, multipliers=(1, 2), blocks=1, attention=())
    plain, factorized = Architecture(**small).build(), Architecture(**small, regions=4, decoding="concat").build()
    assert type(plain).__name__ == "UNet"
    assert type(factorized).__name__ == "FactorizedUNet" and (factorized.regions, factorized.decoding) == (4, "concat")


def test_several_numbers_of_regions_make_a_hierarchy():
    small = dict(image_size=16, channels=8, multipliers=(1, 2), blocks=1, attention=())
    tree = Architecture(**small, regions=(3, 2)).build()
    assert type(tree).__name__ == "HierarchicalUNet" and tree.regions_per_level == (3, 2)
    assert PRESETS["hierarchy32"][1].model.build().regions_per_level == (4, 2)


def test_a_tree_starts_from_a_trained_model(tmp_path):
    small = dict(image_size=16, channels=8, multipliers=(1, 2), blocks=1, attention=())
    Architecture(**small, regions=3).build().save_pretrained(tmp_path / "flat")
    experiment = Experiment(Architecture(**small, regions=(3, 2)), start=str(tmp_path / "flat"))
    flat, tree = load_model(tmp_path / "flat"), experiment.build()
    assert all(torch.equal(value, tree.levels[0].state_dict()[name]) for name, value in flat.state_dict().items())
    assert torch.equal(tree.levels[1].encoder.stem.weight, flat.encoder.stem.weight)
    for regions, message in ((3, "is for trees"), ((4, 2), "does not grow into"), ((3, 2, 2), "does not grow into")):
        with pytest.raises(ValueError, match=message):
            replace(experiment, model=Architecture(**small, regions=regions)).build()
    shipped = PRESETS["hierarchy32"][1].build()  # by the name of a checkpoint
    assert shipped.levels[0].regions == 4


def test_varied_layouts_are_windows_of_the_same_pictures():
    plain = Data("shapes3d", count=20).build(16)
    varied = Data("shapes3d", count=20, layout="varied", zoom=(0.5, 0.6)).build(16)
    assert torch.equal(plain.indices, varied.indices)
    assert (plain.images() - varied.images()).abs().mean() > 0.05


@pytest.fixture
def pictures(tmp_path):
    from PIL import Image

    array = np.random.default_rng(0).integers(0, 256, (5, 16, 16, 3), dtype=np.uint8)
    folder = tmp_path / "photos"
    folder.mkdir()
    for i, image in enumerate(array):
        Image.fromarray(image).save(folder / f"{i}.png")
    np.savez(tmp_path / "photos.npz", pictures=array)
    np.save(tmp_path / "photos.npy", array)
    return tmp_path


@pytest.mark.parametrize("file, options", [("photos", {}), ("photos.npy", {}), ("photos.npz", dict(key="pictures"))])
def test_photos_from_a_folder_or_a_file(pictures, file, options):
    data = Data("photos", path=pictures / file, **options).build(image_size=16)
    images = torch.stack([data[i]["image"] for i in range(5)])
    assert images.shape == (5, 3, 16, 16) and images.dtype == torch.float32 and images.abs().max() <= 1
    expected = torch.from_numpy(np.load(pictures / "photos.npy")).permute(0, 3, 1, 2) / 127.5 - 1
    torch.testing.assert_close(images, expected.float())


def test_rendered_shapes():
    data = Data("shapes3d", count=40).build(image_size=32)
    assert len(data) == 40 and data[0]["image"].shape == (3, 32, 32)


@pytest.mark.parametrize("options, error, message", [
    (dict(), ValueError, r"data\.path is missing: pass --data\.path"),
    (dict(path="nowhere.npz"), FileNotFoundError, "nowhere.npz"),
    (dict(path="nowhere"), (FileNotFoundError, NotADirectoryError), "nowhere"),
    (dict(path="photos.npz"), KeyError, "has no array 'images'; it has pictures"),
])  # fmt: skip
def test_data_that_is_not_there(pictures, options, error, message):
    if "path" in options:
        options = {"path": pictures / options["path"]}
    with pytest.raises(error, match=message):
        Data("photos", **options).build(16)


def test_training_settings_of_every_preset_are_valid():
    for _, experiment in PRESETS.values():
        assert TrainingConfig(**asdict(experiment.training)) == experiment.training


# ---------------------------------------------------------------------- changes


def test_fields_are_changed_by_path_or_by_a_name_that_only_one_part_has():
    old = Experiment(Architecture(64), Data("shapes3d"), start="here")
    new = old.with_(steps=7, start="there", **{"data.seed": 3, "training.seed": 4, "model.image_size": 8})
    assert (new.training.steps, new.start, new.model.image_size) == (7, "there", 8)
    assert (new.data.seed, new.training.seed) == (3, 4)
    assert new.data.source == "shapes3d" and old == Experiment(Architecture(64), Data("shapes3d"), start="here")
    copy = old.with_()
    assert copy == old and all(getattr(copy, part) is not getattr(old, part) for part in ("model", "data", "training"))
    assert type(SceneExperiment().with_(seed=3)) is SceneExperiment  # no other part of it has a seed


@pytest.mark.parametrize("changes, message", [
    ({"seed": 1}, r"seed: say which of data\.seed, training\.seed"),
    ({"speed": 1}, r"speed: there is no such field; there are model\.image_size"),
    ({"training.count": 1}, r"training\.count: there is no such field"),
    ({"steps": 0}, "steps must be >= 1"),
    ({"flip": "false"}, r"data\.flip must be True or False, got 'false'"),
])  # fmt: skip
def test_changes_that_mean_nothing_are_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        Experiment().with_(**changes)


def test_changes_are_read_as_python_or_as_words():
    texts = ["blur=0.5", "clean=True", "assignment=minimum", "model.regions=(4, 2)", "name="]
    expected = {"blur": 0.5, "clean": True, "assignment": "minimum", "model.regions": (4, 2), "name": ""}
    assert read_changes(texts) == expected


def test_a_run_goes_on_though_it_is_older_than_a_field(tmp_path):
    """What an earlier version did not know had its default."""
    experiment = SCENES["car-laptop"][1]
    keep_settings(experiment, tmp_path)
    (tmp_path / "checkpoint-1.pt").touch()
    settings = json.loads((tmp_path / "experiment.json").read_text())
    del settings["loss"]["temperature"], settings["model"]["per_view"]
    (tmp_path / "experiment.json").write_text(json.dumps(settings))
    with pytest.raises(ValueError, match=r"loss\.temperature: 0\.2 there, 0\.3 here"):
        keep_settings(experiment.with_(temperature=0.3), tmp_path)
    assert "temperature" not in json.loads((tmp_path / "experiment.json").read_text())["loss"]
    keep_settings(experiment, tmp_path)
    assert json.loads((tmp_path / "experiment.json").read_text())["loss"]["temperature"] == 0.2


# ---------------------------------------------------------------------- poses

TINY = dict(steps=1, batch_size=4, resolution=8, samples=4, score_pixels=4, render_pixels=8)


def car():
    from fdlib.data.multiview import MultiView

    return MultiView.render("car", views=8, size=16, seed=0)


@pytest.mark.parametrize("name", POSES)
def test_pose_experiments_build_and_take_a_step(name):
    from fdlib.training import train

    views, experiment = car(), POSES[name].with_(**TINY)
    model = experiment.build(views)
    assert model.radius == pytest.approx(3.0) and model.focal == views.focal
    assert model.views == (8 if name == "nerf--" else 0)
    groups = experiment.parameters(model)
    state = train(model, experiment.objective(), views, experiment.training, parameters=groups, progress=False)
    assert state.step == 1


def test_a_scene_s_experiment_is_its_parts_put_together_by_hand():
    """Weights and the first loss, bit by bit."""
    from fdlib.pose import PoseDenoiser, PoseObjective
    from fdlib.schedule import NoiseSchedule

    views, experiment = car(), POSES["balanced"].with_(**TINY, seed=5, temperature=0.3)
    model = experiment.build(views)
    torch.manual_seed(5)
    again = PoseDenoiser(16, views.focal, views.near, views.far, radius=model.radius, elevation=(0.1, 1.0), resolution=8,
                         bound=views.bound, samples=4)  # fmt: skip
    assert all(torch.equal(value, again.state_dict()[name]) for name, value in model.state_dict().items())
    by_hand = PoseObjective(NoiseSchedule.cosine(100), 1, temperature=0.3, score_pixels=4, render_pixels=8,
                            timesteps=PowerT(2.0))  # fmt: skip
    losses = [
        f(m, views.images, torch.Generator().manual_seed(1))[0]
        for f, m in ((experiment.objective(), model), (by_hand, again))
    ]
    assert torch.equal(*losses)
    assert [group["lr"] for group in experiment.parameters(model)] == [1e-2, 1e-3]


def test_every_setting_of_a_scene_s_model_and_loss_has_a_field():
    import inspect

    from fdlib.pose import PoseDenoiser, PoseObjective

    of_views = {"image_size", "focal", "near", "far", "radius", "bound", "views"}
    assert set(inspect.signature(PoseDenoiser).parameters) - of_views == set(asdict(SceneModel())) - {"per_view"}
    fixed, ours = {"schedule", "steps", "timesteps", "blur_share"}, {"T", "power", "field_rate", "encoder_rate"}
    assert set(inspect.signature(PoseObjective).parameters) - fixed == set(asdict(SceneLoss())) - ours


def test_the_methods_differ_in_what_they_are_named_for():
    assert POSES["minimum"].loss.assignment == "minimum" and POSES["autoencoder"].loss.clean
    assert POSES["nerf--"].model.per_view
    assert len({e.training.steps for e in POSES.values()}) == 1  # the same budget
