"""Factorized diffusion: the formulas against naive loops, the saddle, published sizes, and what it refuses."""

import pytest
import torch
import torch.nn.functional as F

from fdlib import samplers
from fdlib.emergence import random_regions
from fdlib.factorized import DECODINGS, FactorizedUNet, MaskGenerator, generate, resize_masks
from fdlib.process import DenoisingObjective, add_noise
from fdlib.schedule import NoiseSchedule
from fdlib.training import TrainingConfig, train
from fdlib.unet import UNet, zero_init

SMALL = dict(image_size=16, channels=8, multipliers=(1, 2, 2), blocks=1, attention=(8,))


def make(seed=0, perturb=True, **options):
    torch.manual_seed(seed)
    net = FactorizedUNet(**{**SMALL, **options})
    if perturb:  # layers that start at 0 would hide mistakes
        for p in net.parameters():
            if not p.any():
                torch.nn.init.normal_(p, std=0.1)
        torch.nn.init.normal_(net.mask_generator.decoder.head.weight, std=0.5)
    return net


def batch(n=2, size=16):
    x_t = torch.randn(n, 3, size, size, generator=torch.Generator().manual_seed(0))
    return x_t, torch.tensor([3, 900, 40, 500])[:n]


# ---------------------------------------------------------------------- sizes


@pytest.mark.parametrize(("decoding", "parameters"), [("parallel", 174_424_198), ("unshared", 306_118_284)])
def test_the_thesis_configuration_has_174_4_and_306_1_million_parameters(decoding, parameters):
    with torch.device("meta"):
        net = FactorizedUNet(64, 128, (1, 2, 3, 4), blocks=3, attention=(16,), regions=3, decoding=decoding)
    assert net.parameter_count == parameters


@pytest.mark.parametrize("decoding", DECODINGS)
@pytest.mark.parametrize("fold", [1, 2])
@pytest.mark.parametrize("regions", [1, 2, 5])
def test_predictions_and_masks_have_the_pictures_size_and_masks_sum_to_one(decoding, fold, regions):
    x_t, t = batch()
    prediction = make(decoding=decoding, fold=fold, regions=regions)(x_t, t)
    assert prediction.noise.shape == x_t.shape and prediction.masks.shape == (2, regions, 16, 16)
    assert prediction.masks.min() >= 0
    torch.testing.assert_close(prediction.masks.sum(1), torch.ones(2, 16, 16), rtol=0, atol=1e-6)


# ---------------------------------------------------------------------- the formulas


@pytest.mark.parametrize("fold", [1, 2])
@pytest.mark.parametrize("how", ["area", "bilinear", "nearest"])
def test_parallel_decoding_is_equations_2_6_and_2_7(fold, how):
    net = make(fold=fold, mask_resize=how).double()
    x_t, t = (part.double() if part.is_floating_point() else part for part in batch())
    prediction = net(x_t, t)
    emb = net.time(t)
    h_enc = net.encoder(F.pixel_unshuffle(x_t, fold), emb)
    h_mid = net.middle(h_enc[-1], emb)
    expected = torch.zeros_like(x_t)
    for image in range(2):  # one image, one region, one skip at a time
        rows = slice(image, image + 1)
        for k in range(3):
            m_k = prediction.masks[rows, k : k + 1]
            skips = [h[rows] * resize_masks(m_k, h.shape[-2:], how) for h in h_enc]
            noise_k = F.pixel_shuffle(net.decoder(h_mid[rows], skips, emb[rows]), fold)
            expected[rows] += noise_k * m_k
    assert (prediction.noise - expected).abs().max() < 1e-6 * expected.abs().max()


def test_concat_is_equation_2_5():
    net = make(decoding="concat")
    x_t, t = batch()
    prediction = net(x_t, t)
    h_mid, h_enc, emb = net.encode(x_t, t)

    def joined(h):
        return torch.cat([h, F.adaptive_avg_pool2d(prediction.masks, h.shape[-2:])], dim=1)

    expected = net.decoder(joined(h_mid), [joined(h) for h in h_enc], emb)
    torch.testing.assert_close(prediction.noise, expected, rtol=1e-5, atol=1e-6)


