"""Weights from files: what is adapted, what is refused, and that reading them runs no code."""

from __future__ import annotations

import hashlib
import pickle
import urllib.error
from pathlib import Path

import pytest
import timm
import torch
import torchvision
from torch import nn

import models
from models import weight_files, weights
from utils import BadRequest


def small_model(num_classes: int = 10, in_chans: int = 3, seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    return models.create_model("resnet20", num_classes, 32, in_chans)


class WritesAFile:
    """Its pickle opens a file for writing when it is read without weights_only."""

    def __init__(self, path: Path):
        self.path = path

    def __reduce__(self):
        return open, (str(self.path), "w")


# --------------------------------------------------------------------------------------------------------------- load


def test_weights_of_the_same_model_are_taken_over_without_a_note():
    source, target = small_model(seed=1), small_model(seed=2)
    assert weights.load(target, source.state_dict(), "a.pth") == []
    images = torch.randn(2, 3, 32, 32)
    assert torch.equal(source.eval()(images), target.eval()(images))


def test_a_head_for_other_classes_stays_fresh_and_it_is_said():
    state = small_model(10, seed=1).state_dict()
    target = small_model(7, seed=2)
    head = {key: value.clone() for key, value in target.fc.state_dict().items()}
    notes = weights.load(target, state, "a.pth")
    assert notes == ["head 'fc' replaced: a.pth has 10 classes, this model 7"]
    loaded = target.state_dict()
    assert all(torch.equal(loaded[f"fc.{key}"], value) for key, value in head.items())
    assert all(torch.equal(loaded[key], value) for key, value in state.items() if not key.startswith("fc."))
    assert state["fc.weight"].shape == (10, 64)


def test_filters_for_colour_work_alike_on_grey_images():
    source, target = small_model(seed=1).eval(), small_model(in_chans=1, seed=2)
    notes = weights.load(target, source.state_dict(), "a.pth")
    assert notes == ["'conv1.weight' adapted from 3 to 1 input channels"]
    grey = torch.randn(2, 1, 32, 32)
    with torch.no_grad():
        torch.testing.assert_close(target.eval()(grey), source(grey.repeat(1, 3, 1, 1)), rtol=1e-4, atol=1e-4)


def test_weights_of_another_model_are_refused_with_the_keys():
    state = models.create_model("vgg11", 10, 32).state_dict()
    with pytest.raises(BadRequest, match=r"a\.pth: weights of another model") as caught:
        weights.load(small_model(), state, "a.pth")
    assert "missing: bn1.bias" in str(caught.value)
    assert "unknown: classifier.bias" in str(caught.value)
    assert "more)" in str(caught.value)


def test_a_missing_an_unknown_and_a_misshapen_weight_are_named_and_nothing_is_loaded():
    state = small_model(seed=1).state_dict()
    state["extra"] = torch.zeros(1)
    del state["bn1.weight"]
    state["layer1.0.conv1.weight"] = torch.zeros(16, 16, 1, 1)
    target = small_model(seed=2)
    before = {key: value.clone() for key, value in target.state_dict().items()}
    with pytest.raises(BadRequest) as caught:
        weights.load(target, state, "a.pth")
    message = str(caught.value)
    assert "1 missing: bn1.weight" in message
    assert "1 unknown: extra" in message
    assert "1 of another shape: layer1.0.conv1.weight (16, 16, 1, 1) instead of (16, 16, 3, 3)" in message
    assert all(torch.equal(value, before[key]) for key, value in target.state_dict().items())


def test_counters_that_old_files_lack_are_not_missed():
    source, target = small_model(seed=1), small_model(seed=2)
    state = {key: value for key, value in source.state_dict().items() if not key.endswith("num_batches_tracked")}
    assert weights.load(target, state, "a.pth") == []
    images = torch.randn(2, 3, 32, 32)
    assert torch.equal(source.eval()(images), target.eval()(images))


def test_a_state_dict_is_not_changed_by_loading_it():
    state = models.create_model("vit_tiny", 10, 32, 3, depth=1).state_dict()
    before = {key: value.clone() for key, value in state.items()}
    target = models.create_model("vit_tiny", 7, 48, 1, patch_size=4, depth=1)
    assert len(weights.load(target, state, "a.pth")) == 3
    assert state.keys() == before.keys()
    assert all(torch.equal(state[key], value) for key, value in before.items())


def test_a_model_says_itself_what_its_heads_are():
    model = nn.Sequential(nn.Linear(4, 10), nn.Linear(4, 10))
    assert weights.find_head(model, 10) == ("1",)
    model.head_names = ["0", "1"]
    assert weights.find_head(model, 10) == ("0", "1")


# ------------------------------------------------------------------------------------------------- position embeddings


@pytest.mark.parametrize(
    ("name", "img_size", "notes"),
    [
        ("timm/vit_tiny_patch16_224", 96, ["'pos_embed' interpolated from 2x2 to 6x6 patches"]),
        ("timm/deit_tiny_distilled_patch16_224", 96, ["'pos_embed' interpolated from 2x2 to 6x6 patches"]),
        ("timm/deit3_small_patch16_224", 96, ["'pos_embed' interpolated from 2x2 to 6x6 patches"]),  # without prefix
        ("timm/cait_xxs24_224", 96, ["'pos_embed' interpolated from 2x2 to 6x6 patches"]),
        ("torchvision/vit_b_16", 96, ["'encoder.pos_embedding' interpolated from 2x2 to 6x6 patches"]),
        ("timm/vit_tiny_patch16_224", 32, []),
    ],
)
def test_position_embeddings_of_the_libraries_models_are_fitted_to_the_image_size(name, img_size, notes):
    with torch.device("meta"):
        state = models.create_model(name, 10, 32).state_dict()
        assert weights.load(models.create_model(name, 10, img_size), state, "a.pth") == notes


def test_interpolated_position_embeddings_are_timms_and_the_class_token_keeps_its_own():
    torch.manual_seed(0)
    source = timm.create_model("vit_tiny_patch16_224", img_size=64, depth=1)
    target = models.create_model("timm/vit_tiny_patch16_224", 1000, 96, depth=1)
    weights.load(target, source.state_dict(), "a.pth")
    assert torch.equal(target.pos_embed[:, 0], source.pos_embed[:, 0])
    source.set_input_size(img_size=96)
    torch.testing.assert_close(target.pos_embed, source.pos_embed)


def test_position_embeddings_that_are_no_square_grid_or_of_another_width_are_refused():
    with torch.device("meta"):
        state = models.create_model("vit_tiny", 10, 32, depth=1).state_dict()
        target = models.create_model("vit_tiny", 10, 48, depth=1, patch_size=4)
        for shape in ((1, 64, 192), (1, 1, 192), (1, 65, 96), (2, 65, 192), (65, 192)):
            state["pos_embed"] = torch.empty(shape)
            with pytest.raises(BadRequest) as caught:
                weights.load(target, state, "a.pth")
            assert f"1 of another shape: pos_embed {shape} instead of (1, 145, 192)" in str(caught.value)


# --------------------------------------------------------------------------------------------------------------- files


@pytest.mark.parametrize("key", [None, "model", "state_dict", "model_state", "model_state_dict"])
@pytest.mark.parametrize("prefix", ["", "module.", "_orig_mod.", "_orig_mod.module.", "module._orig_mod."])
def test_a_state_dict_is_found_under_the_usual_keys_and_prefixes(key, prefix, tmp_path):
    state = {f"{prefix}fc.weight": torch.ones(2, 3), f"{prefix}fc.bias": torch.zeros(2)}
    torch.save(state if key is None else {"epoch": 3, key: state}, tmp_path / "a.pth")
    read = weight_files.read_state_dict(tmp_path / "a.pth")
    assert sorted(read) == ["fc.bias", "fc.weight"]
    assert torch.equal(read["fc.weight"], torch.ones(2, 3))


@pytest.mark.parametrize(
    "content", [{}, {"epoch": 3}, {"model": {"lr": 0.1}}, {"model": {}}, {0: torch.zeros(2)}, {"fc": [torch.zeros(2)]}]
)
def test_a_checkpoint_without_a_state_dict_is_refused(content, tmp_path):
    torch.save(content, tmp_path / "a.pth")
    with pytest.raises(BadRequest, match=r"a\.pth: holds no state dict"):
        weight_files.read_state_dict(tmp_path / "a.pth")


def test_a_missing_file_is_named(tmp_path):
    for path in (tmp_path / "gone.pth", tmp_path):
        with pytest.raises(BadRequest, match=rf"{path.name}: no such checkpoint file"):
            weight_files.read_checkpoint(path)


def test_a_truncated_checkpoint_is_refused_wherever_it_was_cut(tmp_path):
    path = tmp_path / "last.pth"
    torch.save({"model": small_model().state_dict()}, path)
    content = path.read_bytes()
    for length in (0, 10, len(content) // 2, len(content) - 1):
        path.write_bytes(content[:length])
        with pytest.raises(BadRequest, match=r"last\.pth: damaged, or not a checkpoint") as caught:
            weight_files.read_checkpoint(path)
        assert "\n" not in str(caught.value)


def test_what_is_no_checkpoint_is_refused(tmp_path):
    (tmp_path / "note.pth").write_text("these are not weights\n")
    with pytest.raises(BadRequest, match=r"note\.pth: damaged, or not a checkpoint"):
        weight_files.read_checkpoint(tmp_path / "note.pth")
    torch.save([torch.zeros(2)], tmp_path / "list.pth")
    with pytest.raises(BadRequest, match=r"list\.pth: not a checkpoint \(holds a list, not a dict\)"):
        weight_files.read_checkpoint(tmp_path / "list.pth")
    torch.save(nn.Linear(2, 2), tmp_path / "module.pth")
    with pytest.raises(BadRequest, match=r"module\.pth: holds a whole model, .*Linear: save model\.state_dict\(\)"):
        weight_files.read_checkpoint(tmp_path / "module.pth")


@pytest.mark.parametrize("form", ["zip", "legacy", "plain pickle"])
def test_a_checkpoint_that_would_run_code_is_refused_and_does_not_run(form, tmp_path):
    path, marker = tmp_path / "evil.pth", tmp_path / "ran"
    content = {"model": {"fc.weight": torch.zeros(2)}, "extra": WritesAFile(marker)}
    if form == "plain pickle":
        path.write_bytes(pickle.dumps({"extra": WritesAFile(marker)}))
        pickle.loads(path.read_bytes()).get("extra").close()
    else:
        torch.save(content, path, _use_new_zipfile_serialization=form == "zip")
        torch.load(path, weights_only=False)["extra"].close()
    assert marker.exists()  # the payload works
    marker.unlink()
    with pytest.raises(BadRequest, match=r"evil\.pth"):
        weight_files.read_checkpoint(path)
    assert not marker.exists()


# ----------------------------------------------------------------------------------------------------------- published


@pytest.fixture
def cache(tmp_path, monkeypatch) -> Path:
    """torch's cache of downloaded weights, empty, without a network."""

    def no_network(url, *args, **kwargs):
        raise urllib.error.URLError("Name or service not known")

    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setattr(torch.hub, "download_url_to_file", no_network)
    folder = Path(torch.hub.get_dir()) / "checkpoints"
    assert tmp_path in folder.parents
    folder.mkdir(parents=True)
    return folder


PUBLISHED = torchvision.models.ResNet18_Weights.DEFAULT


def test_missing_weights_say_which_file_to_put_where(cache):
    with pytest.raises(BadRequest) as caught:
        models.create_model("resnet18", 10, 224, pretrained=True)
    message = str(caught.value)
    assert f"Download the file resnet18-f37072fd.pth from {PUBLISHED.url} where there is a network" in message
    assert f"put it into the folder {cache}" in message
    assert "\n" not in message


def test_weights_in_the_cache_are_loaded_with_a_new_head(cache, monkeypatch):
    torch.manual_seed(0)
    state = torchvision.models.resnet18().state_dict()
    torch.save(state, cache / "new.pth")
    digest = hashlib.sha256((cache / "new.pth").read_bytes()).hexdigest()
    (cache / "new.pth").rename(cache / f"resnet18-{digest[:8]}.pth")
    monkeypatch.setattr(PUBLISHED.value, "url", f"https://example.invalid/resnet18-{digest[:8]}.pth")
    model = models.create_model("resnet18", 10, 32, pretrained=True)  # the published weights have the ImageNet stem
    assert model.load_notes == ["head 'fc' replaced: ResNet18_Weights has 1000 classes, this model 10"]
    loaded = model.state_dict()
    assert all(torch.equal(loaded[key], value) for key, value in state.items() if not key.startswith("fc."))


@pytest.mark.parametrize("damage", ["empty", "text", "truncated", "other weights"])
def test_a_cached_file_that_is_not_the_published_one_is_refused_in_one_line(damage, cache):
    path = cache / PUBLISHED.url.rsplit("/", 1)[-1]
    torch.save(torchvision.models.resnet18().state_dict(), path)
    if damage != "other weights":
        path.write_bytes({"empty": b"", "text": b"404 not found", "truncated": path.read_bytes()[:5000]}[damage])
    with pytest.raises(BadRequest, match=path.name) as caught:
        models.create_model("resnet18", 10, 224, pretrained=True)
    assert "\n" not in str(caught.value)


def test_a_cached_file_that_would_run_code_does_not_run(cache, tmp_path):
    path, marker = cache / PUBLISHED.url.rsplit("/", 1)[-1], tmp_path / "ran"
    torch.save({"fc.weight": WritesAFile(marker)}, path)
    with pytest.raises(BadRequest):
        models.create_model("resnet18", 10, 224, pretrained=True)
    assert not marker.exists()
