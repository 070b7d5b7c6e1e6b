"""DeiT against the published sizes and against timm's; what distillation adds to a Vision Transformer."""

from __future__ import annotations

import pytest
import torch
from reference import count, lively, make_on_meta
from timm.models import group_parameters
from timm.models.deit import VisionTransformerDistilled
from torch import nn

import models
from models import weights
from utils import BadRequest


def timms(img_size: int, patch_size: int, **kwargs) -> nn.Module:
    """timm's distilled model, which returns both heads' logits in train mode."""
    torch.manual_seed(0)
    model = lively(VisionTransformerDistilled(img_size=img_size, patch_size=patch_size, num_classes=10, **kwargs))
    model.set_distilled_training()
    return model


@pytest.mark.parametrize(
    ("name", "num_classes", "published", "num_heads"),
    [
        ("deit_tiny", 1000, 5_717_416, 3),
        ("deit_small", 1000, 22_050_664, 6),
        ("deit_tiny_distill", 10, 5_528_660, 3),
        ("deit_tiny_distill", 1000, 5_910_800, 3),
        ("deit_small_distill", 1000, 22_436_432, 6),
    ],
)
def test_sizes_are_the_published_ones(name, num_classes, published, num_heads):
    model = make_on_meta(name, num_classes, 224)
    assert count(model) == published
    assert {block.attn.num_heads for block in model.blocks} == {num_heads}


