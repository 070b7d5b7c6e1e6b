"""Training on real photographs: CIFAR-10 as JPEG files, train/<class>/ and test/<class>/ in the folder $CIFAR10_DIR."""

import json
import os

import pytest

CIFAR10_DIR = os.environ.get("CIFAR10_DIR")


@pytest.mark.skipif(not CIFAR10_DIR, reason="CIFAR10_DIR names no folder of CIFAR-10 images")
def test_a_small_network_learns_real_photographs(learns, workdir):
    result = learns(
        f"--dataset folder --datapath {CIFAR10_DIR} --model resnet20 --val-fraction 0.02 --train-fraction 0.12"
        " --batch-size 32 --lr 0.05 --warmup-epochs 1 --epochs 4 --run-name photographs"
    )
    assert "train 5,880, validation 1,000, test 10,000" in result.out
    summary = json.loads((workdir / "runs/photographs/summary.json").read_text())
    # Seen: 0.477, and 0.109 after the same training on shuffled labels.
    assert summary["top1"] > 0.40


@pytest.mark.skipif(not CIFAR10_DIR, reason="CIFAR10_DIR names no folder of CIFAR-10 images")
def test_the_quick_recipe_is_quick(learns, workdir):
    """One pass over 12,000 images; the test images have no part in it."""
    result = learns(
        f"--dataset folder --datapath {CIFAR10_DIR} --recipe cifar-fast --widths 32,64,128 --depths 1,1,1"
        " --stem-stride 2 --batch-size 64 --train-fraction 0.24 --epochs 1 --run-name quick"
    )
    assert "train 12,000, validation none, test 10,000; selected on: last epoch" in result.out
    summary = json.loads((workdir / "runs/quick/summary.json").read_text())
    # Seen: 0.593.
    assert summary["top1"] > 0.52
