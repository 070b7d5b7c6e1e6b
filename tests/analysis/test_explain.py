"""Heat maps match the formulas of their papers, step by step, and networks whose map is known."""

from __future__ import annotations

import math

import pytest
import timm
import torch
import torch.nn.functional as F
from timm.models.vision_transformer import ParallelThingsBlock
from torch import nn
from torchvision.models import VisionTransformer as TorchvisionViT

import models
from analysis.explain import attention_rollout, explain, grad_cam
from models.deit import DistilledVisionTransformer
from models.vit import VisionTransformer
from tests.models.reference import lively, with_lively_statistics
from utils import BadRequest

SIZE = {"img_size": 32, "patch_size": 8, "embed_dim": 24, "depth": 2, "num_heads": 3}  # 4x4 patches


def awake(model: nn.Module) -> nn.Module:
    """In eval mode, with weights large enough that every token attends to other tokens."""
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=0.3)
    return model.eval()


def vit(**more) -> VisionTransformer:
    return awake(VisionTransformer(5, in_chans=3, **SIZE, **more))


def distilled() -> DistilledVisionTransformer:
    return awake(DistilledVisionTransformer(5, in_chans=3, **SIZE))


def timm_vit(**more) -> nn.Module:
    return awake(timm.create_model("vit_tiny_patch16_224", num_classes=5, **SIZE, **more))


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(0)


@pytest.fixture
def images() -> torch.Tensor:
    return torch.randn(2, 3, 32, 32)


def layer_norm(x: torch.Tensor, norm: nn.LayerNorm) -> torch.Tensor:
    centred = x - x.mean(-1, keepdim=True)
    return centred / (centred.pow(2).mean(-1, keepdim=True) + norm.eps).sqrt() * norm.weight + norm.bias


def reference_rollout(model: nn.Module, image: torch.Tensor, prefix: int, readers: list[int]) -> torch.Tensor:
    """Rollout of one image in double precision, token by token and head by head, for a model with timm's names."""
    model = model.double()
    patches = F.conv2d(image[None].double(), model.patch_embed.proj.weight, model.patch_embed.proj.bias, stride=8)
    names = [name for name in ("cls_token", "dist_token", "reg_token") if getattr(model, name, None) is not None]
    x = torch.cat([*(getattr(model, name)[0] for name in names), patches.flatten(2)[0].T]) + model.pos_embed[0]
    total = torch.eye(len(x), dtype=torch.float64)
    for block in model.blocks:
        heads, width = block.attn.num_heads, x.shape[1] // block.attn.num_heads
        normed = layer_norm(x, block.norm1)
        weight, bias = block.attn.qkv.weight, block.attn.qkv.bias
        mean, mixed = torch.zeros(len(x), len(x), dtype=torch.float64), []
        for head in range(heads):
            at = [slice(part * x.shape[1] + head * width, part * x.shape[1] + (head + 1) * width) for part in range(3)]
            q, k, v = (normed @ weight[rows].T + bias[rows] for rows in at)
            scores = torch.stack([torch.stack([(q[i] * k[j]).sum() for j in range(len(x))]) for i in range(len(x))])
            attention = (scores / math.sqrt(width)).exp()
            attention = attention / attention.sum(1, keepdim=True)
            mean = mean + attention / heads
            mixed.append(attention @ v)
        total = (0.5 * mean + 0.5 * torch.eye(len(x), dtype=torch.float64)) @ total
        x = x + torch.cat(mixed, 1) @ block.attn.proj.weight.T + block.attn.proj.bias
        hidden = layer_norm(x, block.norm2) @ block.mlp.fc1.weight.T + block.mlp.fc1.bias
        hidden = 0.5 * hidden * (1 + torch.erf(hidden / math.sqrt(2)))
        x = x + hidden @ block.mlp.fc2.weight.T + block.mlp.fc2.bias
    model.float()
    return stretched(torch.stack([total[row] for row in readers]).mean(0)[prefix:].reshape(4, 4))


def stretched(grid: torch.Tensor, size: int = 32) -> torch.Tensor:
    maps = F.interpolate(grid[None, None], (size, size), mode="bilinear", align_corners=False)[0, 0]
    return ((maps - maps.min()) / (maps.max() - maps.min())).float()


