"""Vision Transformers against the published sizes, and against timm's and torchvision's."""

from __future__ import annotations

import copy

import pytest
import timm
import torch
import torchvision
from reference import count, lively, make_on_meta
from timm.models import group_parameters
from torch import nn
from torchvision.models.vision_transformer import VisionTransformer as TorchvisionViT

import models
from models import weights
from models.vit import VisionTransformer
from utils import BadRequest


def timms(img_size: int, patch_size: int, **kwargs) -> nn.Module:
    return timm.models.VisionTransformer(img_size, patch_size, num_classes=10, **kwargs)


def assert_same_logits(model: nn.Module, reference: nn.Module, images: torch.Tensor) -> None:
    with torch.no_grad():
        expected = reference(images)
        assert (expected[0] - expected[1]).std() > 0.01
        torch.testing.assert_close(model(images), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("name", "num_classes", "published", "num_heads"),
    [
        ("vit_tiny", 10, 5_526_346, 3),
        ("vit_tiny", 1000, 5_717_416, 3),
        ("vit_small", 1000, 22_050_664, 6),
        ("vit_scratch", 1000, 86_567_656, 12),
        ("vit_b_16", 1000, 86_567_656, 12),
        ("vit_b_32", 1000, 88_224_232, 12),
        ("vit_l_16", 1000, 304_326_632, 16),
    ],
)
def test_sizes_are_the_published_ones(name, num_classes, published, num_heads):
    model = make_on_meta(name, num_classes, 224)
    assert count(model) == published
    assert {block.attn.num_heads for block in model.blocks} == {num_heads}


# ---------------------------------------------------------------------------------------------------------------- timm


@pytest.mark.parametrize(
    ("name", "img_size", "in_chans", "ours", "theirs"),
    [
        ("vit_tiny", 224, 3, {}, {"patch_size": 16, "embed_dim": 192, "num_heads": 3}),
        ("vit_small", 32, 1, {}, {"patch_size": 4, "embed_dim": 384, "num_heads": 6}),
        (
            "vit_tiny",
            32,
            3,
            {"pool": "mean", "mlp_ratio": 2.5, "depth": 3},
            {"patch_size": 4, "embed_dim": 192, "num_heads": 3, "mlp_ratio": 2.5, "depth": 3, "class_token": False,
             "global_pool": "avg"},
        ),
        (
            "deit_tiny",
            32,
            3,
            {"pool": "mean", "depth": 2},
            {"patch_size": 4, "embed_dim": 192, "num_heads": 3, "depth": 2, "class_token": False, "global_pool": "avg"},
        ),
        (
            "vit_tiny",
            32,
            3,
            {"layer_scale": 1e-4, "depth": 2},
            {"patch_size": 4, "embed_dim": 192, "num_heads": 3, "depth": 2, "init_values": 1e-4},
        ),
    ],
)  # fmt: skip
def test_logits_are_timms_weight_for_weight(name, img_size, in_chans, ours, theirs):
    torch.manual_seed(0)
    reference = lively(timms(img_size, in_chans=in_chans, **theirs))
    model = make_on_meta(name, 10, img_size, in_chans, **ours)
    model.load_state_dict(reference.state_dict(), assign=True)
    assert_same_logits(model.eval(), reference, torch.randn(2, in_chans, img_size, img_size))


@pytest.mark.parametrize(
    ("name", "ours", "theirs"),
    [
        ("vit_scratch", {}, {"pos_drop_rate": 0.1, "proj_drop_rate": 0.1}),
        ("vit_tiny", {}, {}),
        ("vit_small", {"dropout": 0.3}, {"pos_drop_rate": 0.3, "proj_drop_rate": 0.3}),
        ("vit_tiny", {"drop_path": 0.6}, {"drop_path_rate": 0.6}),
    ],
)
def test_training_drops_what_timm_drops_with_the_same_random_numbers(name, ours, theirs):
    small = {"embed_dim": 48, "depth": 4, "num_heads": 3}
    reference = lively(timms(32, 4, **small, **theirs)).train()
    model = make_on_meta(name, 10, 32, **small, **ours).train()
    model.load_state_dict(reference.state_dict(), assign=True)
    images = torch.randn(16, 3, 32, 32)
    torch.manual_seed(1)
    expected = reference(images)
    torch.manual_seed(1)
    torch.testing.assert_close(model(images), expected, rtol=1e-5, atol=1e-5)
    untouched = torch.allclose(expected, reference.eval()(images), atol=1e-3)
    assert untouched == (not theirs)


