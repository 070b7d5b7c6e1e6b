"""Cross-validation: runs of folds become one run, with the metrics, tests and sentences that belong to folds."""

from __future__ import annotations

import itertools
import json
from pathlib import Path

import numpy as np
import pytest
from scipy import stats
from simulated import targets, write_run

from comparison import report
from comparison.cohorts import Cohort, Model, make_cohorts, why_apart
from comparison.folds import pool
from comparison.metric_names import METRICS
from comparison.pairs import Pair, Resampled, compare_all
from comparison.request import Compared
from comparison.runs import Run, read_run
from comparison.sections import methods
from comparison.sections.conclusions import section as conclusions
from comparison.sections.conclusions import sentence
from comparison.sections.learning_curves import curves
from comparison.selection import Published, Selection, select
from utils import BadRequest

SIZE = 60  # images of a fold


@pytest.fixture(autouse=True)
def quick_corrections(monkeypatch):
    monkeypatch.setattr("gc.collect", lambda: 0)  # statsmodels calls it in every correction: a second here


def write_folds(
    folder: Path, model: str = "cnn", seed: int = 0, accuracies=(0.9, 0.8, 0.85), only: tuple[int, ...] = (), **more
) -> list[Path]:
    """Writes a run for each fold, with these accuracies; `only` some of them."""
    count = len(accuracies)
    paths = []
    for number, accuracy in enumerate(accuracies, 1):
        if only and number not in only:
            continue
        summary = {
            "split": f"fold {number} of {count}", "selected_on": "last epoch", "selected_by": None,
            "images": {"train": (count - 1) * SIZE, "val": 0, "test": SIZE}, "image_digests": {"test": f"of {number}"},
        }  # fmt: skip
        path = folder / f"{model}-fold{number}-seed{seed}"
        own = {"truth": targets(SIZE, seed=number), "val_fold": f"{number}/{count}", "summary": summary}
        paths.append(write_run(path, model, seed, accuracy, **own, **more))
    return paths


def pooled(*paths: Path) -> list[Run]:
    return pool([read_run(path) for path in paths], [None] * len(paths))[0]


def cohorts(*paths: Path) -> list[Cohort]:
    return make_cohorts(runs := pooled(*paths), dict.fromkeys(range(len(runs))), [])


def only_pair(*paths: Path) -> Pair:
    (cohort,) = cohorts(*paths)
    (pair,) = compare_all(cohort.models, Resampled(cohort, 200), "top1", 0.005)
    return pair


def edit(path: Path, settings: dict | None = None, **entries) -> None:
    """Changes entries of a run's summary, and of its settings."""
    content = json.loads((path / "summary.json").read_text())
    content["settings"] |= settings or {}
    (path / "summary.json").write_text(json.dumps({**content, **entries}))


def stored(path: Path, key: str):
    return json.loads((path / "summary.json").read_text())[key]


def test_the_folds_of_a_seed_are_one_run(tmp_path):
    paths = write_folds(tmp_path)
    (run,) = pooled(*reversed(paths))
    folds = [read_run(path) for path in paths]
    np.testing.assert_array_equal(run.logits, np.concatenate([fold.logits for fold in folds]))
    np.testing.assert_array_equal(run.targets, np.concatenate([targets(SIZE, seed=number) for number in (1, 2, 3)]))
    for name in METRICS:
        assert run.metric(name) == pytest.approx(np.mean([stored(path, name) for path in paths]))
    assert [fold.metric("top1") for fold in run.folds] == [stored(path, "top1") for path in paths]
    answers = run.logits.argmax(1)
    right = [(answers == run.targets)[run.targets == label].mean() for label in range(10)]
    assert run.scores.per_class() == pytest.approx(right)
    assert run.summary["split"] == "3 folds" and run.summary["train_seconds"] == 30
    assert run.summary["images"] == {"train": 6 * SIZE, "val": 0, "test": 3 * SIZE}


def test_folds_of_other_images_have_another_digest(tmp_path):
    (run,) = pooled(*write_folds(tmp_path / "a"))
    (same,) = pooled(*write_folds(tmp_path / "b", "vit"))
    paths = write_folds(tmp_path / "c", "vit")
    content = json.loads((paths[1] / "summary.json").read_text())
    (paths[1] / "summary.json").write_text(json.dumps({**content, "image_digests": {"test": "of others"}}))
    (other,) = pooled(*paths)
    assert run.image_digest == same.image_digest != other.image_digest
    first, second = cohorts(*write_folds(tmp_path / "d"), *paths)
    assert "other images, whose number and classes are the same" in why_apart(first, second)


