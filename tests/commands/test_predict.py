"""main.py --predict: the right classes, for any number of files, some of them broken."""

import contextlib
import csv
import fcntl
import json
import os
import pty
import re
import struct
import subprocess
import sys
import termios
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import class_images
from PIL import Image

import main
import models

REPO = Path(__file__).resolve().parents[2]
SIDE = 16
CLASSES = ["a,b", 'c"d', "line\nfeed", "plain", "spaced out", "ünder"]
COLUMNS = ["path", *(f"{name}_{rank}" for rank in range(1, 6) for name in ("class", "probability")), "error"]


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> Path:
    """The checkpoint of a network with six classes, which no test changes."""
    folder = tmp_path_factory.mktemp("trained")
    rng = np.random.default_rng(0)
    for label, name in enumerate(CLASSES):
        (folder / "images/train" / name).mkdir(parents=True)
        for i, image in enumerate(class_images(rng, np.full(10, label), SIDE)):
            Image.fromarray(image).save(folder / "images/train" / name / f"{i}.png")
    flags = "--dataset folder --model resnet20 --epochs 2 --batch-size 8 --lr 0.05 --run-name a"
    data = ["--datapath", str(folder / "images"), "--runs-dir", str(folder)]
    assert main.main([*flags.split(), *data, "--wandb", "disabled"]) == 0
    return folder / "a/best.pth"


@pytest.fixture
def photos(workdir) -> Path:
    """photos/ with eleven images of several shapes and kinds."""
    rng = np.random.default_rng(1)
    (workdir / "photos").mkdir()
    for i, image in enumerate(class_images(rng, np.arange(9) % 6, SIDE)):
        Image.fromarray(image).save(workdir / f"photos/{i}.png")
    Image.fromarray(class_images(rng, np.array([3]), 64)[0]).resize((90, 50)).save(workdir / "photos/wide.png")
    Image.fromarray(class_images(rng, np.array([4]), 40)[0]).convert("L").save(workdir / "photos/grey.png")
    return workdir / "photos"


def by_hand(checkpoint: Path, file: Path) -> np.ndarray:
    """Probabilities (6,) in float64, with Pillow and torch alone: short side to SIDE, centre crop, normalise."""
    content = torch.load(checkpoint, weights_only=True)
    model = models.create_model("resnet20", 6, SIDE, 3)
    weights = "ema" if content["best"]["weights"] == "ema" else "model"
    model.load_state_dict(content[weights])
    image = Image.open(file).convert("RGB")
    scale = SIDE / min(image.size)
    image = image.resize([int(scale * side) for side in image.size], Image.Resampling.BILINEAR)
    left, top = ((side - SIDE) / 2 for side in image.size)
    image = image.crop([round(left), round(top), round(left) + SIDE, round(top) + SIDE])
    pixels = (np.asarray(image) / 255 - content["mean"]) / content["std"]
    with torch.no_grad():
        return model.double().eval()(torch.tensor(pixels).permute(2, 0, 1)[None]).softmax(1)[0].numpy()


def rows(name: str) -> list[dict]:
    with Path(name).open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file)) if name.endswith(".csv") else [json.loads(line) for line in file]


def top(row: dict) -> list[tuple[str, float]]:
    return [(row[f"class_{rank}"], float(row[f"probability_{rank}"])) for rank in range(1, 6)]


