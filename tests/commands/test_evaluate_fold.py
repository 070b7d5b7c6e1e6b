"""--evaluate of a run that held out a fold of image files: the split has the fold's name, other data do not."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from PIL import Image

TRAIN = ("--dataset folder --datapath images --model resnet9 --widths 8,8,8 --depths 1,1,1 --batch-size 16 --epochs 1"
         " --val-fold 2/3 --run-name fold")  # fmt: skip


def write_images(root: Path, part: str, count: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    for name in ("cat", "dog"):
        folder = root / part / name
        folder.mkdir(parents=True)
        for i in range(count):
            Image.fromarray(rng.integers(0, 256, (16, 16, 3), dtype=np.uint8)).save(folder / f"{i:02}.png")


def test_an_evaluated_fold_of_files_is_called_a_fold_and_other_images_a_test_split(learns, workdir):
    write_images(workdir / "images", "train", 9, 0)
    write_images(workdir / "images", "test", 3, 1)
    write_images(workdir / "others", "train", 3, 2)
    write_images(workdir / "others", "test", 4, 3)
    learns(TRAIN)
    learns("--evaluate runs/fold/best.pth --run-name again")
    learns("--evaluate runs/fold/best.pth --dataset folder --datapath others --run-name others")
    trained, again, others = (json.loads(Path(f"runs/{name}/summary.json").read_text())
                              for name in ("fold", "again", "others"))  # fmt: skip
    assert trained["split"] == again["split"] == "fold 2 of 3" and again["loss"] == trained["loss"]
    assert again["settings"]["val_fold"] == "2/3" and again["images"] == {"test": 6}
    assert others["split"] == "test" and others["images"] == {"test": 8} and "val_fold" not in others["settings"]