@pytest.mark.parametrize(
    ("name", "img_size", "patch_size", "in_chans", "embed_dim", "num_heads"),
    [("deit_tiny_distill", 224, 16, 3, 192, 3), ("deit_small_distill", 32, 4, 1, 384, 6)],
)
def test_both_heads_logits_are_timms_and_averaged_for_evaluation(
    name, img_size, patch_size, in_chans, embed_dim, num_heads
):
    reference = timms(img_size, patch_size, in_chans=in_chans, embed_dim=embed_dim, num_heads=num_heads)
    model = make_on_meta(name, 10, img_size, in_chans)
    model.load_state_dict(reference.state_dict(), assign=True)
    images = torch.randn(2, in_chans, img_size, img_size)
    with torch.no_grad():
        expected, pair = reference.eval()(images), reference.train()(images)
        assert (expected[0] - expected[1]).std() > 0.01
        assert (pair[0] - pair[1]).std() > 0.01
        torch.testing.assert_close(model.eval()(images), expected, rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(model.train()(images), pair, rtol=1e-5, atol=1e-5)


def test_images_of_another_size_than_built_for_give_timms_logits():
    reference = timms(32, 4, embed_dim=48, depth=2, num_heads=3, dynamic_img_size=True)
    model = make_on_meta("deit_tiny_distill", 10, 32, embed_dim=48, depth=2).eval()
    model.load_state_dict(reference.state_dict(), assign=True)
    images = torch.randn(2, 3, 24, 40)
    with torch.no_grad():
        torch.testing.assert_close(model(images), reference.eval()(images), rtol=1e-5, atol=1e-5)


def test_training_drops_what_timm_drops_with_the_same_random_numbers():
    small = {"embed_dim": 48, "depth": 4, "num_heads": 3}
    reference = timms(32, 4, **small, pos_drop_rate=0.1, proj_drop_rate=0.1, drop_path_rate=0.6).train()
    model = make_on_meta("deit_tiny_distill", 10, 32, **small, dropout=0.1, drop_path=0.6).train()
    model.load_state_dict(reference.state_dict(), assign=True)
    images = torch.randn(16, 3, 32, 32)
    torch.manual_seed(1)
    expected = reference(images)
    torch.manual_seed(1)
    torch.testing.assert_close(model(images), expected, rtol=1e-5, atol=1e-5)


def test_weights_start_as_timms_do():
    torch.manual_seed(0)
    small = {"embed_dim": 192, "depth": 1, "num_heads": 3}
    reference = VisionTransformerDistilled(img_size=64, patch_size=8, num_classes=10, **small).state_dict()
    model = models.create_model("deit_tiny_distill", 10, 64, depth=1).state_dict()
    assert model.keys() == reference.keys()
    for key, value in model.items():
        assert value.std().item() == pytest.approx(reference[key].std().item(), rel=0.15), key
        assert value.mean().item() == pytest.approx(reference[key].mean().item(), abs=0.01), key


def test_parameters_are_grouped_by_depth_and_kept_from_decay_as_in_timm():
    reference = timms(32, 4, embed_dim=48, depth=3, num_heads=3)
    model = make_on_meta("deit_tiny_distill", 10, 32, embed_dim=48, depth=3)
    expected = group_parameters(reference, reference.group_matcher(), reverse=True)
    assert expected["dist_token"] == 0
    assert expected["head_dist.weight"] == 4
    assert group_parameters(model, model.group_matcher(), reverse=True) == expected
    names = {name for name, _ in model.named_parameters()}
    assert model.no_weight_decay() & names == reference.no_weight_decay() & names


def test_weights_for_other_classes_and_image_sizes_replace_both_heads_and_keep_both_tokens():
    reference = timms(32, 4, embed_dim=48, depth=2, num_heads=3)
    model = models.create_model("deit_tiny_distill", 7, 48, patch_size=4, embed_dim=48, depth=2).eval()
    assert weights.load(model, reference.state_dict(), "a.pth") == [
        "head 'head' replaced: a.pth has 10 classes, this model 7",
        "head 'head_dist' replaced: a.pth has 10 classes, this model 7",
        "'pos_embed' interpolated from 8x8 to 12x12 patches",
    ]
    reference.set_input_size(img_size=48)
    images = torch.randn(2, 3, 48, 48)
    model.head, model.head_dist = reference.head, reference.head_dist
    with torch.no_grad():
        torch.testing.assert_close(model(images), reference.eval()(images), rtol=1e-5, atol=1e-5)


def test_weights_without_a_distillation_token_are_refused_and_the_other_way_round():
    plain = models.create_model("deit_tiny", 10, 32, depth=1)
    distilled = models.create_model("deit_tiny_distill", 10, 32, depth=1)
    with pytest.raises(BadRequest, match=r"3 missing: dist_token, head_dist\.bias, head_dist\.weight"):
        weights.load(distilled, plain.state_dict(), "a.pth")
    with pytest.raises(BadRequest, match=r"3 unknown: dist_token .*, head_dist\.bias .*, head_dist\.weight"):
        weights.load(plain, distilled.state_dict(), "a.pth")


@pytest.mark.parametrize("name", ["deit_tiny", "deit_tiny_distill"])
def test_what_cannot_be_built_is_refused_with_what_can(name):
    with pytest.raises(BadRequest, match=r"patches of 16 px .* use --img-size 224 or 240"):
        make_on_meta(name, 10, 230)
    with pytest.raises(BadRequest, match=r"5 heads .* use --embed-dim 190 or 195"):
        make_on_meta(name, 10, 32, num_heads=5)


def test_the_distilled_ones_read_their_tokens_and_nothing_else():
    with pytest.raises(BadRequest, match=r"deit_tiny_distill has no argument pool; it takes .*, layer_scale"):
        models.create_model("deit_tiny_distill", 10, 32, pool="mean")


def test_every_parameter_learns_from_the_two_heads_also_in_bfloat16():
    torch.manual_seed(0)
    model = models.create_model("deit_tiny_distill", 10, 32, 1, depth=2, drop_path=0.1, dropout=0.1)
    with torch.autocast("cpu", torch.bfloat16):
        logits, dist_logits = model(torch.randn(8, 1, 32, 32))
        cross_entropy = nn.functional.cross_entropy
        loss = cross_entropy(logits, torch.arange(8)) + cross_entropy(dist_logits, torch.arange(8))
    loss.backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad.isfinite().all(), name
        assert parameter.grad.abs().max() > 0, name


@pytest.mark.slow
def test_it_compiles_into_one_graph_that_trains_both_heads():
    model = models.create_model("deit_tiny_distill", 10, 32, depth=2, drop_path=0.2)
    compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
    images = torch.randn(4, 3, 32, 32)
    torch.manual_seed(1)
    expected = model(images)
    torch.manual_seed(1)
    torch.testing.assert_close(compiled(images), expected)
