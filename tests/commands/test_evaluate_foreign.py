"""`main.py --evaluate` on weights that others trained: scores, what is stored, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from conftest import WNIDS, fit_head
from timm.data import ImageNetInfo

import compare
import models
from assembly import foreign
from image_datasets import load_dataset, locate_dataset
from image_datasets.splits import Split

LINE = "--evaluate foreign.pth --model resnet20 --dataset digits"


def summary(run: str) -> dict:
    return json.loads(Path(f"runs/{run}/summary.json").read_text())


@pytest.fixture
def trained(learns, workdir) -> dict:
    """Its weights are in foreign.pth, as others would save them. Returns the summary of the run."""
    learns("--dataset digits --model resnet20 --batch-size 32 --epochs 2 --lr 0.05 --run-name t")
    state = torch.load(workdir / "runs/t/best.pth", weights_only=True)["model"]
    names = {key: f"module.{key.replace('fc.', 'linear.')}" for key in state}
    torch.save({"state_dict": {names[key]: value for key, value in state.items()}}, workdir / "foreign.pth")
    return summary("t")


def test_weights_of_others_score_as_the_run_that_made_them(learns, trained):
    result = learns(LINE)
    ours, theirs = summary("foreign-on-digits"), trained
    assert (ours["top1"], ours["split"], ours["images"]["test"]) == (theirs["top1"], theirs["split"], 359)
    assert ours["loss"] == pytest.approx(theirs["loss"], abs=1e-6)
    assert (ours["best_epoch"], ours["epochs"], ours["settings"]["lr"]) == (None, None, None)
    assert ours["settings"]["model_args"] == {"shortcut": "A"} and ours["settings"]["evaluated"] == "foreign.pth"
    assert ours["params"] == theirs["params"] and ours["image_digests"] == {"test": theirs["image_digests"]["test"]}
    assert "note          'linear' of foreign.pth is the head, 'fc' here\n" in result.out
    assert "model         resnet20 from foreign.pth, for images of 8 px\n" in result.out
    assert "selected      raw weights, on: not known (weights of others)" in result.out
    learns("runs/t runs/foreign-on-digits", script=compare)
    assert "foreign-on-digits" in Path("runs/comparison/report.md").read_text()


def test_the_normalisations_are_compared_on_training_images_alone(learns, trained, monkeypatch):
    seen = []
    batches_for = foreign.batches_for

    def spy(content, split, *more):
        seen.append((split.images.tobytes(), len(split), content["mean"]))
        return batches_for(content, split, *more)

    monkeypatch.setattr(foreign, "batches_for", spy)
    out = learns(LINE, "--run-name", "a").out
    (note,) = [note for note in summary("a")["notes"] if "normalised" in note]
    assert f"note          {note}\n" in out
    assert "top-1 on 512 training images: dataset 9" in note and "% (used), imagenet " in note and ", half " in note
    assert "--normalization chooses" in note and [count for _, count, _ in seen] == [512] * 3
    assert len({images for images, _, _ in seen}) == 1 and len({mean for _, _, mean in seen}) == 3

    learns(LINE, "--run-name", "b", "--normalization", "half")
    (note,) = [note for note in summary("b")["notes"] if "normalised" in note]
    assert "training images: half " in note and summary("b")["settings"]["normalization"] == "half"
    assert summary("b")["loss"] != summary("a")["loss"]


def test_without_training_images_the_choices_are_named(learns, cli, trained, monkeypatch):
    def without_train(found, workers):
        dataset = load_dataset(found, workers=workers)
        dataset.train = Split(dataset.train.targets[:0], dataset.train.images[:0])
        return dataset

    monkeypatch.setattr("image_datasets.load_dataset", without_train)
    learns(LINE, "--run-name", "a")
    (note,) = [note for note in summary("a")["notes"] if "normalised" in note]
    assert note == (
        "the file does not tell how its images were normalised: imagenet, of imagenet, half; --normalization chooses"
        " another"
    )
    result = cli(LINE, "--normalization", "dataset", "--run-name", "b")
    assert result.status == 2 and "--normalization dataset: digits has no training images" in result.err


def test_both_kinds_of_weights_can_be_scored(learns, trained, workdir):
    good = torch.load("foreign.pth", weights_only=True)["state_dict"]
    torch.manual_seed(0)
    bad = {key: torch.rand_like(value) if value.is_floating_point() else value for key, value in good.items()}
    torch.save({"model": bad, "model_ema": good}, "foreign.pth")
    out = learns(LINE, "--run-name", "a").out
    assert "the averaged ones are taken, --weights-kind raw takes the others" in out
    learns(LINE, "--run-name", "b", "--weights-kind", "raw")
    assert summary("a")["top1"] == trained["top1"] > summary("b")["top1"] + 0.3
    assert (summary("a")["weights"], summary("b")["weights"]) == ("ema", "raw")


def test_flags_of_the_model_and_its_images_are_taken(learns, workdir):
    torch.manual_seed(0)
    model = models.create_model("resnet18", 10, 16, 3, stem="imagenet", widths=[8, 8, 16, 16])
    torch.save(model.state_dict(), "a.pth")
    line = "--evaluate a.pth --model resnet18 --dataset digits --img-size 16 --in-chans 3 --widths 8,8,16,16"
    learns(f"{line} --model-arg stem=imagenet --run-name a")
    stored = summary("a")["settings"]
    assert (stored["img_size"], stored["in_chans"]) == (16, 3)
    assert stored["model_args"] == {"stem": "imagenet", "depths": [2, 2, 2, 2], "widths": [8, 8, 16, 16]}


@pytest.mark.parametrize("given", ["--shortcut A", "--shortcut B", ""])
def test_the_form_of_the_shortcuts_follows_from_the_file(cli, workdir, given):
    torch.manual_seed(0)
    torch.save(models.create_model("resnet20", 10, 8, 1, shortcut="B").state_dict(), "foreign.pth")
    result = cli(LINE, *given.split(), "--run-name", "a")
    if given == "--shortcut A":
        assert result.status == 2 and "their shortcuts have convolutions: --shortcut B fits" in result.err
        return
    assert result.status == 0 and summary("a")["settings"]["model_args"] == {"shortcut": "B"}
    assert ("the model is built with shortcut B" in result.out) == (not given)


def test_shortcuts_of_the_weights_that_a_run_starts_from_are_stored(learns, cli, workdir):
    torch.manual_seed(0)
    torch.save(models.create_model("resnet20", 10, 8, 1, shortcut="B").state_dict(), "foreign.pth")
    line = "--dataset digits --model resnet20 --epochs 1 --train-fraction 0.1 --weights foreign.pth --run-name a"
    assert "weights       foreign.pth has convolutions as shortcuts" in learns(line).out
    assert json.loads(Path("runs/a/settings.json").read_text())["settings"]["model_args"] == {"shortcut": "B"}
    learns("--evaluate runs/a/best.pth --run-name again")
    assert summary("again")["top1"] == summary("a")["top1"]
    result = cli(line, "--overwrite", "--shortcut", "A")
    assert result.status == 2 and "--shortcut B fits" in result.err


def test_a_network_for_imagenet_is_scored_through_the_outputs_of_the_data_sets_classes(learns, shards, workdir):
    torch.manual_seed(0)
    model = timm.create_model("resnet10t").eval()
    index = {wnid: i for i, wnid in enumerate(ImageNetInfo("imagenet-1k").label_names())}
    root = shards(side=64)
    torch.save(model.state_dict(), "a.pth")
    line = f"--evaluate a.pth --model timm/resnet10t --dataset imagenet100 --datapath {root} --normalization imagenet"
    out = learns(f"{line} --run-name a").out
    assert "of the 1000 outputs those of the data set's 4 classes are used, by WordNet id" in out
    found = np.load("runs/a/predictions.npz")
    images, _ = prepared(root)
    with torch.no_grad():
        expected = model(images)[:, [index[wnid] for wnid in WNIDS]].numpy()
    np.testing.assert_allclose(found["logits"], expected, rtol=1e-3, atol=1e-4)


def prepared(root: Path) -> tuple[torch.Tensor, list[Path]]:
    """The test images (N, 3, 64, 64), read and normalised without this suite."""
    from PIL import Image

    files = sorted(root.glob("val.X/*/*"), key=lambda file: file.parts[-2:])
    pixels = np.stack([np.asarray(Image.open(file)) for file in files]) / 255
    return torch.tensor((pixels - [0.485, 0.456, 0.406]) / [0.229, 0.224, 0.225]).permute(0, 3, 1, 2).float(), files


def test_tensors_are_taken_in_their_order_and_the_log_has_every_pair(learns, cli, trained, workdir):
    state = torch.load("runs/t/best.pth", weights_only=True)["model"]
    layers = list(dict.fromkeys(key.rpartition(".")[0] for key in state))
    theirs = {f"part{layers.index(key.rpartition('.')[0])}.{key.rpartition('.')[2]}": v for key, v in state.items()}
    torch.save(theirs, "foreign.pth")
    result = cli(LINE)
    assert result.status == 2 and "in their order they fit: --weights-by-order takes them so" in result.err
    out = learns(LINE, "--weights-by-order", "--run-name", "a").out
    assert summary("a")["top1"] == trained["top1"]
    log = Path("runs/a/log.txt").read_text()
    last = f"weights       part{len(layers) - 1}.bias -> fc.bias\n"
    assert last in log and last not in out and "tensors taken by their order: part0.weight as conv1.weight" in out
    learns("--dataset digits --model resnet20 --epochs 1 --train-fraction 0.1 --weights foreign.pth --weights-by-order"
           " --lr 1e-9 --run-name b")  # fmt: skip
    assert last in Path("runs/b/log.txt").read_text() and summary("b")["top1"] > trained["top1"] - 0.1
    taught = "--dataset digits --model resnet20 --epochs 1 --train-fraction 0.1 --teacher resnet20 --teacher-weights"
    assert "--teacher-weights-by-order takes them so" in cli(f"{taught} foreign.pth --run-name c").err
    learns(f"{taught} foreign.pth --teacher-weights-by-order --run-name c")
    safetensors = pytest.importorskip("safetensors.torch")
    safetensors.save_file({key: value.contiguous() for key, value in theirs.items()}, "foreign.safetensors")
    result = cli(LINE.replace(".pth", ".safetensors"), "--weights-by-order")
    assert result.status == 2 and "safetensors files do not keep the order" in result.err


@pytest.mark.parametrize(
    ("flags", "needle"),
    [
        ("--evaluate foreign.pth", "not a checkpoint of this suite (it has no 'format'); --evaluate FILE --model NAME"),
        ("--evaluate foreign.pth --model resnet20", "--model NAME --dataset NAME scores weights of others"),
        ("--evaluate foreign.pth --model resnet56 --dataset digits", "weights of another model; keys"),
        ("--evaluate foreign.pth --model resnett --dataset digits", "unknown model 'resnett'"),
        (
            "--evaluate headless.pth --model resnet20 --dataset digits",
            "has no head ('fc'), so there is nothing to score",
        ),
        ("--evaluate seven.pth --model resnet20 --dataset digits", "seven.pth: has 7 classes, digits has 10"),
        ("--evaluate imagenet.pth --model resnet20 --dataset digits", "has 1000 classes, digits has 10"),
        (f"{LINE} --weights-kind ema", "holds no averaged weights, only raw ones"),
        (f"{LINE} --resize-mode squeeze", "--resize-mode squeeze has no effect"),
        (f"{LINE} --normalization pretrained", "pretrained needs --pretrained"),
        (f"{LINE} --stem cifar", "--stem has no effect: resnet20 has no such argument"),
    ],
)
def test_what_cannot_be_scored_is_refused_in_one_line(cli, workdir, flags, needle):
    torch.manual_seed(0)
    state = models.create_model("resnet20", 10, 8, 1).state_dict()
    torch.save(state, "foreign.pth")
    torch.save({key: value for key, value in state.items() if "fc" not in key}, "headless.pth")
    for name, classes in (("seven", 7), ("imagenet", 1000)):
        torch.save(models.create_model("resnet20", classes, 8, 1).state_dict(), f"{name}.pth")
    result = cli(flags)
    assert result.status == 2 and needle in result.err, result.err
    assert len(result.err.splitlines()) == 1 and not Path("runs").exists()


def test_a_checkpoint_of_this_suite_refuses_what_its_run_stores(cli, trained):
    reason = "has no effect: runs/t/best.pth is a checkpoint of this suite, whose run stores it\n"
    for flag in ("--img-size 16", "--normalization half", "--weights-kind raw", "--model-arg a=1", "--shortcut A",
                 "--in-chans 3", "--weights-by-order", "--resize-mode squeeze", "--stem cifar"):  # fmt: skip
        result = cli("--evaluate runs/t/best.pth --run-name a", *flag.split())
        assert result.status == 2 and f"{flag.split()[0]} {reason}" in result.err


def test_a_teacher_may_have_convolutions_as_shortcuts(learns, workdir):
    torch.manual_seed(0)
    teacher = models.create_model("resnet20", 10, 8, 1, shortcut="B")
    dataset = load_dataset(locate_dataset("digits", None, False, True))
    images = torch.tensor(dataset.train.images).permute(0, 3, 1, 2) / 255
    images = (images - dataset.mean[0]) / dataset.std[0]
    head, teacher.fc = teacher.fc, torch.nn.Identity()
    with torch.no_grad():
        fit_head(head, teacher.eval()(images), torch.tensor(dataset.train.targets))
    teacher.fc = head
    torch.save(teacher.state_dict(), "teacher.pth")
    line = (
        "--dataset digits --model resnet20 --epochs 1 --train-fraction 0.1 --teacher resnet20 --normalization imagenet"
    )
    out = learns(f"{line} --teacher-weights teacher.pth --run-name a").out
    assert "teacher       teacher.pth has convolutions as shortcuts: the model is built with shortcut B\n" in out
    assert summary("a")["settings"]["model_args"] == {"shortcut": "A"}
