"""Which runs are repetitions, how models are named, and which models are never compared."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from simulated import targets, write_run

from comparison.cohorts import Cohort, make_cohorts, why_apart
from comparison.runs import read_run
from comparison.sections.conclusions import mixed_precision
from utils import BadRequest


def cohorts(*paths: Path, variants: list[str] | None = None) -> list[Cohort]:
    names = dict(enumerate(variants or [None] * len(paths)))
    return make_cohorts([read_run(path) for path in paths], names, [])


def test_runs_that_differ_in_the_seed_alone_are_one_model(tmp_path):
    paths = [
        write_run(tmp_path / f"a{seed}", seed=seed, data_path=f"/data/{seed}", num_workers=seed) for seed in (2, 0, 1)
    ]
    (only,) = cohorts(*paths)
    assert [model.label for model in only.models] == ["resnet20"]
    assert only.models[0].seeds == [0, 1, 2]
    assert only.selected_on == "0.1 of train, stratified"


def test_students_of_one_variant_are_one_model(tmp_path):
    """Each has the teacher of its own seed; without study.json the teacher's path tells variants apart."""
    for teacher, seed in ((teacher, seed) for teacher in ("cnn", "wide") for seed in (0, 12)):
        weights = f"runs/s/{teacher}-f0.5-seed{seed}/best.pth"
        write_run(tmp_path / f"{teacher}{seed}", seed=seed, teacher_weights=weights)
    (only,) = cohorts(*sorted(tmp_path.iterdir()))
    assert [(model.label, model.seeds) for model in only.models] == [
        ("resnet20, teacher_weights runs/s/cnn/best.pth", [0, 12]),
        ("resnet20, teacher_weights runs/s/wide/best.pth", [0, 12]),
    ]


def test_models_are_called_by_what_tells_them_apart(tmp_path):
    paths = [
        write_run(tmp_path / "a", lr=0.1),
        write_run(tmp_path / "b", lr=0.01),
        write_run(tmp_path / "c", "mobilenet_v2", weight_decay=0.5, model_args={"se": True}),
        write_run(tmp_path / "d", "mobilenet_v2", weight_decay=0.5, model_args={"se": False}),
        write_run(tmp_path / "e", "vit_tiny", lr=0.003, optimizer="adamw"),
    ]
    (only,) = cohorts(*paths)
    assert [model.label for model in only.models] == [
        "resnet20, lr 0.1", "resnet20, lr 0.01", "mobilenet_v2, se on", "mobilenet_v2, se off", "vit_tiny",
    ]  # fmt: skip


def test_a_study_names_its_variants(tmp_path):
    paths = [write_run(tmp_path / "a", lr=0.1), write_run(tmp_path / "b", "vit_tiny")]
    (only,) = cohorts(*paths, variants=["plain", "attention"])
    assert [model.variant for model in only.models] == ["plain", "attention"]


def test_shares_of_the_data_are_models_of_their_own(tmp_path):
    paths = [write_run(tmp_path / str(share), train_fraction=share) for share in (0.25, 1.0, 0.5)]
    (only,) = cohorts(*paths)
    assert only.fractions == [1.0, 0.5, 0.25]
    assert [model.label for model in only.models] == ["resnet20 (100 %)", "resnet20 (50 %)", "resnet20 (25 %)"]
    assert [model.label for model in only.main] == ["resnet20 (100 %)"]


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"summary": {"split": "val"}}, "scored on another split (val, not test)"),
        ({"summary": {"selected_on": "test, the split that is reported"}}, "selected on: test, the split"),
        ({"summary": {"selected_on": "0.2 of train, stratified, seed 0"}}, "0.2 of train, stratified (not on: 0.1 of"),
        ({"truth": targets(200)}, "scored on other images (200, not 300)"),
        ({"truth": targets(seed=8)}, "other images, or on the same in another order"),
    ],
)  # fmt: skip
def test_what_was_scored_otherwise_stands_apart(tmp_path, change, reason):
    usual = [write_run(tmp_path / f"a{seed}", seed=seed) for seed in (0, 1)]
    first, other = cohorts(write_run(tmp_path / "b", "vit_tiny", **change), *usual)
    assert [model.label for model in first.models] == ["resnet20"] and len(first.runs) == 2
    assert [model.label for model in other.models] == ["vit_tiny"]
    assert reason in why_apart(first, other)


def test_other_data_sets_are_refused(tmp_path):
    first = write_run(tmp_path / "a")
    with pytest.raises(
        BadRequest, match=r"b/summary.json: 'dataset' is cifar10, but digits in .*a; .* cannot be compared"
    ):
        cohorts(first, write_run(tmp_path / "b", dataset="cifar10"))
    other = write_run(tmp_path / "c")
    with np.load(other / "predictions.npz") as file:
        content = dict(file)
    np.savez(other / "predictions.npz", **{**content, "class_names": np.array(list("abcdefghij"))})
    with pytest.raises(BadRequest, match=r"c/predictions.npz: 'class_names' are not those of"):
        cohorts(first, other)


def test_one_result_is_not_counted_twice(tmp_path):
    first = write_run(tmp_path / "a")
    with pytest.raises(BadRequest, match=r"a and .*b: the same settings with the same 'seed' 0"):
        cohorts(first, write_run(tmp_path / "b"))


def test_runs_before_and_after_the_rule_for_precision_are_repetitions_where_they_were_tested_alike(tmp_path):
    """Earlier versions stored and used a single precision."""
    older = write_run(tmp_path / "older", seed=0, precision="fp32")
    tested = {"train_precision": "fp32", "select_precision": "fp32", "test_precision": "fp32"}
    newer = write_run(tmp_path / "newer", seed=1, precision="fp32", eval_precision="fp32", summary=tested)
    (cohort,) = cohorts(older, newer)
    assert [len(model.runs) for model in cohort.models] == [2]
    assert mixed_precision(cohort) == []


def test_it_is_said_where_runs_were_trained_or_tested_in_different_precisions(tmp_path):
    rule = {"train_precision": "bf16", "select_precision": "bf16", "test_precision": "fp32"}
    paths = [
        write_run(tmp_path / "older", "resnet20", precision="bf16"),
        write_run(tmp_path / "newer", "vit", precision="bf16", eval_precision="fp32", summary=rule),
        write_run(tmp_path / "ancient", "vgg"),
    ]
    (cohort,) = cohorts(*paths)
    assert mixed_precision(cohort) == [
        "Not all runs were trained in the same precision (bf16: resnet20, vit; unknown: vgg).",
        "Not all runs were tested in the same precision (bf16: resnet20; fp32: vit; unknown: vgg).",
    ]


def test_a_run_that_is_older_than_a_flag_is_a_repetition_of_one_that_has_its_default(tmp_path):
    (cohort,) = cohorts(write_run(tmp_path / "older"), write_run(tmp_path / "newer", seed=1, weights_kind=None))
    assert [len(model.runs) for model in cohort.models] == [2]
    (cohort,) = cohorts(write_run(tmp_path / "a"), write_run(tmp_path / "b", seed=1, weights_kind="raw"))
    assert [model.label for model in cohort.models] == ["resnet20, weights_kind none", "resnet20, weights_kind raw"]