def test_mask_mid_masks_the_middle_and_leaves_the_skips():
    net = make(decoding="mask_mid")
    x_t, t = batch()
    prediction = net(x_t, t)
    h_mid, h_enc, emb = net.encode(x_t, t)
    expected = sum(
        prediction.masks[:, k : k + 1]
        * net.decoder(h_mid * F.adaptive_avg_pool2d(prediction.masks[:, k : k + 1], h_mid.shape[-2:]), h_enc, emb)
        for k in range(3)
    )
    torch.testing.assert_close(prediction.noise, expected, rtol=1e-5, atol=1e-6)


def test_unshared_decoders_are_as_many_as_regions_and_each_has_its_own_mask():
    net = make(decoding="unshared")
    assert len(net.decoder) == 3
    x_t, t = batch()
    prediction = net(x_t, t)
    h_mid, h_enc, emb = net.encode(x_t, t)
    expected = 0
    for k, decoder in enumerate(net.decoder):
        m = prediction.masks[:, k : k + 1]
        expected = expected + m * decoder(h_mid, [h * F.adaptive_avg_pool2d(m, h.shape[-2:]) for h in h_enc], emb)
    torch.testing.assert_close(prediction.noise, expected, rtol=1e-5, atol=1e-6)


def test_with_one_region_the_model_is_the_plain_unet():
    net, plain = make(regions=1), UNet(**SMALL)
    plain.load_state_dict({key: value for key, value in net.state_dict().items() if key in plain.state_dict()})
    x_t, t = batch()
    torch.testing.assert_close(net(x_t, t).noise, plain(x_t, t).noise, rtol=1e-5, atol=1e-6)


