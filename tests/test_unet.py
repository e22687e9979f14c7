"""The U-Net: published sizes, its three parts, and what it refuses."""

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from fdlib.unet import Decoder, Encoder, MiddleBlock, PositionNorm, UNet, norm, timestep_embedding

SMALL = dict(image_size=16, channels=8, multipliers=(1, 2, 3), blocks=2, attention=(8,))


def make(seed=0, perturb=True, **options):
    """A small network; ``perturb`` gives the layers that start at 0 random weights."""
    torch.manual_seed(seed)
    net = UNet(**{**SMALL, **options})
    if perturb:
        for p in net.parameters():
            if not p.any():
                torch.nn.init.normal_(p, std=0.1)
    return net


def batch(n=2, size=16, channels=3):
    return torch.randn(n, channels, size, size, generator=torch.Generator().manual_seed(0)), torch.tensor(
        [3, 900, 0, 999]
    )[:n]


# ---------------------------------------------------------------------- sizes


def test_the_thesis_network_has_108_6_million_parameters():
    with torch.device("meta"):
        net = UNet(image_size=64, channels=128, multipliers=(1, 2, 3, 4), blocks=3, attention=(16,))
        assert net.parameter_count == 108_577_155
        assert net(torch.empty(2, 3, 64, 64), torch.empty(2, dtype=torch.long)).noise.shape == (2, 3, 64, 64)


def test_the_128_pixel_network_reaches_8_pixels():
    with torch.device("meta"):
        net = UNet(image_size=128, channels=128, multipliers=(1, 1, 2, 3, 4), blocks=2)
        features = net.encoder(torch.empty(1, 3, 128, 128), torch.empty(1, 512))
    assert features[-1].shape == (1, 512, 8, 8) and len(features) == 1 + 5 * 2 + 4


def test_frozen_parameters_count_too():
    net = make()
    total = net.parameter_count
    net.encoder.stem.weight.requires_grad_(False)
    assert net.parameter_count == total == sum(p.numel() for p in net.parameters())


@given(
    size=st.sampled_from([8, 16, 24]),
    channels=st.sampled_from([4, 6, 8, 12]),
    multipliers=st.sampled_from([(1,), (1, 2), (2, 1, 3)]),
    blocks=st.integers(1, 2),
    fold=st.sampled_from([1, 2]),
    image_channels=st.sampled_from([1, 3, 4]),
    predicts=st.sampled_from(["noise", "x0", "velocity"]),
    n=st.integers(1, 3),
)
@settings(deadline=None, max_examples=15)
def test_every_size_that_fits_gives_back_its_shape(
    size, channels, multipliers, blocks, fold, image_channels, predicts, n
):
    net = UNet(
        size, channels, multipliers, blocks, attention=(8,), fold=fold, image_channels=image_channels, predicts=predicts
    )
    x, t = torch.randn(n, image_channels, size, size), torch.randint(1000, (n,))
    prediction = net(x, t)
    assert prediction.kind == predicts and prediction.value.shape == x.shape


# ---------------------------------------------------------------------- training can start


def test_the_untrained_network_predicts_zero():
    x, t = batch()
    assert not make(perturb=False)(x, t).noise.any()


@pytest.mark.parametrize("options", [{}, dict(fold=2, attention=(4,)), dict(classes=4), dict(heads=2)], ids=str)
def test_the_gradient_reaches_every_parameter(options):
    net, (x, t) = make(**options), batch()
    label = torch.tensor([0, 3]) if "classes" in options else None
    F.mse_loss(net(x, t, label=label).noise, torch.randn_like(x)).backward()
    dead = [name for name, p in net.named_parameters() if p.grad is None or not p.grad.any()]
    # Adding the same vector to all keys changes no softmax, so a key's bias has no effect and no gradient: part of qkv.bias only.
    assert dead == []


