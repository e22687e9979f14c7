"""Masks within masks: the formula against a naive nested loop, the tree's arithmetic, and what is refused."""

import pytest
import torch

from fdlib.factorized import FactorizedUNet, generate
from fdlib.hierarchical import HierarchicalUNet, coarsen, explained, grow, prune
from fdlib.process import DenoisingObjective
from fdlib.schedule import NoiseSchedule
from fdlib.training import TrainingConfig, train
from fdlib.unet import UNet

SMALL = dict(channels=8, multipliers=(1, 2), blocks=1, attention=())


def make(seed=0, **options):
    torch.manual_seed(seed)
    net = HierarchicalUNet(16, **{**SMALL, **options})
    for p in net.parameters():  # layers that start at 0 would hide mistakes
        if not p.any():
            torch.nn.init.normal_(p, std=0.1)
    for level in net.levels:
        torch.nn.init.normal_(level.mask_generator.decoder.head.weight, std=0.5)
    return net


def batch(n=2):
    x_t = torch.randn(n, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    return x_t, torch.tensor([3, 900, 40])[:n]


def naive(net, level, x, t):
    """f_l of one picture x (3, H, W), by loops over regions; and the leaves below, in order."""
    network = net.levels[level]
    features = network.encode(x[None], t)
    m = network.mask_generator(*features)
    h = network.branches(*features, m)[0]
    m = m[0]
    total, leaves = torch.zeros_like(x), []
    for k in range(len(m)):
        if level == len(net.levels) - 1:
            total = total + m[k] * h[k]
            leaves.append(m[k])
        else:
            below, masks = naive(net, level + 1, m[k] * x, t)
            total = total + m[k] * (h[k] + below) / 2
            leaves += [m[k] * mask for mask in masks]
    return total, leaves


@pytest.mark.parametrize("regions", [(3,), (3, 2), (2, 3, 2)])
@pytest.mark.parametrize("fold", [1, 2])
def test_the_formula_against_a_naive_nested_loop(regions, fold):
    net = make(depth=len(regions), regions=regions, fold=fold).double()
    x_t, t = batch()
    prediction = net(x_t.double(), t)
    for b in range(2):
        value, leaves = naive(net, 0, x_t[b].double(), t[b : b + 1])
        torch.testing.assert_close(prediction.noise[b], value, rtol=0, atol=1e-9)
        torch.testing.assert_close(prediction.masks[b], torch.stack(leaves), rtol=0, atol=1e-9)


def test_depth_2_is_the_formula_of_the_thesis():
    """sum_i m_i^0 (h_i^0 + sum_j h_j^1 m_j^1) / 2, written out."""
    net = make(regions=(2, 3)).double()
    x_t, t = batch()
    x_t = x_t.double()
    first, second = net.levels
    features = first.encode(x_t, t)
    m0 = first.mask_generator(*features)
    h0 = first.branches(*features, m0)
    expected = sum(m0[:, i, None] * (h0[:, i] + second(m0[:, i, None] * x_t, t).noise) / 2 for i in range(2))
    torch.testing.assert_close(net(x_t, t).noise, expected, rtol=0, atol=1e-9)


def test_depth_1_is_the_factorized_unet():
    net = make(depth=1, regions=4)
    flat = FactorizedUNet(16, **SMALL, regions=4)
    flat.load_state_dict(net.levels[0].state_dict())
    x_t, t = batch()
    ours, theirs = net(x_t, t), flat(x_t, t)
    assert torch.equal(ours.noise, theirs.noise) and torch.equal(ours.masks, theirs.masks)
    assert net.parameter_count == flat.parameter_count


@pytest.mark.parametrize("regions", [(3, 3), (2, 3, 2)])
def test_masks_are_a_partition_at_every_level(regions):
    net = make(depth=len(regions), regions=regions)
    masks = net(*batch()).masks
    assert masks.min() >= 0
    for level in range(1, len(regions) + 1):
        nodes = coarsen(masks, regions, level)
        torch.testing.assert_close(nodes.sum(1), torch.ones(2, 16, 16), rtol=0, atol=1e-6)
    x_t, t = batch()
    own = net.levels[0].masks(x_t, t)
    torch.testing.assert_close(coarsen(masks, regions, 1), own, rtol=0, atol=1e-6)  # leaves sum to their parent
    assert torch.equal(coarsen(masks, regions, len(regions)), masks)


@pytest.mark.parametrize("regions", [(3,), (3, 2), (2, 3, 2)])
def test_masks_alone_are_those_of_the_whole_pass(regions):
    net = make(depth=len(regions), regions=regions)
    x_t, t = batch()
    torch.testing.assert_close(net.masks(x_t, t), net(x_t, t).masks)
    images = x_t.clamp(-1, 1)
    found = net.segment(images, t=30, batch_size=1)
    assert found.shape == (2, net.regions, 16, 16) and torch.equal(found, net.segment(images, t=30, batch_size=1))


def test_a_class_reaches_every_level():
    net = make(regions=2, classes=3)
    x_t, t = batch()
    values = [net(x_t, t, label=torch.tensor([c, c])).masks for c in (0, 1)]
    assert not torch.allclose(*values)
    with pytest.raises(ValueError, match="classes=3"):
        net(x_t, t)


def test_depth_3_trains_and_every_mask_head_gets_a_gradient():
    torch.manual_seed(0)
    net = HierarchicalUNet(16, depth=3, regions=2, **SMALL)  # as it is initialised
    images = torch.rand(8, 3, 16, 16, generator=torch.Generator().manual_seed(1)) * 2 - 1
    objective = DenoisingObjective(NoiseSchedule.linear(1000))
    loss, _ = objective(net, images, torch.Generator().manual_seed(0))
    loss.backward()
    for level in net.levels:
        assert level.mask_generator.decoder.head.weight.grad.abs().max() > 0
    before = net.levels[2].mask_generator.decoder.head.weight.detach().clone()
    state = train(net, objective, images, TrainingConfig(steps=2, batch_size=4, learning_rate=1e-3), progress=False)
    assert state.step == 2 and not torch.equal(before, net.levels[2].mask_generator.decoder.head.weight)


@pytest.mark.parametrize("regions", [(3,), (3, 2)])
def test_growing_keeps_the_levels_and_copies_the_last(regions):
    net = make(depth=len(regions), regions=regions)
    model = net if len(regions) > 1 else net.levels[0]  # a flat model grows as well
    tree = grow(model, 2)
    assert tree.regions_per_level == (*regions, 2)
    for new, old in zip(tree.levels, [*net.levels, net.levels[-1]], strict=True):
        for name, value in new.state_dict().items():
            copied = new is not tree.levels[-1] or not name.startswith("mask_generator.decoder.head")
            assert not copied or torch.equal(value, old.state_dict()[name]), name
    head = tree.levels[-1].mask_generator.decoder.head.weight
    assert 0 < head.std() < 0.1, "masks of the new level start small, and not equal"
    x_t, t = batch()
    torch.testing.assert_close(coarsen(tree(x_t, t).masks, (*regions, 2), len(regions)), model(x_t, t).masks)
    assert grow(model).regions_per_level == (*regions, regions[-1])
    bias = [grow(model, 3, head_start=lead).levels[-1].mask_generator.decoder.head.bias for lead in (0, 1.5)]
    assert bias[0].tolist() == [0, 0, 0] and bias[1].tolist() == [1.5, 0, 0]
    with torch.no_grad():
        head.add_(1)
        tree.levels[0].decoder.head.weight.add_(1)
    assert not torch.equal(net.levels[0].decoder.head.weight, tree.levels[0].decoder.head.weight), "no memory is shared"


def test_only_models_with_masks_grow():
    with pytest.raises(TypeError, match="must be a FactorizedUNet or HierarchicalUNet, got UNet"):
        grow(UNet(16, **SMALL))
    with pytest.raises(ValueError, match="no branches to cut further"):
        grow(FactorizedUNet(16, **SMALL, regions=3, decoding="concat"))


def test_memory_grows_no_faster_than_the_leaves():
    def kept(regions):
        """Bytes that a forward pass keeps for the backward pass."""
        net, storages = make(regions=regions), {}

        def pack(tensor):
            storages[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage()
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            net(*batch())
        return sum(storage.nbytes() for storage in storages.values())

    sizes = [kept((K, K)) for K in (2, 4, 8)]  # 4, 16 and 64 leaves
    assert sizes[1] < 4 * sizes[0] and sizes[2] < 4 * sizes[1]
    assert sizes[2] - sizes[1] > 2 * (sizes[1] - sizes[0]), "the test sees memory at all"


def test_it_generates_pictures_with_their_tree():
    net = make(regions=(2, 2))
    made = generate(net, NoiseSchedule.linear(1000), torch.randn(2, 3, 16, 16), steps=3, progress=False)
    assert made.images.shape == (2, 3, 16, 16) and made.masks.shape == (2, 4, 16, 16) and len(made.steps) == 3


def test_save_and_load(tmp_path):
    net = make(regions=(3, 2)).eval()
    net.save_pretrained(tmp_path / "tree")
    again = HierarchicalUNet.from_pretrained(tmp_path / "tree")
    x_t, t = batch()
    assert again.regions_per_level == (3, 2) and torch.equal(net(x_t, t).noise, again(x_t, t).noise)


@pytest.mark.parametrize(
    ("options", "match"),
    [
        (dict(depth=0), "depth must be a whole number >= 1, got 0"),
        (dict(depth=1.5), "depth must be a whole number"),
        (dict(depth=2, regions=(3, 3, 3)), r"each of the depth=2 levels, got 3: \(3, 3, 3\)"),
        (dict(depth=2, regions=(3, 0)), "regions must be at least 1, got 0"),
        (dict(depth=2, decoding="concat"), "no branches to cut further"),
        (dict(decoding="tree"), "decoding must be one of"),
    ],
)
def test_refuses(options, match):
    with pytest.raises(ValueError, match=match):
        HierarchicalUNet(16, **{**SMALL, **options})


def test_coarsen_refuses_another_tree():
    with pytest.raises(ValueError, match=r"level must lie in 1 .. 2"):
        coarsen(torch.rand(1, 6, 4, 4), (3, 2), 3)
    with pytest.raises(ValueError, match=r"\(B, 6, H, W\)"):
        coarsen(torch.rand(1, 5, 4, 4), (3, 2), 1)


def test_what_a_cut_explains_against_a_loop():
    g = torch.Generator().manual_seed(3)
    images, masks = torch.randn(3, 3, 5, 6, generator=g), torch.randn(3, 6, 5, 6, generator=g).softmax(1)
    masks[0, :2] = 0  # a picture without the first node
    leaf, expected = masks.argmax(1), []
    for node in range(3):
        within = total = 0.0
        for image, l in zip(images, leaf, strict=True):
            inside = image[:, l // 2 == node]
            if inside.shape[1]:
                total += float((inside - inside.mean(1, keepdim=True)).square().sum())
            for part in (image[:, l == 2 * node], image[:, l == 2 * node + 1]):
                if part.shape[1]:
                    within += float((part - part.mean(1, keepdim=True)).square().sum())
        expected.append(1 - within / total)
    torch.testing.assert_close(explained(images, masks, (3, 2)), torch.tensor(expected), rtol=0, atol=1e-5)


def test_a_cut_explains_all_or_nothing():
    images, masks = torch.zeros(1, 3, 4, 4), torch.zeros(1, 4, 4, 4)
    images[:, :, :, :2], images[:, :, 0, 2:] = 1, 0.5
    masks[:, 0, :, :2] = 1  # the left half, of one colour and uncut
    masks[:, 2, 0, 2:], masks[:, 3, 1:, 2:] = 1, 1  # the right one, cut where its colour changes
    torch.testing.assert_close(explained(images, masks, (2, 2)), torch.tensor([0.0, 1.0]))


def test_pruned_leaves_are_their_node():
    masks = make(regions=(3, 2))(*batch()).masks
    pruned = prune(masks, (3, 2), [True, False, True])
    assert torch.equal(pruned[:, [0, 1, 4, 5]], masks[:, [0, 1, 4, 5]])
    assert torch.equal(pruned[:, 2], masks[:, 2] + masks[:, 3]) and not pruned[:, 3].any()
    torch.testing.assert_close(coarsen(pruned, (3, 2), 1), coarsen(masks, (3, 2), 1))
    with pytest.raises(ValueError, match="each of the 3 nodes"):
        prune(masks, (3, 2), [True, False])
