"""Which runs are repetitions, what models are called, and which are never compared."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from simulated import targets, write_run

from comparison import study
from comparison.groups import Cohort, make_cohorts, mixed_precision, why_apart
from comparison.runs import read_run
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
    assert list(study.select([str(first), f"{first}/", f"{tmp_path}/a/../a"]).runs) == [first]


def remove(name: str):
    return lambda path: (path / name).unlink()


def put(name: str, text: str):
    return lambda path: (path / name).write_text(text)


def summary_with(**values):
    def change(path: Path) -> None:
        content = json.loads((path / "summary.json").read_text())
        (path / "summary.json").write_text(json.dumps({**content, **values}))

    return change


def summary_without(key: str):
    def change(path: Path) -> None:
        content = json.loads((path / "summary.json").read_text())
        del content[key]
        (path / "summary.json").write_text(json.dumps(content))

    return change


def predictions_with(**values):
    def change(path: Path) -> None:
        with np.load(path / "predictions.npz") as file:
            content = {**file, **values}
        np.savez(path / "predictions.npz", **{key: value for key, value in content.items() if value is not None})

    return change


ROBUSTNESS = '{"clean": {}, "corruptions": {"blur": 3}, "mean_corruption_error": 1}'


@pytest.mark.parametrize(
    ("damage", "needle"),
    [
        (remove("summary.json"), "the run is not finished (no summary.json); main.py --resume"),
        (remove("settings.json"), "is no run directory (no settings.json)"),
        (put("summary.json", "{"), "summary.json: cannot be read as JSON"),
        (put("summary.json", "[1]"), "summary.json: is no JSON object"),
        (summary_without("ece"), "summary.json: has no 'ece'"),
        (summary_with(settings={"model": "a"}), "summary.json: its 'settings' lack model, dataset or seed"),
        (summary_with(top1="high"), "summary.json: 'top1' is 'high', not a number"),
        (summary_with(top1=0.1), "predictions.npz: its top-1 is 0."),
        (remove("predictions.npz"), "predictions.npz: no such file; main.py --evaluate"),
        (put("predictions.npz", "PK but no archive"), "predictions.npz: cannot be read"),
        (predictions_with(targets=None), "predictions.npz: has no 'targets'"),
        (predictions_with(targets=np.zeros(7, dtype=np.int64)), "predictions.npz: 'logits' (300, 10), 'targets' (7,)"),
        (predictions_with(targets=np.full(300, 10)), "predictions.npz: 'targets' has classes outside 0 to 9"),
        (predictions_with(logits=np.full((300, 10), np.nan)), "predictions.npz: 'logits' are not all finite"),
        (predictions_with(class_names=np.array([None] * 10)), "predictions.npz: cannot be read"),  # pickled
        (put("metrics.csv", "epoch,val_top1\none,0.5\n"), "metrics.csv: cannot be read"),
        (put("cost.json", '{"peak_memory": "much"}'), "cost.json: 'peak_memory' is 'much', not a number"),
        (put("robustness.json", '{"clean": {"top1": 1}}'), "robustness.json: has no 'corruptions'"),
        (put("robustness.json", ROBUSTNESS), "robustness.json: corruptions: 'blur' is 3, not a list of accuracies"),
    ],
)  # fmt: skip
def test_damage_is_named_with_its_file(tmp_path, damage, needle):
    path = write_run(tmp_path / "a", accuracy=0.8)
    damage(path)
    with pytest.raises(BadRequest) as error:
        read_run(path)
    assert needle in str(error.value) and str(path) in str(error.value) and "\n" not in str(error.value)


STUDY = {"name": "s", "runs": [{"name": "a", "variant": "v", "seed": 0, "fraction": None, "flags": {}}]}


@pytest.mark.parametrize(
    ("content", "needle"),
    [
        ({**STUDY, "variant": []}, "unknown key 'variant'. Did you mean variants"),
        ({"name": "s"}, "has no 'runs'"),
        ({**STUDY, "runs": []}, "'runs' is no list of runs"),
        ({**STUDY, "runs": [{"name": "a", "variant": "v", "sed": 0}]}, "runs[0]: unknown key 'sed'. Did you mean seed"),
        ({**STUDY, "runs": [{"name": "a"}]}, "runs[0]: has no 'variant'"),
        ({**STUDY, "runs": STUDY["runs"] * 2}, "runs[1]: 'name' 'a' is there twice"),
        ({**STUDY, "published": {"x": {"top1": 80}}}, "published.x: has no 'source'"),
        ({**STUDY, "published": {"x": {"source": "y", "top": 80}}}, "published.x: unknown key 'top'. Did you mean top"),
        ({**STUDY, "published": {"x": {"source": "y", "top1": 180}}}, "'top1' is 180, not a number from 0 to 100"),
        ({**STUDY, "published": {"x": {"source": "y", "metrics": {"top1": 80}}}}, "'top1' is 80, not a number from"),
        ({**STUDY, "published": {"x": {"source": "y", "metrics": {"acc": 0.8}}}}, "metrics: unknown key 'acc'"),
    ],
)  # fmt: skip
def test_a_wrong_study_is_refused_with_the_key(tmp_path, content, needle):
    write_run(tmp_path / "a")
    (tmp_path / "study.json").write_text(json.dumps(content))
    with pytest.raises(BadRequest) as error:
        study.select([str(tmp_path)])
    assert needle in str(error.value) and str(tmp_path / "study.json") in str(error.value)


def test_a_study_tells_what_is_missing(tmp_path):
    write_run(tmp_path / "a")
    write_run(tmp_path / "b", seed=1)
    (tmp_path / "b/summary.json").unlink()
    runs = [{"name": name, "variant": "v"} for name in "abc"]
    (tmp_path / "study.json").write_text(json.dumps({"name": "s", "runs": runs}))
    found = study.select([str(tmp_path)])
    assert found.runs == {tmp_path / "a": "v"} and found.name == "s" and found.folder == tmp_path
    assert found.missing == ["b is not finished, and is left out.", "c has not begun, and is left out."]
    (tmp_path / "a/summary.json").unlink()
    with pytest.raises(BadRequest, match=r"no finished run found \(a is not finished"):
        study.select([str(tmp_path)])


def test_a_study_is_found_by_its_file(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_run(tmp_path / "runs/quick/a")
    for name, text in (("quick.toml", "seeds = [0]"), ("other.toml", 'name = "quick"'), ("wrong.toml", "name = 3"),
                       ("bad.toml", "name ="), ("unknown.toml", "")):  # fmt: skip
        Path(name).write_text(text)
    for name in ("quick.toml", "other.toml"):
        assert list(study.select([name]).runs) == [Path("runs/quick/a")]
    for name, needle in (
        ("wrong.toml", "'name' is 3"),
        ("bad.toml", "cannot be read as TOML"),
        ("unknown.toml", "no run found: there is no runs/unknown; study.py unknown.toml makes"),
    ):
        with pytest.raises(BadRequest, match=needle):
            study.select([name])


def test_loose_runs_are_reported_beside_each_other(tmp_path, monkeypatch):
    for name in ("x/a", "x/b", "y/c"):
        write_run(tmp_path / name)
    assert study.select([str(tmp_path / "x/a"), str(tmp_path / "x/b")]).folder == tmp_path / "x"
    assert study.select([str(tmp_path / "x"), str(tmp_path / "y/c")]).folder == tmp_path
    monkeypatch.chdir(tmp_path)
    assert study.select(["x/a"]).folder == Path("x")
    (tmp_path / "note.txt").write_text("")
    for word, needle in (("nowhere", "no such run directory or study"), ("note.txt", "is neither a run directory nor")):
        with pytest.raises(BadRequest, match=needle):
            study.select(["x/a", word])


def test_runs_before_and_after_the_rule_for_precision_are_repetitions_where_they_were_tested_alike(tmp_path):
    """Earlier versions stored one precision, which they used for everything."""
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
