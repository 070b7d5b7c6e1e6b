"""compare.py, from run directories to a report: its numbers are those of the runs, and it opens anywhere."""

from __future__ import annotations

import base64
import csv
import io
import json
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
from PIL import Image
from scipy import stats
from simulated import write_run, write_study

import compare
from image_datasets import load_dataset, locate_dataset

REPO = Path(__file__).resolve().parents[1]
MODELS = {"resnet20": 0.95, "50%_of {a}&b": 0.9, "vit_tiny": 0.8}
PUBLISHED = {
    "He et al.": {"source": "arXiv:1512.03385, Table 6", "variant": "resnet20", "top1": 91.25, "params": 270000},
    "elsewhere": {"source": "a report", "metrics": {"top1": 0.5, "f1": 0.25}, "per_class": {"class 3": 12.5}},
}
# `python compare.py` on a machine without torch.
WITHOUT_TORCH = f"""
import runpy, sys

class Missing:
    @staticmethod
    def find_spec(name, path=None, target=None):
        if name.split(".")[0] in ("torch", "torchvision", "timm", "torchmetrics", "wandb"):
            raise ImportError(f"no module named {{name}}")

sys.meta_path.insert(0, Missing)
sys.path.insert(0, {str(REPO)!r})
runpy.run_path({str(REPO / "compare.py")!r}, run_name="__main__")
"""


class Reported:
    """A report's files, and the output of compare.py."""

    def __init__(self, folder: Path, out: str):
        self.folder, self.out = folder, out
        self.text = (folder / "report.md").read_text()
        self.page = (folder / "report.html").read_text()

    def rows(self, name: str) -> list[dict[str, str]]:
        return list(csv.DictReader(io.StringIO((self.folder / f"tables/{name}.csv").read_text())))


