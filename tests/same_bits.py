"""Compares seeded trainings of two checkouts of this suite, bit for bit: a refactoring must not change a number.

    python tests/same_bits.py OLD NEW                     six short trainings, about two minutes on two cores
    python tests/same_bits.py OLD NEW --only digits vit   some of them
    python tests/same_bits.py OLD NEW --help-texts        what --help prints, byte for byte, instead of trainings

OLD and NEW are folders that hold main.py, such as two git worktrees. Both run with this Python, on the CPU, at once.
Prints one line per case. The exit status is 0 if all are the same, 1 if one differs or fails, 2 for a bad request.
"""

from __future__ import annotations

import argparse
import ast
import difflib
import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

# {images} and {broken} are the folders that `make_images` writes.
TRAININGS = {
    "digits": "--dataset digits --model resnet20 --epochs 2",
    "vit": "--dataset digits --model vit_tiny --embed-dim 48 --depth 3 --dropout 0.1 --drop-path 0.2"
    " --augmentation cutmix --optimizer adamw --accumulate 3 --ema 0.9 --epochs 2",
    "streamed": "--dataset folder --data-path {images} --img-size 48 --model resnet20 --rand --num-workers 2"
    " --batch-size 16 --epochs 2",
    "distill": "--dataset digits --model deit_tiny_distill --embed-dim 48 --depth 2 --optimizer adamw"
    " --teacher resnet20 --teacher-epochs 1 --distill hard --epochs 2",
    "bf16": "--dataset digits --model vit_tiny --embed-dim 48 --depth 2 --precision bf16 --epochs 2",
    "bad-images": "--dataset folder --data-path {broken} --img-size 48 --model resnet20 --on-bad-image skip"
    " --num-workers 2 --batch-size 16 --epochs 2",
}
COMMON = "--seed 3 --device cpu --wandb disabled --runs-dir"
FILES = ("metrics.csv", "bad_images.txt", "best.pth", "last.pth", "predictions.npz")
SCRIPTS = ("main.py", "train_deit_imagenet100.py", "viz_random_10_vit_vs_deit.py", "study.py", "compare.py")


def main(argv: list[str] | None = None) -> int:
    """Runs and compares what the command line asks for. Returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("old", type=Path, metavar="OLD", help="checkout to compare with")
    parser.add_argument("new", type=Path, metavar="NEW", help="checkout to compare")
    which = parser.add_mutually_exclusive_group()
    which.add_argument("--only", nargs="+", choices=TRAININGS, metavar="NAME", help=f"some of {', '.join(TRAININGS)}")
    which.add_argument("--help-texts", action="store_true", help="compare what --help prints, instead of trainings")
    asked = parser.parse_args(argv)
    for checkout in (asked.old, asked.new):
        if not (checkout / "main.py").is_file():
            parser.error(f"{checkout}: not a checkout of this suite (it has no main.py)")
    checkouts = {"old": asked.old.resolve(), "new": asked.new.resolve()}
    same = compare_help(checkouts) if asked.help_texts else compare_trainings(checkouts, asked.only or list(TRAININGS))
    return 0 if same else 1


def compare_trainings(checkouts: dict[str, Path], names: list[str]) -> bool:
    """Trains each of `names` in both checkouts and prints the first difference. Keeps the runs if there is one."""
    work = Path(tempfile.mkdtemp(prefix="same_bits-"))
    make_images(work / "images")
    make_images(work / "broken", truncated=7)
    same = True
    for name in names:
        words = [word.format(images=work / "images", broken=work / "broken") for word in TRAININGS[name].split()]
        runs = {side: work / name / side for side in checkouts}
        commands = {side: ["main.py", *words, *COMMON.split(), str(runs[side])] for side in checkouts}
        found = failure(run_both(checkouts, commands)) or compare_runs(runs["old"], runs["new"])
        print(f"{name:12}{'DIFFERENT: ' + found if found else 'same'}", flush=True)
        same = same and not found
    if same:
        shutil.rmtree(work)
    else:
        print(f"the runs are kept in {work}")
    return same


def compare_help(checkouts: dict[str, Path]) -> bool:
    """Compares --help of each script, and of main.py with each model. Prints a diff of those that differ."""
    ask = ["-c", "import models; print(models.list_models())"]
    listed = run_both(checkouts, dict.fromkeys(checkouts, ask))
    if found := failure(listed):
        print(f"models.list_models() DIFFERENT: {found}")
        return False
    models = sorted({name for process in listed.values() for name in ast.literal_eval(process.stdout)})
    same = True
    for words in [*([script] for script in SCRIPTS), *(["main.py", "--model", model] for model in models)]:
        words = [*words, "--help"]
        done = run_both(checkouts, dict.fromkeys(checkouts, words))
        old, new = (process.stdout.splitlines(keepends=True) for process in done.values())
        found = failure(done) or "".join(difflib.unified_diff(old, new, "old", "new"))
        print(f"{' '.join(words):48}{'DIFFERENT: ' + found if found else 'same'}", flush=True)
        same = same and not found
    return same


def run_both(checkouts: dict[str, Path], commands: dict[str, list[str]]) -> dict[str, subprocess.CompletedProcess[str]]:
    """Runs Python with each side's words in that side's checkout, both at once, with one thread each."""
    running = {
        side: subprocess.Popen(
            [sys.executable, *commands[side]],
            cwd=checkout,
            # Without the units --precision auto is fp32, as on every other machine.
            env={
                **os.environ,
                "PYTHONPATH": str(checkout),
                "OMP_NUM_THREADS": "1",
                "WANDB_MODE": "disabled",
                "SUITE_MATRIX_UNITS": "off",
            },
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for side, checkout in checkouts.items()
    }
    done = {}
    for side, process in running.items():
        out, err = process.communicate()
        done[side] = subprocess.CompletedProcess(process.args, process.returncode, out, err)
    return done


def failure(done: dict[str, subprocess.CompletedProcess[str]]) -> str:
    """Says which processes failed, with the last line of their errors; "" if none did."""
    return "; ".join(
        f"{side} fails with status {process.returncode}: {(process.stderr.strip() or 'no message').splitlines()[-1]}"
        for side, process in done.items()
        if process.returncode
    )


def compare_runs(old: Path, new: Path) -> str:
    """The first difference between the runs in two folders, including a teacher's run; "" if there is none."""
    paths = sorted({path.relative_to(side) for side in (old, new) for path in side.glob("*/*") if path.name in FILES})
    if not any(path.name == "best.pth" for path in paths):
        return "neither has written best.pth"
    for path in sorted(paths, key=lambda path: FILES.index(path.name)):
        before, after = entries(old / path), entries(new / path)
        names = [*before, *(name for name in after if name not in before)]
        changed = [name for name in names if before.get(name) != after.get(name)]
        if changed:
            first = changed[0]
            return (
                f"{path}: {first}: {before.get(first, 'missing')} -> {after.get(first, 'missing')}"
                f" ({len(changed)} of {len(names)} differ)"
            )
    return ""


