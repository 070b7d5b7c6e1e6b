"""Distillation against the paper's formulas, teachers against their own models, and the command line."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
import torch
from torch import nn

import models
from assembly.teaching import load_teacher
from data_transform import Augment
from image_datasets.batches import EvalBatches, ResidentTrainBatches
from image_datasets.dataset import Dataset
from image_datasets.splits import Split
from training import devices
from training.distillation import Distillation, distillation_loss
from training.losses import make_criterion
from training.teacher import CachedTeacher, Teacher
from utils import BadRequest

CPU = torch.device("cpu")


def softmax(logits: list[float], temperature: float) -> list[float]:
    powers = [math.exp(value / temperature) for value in logits]
    return [power / sum(powers) for power in powers]


@pytest.mark.parametrize("temperature", [1.0, 3.0])
def test_the_soft_loss_is_the_papers(temperature):
    """It is tau² KL(teacher || student), a mean over the batch, here in plain arithmetic."""
    torch.manual_seed(0)
    student, teacher = torch.randn(2, 5, 7, dtype=torch.float64) * 3
    expected = 0.0
    for s, t in zip(student.tolist(), teacher.tolist(), strict=True):
        p, q = softmax(t, temperature), softmax(s, temperature)
        expected += sum(a * math.log(a / b) for a, b in zip(p, q, strict=True)) * temperature**2 / 5
    assert distillation_loss("soft", student, teacher, temperature).item() == pytest.approx(expected, rel=1e-12)


def test_the_hard_loss_is_cross_entropy_with_the_teachers_prediction():
    torch.manual_seed(0)
    student, teacher = torch.randn(2, 5, 7, dtype=torch.float64) * 3
    expected = [
        -math.log(softmax(s, 1.0)[t.index(max(t))]) for s, t in zip(student.tolist(), teacher.tolist(), strict=True)
    ]
    assert distillation_loss("hard", student, teacher).item() == pytest.approx(sum(expected) / 5, rel=1e-12)
    with pytest.raises(ValueError, match="neither soft nor hard"):
        distillation_loss("warm", student, teacher)


@pytest.mark.parametrize("count", [1, 2])
def test_each_head_learns_its_part(count):
    """The first head learns the labels with weight 1 - alpha, the last the teacher with alpha, a single head both."""
    torch.manual_seed(0)
    heads = [torch.randn(4, 3, requires_grad=True) for _ in range(count)]
    teacher_logits, targets = torch.randn(4, 3), torch.tensor([0, 1, 2, 0])
    distillation = Distillation(None, "soft", alpha=0.3, temperature=2.0)
    loss = distillation.loss(heads, teacher_logits, targets, make_criterion("CE", 3))
    labels = nn.functional.cross_entropy(heads[0], targets)
    from_teacher = distillation_loss("soft", heads[-1], teacher_logits, 2.0)
    assert loss.item() == pytest.approx(0.7 * labels.item() + 0.3 * from_teacher.item())
    gradients = torch.autograd.grad(loss, heads, retain_graph=True)
    if count == 2:
        torch.testing.assert_close(gradients[0], torch.autograd.grad(0.7 * labels, heads[0])[0])
        torch.testing.assert_close(gradients[1], torch.autograd.grad(0.3 * from_teacher, heads[1])[0])


class Pixels(nn.Module):
    """Returns the mean of each channel as logits, and remembers its input."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(()))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        self.seen, self.trained = images, self.training
        return self.weight * images.mean((2, 3))