@pytest.mark.parametrize(("pool", "layer_scale"), [("token", 1e-4), ("mean", 0)])
def test_weights_start_as_timms_do(pool, layer_scale):
    small = {"embed_dim": 192, "depth": 1, "num_heads": 3, "init_values": layer_scale or None}
    torch.manual_seed(0)
    theirs = {} if pool == "token" else {"class_token": False, "global_pool": "avg"}
    reference = timms(64, 8, **small, **theirs).state_dict()
    model = models.create_model("vit_tiny", 10, 64, depth=1, pool=pool, layer_scale=layer_scale).state_dict()
    assert model.keys() == reference.keys()
    for key, value in model.items():
        assert value.std().item() == pytest.approx(reference[key].std().item(), rel=0.15), key
        assert value.mean().item() == pytest.approx(reference[key].mean().item(), abs=0.01), key


@pytest.mark.parametrize("pool", ["token", "mean"])
def test_parameters_are_grouped_by_depth_and_kept_from_decay_as_in_timm(pool):
    theirs = {"init_values": 0.1} if pool == "token" else {"class_token": False, "global_pool": "avg"}
    reference = timms(32, 4, embed_dim=48, depth=3, num_heads=3, **theirs)
    scale = {"layer_scale": 0.1} if pool == "token" else {}
    model = make_on_meta("vit_tiny", 10, 32, embed_dim=48, depth=3, pool=pool, **scale)
    expected = group_parameters(reference, reference.group_matcher(), reverse=True)
    assert max(expected.values()) == 4
    assert group_parameters(model, model.group_matcher(), reverse=True) == expected
    names = {name for name, _ in model.named_parameters()}
    assert model.no_weight_decay() & names == reference.no_weight_decay() & names


# --------------------------------------------------------------------------------------------------------- torchvision


def small_torchvision_vit(img_size: int = 224) -> nn.Module:
    return TorchvisionViT(img_size, 16, num_layers=2, num_heads=12, hidden_dim=768, mlp_dim=3072, num_classes=10)


def old_names(state: dict) -> dict:
    """`state` with the names that torchvision's files had before its MLP became a sequence of layers."""
    return {
        key.replace(".mlp.0.", ".mlp.linear_1.").replace(".mlp.3.", ".mlp.linear_2."): value
        for key, value in state.items()
    }


@pytest.mark.parametrize("rename", [dict, old_names])
def test_logits_are_torchvisions_with_the_names_of_either_age(rename):
    torch.manual_seed(0)
    reference = lively(small_torchvision_vit())
    model = VisionTransformer(10, 224, 3, 16, depth=2).eval()
    model.head_names = ("head",)
    assert weights.load(model, rename(reference.state_dict()), "a.pth") == []
    assert_same_logits(model, reference, torch.randn(2, 3, 224, 224))


@pytest.mark.parametrize("name", ["vit_b_16", "vit_b_32", "vit_l_16"])
def test_published_weights_fit_other_classes_channels_and_image_sizes(name, monkeypatch):
    with torch.device("meta"):
        state = torchvision.models.get_model(name).state_dict()
        assert models.find_model(name).pretrained == torchvision.models.get_model_weights(name).__name__
        monkeypatch.setattr(weights, "torchvision_weights", lambda enum_name: old_names(state))
        same = models.create_model(name, 1000, 224, pretrained=True)
        other = models.create_model(name, 10, 384, 1, pretrained=True)
    assert same.load_notes == []
    grid, new_grid = (7, 12) if name == "vit_b_32" else (14, 24)
    assert other.load_notes == [
        f"head 'head' replaced: {models.find_model(name).pretrained} has 1000 classes, this model 10",
        "'patch_embed.proj.weight' adapted from 3 to 1 input channels",
        f"'pos_embed' interpolated from {grid}x{grid} to {new_grid}x{new_grid} patches",
    ]


def test_missing_weights_say_which_file_to_put_where(tmp_path, monkeypatch):
    def no_network(*args, **kwargs):
        raise OSError("Name or service not known")

    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setattr(torch.hub, "download_url_to_file", no_network)
    with torch.device("meta"), pytest.raises(BadRequest, match=r"the file vit_b_16-c867db91\.pth from https://"):
        models.create_model("vit_b_16", 10, 224, pretrained=True)


# ---------------------------------------------------------------------------------------------------------- image sizes