def entries(path: Path) -> dict[str, str]:
    """The content of a file by name: a checkpoint's tensors, an archive's arrays, or a text's cells between commas and
    line ends. {} if the file does not exist."""
    if not path.is_file():
        return {}
    if path.suffix == ".pth":
        checkpoint = torch.load(path, map_location="cpu", weights_only=True)
        return {name: fingerprint(tensor) for name, tensor in tensors(checkpoint)}
    if path.suffix == ".npz":
        with np.load(path) as arrays:
            return {name: fingerprint(arrays[name]) for name in arrays.files}
    return {
        f"line {row}, cell {column}": repr(cell)
        for row, line in enumerate(path.read_bytes().decode().split("\n"), start=1)
        for column, cell in enumerate(line.split(","), start=1)
    }


def tensors(value: Any, name: str = "") -> Iterator[tuple[str, torch.Tensor]]:
    """Every tensor in nested dicts, lists and tuples by its path, e.g. "model.head.weight"."""
    if isinstance(value, torch.Tensor):
        yield name, value
    elif isinstance(value, (dict, list, tuple)):
        for key, part in value.items() if isinstance(value, dict) else enumerate(value):
            yield from tensors(part, f"{name}.{key}" if name else str(key))


def fingerprint(array: torch.Tensor | np.ndarray) -> str:
    """Type, shape and a digest of the bits: -0 and 0 differ, a NaN equals itself."""
    raw = array.contiguous().view(-1).view(torch.uint8).numpy() if isinstance(array, torch.Tensor) else array
    digest = hashlib.sha256(raw.tobytes()).hexdigest()[:16]
    return f"{str(array.dtype).removeprefix('torch.')} {tuple(array.shape)} bits {digest}"


def make_images(root: Path, truncated: int | None = None) -> None:
    """Writes train/ and test/ with three classes of JPEG and PNG files, the same on each call. Their sizes differ, so
    the suite streams them.

    Args:
        truncated: every file whose number is a multiple of this is truncated and cannot be decoded; None: none is.
    """
    rng = np.random.default_rng(0)
    count = 0
    for part, per_class in (("train", 24), ("test", 8)):
        for label in range(3):
            folder = root / part / f"class{label}"
            folder.mkdir(parents=True)
            for i in range(per_class):
                height, width = rng.integers(66, 120, 2)
                pixels = rng.integers(0, 120, (height, width, 3), dtype=np.uint8)
                pixels[..., label] += 100
                path = folder / f"{i}.{'png' if i % 3 == 0 else 'jpg'}"
                Image.fromarray(pixels).save(path)
                count += 1
                if truncated and count % truncated == 0:
                    path.write_bytes(path.read_bytes()[:200])


if __name__ == "__main__":
    sys.exit(main())