def test_the_probabilities_are_those_of_the_network(learns, trained, photos):
    shown = learns(f"--predict {trained} photos --output out.csv")
    assert shown.err == "" and shown.out == "wrote         out.csv: the classes of 11 images\n"
    learns(f"--predict {trained} photos --output out.jsonl")
    printed = learns(f"--predict {trained} photos").out
    found = rows("out.csv")
    assert list(found[0]) == COLUMNS and [row["path"] for row in found] == sorted(map(str, Path("photos").iterdir()))
    for row, same in zip(found, rows("out.jsonl"), strict=True):
        assert {**same, "error": ""} == {**row, **{key: float(row[key]) for key in row if "prob" in key}}
        expected = by_hand(trained, Path(row["path"]))
        order = np.argsort(-expected)[:5]
        resized = Image.open(row["path"]).size != (SIDE, SIDE)  # to uint8, whose rounding may differ
        assert [value for _, value in top(row)] == pytest.approx(expected[order], abs=0.02 if resized else 2e-6)
        assert resized or [name for name, _ in top(row)] == [CLASSES[i] for i in order]
        block = "".join(rf"\n +([0-9.]+) %  {re.escape(name)}" for name, _ in top(row))
        shares = re.search(f"{re.escape(row['path'])}{block}\n", printed)
        assert shares and [float(share) for share in shares.groups()] == pytest.approx(
            [100 * value for _, value in top(row)], abs=0.0051
        )
    assert len({top(row)[0] for row in found}) > 2


def test_an_image_gets_the_same_numbers_alone_and_among_others(learns, trained, photos):
    files = sorted(map(str, photos.iterdir()))
    together = learns(f"--predict {trained}", *files, "--wandb", "disabled").out
    assert "".join(learns(f"--predict {trained}", file).out for file in files) == together
    assert learns(f"--predict {trained} --batch-size 4 --num-workers 2", "--predict", *files).out == together


def test_the_network_gets_no_more_images_at_once_than_the_batch_size(learns, trained, photos):
    sizes = []

    def note(module: torch.nn.Module, inputs: tuple) -> None:
        if hasattr(module, "head_names"):
            sizes.append(len(inputs[0]))

    hook = torch.nn.modules.module.register_module_forward_pre_hook(note)
    try:
        learns(f"--predict {trained} photos --batch-size 4 --num-workers 0")
    finally:
        hook.remove()
    assert sizes == [4, 4, 3]


@pytest.mark.parametrize("workers", [0, 1])
def test_a_file_that_cannot_be_read_costs_only_itself(cli, trained, photos, workers):
    good = cli(f"--predict {trained} photos").out
    (photos / "2a.png").write_bytes((photos / "2.png").read_bytes()[:100])
    (photos / "z\n.png").write_text("no image")
    line = f"--predict {trained} photos --batch-size 1 --num-workers {workers}"
    result = cli(line)
    assert result.status == 1 and result.out == good
    damaged, text, last = result.err.splitlines()
    assert damaged.startswith(f"{photos.name}/2a.png: cannot be read as an image (")
    assert text.startswith("photos/z .png: cannot be read as an image (cannot identify")
    assert last.startswith("main.py: failed: 2 of 13 files cannot be read, all others are answered; photos/2a.png: ")

    for name in ("out.csv", "out.jsonl"):
        Path(name).write_text("old")
        result = cli(f"{line} --output {name}")
        assert result.status == 1 and result.out == f"wrote         {name}: the classes of 11 images\n"
        assert result.err == last + "\n"
        found = rows(name)
        assert [row["path"] for row in found if row.get("error")] == ["photos/2a.png", "photos/z\n.png"]
        assert all(bool(row.get("error")) != bool(row.get("class_1")) for row in found) and len(found) == 13


def test_without_a_readable_file_the_command_fails_and_writes_nothing(cli, trained, workdir):
    (workdir / "notes.txt").write_text("no image")
    (workdir / "out.csv").write_text("old")
    result = cli(f"--predict {trained} notes.txt --output out.csv")
    assert (result.status, result.out) == (1, "") and len(result.err.splitlines()) == 1
    assert "not one of 1 files can be read; notes.txt: cannot be read as an image" in result.err
    assert (workdir / "out.csv").read_text() == "old" and len(list(workdir.iterdir())) == 2


def test_names_of_any_kind_survive(learns, trained, photos):
    names = [b'a,"b".png', b"line\nfeed.png", b"return\rhere.png", b" blank .png", b"caf\xe9.png", "ü.png".encode()]
    for name in names:
        Path(os.fsdecode(b"odd/" + name)).parent.mkdir(exist_ok=True)
        Path(os.fsdecode(b"odd/" + name)).write_bytes((photos / "0.png").read_bytes())
    expected = {"odd/" + name.decode("utf-8", "backslashreplace") for name in names}
    for output in ("out.csv", "out.jsonl"):
        learns(f"--predict {trained} odd --output {output}")
        found = rows(output)
        assert {row["path"] for row in found} == expected
        assert all({name for name, _ in top(row)} < set(CLASSES) for row in found)


