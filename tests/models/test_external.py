"""timm's and torchvision's models fit the data set: classes, image size, channels, published weights."""

from __future__ import annotations

import huggingface_hub
import pytest
import torch
import torchvision

import models
from models import weights
from utils import BadRequest


def test_the_classification_models_take_any_number_of_classes_size_and_channels():
    """One model for each way in which the two libraries accept these three."""
    cases = [
        ("timm/resnet10t", 32, 1, ("fc",)),
        ("timm/vit_tiny_patch16_224", 32, 1, ("head",)),
        ("timm/deit_tiny_distilled_patch16_224", 48, 3, ("head", "head_dist")),
        ("timm/test_efficientnet.r160_in1k", 64, 3, ("classifier",)),
        ("torchvision/mobilenet_v3_small", 32, 1, ("classifier.3",)),
        ("torchvision/squeezenet1_1", 32, 1, ("classifier.1",)),
        ("torchvision/vit_b_32", 64, 1, ("heads.head",)),
        ("torchvision/googlenet", 64, 3, ("fc",)),
    ]
    for name, img_size, in_chans, head_names in cases:
        with torch.device("meta"):
            model = models.create_model(name, num_classes=7, img_size=img_size, in_chans=in_chans).eval()
            logits = model(torch.empty(2, in_chans, img_size, img_size))
        assert logits.shape == (2, 7), name
        assert model.head_names == head_names, name


def test_torchvision_models_for_grey_images_give_finite_logits():
    torch.manual_seed(0)
    model = models.create_model("torchvision/mobilenet_v3_small", 7, 32, 1).eval()
    logits = model(torch.randn(3, 1, 32, 32))
    assert logits.isfinite().all()
    assert logits.std() > 0


def test_every_keyword_of_timms_constructor_reaches_it():
    with torch.device("meta"):
        model = models.create_model("timm/vit_tiny_patch16_224", 7, 32, patch_size=8, depth=2)
    assert len(model.blocks) == 2
    assert model.pos_embed.shape[1] == 16 + 1


@pytest.mark.parametrize("pretrained", [False, True])
def test_an_argument_unknown_to_timm_is_refused_naming_it(pretrained):
    with pytest.raises(BadRequest, match=r"timm/resnet10t cannot be built .*'wings'"):
        models.create_model("timm/resnet10t", 7, 32, pretrained=pretrained, wings=2)


def test_an_image_size_that_the_patches_do_not_divide_is_refused():
    with pytest.raises(BadRequest, match=r"torchvision/vit_b_32 cannot be built for 50 px images: .*divisible"):
        models.create_model("torchvision/vit_b_32", 7, 50)
    with pytest.raises(BadRequest, match="timm/xcit_nano_12_p16_224 cannot be built for 50 px images"):
        models.create_model("timm/xcit_nano_12_p16_224", 7, 50, patch_size=7)


def test_timm_weights_that_cannot_be_had_are_one_line_with_a_way_out(tmp_path, monkeypatch):
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(BadRequest, match=r"weights of timm/test_resnet cannot be fetched") as caught:
        models.create_model("timm/test_resnet", 7, 32, pretrained=True)
    assert "\n" not in str(caught.value)
    where = "the file model.safetensors from the repository timm/test_resnet.r160_in1k of the Hugging Face hub"
    assert f"Download {where}" in str(caught.value) and "give it with --weights FILE" in str(caught.value)


@pytest.mark.parametrize("name", ["mobilenet_v3_small", "googlenet"])
def test_pretrained_torchvision_models_give_torchvisions_own_logits(name, publish):
    publish(name)
    reference = torchvision.models.get_model(name, weights="DEFAULT").eval()
    model = models.create_model(f"torchvision/{name}", 1000, 64, 3, pretrained=True).eval()
    assert model.load_notes == []
    images = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        expected = reference(images)
        assert (expected[0] - expected[1]).std() > 0.01
        torch.testing.assert_close(model(images), expected, rtol=1e-4, atol=1e-5)


def test_pretrained_weights_are_fitted_to_other_classes_and_channels_and_it_is_said(publish):
    publish("mobilenet_v3_small")
    reference = torchvision.models.mobilenet_v3_small(weights="DEFAULT").eval()
    model = models.create_model("torchvision/mobilenet_v3_small", 7, 32, 1, pretrained=True).eval()
    assert len(model.load_notes) == 2
    assert "'classifier.3' replaced" in model.load_notes[0]
    assert "1000 classes, this model 7" in model.load_notes[0]
    assert "from 3 to 1 input channels" in model.load_notes[1]
    grey = torch.randn(2, 1, 32, 32)
    with torch.no_grad():
        expected = reference.features(grey.expand(2, 3, 32, 32))
        torch.testing.assert_close(model.features(grey), expected, rtol=1e-4, atol=1e-4)


def published_in_old_names(name: str) -> dict[str, torch.Tensor]:
    """A random state dict with the old parameter names of torchvision's files, and without metadata."""
    state = torchvision.models.get_model(name).state_dict()
    for new, old in ((".mlp.0.", ".mlp.linear_1."), (".mlp.3.", ".mlp.linear_2."), (".norm1.", ".norm.1."),
                     (".norm2.", ".norm.2."), (".conv1.", ".conv.1."), (".conv2.", ".conv.2.")):  # fmt: skip
        state = {key.replace(new, old) if "layer" in key else key: value for key, value in state.items()}
    return {key: value for key, value in state.items() if not key.endswith("num_batches_tracked")}


@pytest.mark.parametrize("name", ["densenet121", "mnasnet0_5", "vgg11_bn"])
def test_files_of_older_versions_of_torchvision_are_understood(name, monkeypatch):
    with torch.device("meta"):
        state = published_in_old_names(name)
        monkeypatch.setattr(weights, "torchvision_weights", lambda enum_name: state)
        model = models.create_model(f"torchvision/{name}", 1000, 32, pretrained=True)
    assert model.load_notes == []


def test_pretrained_vision_transformers_take_other_image_sizes(monkeypatch):
    with torch.device("meta"):
        state = published_in_old_names("vit_b_16")
        monkeypatch.setattr(weights, "torchvision_weights", lambda enum_name: state)
        model = models.create_model("torchvision/vit_b_16", 1000, 384, pretrained=True)
        assert model(torch.empty(1, 3, 384, 384)).shape == (1, 1000)
    assert model.load_notes == ["'encoder.pos_embedding' interpolated from 14x14 to 24x24 patches"]
