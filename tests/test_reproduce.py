"""reproduce.py: the published studies in both sizes, and the table. The trainings themselves are test_study's."""

from pathlib import Path

import pytest
from simulated import write_run, write_study

import reproduce
from comparison import reproduction as table
from experiments import reproduction
from experiments.plan import make_plan

PUBLISHED = {"cifar100_cnn_vs_vit", "deit_vs_mobilenet_cifar10", "mobilenet_v2_cifar10", "mobilevit_cifar10",
             "vit_vs_deit_imagenet100"}  # fmt: skip


@pytest.fixture
def everything(workdir, cifar100_folder, shards) -> Path:
    """A folder with CIFAR-100 and ImageNet-100, and without CIFAR-10."""
    root = workdir / "all"
    root.mkdir()
    (root / "cifar-100-python").symlink_to(cifar100_folder / "cifar-100-python")
    (root / "imagenet100").symlink_to(shards())
    return root


@pytest.fixture
def executed(monkeypatch) -> dict[str, list[str]]:
    """The variants that are run, by study. Every run ends at once, and succeeds."""
    found = {}

    def carry_out(study, request) -> int:
        found[study.name] = request.which.only or list(study.variants)
        (Path(request.which.runs_dir) / study.name).mkdir(parents=True, exist_ok=True)
        names = dict.fromkeys(found[study.name], 0.9)
        write_study(Path(request.which.runs_dir) / study.name, names, len(study.seeds), study.published)
        return 0

    monkeypatch.setattr(reproduction, "carry_out", carry_out)
    return found


def test_studies_without_their_data_are_left_out(cli, everything, executed):
    result = cli(f"--data-path {everything} --budget cpu", script=reproduce)
    assert result.status == 1 and set(executed) == {"cifar100_cnn_vs_vit-cpu", "vit_vs_deit_imagenet100-cpu"}
    assert result.err.count("is left out: ") == 3 and "mobilevit_cifar10 is left out: " in result.err
    text = Path("results/reproduction-cpu.md").read_text()
    assert "| cifar100_cnn_vs_vit-cpu | vgg16 | top-1 (%) |" in text and "mobilevit_cifar10 is left out: " in text
    assert "published |" not in text and not Path("results/reproduction.md").exists()


def test_a_study_or_a_variant_can_be_chosen(cli, everything, executed):
    result = cli(f"--data-path {everything} --budget cpu --only vgg16-best vit_vs_deit_imagenet100", script=reproduce)
    assert result.status == 0
    assert executed.pop("cifar100_cnn_vs_vit-cpu") == ["vgg16-best"]
    assert len(executed["vit_vs_deit_imagenet100-cpu"]) == 5


@pytest.mark.parametrize(
    ("flags", "reason"),
    [
        ("--budget cpu", "--data-path: give the folder of the data sets"),
        ("--data-path nowhere --budget cpu", "nowhere: no such folder"),
        ("--data-path . --budget cpu --only vgg61", "--only vgg61: no published study or variant. Did you mean vgg16?"),
        ("--data-path . --budget gpu", "--budget gpu: there is no GPU here"),
    ],
)
def test_bad_requests_run_nothing(cli, workdir, executed, flags, reason):
    result = cli(flags, script=reproduce)
    assert result.status == 2 and reason in result.err and len(result.err.splitlines()) == 1
    assert not executed and not Path("results").exists()


def test_each_published_training_has_a_tiny_form():
    """Every command of both budgets passes all checks but those of the data."""
    for budget, epochs in (("gpu", {5, 10, 20, 30, 50, 100, 200}), ("cpu", {1})):
        asked = reproduction.read_request(["--data-path", "x", "--budget", budget])
        studies = [study for study, _ in reproduction._choose(asked)]
        assert {study.file.stem for study in studies} == PUBLISHED
        for study in studies:
            plan = make_plan(study, "runs")
            for run in plan.runs:
                settings, _ = plan.settings(run)
                assert settings.optimization.epochs in epochs
                assert settings.data.data_path == ("x/imagenet100" if "imagenet100" in study.name else "x")


def test_the_table_has_ours_beside_the_published_figures(workdir):
    """The suite's own recipe is compared with the figures of the same network."""
    published = {"net": {"source": "somebody", "variant": "net", "top1": 75.4, "top5": 93.4}}
    folder = write_study(workdir / "study", {"net": 0.8, "net-best": 0.9, "other": 0.5}, published=published)
    unfinished = folder / "net-s2/summary.json"
    unfinished.rename(unfinished.with_suffix(".later"))
    table.write_table(workdir / "results/table.md", [folder, workdir / "nothing"], ["x is left out: y"], True)
    text = (workdir / "results/table.md").read_text()
    rows = [
        [cell.strip() for cell in line.split("|")[1:-1]] for line in text.splitlines() if line.startswith("| study")
    ]
    heading, *rows = rows
    assert heading[3:6] == ["published", "ours", "n"]
    assert [row[1:4] for row in rows] == [["net", "top-1 (%)", "75.40"], ["net", "top-5 (%)", "93.40"],
                                          ["net-best", "top-1 (%)", "75.40"], ["net-best", "top-5 (%)", "93.40"],
                                          ["other", "top-1 (%)", "–"]]  # fmt: skip
    assert [row[5] for row in rows] == ["2", "2", "3", "3", "3"]
    assert " ± " in rows[0][4] and rows[2][6] == "11 s"
    assert "- study: 1 of 9 runs" in text and "- x is left out: y" in text and "no such run directory" in text


def test_a_table_that_cannot_be_written_is_one_line(workdir):
    write_run(workdir / "runs/one")
    (workdir / "results").write_text("")
    with pytest.raises(table.BadRequest, match=r"results/t\.md: cannot be written"):
        table.write_table(Path("results/t.md"), [workdir / "runs"], [], False)