def test_only_the_head_has_a_gradient_at_first():
    """Zero-initialised branches: the first step moves the head, which then lets the gradient through."""
    net, (x, t) = make(perturb=False), batch()
    F.mse_loss(net(x, t).noise, torch.randn_like(x)).backward()
    assert {name for name, p in net.named_parameters() if p.grad.any()} == {"decoder.head.weight", "decoder.head.bias"}


def test_time_class_and_every_pixel_matter():
    net, (x, t) = make(classes=4), batch()
    label = torch.tensor([0, 3])
    before = net(x, t, label=label).noise
    assert (net(x, t + 1, label=label).noise != before).any() and (net(x, t, label=label.flip(0)).noise != before).any()
    pixel = x.clone().requires_grad_()
    net(pixel, t, label=label).noise[:, :, 0, 0].sum().backward()
    assert pixel.grad.abs().sum(1).gt(0).all()  # attention at 8x8 lets every pixel see every other one


def test_images_of_a_batch_do_not_mix():
    net, (x, t) = make().eval(), batch(4)
    together = net(x, t).noise
    for i in range(4):
        torch.testing.assert_close(together[i : i + 1], net(x[i : i + 1], t[i : i + 1]).noise, rtol=1e-4, atol=1e-5)


def test_dropout_acts_in_training_only():
    net, (x, t) = make(dropout=0.5), batch()
    assert (net(x, t).noise != net(x, t).noise).any()
    net.eval()
    assert torch.equal(net(x, t).noise, net(x, t).noise)


# ---------------------------------------------------------------------- the three parts


@pytest.mark.parametrize("multipliers, blocks", [((1, 2, 3), 2), ((1,), 1), ((2, 2), 3)])
def test_encoder_and_decoder_agree_on_the_skips(multipliers, blocks):
    net, (x, t) = make(multipliers=multipliers, blocks=blocks), batch()
    emb = net.time(t)
    h_enc = net.encoder(x, emb)
    stages = len(multipliers)
    assert len(h_enc) == len(net.encoder.skip_channels) == 1 + stages * blocks + (stages - 1)
    assert [h.shape[1] for h in h_enc] == net.encoder.skip_channels
    assert h_enc[0].shape == (2, 8, 16, 16)
    assert h_enc[-1].shape == (2, 8 * multipliers[-1], 16 >> (stages - 1), 16 >> (stages - 1))
    sizes = [h.shape[-1] for h in h_enc]
    assert sizes == sorted(sizes, reverse=True)
    h_mid = net.middle(h_enc[-1], emb)
    assert h_mid.shape == h_enc[-1].shape
    kept = list(h_enc)
    value = net.decoder(h_mid, h_enc, emb)
    assert len(h_enc) == len(kept) and all(a is b for a, b in zip(h_enc, kept))  # the list can serve a second decoder
    torch.testing.assert_close(value, net(x, t).noise, rtol=0, atol=0)


def test_the_parts_stand_alone():
    shape = dict(channels=8, multipliers=(1, 2), blocks=1, attention=(4,), heads=1, channels_emb=32, dropout=0.0)
    encoder, emb = Encoder(8, 3, **shape), torch.randn(2, 32)
    h_enc = encoder(torch.randn(2, 3, 8, 8), emb)
    decoder = Decoder(8, 5, **shape, skip_channels=encoder.skip_channels)
    assert decoder(MiddleBlock(16, 1, 32, 0.0)(h_enc[-1], emb), h_enc, emb).shape == (2, 5, 8, 8)


def test_attention_sits_where_it_was_asked_for():
    def sizes(attention):
        net, found = make(attention=attention, perturb=False), []
        for part in (net.encoder, net.decoder):
            for module in part.modules():
                if type(module).__name__ == "SelfAttention":
                    module.register_forward_hook(lambda m, i, o: found.append(o.shape[-1]))
        net(*batch())
        return found

    assert sizes(()) == [] and sizes((8,)) == [8] * 5 and sizes((16, 4)) == [16] * 2 + [4] * 2 + [4] * 3 + [16] * 3