@pytest.mark.parametrize("pool", ["token", "mean"])
def test_position_embeddings_are_interpolated_as_timm_does_for_another_image_size(pool):
    torch.manual_seed(0)
    theirs = {} if pool == "token" else {"class_token": False, "global_pool": "avg"}
    reference = lively(timms(32, 4, embed_dim=48, depth=2, num_heads=3, **theirs))
    model = models.create_model("vit_tiny", 10, 48, patch_size=4, embed_dim=48, depth=2, pool=pool).eval()
    notes = weights.load(model, reference.state_dict(), "a.pth")
    assert notes == ["'pos_embed' interpolated from 8x8 to 12x12 patches"]
    reference.set_input_size(img_size=48)
    assert_same_logits(model, reference, torch.randn(2, 3, 48, 48))


@pytest.mark.parametrize("pool", ["token", "mean"])
@pytest.mark.parametrize("size", [(24, 24), (48, 48), (16, 40)])
def test_images_of_another_size_than_built_for_give_timms_logits_and_gradients(size, pool):
    torch.manual_seed(0)
    theirs = {} if pool == "token" else {"class_token": False, "global_pool": "avg"}
    reference = lively(timms(32, 4, embed_dim=48, depth=2, num_heads=3, dynamic_img_size=True, **theirs))
    model = models.create_model("vit_tiny", 10, 32, embed_dim=48, depth=2, pool=pool).eval()
    model.load_state_dict(reference.state_dict())
    images = torch.randn(2, 3, *size)
    with torch.inference_mode():
        copy.deepcopy(model)(images)  # what is kept of it must not keep the next one from learning
    assert_same_logits(model, reference, images)
    reference(images).square().sum().backward()
    model(images).square().sum().backward()
    torch.testing.assert_close(model.pos_embed.grad, reference.pos_embed.grad, rtol=1e-4, atol=1e-4)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(model.positions(images), copy.deepcopy(model).positions(images))
        assert model.positions(images).dtype == torch.float32
    assert model.state_dict().keys() == reference.state_dict().keys()
    assert model.positions(torch.zeros(1, 3, 32, 32)) is model.pos_embed


@pytest.mark.parametrize(
    ("img_size", "patch_size"),
    [(8, 1), (12, 2), (28, 4), (31, 1), (32, 4), (64, 8), (96, 12), (112, 14), (128, 16), (224, 16), (384, 16)],
)
def test_the_patch_size_follows_the_image_size(img_size, patch_size):
    kernel = make_on_meta("vit_tiny", 10, img_size).patch_embed.proj.weight
    assert kernel.shape[2:] == (patch_size, patch_size)


@pytest.mark.parametrize(
    ("name", "img_size", "model_args", "message"),
    [
        ("vit_tiny", 230, {}, "patches of 16 px do not divide 230 px images: use --img-size 224 or 240"),
        ("vit_tiny", 32, {"patch_size": 5}, "patches of 5 px .* use --img-size 30 or 35"),
        ("vit_b_32", 28, {}, "patches of 32 px .* use --img-size 32"),
        ("vit_tiny", 97, {}, r"97 px .* use --img-size 96 or 104 \(or --patch-size 1 for 97x97 patches\)"),
        ("vit_tiny", 32, {"num_heads": 5}, "5 heads .* width of 192 .* use --embed-dim 190 or 195"),
        ("vit_tiny", 32, {"mlp_ratio": 0.001}, "use a larger --mlp-ratio"),
        ("vit_tiny", 32, {"pool": "max"}, "pool 'max' is none of token, mean"),
    ],
)
def test_what_cannot_be_built_is_refused_with_what_can(name, img_size, model_args, message):
    with pytest.raises(BadRequest, match=message) as caught:
        make_on_meta(name, 10, img_size, **model_args)
    assert "\n" not in str(caught.value)


# ------------------------------------------------------------------------------------------------------------ training


@pytest.mark.parametrize("pool", ["token", "mean"])
def test_every_parameter_learns_also_in_bfloat16(pool):
    torch.manual_seed(0)
    rates = {"drop_path": 0.1, "dropout": 0.1, "layer_scale": 0.1}
    model = models.create_model("vit_tiny", 10, 32, 1, depth=2, pool=pool, **rates)
    with torch.autocast("cpu", torch.bfloat16):
        loss = nn.functional.cross_entropy(model(torch.randn(8, 1, 32, 32)), torch.arange(8))
    loss.backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad.isfinite().all(), name
        assert parameter.grad.abs().max() > 0, name