@pytest.fixture(scope="module")
def study(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "quick"
    write_study(folder, MODELS, seeds=3, published=PUBLISHED, robustness=True, cost=True)
    content = json.loads((folder / "study.json").read_text())
    for seed in range(3):
        name = f"resnet20-quarter-s{seed}"
        write_run(folder / name, "resnet20", seed, 0.7, train_fraction=0.25)
        content["runs"].append({"name": name, "variant": "resnet20", "seed": seed, "fraction": 0.25, "flags": {}})
    content["runs"].append({"name": "later", "variant": "vit_tiny", "seed": 3})
    (folder / "study.json").write_text(json.dumps(content))
    return folder


@pytest.fixture(scope="module")
def reported(study) -> Reported:
    command = [sys.executable, "-c", WITHOUT_TORCH, study.name]
    done = subprocess.run(command, cwd=study.parent, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    return Reported(study / "comparison", done.stdout)


def summaries(study: Path, pattern: str, key: str) -> list[float]:
    return [json.loads(path.read_text())[key] for path in sorted(study.glob(f"{pattern}/summary.json"))]


def test_means_and_intervals_are_those_of_the_runs(study, reported):
    rows = {(row["model"], row["train_fraction"], row["metric"]): row for row in reported.rows("models")}
    for pattern, key in (("resnet20-s*", ("resnet20", "1.0")), ("resnet20-quarter-s*", ("resnet20", "0.25"))):
        for metric in ("top1", "loss", "map", "ece"):
            values = summaries(study, pattern, metric)
            low, high = stats.t.interval(0.95, 2, np.mean(values), stats.sem(values))
            row = rows[(*key, metric)]
            assert (row["n"], float(row["mean"])) == ("3", pytest.approx(np.mean(values)))
            assert [float(row["seeds_low"]), float(row["seeds_high"])] == pytest.approx([low, high])
            assert float(row["images_low"]) < float(row["images_high"])
    mean = 100 * np.mean(summaries(study, "resnet20-s*", "top1"))
    assert f"| resnet20 (100 %) | 3 | {mean:.2f} ± " in reported.text


def test_pairs_are_compared_by_seed_at_each_share_of_the_data(study, reported):
    rows = [row for row in reported.rows("differences") if row["metric"] == "f1"]
    assert len(rows) == 3 and {row["train_fraction"] for row in rows} == {"1.0"}
    row = next(row for row in rows if (row["first"], row["second"]) == ("resnet20", "vit_tiny"))
    expected = stats.ttest_rel(summaries(study, "resnet20-s*", "f1"), summaries(study, "vit_tiny-s*", "f1"))
    assert float(row["p"]) == pytest.approx(expected.pvalue)
    assert [float(row["seeds_low"]), float(row["seeds_high"])] == pytest.approx(list(expected.confidence_interval()))
    assert float(row["p_holm"]) >= float(row["p"])
    assert len(reported.rows("mcnemar")) == 9


def test_published_figures_stand_beside_and_are_part_of_no_test(reported):
    assert "| He et al. (published) | – | 91.25 | – |" in reported.text
    assert "He et al.: arXiv:1512.03385, Table 6." in reported.text
    assert "| elsewhere (published) | – | 50.00 | – |" in reported.text
    assert "published" not in (reported.folder / "tables/differences.csv").read_text()
    found = [row for row in reported.rows("models") if row["kind"] == "published"]
    assert [(row["model"], row["metric"], float(row["mean"])) for row in found] == [
        ("He et al.", "top1", 0.9125), ("elsewhere", "top1", 0.5), ("elsewhere", "f1", 0.25)]  # fmt: skip
    assert {row["class"]: row["elsewhere (published)"] for row in reported.rows("classes")}["class 3"] == "0.125"


def test_the_terminal_has_the_short_form(study, reported):
    lines = reported.out.splitlines()
    assert lines[0] == "comparing     12 runs of quick"
    assert any(line.startswith("  resnet20 (100 %)") and " ± " in line and " to " in line for line in lines)
    told = [line for line in lines if line.startswith("With 100 % of the training images: ")]
    assert len(told) == 3 and all(f"- {line}".replace("<", r"\<") in reported.text for line in told if "{" not in line)
    assert "wrote         quick/comparison/report.html" in lines
    assert "later has not begun, and is left out." in reported.text


def test_costs_stand_beside_quality(reported):
    row = next(row for row in reported.rows("cost") if row["model"] == "vit_tiny")
    assert (float(row["params"]), float(row["train_seconds"])) == (8000, 11)
    assert float(row["measured_train_images_per_second"]) == pytest.approx(900 / 8)
    assert "Measured alone on a CPU." in reported.text
    assert "| latency of one image (ms) |" in reported.text


def test_errors_on_corrupted_images(reported):
    rows = reported.rows("robustness")
    assert [row["model"] for row in rows] == list(MODELS) and {row["n"] for row in rows} == {"3"}
    for row in rows:
        each = [float(row["gaussian_noise"]), float(row["blur"])]
        assert float(row["mean_corruption_error"]) == pytest.approx(np.mean(each))


def test_classes_and_confusions_are_those_of_the_predictions(study, reported):
    right = []
    for path in sorted(study.glob("vit_tiny-s*/predictions.npz")):
        with np.load(path) as file:
            logits, targets = file["logits"], file["targets"]
        right.append((logits.argmax(1) == targets)[targets == 4].mean())
    row = reported.rows("classes")[4]
    assert float(row["vit_tiny"]) == pytest.approx(np.mean(right))
    diagonal = float(reported.rows("confusion_3")[4]["class 4"])
    assert diagonal == pytest.approx(100 * np.mean(right), abs=0.006)


class Page(HTMLParser):
    def __init__(self, text: str):
        super().__init__()
        self.tags, self.links, self.images = [], [], []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        for name, value in attrs:
            if name in ("src", "href"):
                (self.images if tag == "img" else self.links).append(value)


def test_the_page_needs_nothing_but_itself(reported):
    page = Page(reported.page)
    assert not {"script", "link", "iframe"} & set(page.tags) and "url(" not in reported.page
    assert all(link.startswith("#s") for link in page.links)
    assert len(page.images) >= 10
    for image in page.images:
        head, _, data = image.partition(",")
        assert head == "data:image/svg+xml;base64"
        assert ElementTree.fromstring(base64.b64decode(data)).tag.endswith("svg")
    assert "50%_of {a}&amp;b" in reported.page and "{a}&b" not in reported.page


def test_what_the_text_refers_to_is_there(reported):
    files = re.findall(r"\]\(([^)]+)\)", reported.text)
    assert len(files) > 30 and all((reported.folder / file).is_file() for file in files)
    for path in reported.folder.glob("plots/*.png"):
        with Image.open(path) as picture:
            assert picture.format == "PNG" and min(picture.size) > 400
        assert path.with_suffix(".svg").is_file()


def test_tables_can_be_read_by_latex(reported):
    paths = list(reported.folder.glob("tables/*.tex"))
    assert len(paths) >= 8
    for path in paths:
        text = path.read_text()
        for part in (r"\toprule", r"\midrule", r"\bottomrule", r"\caption{", rf"\label{{tab:{path.stem}}}"):
            assert part in text
        body = text[text.index(r"\toprule") : text.index(r"\bottomrule")]
        plain = re.sub(r"\\[%&_#{}$]|\$\\(pm|kappa|times)\$|\\text\w+\{\}|\\(top|mid)rule|\\\\", "", body)
        assert not re.search(r"[%_#$\\{}^~<>±–]", plain.replace("--", "")), plain
        widths = {line.count("&") - line.count(r"\&") for line in body.splitlines() if line.endswith(r"\\")}
        assert len(widths) == 1
    assert r"50\%\_of \{a\}\&b" in (reported.folder / "tables/models.tex").read_text()


# ------------------------------------------------------------------------------------------------- smaller comparisons


def test_what_was_scored_otherwise_has_tables_of_its_own_with_the_reason(learns, workdir):
    for seed in (0, 1):
        write_run(Path(f"runs/a{seed}"), "resnet20", seed, 0.9)
        write_run(Path(f"runs/b{seed}"), "vit_tiny", seed, 0.8)
    write_run(Path("runs/c"), "deit", 0, 0.95, summary={"selected_on": "test, the split that is reported"})
    out = learns("runs", script=compare).out
    text = Path("runs/comparison/report.md").read_text()
    assert "not compared with those above: their checkpoints are selected on: test, the split that is reported" in text
    assert "deit" not in Path("runs/comparison/tables/1_differences.csv").read_text()
    assert "deit" in Path("runs/comparison/tables/2_models.csv").read_text()
    assert "One seed only, and so no interval over seeds: deit." in out
    assert "| deit | 1 | 9" in text and not re.search(r"\| deit \| 1 \| [\d.]+ ±", text)


def test_two_loose_runs_judged_by_another_metric_give_the_same_report_each_time(learns, workdir):
    for name, accuracy in (("a", 0.9), ("b", 0.6)):
        write_run(Path(name), "resnet20", 0, accuracy, lr=accuracy)
    out = learns("a b a/ --metric loss --output out/report", script=compare).out
    assert re.search(r"resnet20, lr 0.9 has [\d.]+ nats of loss less than resnet20, lr 0.6 with one seed each", out)
    assert not Path("comparison").exists()
    first = {path: path.read_bytes() for path in Path("out").rglob("*.*")}
    assert Path("out/report/report.html") in first
    Path("out/report/plots/old.png").write_bytes(b"of an earlier report")
    learns("a b --metric loss --output out/report", script=compare)
    assert {path: path.read_bytes() for path in Path("out").rglob("*.*")} == first


def test_images_that_only_one_model_gets_right(learns, workdir):
    digits = load_dataset(locate_dataset("digits", None, False, True))
    more = {"truth": digits.test.targets, "class_names": digits.class_names}
    write_run(Path("a"), "resnet20", 0, 0.9, **more)
    write_run(Path("b"), "vit_tiny", 0, 0.8, **more)
    learns("a b --images", script=compare)
    text = Path("comparison/report.md").read_text()
    (found,) = {int(count) for count in re.findall(r"10 of (\d+) images that only resnet20 gets right", text)}
    right = [np.load(f"{run}/predictions.npz")["logits"].argmax(1) == digits.test.targets for run in "ab"]
    assert found == (right[0] & ~right[1]).sum()
    with Image.open("comparison/plots/only_1a.png") as picture:
        assert min(picture.size) > 500


def test_the_report_is_published_on_request(learns, workdir, monkeypatch):
    import wandb

    logged, artifacts = {}, []

    class Run:
        id, summary = "0123abcd", {}

        def log(self, values):
            logged.update(values)

        def log_artifact(self, artifact):
            artifacts.append(artifact)

        def finish(self):
            logged["finished"] = True

    asked = {}
    monkeypatch.setattr(wandb, "init", lambda **kwargs: asked.update(kwargs) or Run())
    write_run(Path("a"), "resnet20", 0, 0.9)
    out = learns("a --wandb offline --wandb-project ours", script=compare).out
    assert "given up" not in out and logged["finished"]
    assert (asked["project"], asked["mode"]) == ("ours", "offline")
    assert {"report", "models", "metrics", "quality", "confusion"} <= logged.keys()
    assert {"report.html", "report.md", "tables/models.tex", "plots/quality.svg"} <= artifacts[
        0
    ].manifest.entries.keys()


def test_bad_requests_import_nothing_heavy(tmp_path):
    code = f"""
import sys
sys.path.insert(0, {str(REPO)!r})
import compare
from utils import BadRequest
try:
    compare.main(["nowhere"])
except BadRequest:
    heavy = {{"torch", "numpy", "scipy", "statsmodels", "pandas", "matplotlib", "jinja2", "wandb"}} & set(sys.modules)
    sys.exit(", ".join(heavy) or 0)
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize(
    ("line", "needle"),
    [
        ("", "the following arguments are required: RUN|STUDY"),
        ("nowhere", "nowhere: no such run directory or study"),
        ("empty", "empty: no finished run found"),
        ("a broken", "broken: the run is not finished (no summary.json)"),
        ("a other", "other/summary.json: 'dataset' is cifar10, but digits in a; runs of different data sets cannot"),
        ("a --metric accuracy", "--metric: 'accuracy' is none of top1, top5, loss"),
        ("a --effect 0", "--effect: '0' is not a number above 0"),
        ("a --baseline resnet", "--baseline resnet: no such model. Did you mean resnet20"),
        ("a --data-path .", "--data-path has no effect: it needs --images"),
        ("a --wandb disabled --wandb-project x", "--wandb-project has no effect: --wandb is disabled"),
        ("a --output a", "--output a: holds something else than a report"),
        ("a --output a/summary.json", "--output a/summary.json: is a file"),
        ("a --images", "--images: test of digits is not what the runs were scored on"),
        ("a --epochs 3", "unknown flag --epochs"),
    ],
)
def test_what_cannot_be_compared_is_refused(cli, workdir, line, needle):
    write_run(Path("a"))
    write_run(Path("other"), "vit_tiny", dataset="cifar10")
    write_run(Path("broken"), "vit_tiny")
    Path("broken/summary.json").unlink()
    Path("empty").mkdir()
    before = sorted(workdir.rglob("*"))
    result = cli(line, script=compare)
    assert result.status == 2 and needle in result.err
    assert len(result.err.splitlines()) == 1 and sorted(workdir.rglob("*")) == before
