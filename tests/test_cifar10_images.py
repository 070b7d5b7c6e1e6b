"""Trains on real photographs: CIFAR-10 as JPEG files in train/<class>/ and test/<class>/ of the folder $CIFAR10_DIR."""

import json
import os

import pytest

CIFAR10_DIR = os.environ.get("CIFAR10_DIR")
pytestmark = pytest.mark.skipif(not CIFAR10_DIR, reason="CIFAR10_DIR names no folder of CIFAR-10 images")


@pytest.mark.parametrize(
    ("recipe", "splits", "bound"),
    [
        # Measured: 0.388. With shuffled labels it is about 0.1.
        pytest.param(
            "--model resnet20 --val-fraction 0.02 --train-fraction 0.08 --batch-size 32 --lr 0.05 --warmup-epochs 1"
            " --epochs 3",
            "train 3,920, validation 1,000, test 10,000",
            0.28,
            marks=pytest.mark.long("two minutes; cifar-fast learns the same images"),
        ),
        # One pass over 12,000 images. Measured: 0.547.
        (
            "--recipe cifar-fast --widths 32,64,128 --depths 1,1,1 --stem-stride 2 --batch-size 64"
            " --train-fraction 0.24 --epochs 1",
            "train 12,000, validation none, test 10,000; selected on: last epoch",
            0.48,
        ),
    ],
    ids=["resnet20", "cifar-fast"],
)
def test_a_small_network_learns_real_photographs(learns, workdir, recipe, splits, bound):
    result = learns(f"--dataset folder --datapath {CIFAR10_DIR} --run-name photographs {recipe}")
    assert splits in result.out
    assert json.loads((workdir / "runs/photographs/summary.json").read_text())["top1"] > bound