def test_learning_curves_show_every_fold_to_the_end_of_the_shortest(tmp_path):
    paths = [*write_folds(tmp_path, only=(1, 2)), *write_folds(tmp_path, only=(3,), history=2, epochs=3)]
    found = curves(Model("cnn", 1.0, pooled(*paths)), "val_top1")
    assert found is not None and found[0].tolist() == [1, 2]
    np.testing.assert_allclose(found[1][:, 0], np.array([0.9, 0.8, 0.85]) - 0.5)


def test_resampled_images_give_the_mean_over_folds(tmp_path):
    """Of the images as they are, the reported figures; of others, those of the folds with these images."""
    (run,) = pooled(*write_folds(tmp_path))
    counts = np.random.default_rng(0).multinomial(3 * SIZE, np.full(3 * SIZE, 1 / (3 * SIZE)), 4).astype(float)
    found = run.resampled(np.vstack([np.ones((1, 3 * SIZE)), counts]), True)
    assert found[:, 0] == pytest.approx([run.metric(name) for name in METRICS])
    right = (run.logits.argmax(1) == run.targets) * counts
    by_fold = [right[:, i : i + SIZE].sum(1) / counts[:, i : i + SIZE].sum(1) for i in range(0, 3 * SIZE, SIZE)]
    assert found[0, 1:] == pytest.approx(np.mean(by_fold, axis=0))


def test_incomplete_folds_are_left_out_and_named(tmp_path):
    folder = tmp_path / "runs"
    paths = [*write_folds(folder), *write_folds(folder, seed=1, only=(2,)), *write_folds(folder, "vit", only=(1, 3))]
    runs = [{"name": path.name, "variant": path.name.split("-")[0].upper()} for path in paths]
    runs.append({"name": "vit-fold2-seed0", "variant": "VIT", "fold": 2})
    (folder / "study.json").write_text(json.dumps({"name": "s", "folds": 3, "runs": runs}))
    selection = select([str(folder)])
    (cohort,) = report.load(selection)
    assert [(model.label, model.count) for model in cohort.models] == [("CNN", "3 folds")]
    assert selection.missing == [
        "vit-fold2-seed0 has not begun, and is left out.",
        "CNN, seed 1: folds 1, 3 of 3 are missing, and the others are left out.",
        "VIT, seed 0: fold 2 of 3 is missing, and the others are left out.",
    ]
    with pytest.raises(BadRequest, match=r"no set of folds is complete \(vit, seed 0: fold 2 of 3 is missing"):
        pooled(*paths[-2:])


def test_evaluations_of_folds_are_left_out_and_those_on_other_images_are_runs(tmp_path):
    paths = write_folds(tmp_path / "a")
    (again,) = write_folds(tmp_path / "b", only=(2,))
    (other,) = write_folds(tmp_path / "c", only=(3,))
    edit(again, {"evaluated": "a/best.pth"}, images={"test": SIZE})
    edit(other, {"evaluated": "a/best.pth"}, images={"test": SIZE}, split="test")
    runs, _, left_out = pool([read_run(path) for path in (*paths, again, other)], [None] * 5)
    assert sorted(run.summary["split"] for run in runs) == ["3 folds", "test"]
    assert left_out == [f"{again.name} evaluates a checkpoint on a fold and is no training, so it is left out."]


def test_a_fold_that_is_there_twice_is_refused(tmp_path):
    with pytest.raises(BadRequest, match="the same settings with the same 'seed' 0 and the same 'val_fold'"):
        pooled(*write_folds(tmp_path / "a"), *write_folds(tmp_path / "b", only=(2,)))


@pytest.mark.parametrize(
    ("entries", "needle"),
    [
        ({"images": {"val": 0}}, "summary.json: 'images' has no number of training images"),
        ({"settings": "4/3"}, "summary.json: 'val_fold': '4/3' is no fold such as 1/5"),
    ],
)
def test_damage_is_named_with_its_file(tmp_path, entries, needle):
    path = write_folds(tmp_path)[1]
    content = json.loads((path / "summary.json").read_text())
    if "settings" in entries:
        entries = {"settings": {**content["settings"], "val_fold": entries["settings"]}}
    (path / "summary.json").write_text(json.dumps({**content, **entries}))
    with pytest.raises(BadRequest) as error:
        pooled(path)
    assert needle in str(error.value) and str(path) in str(error.value)


