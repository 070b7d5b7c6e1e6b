"""Runs that are killed at random times, again and again, end with the bits of an undisturbed run."""

from __future__ import annotations

import pytest
from killing import finish, kill_until_done, start
from test_main import assert_same_run

RESIDENT = (
    "--dataset digits --train-fraction 0.2 --model vit_tiny --depth 2 --embed-dim 48 --num-heads 2 --dropout 0.1"
    " --drop-path 0.2 --augmentation cutmix --optimizer adamw --ema 0.9 --batch-size 16 --accumulate 2 --epochs 6"
    " --checkpoint-every 1"
)
STREAMED = (
    "--dataset folder --datapath {} --img-size 32 --model resnet20 --augmentation cutmix+mixup --rand --batch-size 4"
    " --epochs 5 --checkpoint-every 1"
)


@pytest.mark.slow
@pytest.mark.parametrize(("line", "varied"), [
    (RESIDENT, ()),
    (STREAMED, (["--num-workers", "0"], ["--num-workers", "2"], ["--num-workers", "1"])),
], ids=["resident", "streamed with other workers each time"])  # fmt: skip
def test_a_run_killed_at_random_instants_ends_with_the_same_bits(workdir, image_folder, line, varied):
    words = line.format(image_folder(side=80)).split()
    log = workdir / "log"
    assert finish(start([*words, *(varied[0] if varied else ()), "--run-name", "whole"], workdir, log)) == 0
    killed = workdir / "runs/killed"
    kills = kill_until_done([*words, "--run-name", "killed"], workdir, killed, log, seed=1, varied=varied)
    assert kills >= 10
    assert_same_run(workdir / "runs/whole", killed)
    leftovers = {path.name for path in killed.iterdir() if path.name.startswith(".")}
    assert leftovers == {".lock"}