def test_attention_is_softmax_of_q_k():
    """The fused kernel against the formula, for two heads."""
    net = make(heads=2, attention=(8,))
    attention = next(m for m in net.modules() if type(m).__name__ == "SelfAttention")
    x = torch.randn(2, 16, 8, 8)
    h = attention.norm(x).flatten(2).transpose(1, 2)
    q, k, v = (attention.qkv(h)[..., 16 * i : 16 * (i + 1)].unflatten(2, (2, 8)).transpose(1, 2) for i in range(3))
    weights = torch.softmax(q @ k.mT / 8**0.5, dim=-1)
    expected = x + attention.out((weights @ v).transpose(1, 2).flatten(2)).transpose(1, 2).reshape(x.shape)
    torch.testing.assert_close(attention(x), expected, rtol=1e-4, atol=1e-5)


def test_residual_block_by_its_formula():
    """Ho et al.: normalise, SiLU, convolve, add the time; again; and the shortcut, itself a convolution where widths differ."""
    block = make().encoder.layers[3].block  # 8 -> 16 channels
    x, emb = torch.randn(2, 8, 8, 8), torch.randn(2, 32)

    def half(h, norm, conv):
        h = F.group_norm(h, norm.num_groups, norm.weight, norm.bias, eps=1e-5)
        return F.conv2d(h * torch.sigmoid(h), conv.weight, conv.bias, padding=1)

    h = half(x, block.norm1, block.conv1) + (emb @ block.emb.weight.T + block.emb.bias)[:, :, None, None]
    expected = F.conv2d(x, block.shortcut.weight, block.shortcut.bias) + half(h, block.norm2, block.conv2)
    torch.testing.assert_close(block(x, emb), expected, rtol=1e-4, atol=1e-5)


def test_folding_keeps_the_picture_and_quarters_the_positions():
    net, (x, t) = make(fold=2), batch()
    assert net(x, t).noise.shape == x.shape
    assert net.encoder(F.pixel_unshuffle(x, 2), net.time(t))[0].shape == (2, 8, 8, 8)
    # the folded network is the plain one on the four sub-images as channels
    plain = make(image_size=8, image_channels=12)
    plain.load_state_dict(net.state_dict())
    torch.testing.assert_close(
        net(x, t).noise, F.pixel_shuffle(plain(F.pixel_unshuffle(x, 2), t).noise, 2), rtol=0, atol=0
    )


# ---------------------------------------------------------------------- pieces


def test_timestep_embedding_by_hand():
    # sin 1, sin .01, cos 1, cos .01
    expected = [[0.0, 0.0, 1.0, 1.0], [0.8414710, 0.0099998, 0.5403023, 0.9999500]]
    torch.testing.assert_close(
        timestep_embedding(torch.tensor([0, 1]), 4), torch.tensor(expected), rtol=1e-5, atol=1e-6
    )


def test_timestep_embeddings_tell_all_times_apart():
    distance = torch.cdist(*[timestep_embedding(torch.arange(1000), 32)] * 2) + torch.eye(1000) * 9
    assert float(distance.min()) > 0.01


@pytest.mark.parametrize(
    "channels, groups", [(128, 32), (384, 32), (512, 32), (64, 16), (32, 8), (8, 2), (4, 1), (6, 1), (12, 3)]
)
def test_groups_of_the_normalisation(channels, groups):
    assert norm(channels).num_groups == groups


def test_a_position_is_normalised_by_itself():
    net = PositionNorm(6)
    torch.nn.init.normal_(net.weight), torch.nn.init.normal_(net.bias)
    x = torch.randn(2, 6, 4, 5, generator=torch.Generator().manual_seed(0))
    centred = x - x.mean(1, keepdim=True)
    expected = centred / (centred.square().mean(1, keepdim=True) + 1e-5).sqrt()
    torch.testing.assert_close(net(x), expected * net.weight[:, None, None] + net.bias[:, None, None])
    moved = x.clone()
    moved[:, :, 0, 0] += 3 * torch.randn(2, 6, generator=torch.Generator().manual_seed(1))
    assert torch.equal(net(moved)[:, :, 1:], net(x)[:, :, 1:]) and not torch.equal(net(moved), net(x))