def assert_rollout(model: nn.Module, images: torch.Tensor, prefix: int, readers: list[int]) -> None:
    maps = attention_rollout(model, images)
    with torch.no_grad():
        expected = torch.stack([reference_rollout(model, image, prefix, readers) for image in images])
    assert maps.shape == expected.shape and maps.dtype == torch.float32 and not maps.requires_grad
    assert torch.allclose(maps, expected, atol=1e-4)
    assert (maps.amin((1, 2)) == 0).all() and (maps.amax((1, 2)) == 1).all()
    assert (maps[0] - maps[1]).abs().mean() > 0.02  # each image has its own


# -------------------------------------------------------------------------------------------------------------- rollout


@pytest.mark.parametrize(
    ("make", "prefix", "readers"),
    [
        (vit, 1, [0]),
        (distilled, 2, [0, 1]),
        (lambda: vit(pool="mean"), 0, list(range(16))),
        (lambda: timm_vit(reg_tokens=2), 3, [0]),
        (lambda: timm_vit(reg_tokens=2, global_pool="avg"), 3, list(range(3, 19))),
        (lambda: timm_vit(global_pool="avg", pool_include_prefix=True), 1, list(range(17))),
    ],
    ids=["class token", "distilled", "mean", "registers", "mean beside tokens", "mean of all"],
)
def test_rollout_is_that_of_the_paper(images, make, prefix, readers):
    assert_rollout(make(), images, prefix, readers)


@pytest.mark.parametrize("fused", [True, False])
@pytest.mark.parametrize(
    ("make", "name"), [(vit, "vit_tiny_patch16_224"), (distilled, "deit_tiny_distilled_patch16_224")]
)
def test_timm_gives_the_same_maps(images, make, name, fused):
    ours = make()
    theirs = timm.create_model(name, num_classes=5, **SIZE).eval()
    theirs.load_state_dict(ours.state_dict())
    for block in theirs.blocks:
        block.attn.fused_attn = fused
    assert torch.allclose(attention_rollout(ours, images), attention_rollout(theirs, images), atol=1e-5)


def test_torchvision_gives_the_same_maps(images):
    theirs = awake(TorchvisionViT(32, 8, num_layers=2, num_heads=3, hidden_dim=24, mlp_dim=96, num_classes=5))
    ours = VisionTransformer(5, in_chans=3, **SIZE).eval()
    ours.load_state_dict(ours.convert_state_dict(theirs.state_dict()))
    assert torch.allclose(attention_rollout(ours, images), attention_rollout(theirs, images), atol=1e-5)


def test_normalised_queries_and_keys_count(images):
    model = timm_vit(qk_norm=True)
    for block in model.blocks:
        block.attn.fused_attn = False
    seen = []
    for block in model.blocks:
        block.attn.attn_drop.register_forward_hook(lambda module, args, output: seen.append(output.mean(1)))
    maps = attention_rollout(model, images)
    first, second = (0.5 * attention + 0.5 * torch.eye(17) for attention in seen)
    expected = (second @ first)[:, 0, 1:].reshape(2, 4, 4)
    assert torch.allclose(maps, torch.stack([stretched(grid) for grid in expected]), atol=1e-5)


def patch_detector(depth: int) -> VisionTransformer:
    """Every token attends to patches that are not black: keys are the patches' content, queries are all equal."""
    model = VisionTransformer(5, in_chans=3, **{**SIZE, "depth": depth}).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
        model.patch_embed.proj.weight[0] = 1
        for block in model.blocks:
            block.norm1.weight.fill_(1)
            block.attn.qkv.weight[24:48] = torch.eye(24)
            block.attn.qkv.bias[:24] = 3 * torch.eye(24)[0]
    return model