def test_a_teacher_gets_its_own_normalisation_and_size_and_gives_no_gradients():
    pixels = torch.rand(2, 3, 8, 8)
    mean, std = (0.1, 0.2, 0.3), (0.5, 0.6, 0.7)
    images = (pixels - torch.tensor(mean).view(1, 3, 1, 1)) / torch.tensor(std).view(1, 3, 1, 1)
    model = Pixels().train()
    teacher = Teacher(model, 16, (0.5, 0.4, 0.3), (0.2, 0.3, 0.4), outputs=[2, 0]).adapt(mean, std, CPU)
    logits = teacher(images.requires_grad_())
    own = (pixels - torch.tensor([0.5, 0.4, 0.3]).view(1, 3, 1, 1)) / torch.tensor([0.2, 0.3, 0.4]).view(1, 3, 1, 1)
    expected = nn.functional.interpolate(own, size=(16, 16), mode="bilinear", antialias=True)
    torch.testing.assert_close(model.seen, expected, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(logits, expected.mean((2, 3))[:, [2, 0]], rtol=1e-4, atol=1e-5)
    assert not logits.requires_grad and not model.trained


def test_a_teacher_that_was_trained_on_such_images_gets_them_untouched():
    images = torch.randn(2, 3, 8, 8)
    model = Pixels()
    Teacher(model, 8, (0.5,) * 3, (0.2,) * 3).adapt((0.5,) * 3, (0.2,) * 3, CPU)(images)
    assert model.seen is images


def dataset(class_names: list[str], wnids: list[str] | None = None) -> Dataset:
    split = Split(np.zeros(2, dtype=np.int64), np.zeros((2, 32, 32, 3), dtype=np.uint8))
    return Dataset("few", class_names, (0.5,) * 3, (0.5,) * 3, 32, split, split, wnids=wnids)


def test_published_weights_are_mapped_by_wnid(publish):
    """The classes are tench, goldfish and toilet tissue, the last of ImageNet's thousand."""
    publish("resnet18")
    data = dataset(["paper", "tench", "goldfish"], ["n15075141", "n01440764", "n01443537"])
    teacher = load_teacher("resnet18", None, data)
    whole = models.create_model("resnet18", 1000, 224, 3, pretrained=True).eval()
    images = torch.randn(2, 3, 224, 224)
    teacher.adapt(teacher.mean, teacher.std, CPU)
    with torch.no_grad():
        expected = whole(images)[:, [999, 0, 1]]
        torch.testing.assert_close(teacher(images), expected, rtol=1e-4, atol=1e-4)
    assert teacher.mean == (0.485, 0.456, 0.406)
    with pytest.raises(BadRequest, match="ImageNet has no class apple, pear of few; give --teacher-weights FILE"):
        load_teacher("resnet18", None, dataset(["apple", "pear"]))


def test_missing_published_weights_are_an_error_that_says_what_to_do(tmp_path, monkeypatch):
    def no_network(*args, **kwargs):
        raise OSError("no network")

    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setattr(torch.hub, "download_url_to_file", no_network)
    with pytest.raises(BadRequest, match=r"--teacher resnet18: the pretrained weights .*; --teacher-epochs N"):
        load_teacher("resnet18", None, dataset(["tench", "goldfish"], ["n01440764", "n01443537"]))


@pytest.mark.parametrize(("rows", "outputs"), [(3, [0, 1, 2]), (1000, [999, 0, 1])])
def test_a_state_dict_has_the_classes_of_the_data_or_imagenets(tmp_path, rows, outputs):
    file = tmp_path / "w.pth"
    source = models.create_model("resnet20", rows, 32, 3).eval()
    torch.save(source.state_dict(), file)
    teacher = load_teacher("resnet20", str(file), dataset(["a", "b", "c"], ["n15075141", "n01440764", "n01443537"]))
    images = torch.randn(2, 3, teacher.img_size, teacher.img_size)
    teacher.adapt(teacher.mean, teacher.std, CPU)
    with torch.no_grad():
        torch.testing.assert_close(teacher(images), source(images)[:, outputs], rtol=1e-4, atol=1e-5)


def test_a_state_dict_of_other_classes_is_refused(tmp_path):
    file = tmp_path / "w.pth"
    torch.save(models.create_model("resnet20", 5, 32, 3).state_dict(), file)
    with pytest.raises(BadRequest, match="has 5 classes, few has 3"):
        load_teacher("resnet20", str(file), dataset(["a", "b", "c"]))


# -------------------------------------------------------------------------------------------------- the command line

TEACHER = "--dataset digits --model resnet20 --lr 0.05 --batch-size 32 --epochs 6 --run-name teacher"
STUDENT = "--dataset digits --model vit_tiny --depth 1 --embed-dim 24 --patch-size 2 --epochs 1 --train-fraction 0.2"


@pytest.fixture
def teacher(learns, workdir) -> str:
    learns(TEACHER)
    return "--teacher resnet20 --teacher-weights runs/teacher/best.pth"


@pytest.mark.parametrize("kind", ["soft", "hard"])
def test_a_student_learns_from_the_teacher_alone(learns, teacher, workdir, kind):
    """With alpha 1 the labels have no weight."""
    line = "--dataset digits --model resnet20 --lr 0.05 --batch-size 32 --epochs 6 --seed 1 --run-name student"
    result = learns(f"{line} {teacher} --distill {kind} --distill-alpha 1")
    summary = json.loads((workdir / "runs/student/summary.json").read_text())
    assert summary["top1"] > 0.9
    assert summary["teacher"]["model"] == "resnet20" and summary["teacher"]["split"] == "validation"
    assert f"top-1 {100 * summary['teacher']['top1']:.2f} % on validation" in result.out


def test_where_images_come_in_half_precision_the_teacher_is_still_scored_in_fp32(learns, teacher, workdir, monkeypatch):
    """As on a GPU, where batches have the precision of the training."""
    tops = []
    for name, dtype in (("whole", torch.float32), ("half", torch.bfloat16)):
        monkeypatch.setattr(devices, "input_dtype", lambda device, precision, dtype=dtype: dtype)
        learns(f"{STUDENT} {teacher} --precision bf16 --augmentation mixup --random-erasing 0.2 --run-name {name}")
        tops.append(json.loads((workdir / f"runs/{name}/summary.json").read_text())["teacher"]["top1"])
    assert tops[0] == tops[1]


def test_a_student_with_a_distillation_token_and_without_a_validation_split(learns, teacher, workdir):
    line = STUDENT.replace("vit_tiny", "deit_tiny_distill")
    result = learns(f"{line} {teacher} --val-fraction 0 --augmentation cutmix --run-name student")
    assert "% on train" in result.out


def test_teachers_that_do_not_fit_are_refused(cli, learns, teacher, workdir, image_folder):
    learns("--dataset digits --model resnet20 --lr 1e-9 --epochs 1 --run-name ignorant")
    path = image_folder(side=32, classes=10)
    before = sorted(workdir.rglob("*"))
    for line, needle in (
        (f"{STUDENT} {teacher.replace('runs/teacher', 'runs/ignorant')}", "is no better than chance, 10.00 %"),
        (f"--dataset folder --datapath {path} --model resnet20 --epochs 1 {teacher}", "has other classes than folder"),
        (f"{STUDENT} {teacher.replace('resnet20', 'resnet18')}", "is a checkpoint of resnet20"),
        (f"{STUDENT} {teacher} --in-chans 3", "wants images of 1 channels, not of 3"),
        (f"{STUDENT} {teacher} --distill none", "has no effect with --distill none"),
    ):  # fmt: skip
        result = cli(line)
        assert result.status == 2 and needle in result.err, line + result.err
        assert len(result.err.splitlines()) == 1
    assert sorted(workdir.rglob("*")) == before


def test_cached_logits_stay_with_their_images_if_some_cannot_be_read():
    rng = np.random.default_rng(0)
    reasons = np.full(13, None)
    reasons[[2, 7, 8]] = "broken"
    paths = [str(i) for i in range(13)]
    split = Split(np.arange(13), rng.integers(0, 256, (13, 4, 4, 3), dtype=np.uint8), paths, reasons=reasons)
    more = {"device": CPU, "batch_size": 4, "report": lambda path, reason: None}
    batches = ResidentTrainBatches(split, Augment(), 4, (0.5,) * 3, (0.25,) * 3, seed=0, **more)
    in_order = EvalBatches(split, 4, (0.5,) * 3, (0.25,) * 3, **more)
    model = nn.Sequential(nn.Flatten(), nn.Linear(48, 5)).requires_grad_(False)
    teacher = CachedTeacher(torch.cat([model(images) for images, _ in in_order]), in_order.seen, batches)
    for epoch in (0, 1):
        for step, (images, _) in enumerate(batches.epoch(epoch)):
            torch.testing.assert_close(teacher(images, epoch, step), model(images))