# ---------------------------------------------------------------------- dtypes


@pytest.mark.parametrize("dtype, tolerance", [(torch.float64, 1e-4), (torch.bfloat16, 0.1)])
def test_other_dtypes_give_the_same_within_their_precision(dtype, tolerance):
    net, (x, t) = make(classes=4).eval(), batch()
    label = torch.tensor([1, 2])
    with torch.no_grad():
        expected = net(x, t, label=label).noise
        found = net.to(dtype)(x.to(dtype), t, label=label).noise
    assert found.dtype == dtype
    assert float((found.float() - expected).abs().max()) <= tolerance * float(expected.abs().max())


def test_autocast():
    net, (x, t) = make(), batch()
    with torch.autocast("cpu", torch.bfloat16):
        assert net(x, t).noise.isfinite().all()


# ---------------------------------------------------------------------- what it refuses


@pytest.mark.parametrize("options, message", [
    (dict(image_size=18), "image_size=18 does not fit 3 stages with fold=1: it is halved 2 times.* multiple of 4"),
    (dict(image_size=12, fold=2), "image_size=12 does not fit 3 stages with fold=2.* multiple of 8"),
    (dict(image_size=0), "image_size=0 does not fit"),
    (dict(image_size=2), "image_size=2 does not fit"),
    (dict(fold=0), "does not fit 3 stages with fold=0"),
    (dict(channels=7), "channels must be an even number >= 4"),
    (dict(channels=2), "channels must be an even number >= 4"),
    (dict(multipliers=()), "multipliers one or more numbers >= 1"),
    (dict(multipliers=(1, 0)), "multipliers one or more numbers >= 1"),
    (dict(blocks=0), "blocks >= 1"),
    (dict(heads=3), r"heads=3 must divide every stage's width.* \[8, 16, 24\]"),
    (dict(predicts="score"), "predicts must be one of noise, x0, velocity, got 'score'"),
])  # fmt: skip
def test_sizes_and_widths_that_do_not_fit(options, message):
    with pytest.raises(ValueError, match=message):
        make(**options)


@pytest.mark.parametrize("x, message", [
    (torch.zeros(2, 3, 17, 17), "x_t must be 16x16 pixels for this model, got 17x17: resize them"),
    (torch.zeros(2, 3, 16, 8), "x_t must be 16x16 pixels for this model, got 16x8"),
    (torch.zeros(2, 1, 16, 16), "x_t must have 3 channels, got 1"),
    (torch.zeros(3, 16, 16), r"x_t must have the shape \(B, C, H, W\)"),
])  # fmt: skip
def test_images_that_do_not_fit(x, message):
    with pytest.raises(ValueError, match=message):
        make()(x, torch.tensor([1, 2]))


@pytest.mark.parametrize("t", [30, torch.tensor(30), [1, 2]])
def test_times_that_are_no_batch(t):
    with pytest.raises(TypeError, match=r"t must be a tensor \(B,\) with one index an image.*torch\.full"):
        make()(batch()[0], t)


def test_labels_only_where_there_are_classes():
    x, t = batch()
    with pytest.raises(ValueError, match="built without classes: call it without label"):
        make()(x, t, label=torch.tensor([0, 1]))
    with pytest.raises(ValueError, match=r"built with classes=4: pass label, a \(B,\) tensor of 0 \.\. 3"):
        make(classes=4)(x, t)
    with pytest.raises((IndexError, ValueError)):
        make(classes=4)(x, t, label=torch.tensor([0, 4]))