def test_folds_stand_apart_from_other_folds_and_from_other_splits(tmp_path):
    folds = write_folds(tmp_path / "folds", "vit")
    more = write_folds(tmp_path / "more", accuracies=(0.9, 0.8))
    tested = [write_run(tmp_path / f"seed{seed}", "cnn", seed) for seed in (0, 1)]
    found = {cohort.split: cohort for cohort in cohorts(*folds, *more, *tested)}
    assert {split: len(cohort.runs) for split, cohort in found.items()} == {"3 folds": 1, "2 folds": 1, "test": 2}
    assert why_apart(found["test"], found["3 folds"]) == "they are scored on another split (3 folds, not test)"
    assert why_apart(found["3 folds"], found["2 folds"]) == (
        "they are scored by the folds of another cross-validation (2 folds, not 3 folds)"
    )


def test_averaged_weights_are_compared_with_others(tmp_path):
    """Nothing is selected on a fold, so averaging is a setting like any other."""
    first, second = write_folds(tmp_path / "a", "cnn"), write_folds(tmp_path / "b", "cnn", ema=0.9)
    for path in second:
        content = json.loads((path / "summary.json").read_text())
        content["selected_on"] = "last epoch, averaged weights"
        (path / "summary.json").write_text(json.dumps(content))
    (cohort,) = cohorts(*first, *second)
    assert [model.label for model in cohort.models] == ["cnn, ema none", "cnn, ema 0.9"]


def of_folds(paths: list[Path]) -> np.ndarray:
    return np.array([stored(path, "top1") for path in paths])


def corrected(values: np.ndarray) -> tuple[float, float]:
    """(half of the interval, p) of three folds, each half as large as what its network trains on."""
    error = np.sqrt((1 / 3 + 1 / 2) * values.var(ddof=1))
    return stats.t.ppf(0.975, 2) * error, 2 * stats.t.sf(abs(values.mean()) / error, 2)


