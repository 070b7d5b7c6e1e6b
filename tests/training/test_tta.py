"""Test-time augmentation: against a computation of its own, and beside the plain scores, never in their place."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from training.tta import augmented

LINE = "--dataset digits --model resnet20 --epochs 1 --train-fraction 0.2"


def logits_of(images: np.ndarray) -> np.ndarray:
    """A function of images (N, C, H, W) that neither mirroring nor shifting leaves alone: (N, 2)."""
    weights = np.linspace(-1, 1, images[0].size).reshape(images[0].shape)
    return np.stack([(images * weights).sum((1, 2, 3)), (images * weights**2).sum((1, 2, 3))], 1)


def expected(images: np.ndarray, kind: str) -> np.ndarray:
    def both(views: np.ndarray) -> np.ndarray:
        return (logits_of(views) + logits_of(views[..., ::-1])) / 2

    if kind == "flip":
        return both(images)
    height, width = images.shape[2:]
    padded = np.pad(images, ((0, 0), (0, 0), (1, 1), (1, 1)), mode="reflect")
    return 0.5 * both(images) + 0.25 * both(padded[..., :height, :width]) + 0.25 * both(padded[..., 2:, 2:])


@pytest.mark.parametrize("kind", ["flip", "shift"])
def test_the_logits_are_the_weighted_mean_of_the_views(kind):
    images = np.random.default_rng(0).normal(size=(4, 3, 6, 8))
    forward = augmented(lambda x: torch.from_numpy(logits_of(x.numpy())), kind)
    np.testing.assert_allclose(forward(torch.from_numpy(images)).numpy(), expected(images, kind), rtol=1e-5)


def test_an_image_of_one_pixel_has_its_own_edge_around_it():
    images = torch.randn(4, 3, 1, 1)
    torch.testing.assert_close(augmented(lambda x: x.flatten(1), "shift")(images), images.flatten(1))


def test_it_is_reported_beside_the_plain_scores(learns):
    learns(f"{LINE} --run-name plain")
    out = learns(f"{LINE} --tta shift --run-name both").out
    plain, both = (json.loads(Path(f"runs/{name}/summary.json").read_text()) for name in ("plain", "both"))
    assert "tta" not in plain and "with --tta shift: top-1" in out
    assert set(both["tta"]) == {"kind", "loss", "top1", "top5"} and both["tta"]["kind"] == "shift"
    assert [both[key] for key in ("top1", "loss", "map")] == [plain[key] for key in ("top1", "loss", "map")]
    assert both["tta"]["loss"] != both["loss"]
    logits = [np.load(f"runs/{name}/predictions.npz")["logits"] for name in ("plain", "both")]
    assert np.array_equal(*logits)

    learns("--evaluate runs/plain/best.pth --tta shift --run-name again")
    again = json.loads(Path("runs/again/summary.json").read_text())
    assert again["tta"] == pytest.approx(both["tta"])
    assert again["settings"]["tta"] == "shift"
    learns("--evaluate runs/both/best.pth --run-name without")
    without = json.loads(Path("runs/without/summary.json").read_text())
    assert "tta" not in without and without["settings"]["tta"] == "none"


def test_another_kind_is_refused(cli):
    result = cli(f"{LINE} --tta rotate")
    assert result.status == 2 and "--tta" in result.err and "none, flip, shift" in result.err
