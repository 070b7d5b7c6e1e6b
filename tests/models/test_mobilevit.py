"""MobileViT against timm's blocks and torch's encoder layer and unfolding; what its two kinds of token see."""

from __future__ import annotations

import pytest
import timm
import torch
import torch.nn.functional as F
from reference import STEM_CASES, count, make_on_meta, with_lively_statistics
from torch import nn

import models
from models.mobilevit import EncoderLayer, InvertedResidual, MobileViTBlock, fold, unfold
from utils import BadRequest

KINDS = ["patch", "pixel"]


def with_lively_weights(model: nn.Module) -> nn.Module:
    """Normalisations that are not the identity, and linear layers that make attention uneven."""
    for module in model.modules():
        if isinstance(module, nn.LayerNorm):
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias, 0, 0.2)
        elif isinstance(module, nn.Linear):
            nn.init.normal_(module.weight, 0, module.in_features**-0.5)
            nn.init.normal_(module.bias, 0, 0.2)
    return with_lively_statistics(model, 0.8, 1.2)


def renamed(state: dict[str, torch.Tensor], names: dict[str, str]) -> dict[str, torch.Tensor]:
    for old, new in names.items():
        state = {key.replace(old, new): value for key, value in state.items()}
    return state


@pytest.mark.parametrize(
    ("name", "size"), [("mobilevit_xxs", 5_327_610), ("mobilevit_xs", 8_674_362), ("mobilevit_s", 19_678_954)]
)
def test_parameter_counts(name, size):
    assert count(make_on_meta(name, 10, 32)) == count(make_on_meta(name, 10, 224)) == size


@pytest.mark.parametrize(
    ("tokens", "widths"), [("patch", [128] * 2 + [256] * 4 + [320] * 3), ("pixel", [32] * 2 + [64] * 4 + [80] * 3)]
)
def test_the_kind_of_token_is_that_of_all_nine_encoder_layers(tokens, widths):
    model = make_on_meta("mobilevit_xxs", 10, 32, tokens=tokens)
    layers = [module for module in model.modules() if isinstance(module, EncoderLayer)]
    assert [layer.norm1.normalized_shape[0] for layer in layers] == widths
    assert [block.tokens for block in model.modules() if isinstance(block, MobileViTBlock)] == [tokens] * 3