def test_images_need_not_be_square():
    images = torch.zeros(1, 3, 16, 64)
    images[..., 8:, 40:48] = 1
    wide = timm.create_model("vit_tiny_patch16_224", num_classes=5, **{**SIZE, "img_size": (16, 64)}).eval()
    state = {key: value for key, value in patch_detector(depth=2).state_dict().items() if key != "pos_embed"}
    wide.load_state_dict({**state, "pos_embed": torch.zeros(1, 17, 24)})
    maps = attention_rollout(wide, images)
    assert maps.shape == (1, 16, 64)
    assert (maps[0, 11:13, 43:45] > 0.85).all() and maps[0, :, :32].max() < 0.1


@pytest.mark.parametrize("patch", [0, 6, 15])
def test_rollout_finds_the_patch_that_matters(patch):
    row, column = 8 * (patch // 4), 8 * (patch % 4)
    images = torch.zeros(1, 3, 32, 32)
    images[..., row : row + 8, column : column + 8] = 1
    maps = attention_rollout(patch_detector(depth=2), images)
    assert (maps[0, row + 3 : row + 5, column + 3 : column + 5] > 0.85).all()
    where = maps[0].flatten().argmax().item()
    assert row <= where // 32 < row + 8 and column <= where % 32 < column + 8


def test_a_map_that_is_the_same_all_over_is_zero():
    assert torch.equal(attention_rollout(patch_detector(depth=2), torch.zeros(2, 3, 32, 32)), torch.zeros(2, 32, 32))


def test_half_precision(images):
    model = vit()
    expected = attention_rollout(model, images)
    assert torch.allclose(attention_rollout(model.bfloat16(), images.bfloat16()), expected, atol=0.1)


class BiasedAttention(nn.Module):
    """Looks like plain attention, but adds a bias to the scores."""

    def __init__(self):
        super().__init__()
        self.num_heads = 3
        self.qkv, self.proj = nn.Linear(24, 72), nn.Linear(24, 24)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        q, k, v = self.qkv(x).unflatten(2, (3, 3, 8)).permute(2, 0, 3, 1, 4)
        scores = q @ k.mT / math.sqrt(8) + torch.arange(x.shape[1]) / 5
        return self.proj((scores.softmax(-1) @ v).transpose(1, 2).flatten(2))


class Apply(nn.Module):
    """A function as a layer."""

    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.function(x)


def headless(function) -> nn.Module:
    """Embeds 16 patches, applies `function` to the tokens, then blocks."""
    return nn.Sequential(vit().patch_embed, Apply(function), vit().blocks)


class KeywordAttention(nn.Module):
    def __init__(self):
        super().__init__()
        self.attention = nn.MultiheadAttention(24, 3, batch_first=True)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.attention(query=x, key=x, value=x)[0]


def with_bias() -> nn.Module:
    model = vit()
    model.blocks[1].attn = awake(BiasedAttention())
    return model


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (lambda: models.create_model("resnet20"), "ResNet has no self-attention"),
        (lambda: models.create_model("mobilevit_xxs", img_size=32), "MobileViT has no self-attention"),
        (with_bias, "other than softmax"),
        (lambda: timm_vit(global_pool="map"), "neither a token nor a mean (map)"),
        (lambda: timm_vit(reg_tokens=2, class_token=False, global_pool="max"), "neither a token nor a mean (max)"),
        (lambda: models.create_model("timm/mobilevit_xxs", img_size=64), "in stages"),
        (lambda: timm_vit(block_fn=ParallelThingsBlock), "not one attention in each of its blocks"),
        (lambda: headless(lambda x: torch.cat([x[:, :1], x], 1)), "no grid of patches"),
        (lambda: headless(lambda x: torch.cat([x[:, :4], x], 1)), "no grid of patches"),
        (lambda: headless(lambda x: x.reshape(-1, 4, 24)), "within windows"),
        (lambda: nn.Sequential(vit().patch_embed, KeywordAttention()), "other than softmax"),
    ],
    ids=["resnet", "mobilevit", "bias", "attention pooling", "maximum", "stages", "parallel",
         "17 tokens", "20 tokens", "windows", "keywords"],
)  # fmt: skip
def test_models_that_rollout_is_not_for(make, reason):
    model = make()
    size = 64 if reason == "in stages" else 32
    with pytest.raises(BadRequest) as error:
        attention_rollout(model, torch.randn(2, 3, size, size))
    assert reason in str(error.value) and "\n" not in str(error.value)