def test_logits_that_are_not_finite_are_no_answer(cli, trained, photos):
    content = torch.load(trained, weights_only=True)
    for weights in (content["model"], content["ema"] or {}):
        weights.update({key: value * float("nan") for key, value in weights.items() if key.endswith("weight")})
    torch.save(content, "broken.pth")
    result = cli("--predict broken.pth photos --output out.csv")
    assert result.status == 1 and "logits are not all finite" in result.err and not Path("out.csv").exists()


@pytest.mark.parametrize(
    ("words", "needle"),
    [
        ("x.png --output out.txt", "--output out.txt: the name of a file of predictions ends in .csv or .jsonl"),
        ("x.png --output nowhere/out.csv", "--output nowhere/out.csv: cannot be written there"),
        ("x.png --output folder.csv", "--output folder.csv: cannot be written there"),
        ("x.png --wandb online", "--wandb online has no effect with --predict"),
        ("none.png", "none.png: no such image file or folder"),
        ("x.png *.gif", "*.gif: no file matches this pattern"),
    ],
)
def test_bad_requests_are_refused_before_torch_is_imported(workdir, words, needle):
    (workdir / "folder.csv").mkdir()
    for name in ("x.png", "a.pth"):
        (workdir / name).touch()
    code = (
        "import sys; sys.path.insert(0, sys.argv.pop(1)); import main; from settings.terminal import run_script;"
        "sys.argv[0] = 'main.py'; print(run_script(main.main), 'torch' in sys.modules)"
    )
    command = [sys.executable, "-c", code, str(REPO), "--predict", "a.pth", *words.split()]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout == "2 False\n" and done.stderr.startswith(f"main.py: error: {needle}")
    assert len(done.stderr.splitlines()) == 1


@pytest.mark.parametrize(("signal", "status", "workers"), [(2, 130, 0), (15, 143, 0), (2, 130, 2)])
def test_a_stopped_prediction_leaves_nothing_half_written(trained, photos, signal, status, workers):
    """At a terminal, which shows a bar."""
    for i in range(2000):
        (photos / f"link{i}.png").symlink_to("0.png")
    Path("out.csv").write_text("old")
    before = set(Path().iterdir())
    words = f"--predict {trained} photos --batch-size 1 --output out.csv --num-workers {workers}"
    leader, follower = pty.openpty()
    fcntl.ioctl(follower, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 100, 0, 0))
    process = subprocess.Popen(
        [sys.executable, str(REPO / "main.py"), *words.split()], stdout=follower, stderr=follower
    )
    os.close(follower)
    seen = b""
    while not re.search(rb"predicting: .* [1-9][0-9]*/2011 ", seen):
        seen += os.read(leader, 4096)
    process.send_signal(signal)
    with contextlib.suppress(OSError):  # the other side is closed
        while True:
            seen += os.read(leader, 4096)
    os.close(leader)
    assert process.wait() == status
    assert b"main.py: stopped by SIG" in seen and b"Traceback" not in seen, seen.decode()
    assert Path("out.csv").read_text() == "old" and set(Path().iterdir()) == before


def test_what_was_printed_before_a_stop_stays(trained, photos):
    """The last image is a pipe that nobody writes to: the command waits for it in the middle of reading a file."""
    os.mkfifo(photos / "zz.png")
    words = f"--predict {trained} photos --batch-size 1 --num-workers 0".split()
    process = subprocess.Popen(
        [sys.executable, str(REPO / "main.py"), *words], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout is not None and process.stderr is not None
    assert "photos/wide.png\n" in iter(process.stdout.readline, "")
    process.send_signal(2)
    assert "%" in process.stdout.read() and process.stderr.read() == "main.py: stopped by SIGINT\n"
    assert process.wait() == 130
