"""Legacy checkpoints, made with timm's models, can be evaluated, predict, teach and be started from."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from conftest import WNIDS, fit_head
from PIL import Image

import train_deit_imagenet100 as script

TIMM = {"vit_tiny": "vit_tiny_patch16_224", "deit_tiny_distill": "deit_tiny_distilled_patch16_224"}
SHAPE = {"img_size": 32, "patch_size": 8, "depth": 2, "embed_dim": 48, "num_heads": 3}


def old_file(path: Path, name: str, args, num_classes: int = 4) -> torch.nn.Module:
    """Writes a legacy checkpoint of `name`. Returns timm's model with the same weights."""
    torch.manual_seed(0)
    model = timm.create_model(TIMM[name], num_classes=num_classes, **SHAPE).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=0.05)
    torch.save({"model_state": model.state_dict(), "val_acc1": 61.5, "epoch": 4, "args": args}, path)
    return model


def prepared(root: Path, parts: str) -> tuple[torch.Tensor, torch.Tensor]:
    """(images (N, 3, 32, 32), classes), read and normalised without this suite."""
    files = sorted(root.glob(f"{parts}/*/*"), key=lambda file: file.parts[-2:])
    pixels = np.stack([np.asarray(Image.open(file)) for file in files]) / 255
    images = torch.tensor((pixels - [0.485, 0.456, 0.406]) / [0.229, 0.224, 0.225]).permute(0, 3, 1, 2).float()
    return images, torch.tensor([WNIDS.index(file.parent.name) for file in files])


@pytest.mark.parametrize("name", TIMM)
def test_it_is_evaluated_with_the_classes_of_the_data_set(learns, shards, name, workdir):
    """Compares logits with timm's model, on images prepared without this suite."""
    root = shards()
    args = {"model": name, "epochs": 5, "lr": 5e-4, "data_path": str(root)}
    reference = old_file(workdir / "old.pth", name, argparse.Namespace(**args) if name == "vit_tiny" else args)
    learns("--evaluate old.pth")
    told = json.loads((workdir / "runs/old-on-imagenet100/summary.json").read_text())
    assert (told["best_epoch"], told["epochs"], told["split"]) == (4, 5, "val.X")
    assert told["selected_on"] == "not stored (a file of the earlier form)"
    images, _ = prepared(root, "val.X")
    with torch.no_grad():
        expected = reference(images).numpy()
    found = np.load(workdir / "runs/old-on-imagenet100/predictions.npz")
    np.testing.assert_allclose(found["logits"], expected, rtol=1e-3, atol=1e-4)
    assert found["class_names"].tolist() == ["tench", "goldfish", "great white shark", "toilet tissue"]


@pytest.mark.parametrize("name", TIMM)
def test_without_args_the_architecture_is_told_by_the_weights(learns, workdir, name):
    model = timm.create_model(TIMM[name], num_classes=3, img_size=32, patch_size=16, depth=1)
    torch.save({"model_state": model.state_dict(), "val_acc1": 0.5, "epoch": 1}, "old.pth")
    Image.new("RGB", (32, 32)).save("image.png")
    result = learns("--predict old.pth image.png")
    assert sorted(line.split()[-1] for line in result.out.splitlines()[1:]) == ["0", "1", "2"]


@pytest.mark.auto_precision
def test_it_teaches_and_is_started_from(learns, shards, workdir):
    root = shards()
    old_file(workdir / "old.pth", "vit_tiny", {"model": "vit_tiny"})
    line = (
        f"--data-path {root} --img-size 32 --patch-size 8 --depth 2 --embed-dim 48 --epochs 1 --batch-size 8 --lr 1e-9"
    )
    learns(f"{line} --model vit_tiny --weights old.pth --val-fraction 0 --run-name started", script=script)
    old = torch.load("old.pth", weights_only=True)["model_state"]
    new = torch.load("runs/started/last.pth", weights_only=True)["model"]
    for key, value in old.items():
        torch.testing.assert_close(new[key], value, rtol=1e-4, atol=1e-5)

    model = old_file(workdir / "old.pth", "vit_tiny", {})
    images, targets = prepared(root, "train.X*")
    with torch.no_grad():
        fit_head(model.head, model.forward_head(model.forward_features(images), pre_logits=True), targets)
    content = {"model_state": model.state_dict(), "val_acc1": 99.0, "epoch": 12, "args": {"model": "vit_tiny"}}
    torch.save(content, "good.pth")
    taught = "--teacher vit_tiny --teacher-weights good.pth --val-fraction 0"
    result = learns(f"{line} {taught} --run-name taught", script=script)
    assert "teacher       vit_tiny, good.pth: top-1 100.00 % on train" in result.out


@pytest.mark.parametrize(
    ("content", "needle"),
    [
        (
            {"args": {"model": "vit_tinny"}},
            "was trained with a model 'vit_tinny', which neither this suite nor timm has",
        ),
        ({"args": {"model": 3}}, "its args name no model"),
        ({"args": {"model": "vit_tiny"}, "drop": "pos_embed"}, "its model_state is no whole vit_tiny"),
        ({"args": {"model": "resnet18"}}, "its weights are not those of a resnet18"),
        ({"args": {"model": "vit_tiny"}, "classes": 7}, "has 7 classes, imagenet100 has 4"),
    ],
)
def test_what_cannot_be_used_is_named(cli, shards, workdir, content, needle):
    old_file(workdir / "old.pth", "vit_tiny", content["args"], content.get("classes", 4))
    stored = torch.load("old.pth", weights_only=True)
    stored["model_state"].pop(content.get("drop"), None)
    torch.save(stored, "old.pth")
    result = cli(f"--evaluate old.pth --data-path {shards()}")
    assert result.status == 2 and needle in result.err, result.err
    assert len(result.err.splitlines()) == 1
    assert not (workdir / "runs").exists()


def test_averaged_weights_in_it_are_those_that_are_scored(learns, shards, workdir):
    root = shards()
    reference = old_file(workdir / "old.pth", "vit_tiny", {"model": "vit_tiny", "data_path": str(root)})
    content = torch.load(workdir / "old.pth", weights_only=True)
    raw = {key: torch.zeros_like(value) for key, value in content["model_state"].items()}
    torch.save({**content, "model_state": raw, "model_ema": content["model_state"]}, workdir / "old.pth")
    learns("--evaluate old.pth")
    told = json.loads((workdir / "runs/old-on-imagenet100/summary.json").read_text())
    assert told["weights"] == "ema" and told["ema"]["top1"] == told["top1"]
    images, _ = prepared(root, "val.X")
    with torch.no_grad():
        expected = reference(images).numpy()
    found = np.load(workdir / "runs/old-on-imagenet100/predictions.npz")
    np.testing.assert_allclose(found["logits"], expected, rtol=1e-3, atol=1e-4)


def test_weights_under_the_same_key_without_a_models_name_are_weights_of_others(cli, learns, workdir):
    torch.manual_seed(0)
    model = timm.create_model("resnet10t", num_classes=10, in_chans=1)
    torch.save({"model_state": model.state_dict(), "val_acc1": np.float64(61.5), "epoch": 4}, "a.pth")
    result = cli("--evaluate a.pth")
    assert result.status == 2 and "--evaluate FILE --model NAME --dataset NAME scores weights of others" in result.err
    learns("--evaluate a.pth --model timm/resnet10t --dataset digits --img-size 32 --run-name a")
    assert json.loads((workdir / "runs/a/summary.json").read_text())["selected_on"] == "not known (weights of others)"