# ------------------------------------------------------------------------------------------------------------- Grad-CAM


def class_activation_map(features: torch.Tensor, weight: torch.Tensor, size: int) -> torch.Tensor:
    """Grad-CAM of a mean and a linear layer after (N, C, h, w) in closed form: relu(sum_k w_k A_k), `weight` (N, C)."""
    maps = torch.stack(
        [sum(w * a for w, a in zip(ws, maps, strict=True)).relu() for ws, maps in zip(weight, features, strict=True)]
    )
    maps = F.interpolate(maps[:, None], (size, size), mode="bilinear", align_corners=False)[:, 0]
    return maps / maps.amax((1, 2), keepdim=True)


def small_cnn() -> nn.Sequential:
    features = [nn.Conv2d(3, 8, 3, 2, 1), nn.ReLU(), nn.Conv2d(8, 12, 3, 2, 1), nn.Tanh()]
    return awake(nn.Sequential(*features, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(12, 5)))


def attentive_cnn() -> nn.Sequential:
    """Has batch norm and dropout, and ends in attention over the map, which has 4-D tensors that are no maps."""

    class MapAttention(BiasedAttention):
        def __init__(self):
            super().__init__()
            self.heads = Apply(lambda x: x.flatten(1, 2).unflatten(2, (3, 8)).transpose(1, 2))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            heads = self.heads(self.qkv(x.movedim(1, 3))[..., :24])  # (N, 3, 64, 8)
            return x + heads.transpose(1, 2).flatten(2).mT.reshape(x.shape)

    features = [nn.Conv2d(3, 24, 4, 4), nn.BatchNorm2d(24), nn.Dropout(0.5), MapAttention()]
    return awake(nn.Sequential(*features, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(24, 5)))


def test_grad_cam_is_the_class_activation_map(images):
    model, classes = small_cnn(), torch.tensor([3, 1])
    maps = grad_cam(model, images, classes)
    expected = class_activation_map(model[:4](images), model[6].weight[classes], 32).detach()
    assert maps.shape == (2, 32, 32) and maps.dtype == torch.float32 and not maps.requires_grad
    assert torch.allclose(maps, expected, atol=1e-5) and (maps.amax((1, 2)) == 1).all() and maps.min() == 0
    assert not torch.allclose(maps, grad_cam(model, images, torch.tensor([0, 2])), atol=0.1)


def test_grad_cam_is_taken_after_attention_not_within(images):
    model, classes = attentive_cnn(), torch.tensor([3, 1])
    expected = class_activation_map(model[:4](images), model[6].weight[classes], 32).detach()
    assert torch.allclose(grad_cam(model, images, classes), expected, atol=1e-5)


def test_grad_cam_of_resnet20_is_taken_after_its_last_stage(images):
    model = with_lively_statistics(models.create_model("resnet20"), 0.5, 1.5)
    features = []
    handle = model.layer3.register_forward_hook(lambda module, args, output: features.append(output.detach()))
    logits = model(images)
    handle.remove()
    classes = logits.argmax(1)
    expected = class_activation_map(features[0], model.fc.weight[classes], 32).detach()
    assert features[0].shape == (2, 64, 8, 8)
    assert torch.allclose(grad_cam(model, images, classes), expected, atol=1e-5)


def test_grad_cam_where_channels_come_last(images):
    model = timm.create_model(
        "swin_tiny_patch4_window7_224",
        num_classes=5,
        img_size=32,
        embed_dim=8,
        depths=(1, 1),
        num_heads=(1, 2),
        window_size=4,
    )
    features = awake(model).forward_features(images).permute(0, 3, 1, 2)
    classes = model(images).argmax(1)
    expected = class_activation_map(features, model.head.fc.weight[classes], 32).detach()
    assert features.shape == (2, 16, 4, 4)
    maps, kind = explain(model, images, classes)
    assert torch.allclose(maps, expected, atol=1e-5) and kind == "Grad-CAM"