def test_fewer_training_images_make_no_wider_interval(tmp_path):
    """Their overlap is smaller than that of all the rest, for which the correction is derived."""
    paths = write_folds(tmp_path, train_fraction=0.1)
    for path in paths:
        edit(path, images={"train": SIZE // 5, "val": 0, "test": SIZE})
    assert Model("cnn", 0.1, pooled(*paths)).interval("top1").half == pytest.approx(corrected(of_folds(paths))[0])


def test_models_are_compared_fold_by_fold_with_one_seed(tmp_path):
    first, second = write_folds(tmp_path, "cnn"), write_folds(tmp_path, "vit", accuracies=(0.85, 0.8, 0.8))
    pair = only_pair(*first, *second)
    values = of_folds(first) - of_folds(second)
    half, p = corrected(values)
    found = pair.differences["top1"]
    assert (found.mean, found.interval.half, found.p) == pytest.approx((values.mean(), half, p))
    assert found.test == "corrected resampled t test" and pair.seeds_needed is None
    assert pair.values("top1") == pytest.approx(values)
    assert pair.first.interval("top1").half == pytest.approx(corrected(of_folds(first))[0])
    assert pair.first.show("top1") == f"{100 * of_folds(first).mean():.2f} ± {100 * corrected(of_folds(first))[0]:.2f}"
    better, worse = ("cnn", "vit") if values.mean() > 0 else ("vit", "cnn")
    assert sentence(pair, "top1") == (
        f"Between {better} and {worse} no difference can be shown: {100 * abs(values.mean()):.2f} ± {100 * half:.2f}"
        f" points of top-1, p = {p:.2f}, n = 3 folds."
    )
    ((seed, only_first, only_second, _),) = pair.mcnemar
    assert (seed, only_first - only_second) == (0, round(3 * SIZE * values.mean()))


def test_seeds_are_averaged_within_each_fold(tmp_path):
    """The folds are the same for every seed. Seeds that one model alone has do not count."""
    first = [write_folds(tmp_path, "cnn", seed, (0.98, 0.95, 0.97)) for seed in (0, 1, 2)]
    second = [write_folds(tmp_path, "vit", seed, (0.5, 0.45, 0.5)) for seed in (0, 1)]
    pair = only_pair(*itertools.chain(*first, *second))
    values = np.mean([of_folds(a) - of_folds(b) for a, b in zip(first, second, strict=False)], axis=0)
    found = pair.differences["top1"]
    assert (found.mean, found.interval.half, found.p) == pytest.approx((values.mean(), *corrected(values)))
    assert pair.first.values("top1") == pytest.approx(np.mean([of_folds(paths) for paths in first], axis=0))
    assert pair.first.count == "3 folds x 3 seeds" and len(pair.mcnemar) == 2
    assert sentence(pair, "top1").startswith("cnn is better than vit by ")
    assert sentence(pair, "top1").endswith("n = 3 folds x 2 seeds.")


def test_folds_make_pairs_without_a_seed_in_common(tmp_path):
    pair = only_pair(*write_folds(tmp_path, "cnn"), *write_folds(tmp_path, "vit", seed=5, accuracies=(0.5, 0.4, 0.5)))
    assert pair.differences["top1"].test == "corrected resampled t test"
    assert sentence(pair, "top1").endswith("n = 3 folds, with no seed in common.")


def test_equal_differences_on_every_fold_are_no_certainty(tmp_path):
    paths = [*write_folds(tmp_path, "cnn", accuracies=(1, 1, 1)), *write_folds(tmp_path, "vit", accuracies=(0, 0, 0))]
    assert sentence(only_pair(*paths), "top1") == (
        "cnn is 100.00 points of top-1 ahead of vit on every one of 3 folds: without a spread over folds there is no"
        " interval and no t test."
    )


@pytest.mark.slow
def test_the_report_speaks_of_folds(tmp_path):
    paths = write_folds(tmp_path, "cnn", cost=True, robustness=True)
    others = write_folds(tmp_path, "vit", accuracies=(0.5, 0.4, 0.5))
    tested = write_run(tmp_path / "tested", "cnn")
    figures = [Published("He et al.", "a paper", metrics={"top1": 0.9}, params=1000)]
    selection = Selection("s", tmp_path, dict.fromkeys([*paths, *others, tested]), published=figures)
    loaded = report.load(selection)
    folder = tmp_path / "out"
    report.prepare(folder)
    contexts = report.make_contexts(loaded, selection, Compared(runs=[], effect=0.5), folder, None)
    assert [context.published for context in contexts] == [[], figures]
    sections = {section.title: section for section in report.build(contexts[:1], selection).sections}
    tables = {part.name: part for section in sections.values() for part in section.parts if hasattr(part, "columns")}
    half = corrected(np.array([json.loads((path / "robustness.json").read_text())["mean_corruption_error"]
                               for path in paths]))[0]  # fmt: skip
    assert tables["1_robustness"].rows[0][1] == "3" and f"± {100 * half:.2f}" in tables["1_robustness"].rows[0][3]
    captions = [part.text for section in sections.values() for part in section.parts if hasattr(part, "text")]
    assert captions and not any("test images" in text for text in captions)
    tables = {name.removeprefix("1_"): table for name, table in tables.items()}
    assert tables["models"].columns[:3] == ["model", "n", "top-1 (%), ± over folds"]
    assert tables["models"].rows[0][1] == "3 folds" and tables["models"].rows[0][5] == "3 folds"
    assert "corrected resampled t test" in tables["models"].note and "over folds" in tables["differences"].note
    assert tables["differences"].rows[0][1] == "3 folds"
    assert [row[0] for row in tables["runs"].rows][:3] == [path.name for path in paths]
    assert "6 runs of 2 models" in str(sections["What is compared"].parts[0])
    assert "Nadeau and Bengio 2003" in sections["How it was computed"].parts[0].items[-1]
    assert not any("seed" in item for item in conclusions(contexts[0]).parts[0].items)
    assert not any("fold" in item for item in methods.section(False).parts[0].items)


def test_sheets_of_test_images_are_not_drawn_of_folds(tmp_path):
    from comparison import image_sheet

    with pytest.raises(BadRequest, match="--images: it shows test images, but the runs of a cross-validation"):
        image_sheet.load(cohorts(*write_folds(tmp_path))[0], None)