@pytest.mark.parametrize(("chans", "dim", "depth", "shape"), [(48, 64, 2, (8, 6)), (24, 40, 3, (2, 10))])
def test_the_block_on_pixels_is_timms(chans, dim, depth, shape):
    torch.manual_seed(0)
    layers = timm.models.byobnet.get_layer_fns(timm.models.byobnet.ByoModelCfg(blocks=(), act_layer="silu"))
    reference = timm.models.mobilevit.MobileVitBlock(
        chans, transformer_dim=dim, transformer_depth=depth, patch_size=2, layers=layers
    )
    with_lively_weights(reference)
    names = {".conv.": ".0.", ".bn.": ".1.", "transformer.": "encoder.", "mlp.fc1": "mlp.0", "mlp.fc2": "mlp.2"}
    block = MobileViTBlock(chans, dim, depth, "pixel").eval()
    block.load_state_dict(renamed(reference.state_dict(), names))
    x = torch.randn(2, chans, *shape)
    with torch.no_grad():
        torch.testing.assert_close(block(x), reference(x), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("index", [0, 1], ids=["stride 2", "shortcut"])
def test_the_inverted_residual_is_timms(index):
    torch.manual_seed(0)
    reference = with_lively_statistics(timm.create_model("mobilevit_xs").stages[1][index], 0.8, 1.2)
    in_chans, out_chans, stride = [(32, 48, 2), (48, 48, 1)][index]
    block = InvertedResidual(in_chans, out_chans, stride).eval()
    names = {"conv1_1x1": "expand", "conv2_kxk": "depthwise", "conv3_1x1": "project", ".conv.": ".0.", ".bn.": ".1."}
    block.load_state_dict(renamed(reference.state_dict(), names))
    x = torch.randn(2, in_chans, 7, 6)
    with torch.no_grad():
        torch.testing.assert_close(block(x), reference(x), rtol=1e-5, atol=1e-5)


def test_the_encoder_layer_is_torchs_pre_norm_one():
    torch.manual_seed(0)
    layer = with_lively_weights(EncoderLayer(32, heads=4, dropout=0.0))
    reference = nn.TransformerEncoderLayer(32, 4, 64, activation=F.silu, batch_first=True, norm_first=True).eval()
    names = {
        "attn.qkv.": "self_attn.in_proj_",
        "attn.proj": "self_attn.out_proj",
        "mlp.0": "linear1",
        "mlp.2": "linear2",
    }
    reference.load_state_dict(renamed(layer.state_dict(), names))
    x = torch.randn(2, 9, 32)
    with torch.no_grad():
        torch.testing.assert_close(layer(x), reference(x), rtol=1e-5, atol=1e-5)


def test_unfolding_is_torchs_with_the_pixels_of_a_patch_side_by_side_or_apart():
    x = torch.randn(2, 5, 6, 8)
    columns = F.unfold(x, kernel_size=2, stride=2).reshape(2, 5, 4, 12)  # image, channel, place in patch, patch
    assert torch.equal(unfold(x, "patch"), columns.permute(0, 3, 2, 1).reshape(2, 12, 20))
    assert torch.equal(unfold(x, "pixel"), columns.permute(0, 2, 3, 1).reshape(8, 12, 5))


@pytest.mark.parametrize("tokens", KINDS)
def test_folding_undoes_unfolding(tokens):
    x = torch.randn(3, 5, 6, 8)
    assert torch.equal(fold(unfold(x, tokens), tokens, 6, 8), x)


@pytest.mark.parametrize("tokens", KINDS)
def test_a_pixel_belongs_to_one_token_that_of_its_patch(tokens):
    x = torch.randn(2, 5, 6, 8)
    moved = x.clone()
    moved[1, :, 3, 4] += 1  # second row of patches, third column: patch 1 * 4 + 2; below left in it: place 2
    changed = (unfold(moved, tokens) != unfold(x, tokens)).any(dim=2)
    assert changed.nonzero().tolist() == {"patch": [[1, 6]], "pixel": [[1 * 4 + 2, 6]]}[tokens]


@pytest.mark.parametrize("tokens", KINDS)
def test_a_pixel_is_seen_everywhere_or_in_its_place_of_all_patches(tokens):
    torch.manual_seed(0)
    block = with_lively_weights(MobileViTBlock(8, 16, 1, tokens)).double()
    x = torch.randn(2, 16, 6, 8, dtype=torch.float64)
    moved = x.clone()
    moved[0, 0, 3, 4] += 1  # in one channel: layer normalisation removes a shift of all channels
    with torch.no_grad():
        changed = ((block.encode(moved) - block.encode(x)).abs() > 1e-9).any(dim=1)
    expected = torch.zeros(2, 6, 8, dtype=torch.bool)
    if tokens == "patch":
        expected[0] = True
    else:
        expected[0, 1::2, 0::2] = True
    assert torch.equal(changed, expected)


@pytest.mark.parametrize("tokens", KINDS)
def test_the_encoder_knows_no_positions(tokens):
    torch.manual_seed(0)
    block = with_lively_weights(MobileViTBlock(8, 16, 2, tokens)).double()
    x = torch.randn(2, 16, 6, 8, dtype=torch.float64)
    with torch.no_grad():
        shifted = block.encode(x.roll((2, 4), dims=(2, 3)))  # by whole patches
        torch.testing.assert_close(shifted, block.encode(x).roll((2, 4), dims=(2, 3)))


@pytest.mark.parametrize("tokens", KINDS)
@pytest.mark.parametrize("shape", [(5, 7), (5, 8), (6, 7), (1, 1)])
def test_odd_sides_are_padded_with_zeros_and_cropped(tokens, shape):
    torch.manual_seed(0)
    block = with_lively_weights(MobileViTBlock(8, 16, 2, tokens))
    height, width = shape
    x = torch.randn(2, 16, height, width)
    padded = torch.zeros(2, 16, height + height % 2, width + width % 2)
    padded[:, :, :height, :width] = x
    with torch.no_grad():
        torch.testing.assert_close(block.encode(x), block.encode(padded)[:, :, :height, :width])
        assert block(torch.randn(2, 8, height, width)).shape == (2, 8, height, width)


@pytest.mark.parametrize(("img_size", "stem", "form"), STEM_CASES)
def test_the_stem_follows_the_image_size_unless_it_is_named(img_size, stem, form):
    model = make_on_meta("mobilevit_xxs", 10, img_size, stem=stem)
    x = model.stem(torch.empty(2, 3, 32, 32, device="meta"))
    sides = [x.shape[2]]
    for stage in model.stages:
        x = stage(x)
        sides.append(x.shape[2])
    assert sides == {"cifar": [32, 32, 32, 16, 8, 4], "imagenet": [16, 16, 8, 4, 2, 1]}[form]


@pytest.mark.parametrize(
    ("img_size", "in_chans", "tokens"), [(32, 1, "patch"), (64, 3, "pixel"), (65, 1, "pixel"), (224, 3, "patch")]
)
def test_it_takes_these_images(img_size, in_chans, tokens):
    model = make_on_meta("mobilevit_xxs", 10, img_size, in_chans, tokens=tokens)
    assert model(torch.empty(2, in_chans, img_size, img_size, device="meta")).shape == (2, 10)


def test_unknown_tokens_are_refused_with_the_known_ones():
    with pytest.raises(BadRequest, match="'word' is none of patch, pixel"):
        models.create_model("mobilevit_xxs", 10, 32, tokens="word")


def test_initial_weights():
    torch.manual_seed(0)
    model = models.create_model("mobilevit_xxs", 10, 32)
    encoder = model.stages[4][1].encoder[0]
    assert encoder.attn.qkv.weight.std().item() == pytest.approx(0.02, rel=0.02)
    assert not encoder.attn.qkv.bias.any()
    assert model.last_conv[0].weight.std().item() == pytest.approx((2 / 320) ** 0.5, rel=0.02)


@pytest.mark.parametrize("dropout", [0.0, 0.5])
def test_dropout_is_the_only_draw_of_a_training_step(dropout):
    torch.manual_seed(0)
    model = models.create_model("mobilevit_xxs", 10, 32, dropout=dropout).train()
    images = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        assert torch.equal(model(images), model(images)) == (dropout == 0)
    layer = model.stages[2][1].encoder[0]
    x = torch.randn(1, 4, 128)
    assert torch.equal(layer(x), layer(x)) == (dropout == 0)
    assert model.dropout.p == dropout


@pytest.mark.parametrize(("tokens", "bf16"), [("patch", True), ("pixel", False)])
def test_a_training_step_reaches_every_parameter(tokens, bf16):
    torch.manual_seed(0)
    model = models.create_model("mobilevit_xxs", 10, 32, in_chans=1, tokens=tokens).train()
    with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
        loss = F.cross_entropy(model(torch.randn(2, 1, 32, 32)), torch.tensor([0, 1]))
    loss.backward()
    assert loss.isfinite()
    for name, parameter in model.named_parameters():
        assert parameter.grad.isfinite().all(), name
        assert parameter.grad.any(), name