def test_gradients_are_averaged_where_the_head_is_no_mean(images):
    convolution = nn.Conv2d(3, 6, 4, 4)
    model = awake(nn.Sequential(convolution, nn.Flatten(), nn.Linear(6 * 64, 5)))
    features, weight = convolution(images), model[2].weight[4].reshape(6, 64).mean(1)
    expected = class_activation_map(features, weight.expand(2, 6), 32).detach()
    assert torch.allclose(grad_cam(model, images, torch.tensor([4, 4])), expected, atol=1e-5)


def test_grad_cam_finds_the_patch_that_matters_and_is_zero_where_nothing_speaks_for_the_class():
    model = nn.Sequential(nn.Conv2d(3, 1, 4, 4, bias=False), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(1, 2))
    with torch.no_grad():
        model[0].weight.fill_(1)
        model[3].weight.copy_(torch.tensor([[1.0], [-1.0]]))
    images = torch.zeros(2, 3, 32, 32)
    images[..., 8:12, 20:24] = 1
    maps = grad_cam(model, images, torch.tensor([0, 1]))
    assert maps[0].argmax().item() in {32 * row + column for row in (9, 10) for column in (21, 22)}
    assert maps[0, 20:].max() == 0 and maps[1].max() == 0


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_grad_cam_inside_other_modes_and_of_frozen_models(images, mode):
    model, classes = small_cnn(), torch.tensor([3, 1])
    expected = grad_cam(model, images, classes)
    with mode():
        assert torch.equal(grad_cam(model, images.clone(), classes.clone()), expected)
        assert attention_rollout(vit(), images.clone()).max() == 1
    assert torch.equal(grad_cam(model.requires_grad_(False), images, classes), expected)
    assert not images.requires_grad and images.grad is None


# ------------------------------------------------------------------------------------------------------------ of either


def hooks(model: nn.Module) -> int:
    return sum(len(module._forward_hooks) + len(module._forward_pre_hooks) for module in model.modules())


@pytest.mark.parametrize(
    ("make", "kind"),
    [(lambda: vit(dropout=0.5), "attention rollout"), (distilled, "attention rollout"), (attentive_cnn, "Grad-CAM")],
)
def test_the_model_is_left_as_it_was(images, make, kind):
    """Also for a model partly in train mode, and after errors."""
    model = make()
    expected, _ = explain(model, images, torch.tensor([0, 1]))
    next(model.train().children()).eval()
    modes = [module.training for module in model.modules()]
    state = {key: value.clone() for key, value in model.state_dict().items()}
    maps, said = explain(model, images, torch.tensor([0, 1]))
    assert said == kind and torch.equal(maps, expected)
    with pytest.raises(RuntimeError):
        explain(model, images[:, :2], torch.tensor([0, 1]))
    assert [module.training for module in model.modules()] == modes and len(set(modes)) == 2
    assert hooks(model) == 0 and all(parameter.grad is None for parameter in model.parameters())
    assert all(torch.equal(value, state[key]) for key, value in model.state_dict().items())


def test_explain_takes_rollout_where_it_can(images):
    model = vit()
    maps, _ = explain(model, images, torch.tensor([0, 1]))
    assert torch.equal(maps, attention_rollout(model, images))
    model = lively(models.create_model("mobilevit_xxs", num_classes=5, img_size=32))
    maps, kind = explain(model, images, torch.tensor([0, 1]))
    assert kind == "Grad-CAM" and torch.equal(maps, grad_cam(model, images, torch.tensor([0, 1])))


@pytest.mark.parametrize(
    "make",
    [
        lambda: timm_vit(global_pool="map", qk_norm=True),
        with_bias,
        lambda: timm.create_model("mvitv2_tiny", img_size=32),
        lambda: timm.create_model("pit_ti_224", img_size=32, depth=(1, 1, 1)),
        lambda: nn.Sequential(nn.Flatten(), nn.Linear(3072, 5)),
    ],
    ids=["attention pooling", "bias", "pooled attention", "stages", "linear"],
)
def test_models_that_cannot_be_explained(images, make):
    model = make()
    with pytest.raises(BadRequest, match=r"attention rollout: .*; Grad-CAM: .* has no feature map") as error:
        explain(model, images, torch.tensor([0, 1]))
    assert "\n" not in str(error.value) and hooks(model) == 0