def test_the_order_of_regions_changes_nothing_but_the_masks_order():
    net = make(fold=2)
    x_t, t = batch()
    before, order = net(x_t, t), [2, 0, 1]
    head = net.mask_generator.decoder.head
    with torch.no_grad():
        head.weight.copy_(head.weight[order])
        head.bias.copy_(head.bias[order])
    after = net(x_t, t)
    torch.testing.assert_close(after.masks, before.masks[:, order])
    torch.testing.assert_close(after.noise, before.noise, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("how", ["area", "bilinear", "nearest"])
def test_resized_masks_still_sum_to_one(how):
    masks = torch.randn(2, 4, 16, 16).softmax(1)
    for size in (16, 8, 4, 2):
        torch.testing.assert_close(resize_masks(masks, (size, size), how).sum(1), torch.ones(2, size, size))


def test_smooth_masks_do_not_jump_inside_a_block_of_pixels():
    logits = {}
    for upsample in ("bilinear", "shuffle"):
        net = make(fold=2, mask_upsample=upsample)
        logits[upsample] = net.mask_generator.logits(*net.encode(*batch()))
    checker = torch.tensor([[1.0, -1.0], [-1.0, 1.0]]).expand(3, 1, 2, 2)
    energy = {name: F.conv2d(x, checker, stride=2, groups=3).square().mean() / x.var() for name, x in logits.items()}
    assert energy["bilinear"] < 0.2 * energy["shuffle"]


# ---------------------------------------------------------------------- the saddle


def loss_of(net, x_t, t):
    noise = torch.randn(x_t.shape, generator=torch.Generator().manual_seed(1), dtype=x_t.dtype)
    return (net(x_t, t).noise - noise).square().mean()


@pytest.mark.parametrize("decoding", DECODINGS)
@pytest.mark.parametrize("fold", [1, 2])
def test_the_mask_head_receives_a_gradient_from_the_very_first_step(decoding, fold):
    def gradient(std):
        net = make(perturb=False, decoding=decoding, fold=fold).double()
        net.mask_generator.decoder.head.weight.data *= std
        x_t, t = batch()
        loss_of(net, x_t.double(), t).backward()
        return float(net.mask_generator.decoder.head.weight.grad.abs().max())

    as_built, rounding = gradient(1), gradient(0) if decoding in ("parallel", "mask_mid") else 1e-12
    assert as_built > 1e-9 and as_built > 1000 * rounding


def test_identical_masks_are_a_saddle_with_shared_decoders():
    net = make()
    head = zero_init(net.mask_generator.decoder.head)
    loss_of(net, *batch()).backward()
    scale = net.decoder.head.weight.grad.abs().max()
    assert scale > 1e-3 and head.weight.grad.abs().max() < 1e-6 * scale and head.bias.grad.abs().max() < 1e-6 * scale


def test_without_sharing_identical_masks_are_no_saddle():
    net = make(decoding="unshared")
    zero_init(net.mask_generator.decoder.head)
    loss_of(net, *batch()).backward()
    assert net.mask_generator.decoder.head.weight.grad.abs().max() > 1e-5


# ---------------------------------------------------------------------- in use


def test_segment_is_the_mask_of_the_picture_at_t_and_repeats_itself():
    net = make()
    images = torch.rand(5, 3, 16, 16) * 2 - 1
    masks = net.segment(images, batch_size=2)
    torch.testing.assert_close(masks, net.segment(images, batch_size=2))
    generator = torch.Generator().manual_seed(0)
    x_t = add_noise(NoiseSchedule.linear(), images[:2], 30, torch.randn(2, 3, 16, 16, generator=generator))
    with torch.no_grad():
        expected = net.eval()(x_t, torch.tensor([30, 30])).masks
    torch.testing.assert_close(masks[:2], expected)
    assert masks.shape == (5, 3, 16, 16) and not masks.requires_grad


def test_segment_leaves_the_mode_of_the_model_as_it_was():
    net = make(dropout=0.5)
    net.train()
    images = torch.zeros(2, 3, 16, 16)
    torch.testing.assert_close(net.segment(images), net.segment(images))  # dropout is off inside
    assert net.training


def test_a_conditional_model_trains_and_segments_with_labels():
    net = make(classes=4)
    images, label = torch.rand(8, 3, 16, 16) * 2 - 1, torch.arange(8) % 4
    one, other = net.segment(images, label=label), net.segment(images, label=(label + 1) % 4)
    assert (one - other).abs().max() > 1e-4
    rows = [{"image": image, "label": int(k)} for image, k in zip(images, label, strict=True)]
    objective = DenoisingObjective(NoiseSchedule.linear(), condition=("label",))
    state = train(net, objective, rows, TrainingConfig(steps=2, batch_size=4), progress=False)
    assert state.step == 2


@pytest.mark.parametrize("sampler", [samplers.ddpm, samplers.ddim, samplers.dpm_solver_pp])
def test_images_and_masks_come_together_with_the_masks_of_every_step(sampler):
    net, schedule = make(), NoiseSchedule.linear()
    x_T = batch()[0]
    made = generate(
        net, schedule, x_T, 5, sampler, generator=torch.Generator().manual_seed(0), clip_x0=True, progress=False
    )
    alone = sampler(
        net, schedule, x_T, steps=5, generator=torch.Generator().manual_seed(0), clip_x0=True, progress=False
    )
    torch.testing.assert_close(made.images, alone.clamp(-1, 1))
    assert len(made.steps) == len(made.times) == len(made.x0) == 5 and made.times[0] == 999
    torch.testing.assert_close(made.masks, made.steps[-1])
    assert made.masks.shape == (2, 3, 16, 16)


def test_generate_wants_a_model_with_masks():
    with pytest.raises(ValueError, match="UNet predicts no masks"):
        generate(UNet(**SMALL), NoiseSchedule.linear(), batch()[0], 2, progress=False)


@pytest.mark.parametrize("decoding", DECODINGS)
def test_a_saved_model_comes_back(decoding, tmp_path):
    net = make(decoding=decoding, regions=4, fold=2, mask_resize="nearest", mask_upsample="shuffle")
    net.save_pretrained(tmp_path / "model")
    again = FactorizedUNet.from_pretrained(tmp_path / "model")
    x_t, t = batch()
    torch.testing.assert_close(again(x_t, t).noise, net.eval()(x_t, t).noise)
    with pytest.raises(ValueError, match="FactorizedUNet"):
        UNet.from_pretrained(tmp_path / "model")


# ---------------------------------------------------------------------- masks from elsewhere, other norms


@pytest.mark.parametrize("decoding", DECODINGS)
def test_given_masks_take_the_place_of_the_generators(decoding):
    net, (x_t, t) = make(decoding=decoding, regions=3), batch()
    own, given = net(x_t, t), random_regions(2, 3, 16, torch.Generator().manual_seed(0))
    with_given = net(x_t, t, masks=given)
    assert with_given.masks is given and not torch.allclose(with_given.noise, own.noise)
    torch.testing.assert_close(net(x_t, t, masks=own.masks).noise, own.noise)
    torch.testing.assert_close(with_given.noise, net.decode(*net.encode(x_t, t), given))


def test_with_given_masks_the_generator_learns_nothing_and_all_else_does():
    net = make(regions=2)
    objective = DenoisingObjective(NoiseSchedule.linear(1000), condition=("masks",))
    images = torch.rand(4, 3, 16, 16, generator=torch.Generator().manual_seed(0)) * 2 - 1
    objective(net, {"image": images, "masks": random_regions(4, 2, 16)}, torch.Generator().manual_seed(0))[0].backward()
    for name, p in net.named_parameters():
        assert (p.grad is None) == name.startswith("mask_generator."), name


@pytest.mark.parametrize("shape", [(2, 2, 16, 16), (2, 3, 8, 8), (1, 3, 16, 16), (3, 16, 16)])
def test_given_masks_of_another_shape(shape):
    x_t, t = batch()
    with pytest.raises(ValueError, match=r"masks must have the shape \(B, K, H, W\) = \(2, 3, 16, 16\), got"):
        make(regions=3)(x_t, t, masks=torch.ones(shape) / 3)


def test_decoder_norm_by_position(tmp_path):
    def kinds(module):
        return {type(m).__name__ for m in module.modules() if "Norm" in type(m).__name__}

    for decoding in DECODINGS:
        net = make(decoding=decoding, decoder_norm="position")
        assert kinds(net.decoder) == kinds(net.mask_generator) == {"PositionNorm"}
        assert kinds(net.encoder) == kinds(net.middle) == {"GroupNorm"}
    x_t, t = batch()
    net = make(decoder_norm="position")
    net.save_pretrained(tmp_path)
    torch.testing.assert_close(FactorizedUNet.from_pretrained(tmp_path)(x_t, t).noise, net(x_t, t).noise)


def test_centred_masks_let_no_region_win_everywhere():
    net, (x_t, t) = make(regions=3, mask_centred=200), batch(4)
    with torch.no_grad():
        net.mask_generator.decoder.head.bias[1] = 50  # region 1 takes everything, if it may
    generator, features = net.mask_generator, net.encode(x_t, t)
    torch.testing.assert_close(generator.logits(*features).mean((0, 2, 3)), torch.zeros(3), atol=1e-4, rtol=0)
    assert float(generator(*features)[:, 1].mean().detach()) < 0.9
    for _ in range(198):
        generator(*features)  # in training it learns the mean …
    trained = generator(*features)
    net.eval()
    torch.testing.assert_close(generator(*features), trained, atol=2e-3, rtol=0)  # … which it then keeps
    alone = generator(*net.encode(x_t[:1], t[:1]))
    torch.testing.assert_close(alone, generator(*features)[:1])  # and no picture minds its neighbours
    net.train()
    with torch.no_grad():
        generator.decoder.head.bias[1] += 50  # after 200 passes it may
    assert float(generator(*features)[:, 1].mean().detach()) > 0.999
    assert "mask_generator.mean" in net.state_dict() and "mask_generator.mean" not in make().state_dict()


def test_the_average_of_the_weights_keeps_the_mean_of_the_logits():
    torch.manual_seed(0)
    net = FactorizedUNet(16, 8, (1, 2), 1, (), regions=2, mask_centred=3)
    images = torch.rand(8, 3, 16, 16, generator=torch.Generator().manual_seed(0)) * 2 - 1
    config = TrainingConfig(steps=5, batch_size=4, learning_rate=1e-3)
    state = train(net, DenoisingObjective(NoiseSchedule.linear(1000)), images, config, progress=False)
    assert float(net.mask_generator.mean.abs().sum()) > 0
    assert torch.equal(state.ema.mask_generator.mean, net.mask_generator.mean)
    assert int(state.ema.mask_generator.passes) == 5


def test_by_position_what_a_region_hides_far_away_changes_nothing_here():
    """With group normalisation the mean over a branch's positions carries what happens at the other end of the picture."""

    def change(norm):  # of the noise predicted at the left, when the cut between the regions moves at the right
        torch.manual_seed(0)
        net = FactorizedUNet(64, 8, (1, 1), blocks=1, attention=(), regions=2, decoder_norm=norm).double()
        torch.nn.init.normal_(net.decoder.head.weight)
        x_t = torch.randn(1, 3, 64, 64, generator=torch.Generator().manual_seed(0)).double()
        cut = (torch.arange(64) < 44).double().expand(1, 64, 64)
        moved = (torch.arange(64) < 60).double().expand(1, 64, 64)
        one, two = (net(x_t, torch.tensor([50]), masks=torch.stack([m, 1 - m], 1)).noise for m in (cut, moved))
        return float((one - two)[..., :16].detach().abs().max())

    assert change("position") == 0 and change("group") > 1e-6


# ---------------------------------------------------------------------- bad input


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (dict(regions=0), "regions must be at least 1, got 0"),
        (dict(decoding="serial"), "decoding must be one of parallel, concat, mask_mid, unshared, got 'serial'"),
        (dict(mask_resize="cubic"), "mask_resize must be one of"),
        (dict(mask_upsample="nearest"), "mask_upsample must be one of"),
        (dict(mask_centred=-1), "mask_centred must be at least 0, got -1"),
        (dict(decoder_norm="batch"), "decoder_norm must be one of group, position, got 'batch'"),
        (dict(image_size=18), "image_size=18"),
        (dict(predicts="score"), "predicts must be one of"),
    ],
)
def test_what_it_cannot_build_is_named(options, message):
    with pytest.raises(ValueError, match=message):
        FactorizedUNet(**{**SMALL, **options})


@pytest.mark.parametrize(
    ("images", "t", "error", "message"),
    [
        (torch.zeros(1, 3, 32, 32), 30, ValueError, "16x16"),
        (torch.zeros(0, 3, 16, 16), 30, ValueError, "images is empty"),
        (torch.zeros(1, 1, 16, 16), 30, ValueError, "3 channels"),
        (torch.full((1, 3, 16, 16), 2.0), 30, ValueError, r"\[-1, 1\]"),
        (torch.zeros(1, 3, 16, 16, dtype=torch.uint8), 30, TypeError, "float"),
        (torch.zeros(1, 3, 16, 16), 1000, ValueError, "t must lie in 0 .. 999"),
        (torch.zeros(1, 3, 16, 16), -1, ValueError, "t must lie in 0 .. 999"),
    ],
)
def test_what_it_cannot_segment_is_named(images, t, error, message):
    with pytest.raises(error, match=message):
        make().segment(images, t)


def test_the_mask_generator_starts_small_but_not_at_zero():
    net = make(perturb=False)
    assert isinstance(net.mask_generator, MaskGenerator)
    weight = net.mask_generator.decoder.head.weight
    assert 0 < weight.abs().mean() < 0.1
