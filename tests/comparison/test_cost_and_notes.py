"""A teacher's time stands beside its student's, and notes of many runs are few lines."""

from simulated import write_run

from comparison.cohorts import make_cohorts
from comparison.context import Context
from comparison.runs import read_run
from comparison.sections import cost, opening


def test_the_training_of_a_teacher_is_a_column_and_no_panel(tmp_path, monkeypatch):
    """The other costs keep their panels, although a model has no teacher."""
    for seed in range(2):
        teacher = {"model": "resnet20", "train_seconds": 10.0 + seed}
        write_run(tmp_path / f"cnn{seed}", "resnet20", seed, 0.9)
        write_run(tmp_path / f"vit{seed}", "deit_tiny_distill", seed, 0.8, summary={"teacher": teacher})
    runs = [read_run(path) for path in sorted(tmp_path.iterdir())]
    context = Context(make_cohorts(runs, dict.fromkeys(range(4)), [])[0], "top1", 0.005, [], tmp_path)
    figure = cost.draw_cost(context.cohort.main, "top1", "")
    assert [axis.get_title(loc="left") for axis in figure.axes] == ["parameters"]
    for model in context.cohort.main:  # also where all models have one
        for run in model.runs:
            run.summary["teacher"] = {"train_seconds": 10.0 + run.seed + len(model.variant)}
    assert len(cost.draw_cost(context.cohort.main, "top1", "").axes) == 1
    for run in context.cohort.main[0].runs:
        run.summary["teacher"] = None
    monkeypatch.setattr(cost, "draw_cost", lambda *_: None)
    (table,) = cost.section(context).parts
    at = table.columns.index("training of the teacher (s)")
    assert table.columns[at - 1] == "time of the training (s)" and "comes on top of its student's" in table.note
    assert [row[at] for row in table.rows] == ["–", "27.5"]
    assert all("teacher" not in row[-1] for row in table.rows)


def test_without_teachers_there_is_no_such_column(tmp_path, monkeypatch):
    monkeypatch.setattr(cost, "draw_cost", lambda *_: None)
    runs = [read_run(write_run(tmp_path / model, model)) for model in ("resnet20", "resnet18")]
    table = cost.section(Context(make_cohorts(runs, {0: None, 1: None}, [])[0], "top1", 0.005, [], tmp_path)).parts[0]
    assert "training of the teacher (s)" not in table.columns and "teacher" not in table.note


def test_notes_that_differ_in_numbers_are_one(tmp_path):
    also = "training images that also stand in other splits: {} ({} in validation, 1,{}0 in test); left out of training"
    notes = [
        ["images that stand under more than one class: 3", also.format(15, 5, 10)],
        ["images that stand under more than one class: 3", also.format(9, 4, 11), "only here"],
        ["images that stand under more than one class: 3", also.format(12, 5, 10)],
    ]
    runs = [read_run(write_run(tmp_path / str(i), seed=i, summary={"notes": own})) for i, own in enumerate(notes)]
    assert opening.common_notes(runs) == [
        "images that stand under more than one class: 3",
        "training images that also stand in other splits: 9–15 (4–5 in validation, 1,100–1,110 in test); left out of"
        " training",
        "only here (1 of 3 runs)",
    ]
    many = [
        read_run(write_run(tmp_path / f"m{n}", summary={"notes": [f"{'x' * i} {n}" for i in range(9)]})) for n in (1, 2)
    ]
    assert opening.common_notes(many)[-1] == "4 more in the runs' summary.json" and len(opening.common_notes(many)) == 6
    assert opening.common_notes([read_run(write_run(tmp_path / "none"))]) == []
