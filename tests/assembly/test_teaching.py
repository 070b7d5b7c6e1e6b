"""What a run says of its teacher."""

import json
import shutil

LINE = "--dataset digits --train-fraction 0.3 --batch-size 32 --epochs 2"
STUDENT = f"{LINE} --model vit_tiny --depth 1 --embed-dim 24 --patch-size 2 --teacher resnet9"


def test_a_teacher_of_any_width_is_taken_as_it_is_and_its_time_noted(learns, workdir):
    """The time is that of a run, so a copied file has none."""
    learns(f"{LINE} --model resnet9 --widths 8,16,24 --lr 0.05 --run-name teacher")
    shutil.copy("runs/teacher/best.pth", "copy.pth")
    facts = []
    for i, file in enumerate(("runs/teacher/best.pth", "copy.pth")):
        learns(f"{STUDENT} --teacher-weights {file} --run-name student{i}")
        facts.append(json.loads((workdir / f"runs/student{i}/summary.json").read_text())["teacher"])
    seconds = json.loads((workdir / "runs/teacher/summary.json").read_text())["train_seconds"]
    assert [one["train_seconds"] for one in facts] == [seconds, None] and seconds > 0
    assert facts[0]["top1"] == facts[1]["top1"] > 0.3
