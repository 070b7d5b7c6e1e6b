"""The runs of a study: command lines say what the file says, and existing runs are recognised."""

import json
import shlex

import pytest

import study
from comparison.selection import select
from experiments import plan, study_file
from settings.scripts import SCRIPTS
from utils import BadRequest

FILE = """
seeds = [0, 1, 2]
fractions = [0.25, 1.0]
[base]
dataset = "digits"
epochs = 5
[variants.cnn]
model = "resnet18"
widths = [8, 16, 24, 32]
nesterov = true
flip = false
model-arg = ["stem=cifar"]
[variants.vit]
model = "vit_tiny"
optimizer = "adamw"
nesterov = false
lr = 1e-4
drop-path = 0.1
"""


@pytest.fixture
def file(workdir):
    path = workdir / "s.toml"
    path.write_text(FILE)
    return path


def test_command_lines_say_what_the_file_says(file, cli):
    """Parsed as the script parses them."""
    lines = cli("s.toml --dry-run --no-estimate", script=study).out.splitlines()[1:]
    assert len(lines) == 12
    settings = {}
    for line in lines:
        words = shlex.split(line)
        assert words[:1] == ["python"] and words[1].endswith("main.py") and words[-2:] == ["--resume", "auto"]
        found = SCRIPTS["main.py"].ask(words[2:]).settings
        settings[found.run.run_name] = found
        assert (found.run.wandb_group, found.optimization.epochs, found.data.dataset) == ("s", 5, "digits")
    assert list(settings)[:4] == ["s/cnn-f0.25-seed0", "s/vit-f0.25-seed0", "s/cnn-f1-seed0", "s/vit-f1-seed0"]
    cnn, vit = settings["s/cnn-f0.25-seed2"], settings["s/vit-f1-seed1"]
    keys = ("model", "nesterov", "flip", "lr", "seed", "train_fraction")
    assert [cnn.flat()[key] for key in keys] == ["resnet18", True, False, 0.1, 2, 0.25]
    assert cnn.model.model_args["widths"] == [8, 16, 24, 32] and cnn.model.model_args["stem"] == "cifar"
    assert [vit.flat()[key] for key in keys] == ["vit_tiny", False, None, 1e-4, 1, 1.0]
    assert vit.model.model_args["drop_path"] == 0.1


def test_a_value_may_begin_like_a_flag():
    assert plan.as_words({"data_path": "--odd", "lr": 0.5}) == ["--data-path=--odd", "--lr", "0.5"]


def test_shards_share_the_runs_out(file, cli):
    def names(flags):
        lines = cli(f"s.toml --dry-run --no-estimate {flags}", script=study).out.splitlines()[1:]
        return [line.split("--run-name ")[1].split()[0] for line in lines]

    shards = [names(f"--shard {i}/5") for i in range(5)]
    assert sorted(name for shard in shards for name in shard) == sorted(names("")) and sorted(map(len, shards)) == [
        2,
        2,
        2,
        3,
        3,
    ]
    assert names("--only vit --seeds 2 0") == [f"s/vit-f{f}-seed{seed}" for seed in (0, 2) for f in ("0.25", "1")]


def test_every_variant_is_run_with_each_seed_and_each_fold(file, cli):
    file.write_text(FILE.replace("seeds = [0, 1, 2]", "seeds = [0, 1]\nfolds = 3"))
    lines = cli("s.toml --dry-run --no-estimate", script=study).out.splitlines()[1:]
    asked = [SCRIPTS["main.py"].ask(shlex.split(line)[2:]).settings.flat() for line in lines]
    found = {one["run_name"]: (one["seed"], one["val_fold"], one["train_fraction"]) for one in asked}
    assert list(found)[:3] == ["s/cnn-f0.25-fold1-seed0", "s/vit-f0.25-fold1-seed0", "s/cnn-f0.25-fold2-seed0"]
    assert found == {
        f"s/{variant}-f{share:g}-fold{number}-seed{seed}": (seed, f"{number}/3", share)
        for variant in ("cnn", "vit") for share in (0.25, 1.0) for number in (1, 2, 3) for seed in (0, 1)
    }  # fmt: skip
    assert len(cli("s.toml --dry-run --no-estimate --only vit --seeds 1", script=study).out.splitlines()) == 1 + 6


def test_the_stored_study_names_its_folds_and_compare_reads_it(file):
    file.write_text(FILE.replace("seeds = [0, 1, 2]\nfractions = [0.25, 1.0]", "folds = 2"))
    found = plan.make_plan(study_file.read_study(file), "runs")
    content = json.loads(plan.write_plan(found).read_text())
    assert content["folds"] == 2 and [(run["name"], run["fold"]) for run in content["runs"]] == [
        ("cnn-fold1-seed0", 1), ("vit-fold1-seed0", 1), ("cnn-fold2-seed0", 2), ("vit-fold2-seed0", 2)]  # fmt: skip
    with pytest.raises(BadRequest, match="no finished run found"):  # and not: unknown key
        select([str(found.folder)])


@pytest.fixture
def small(file):
    found = plan.make_plan(study_file.read_study(file), "runs")
    run = found.runs[0]

    def store(**changes):
        """Writes settings.json as the run would, with some settings changed."""
        settings = found.settings(run)[0].stored()
        folder = found.directory(run)
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "settings.json").write_text(json.dumps({"settings": {**settings, **changes}, "wandb_run_id": "0"}))

    def state():
        return plan.inspect_run(found, run, found.settings(run)[0])

    return found.directory(run), store, state


def test_a_run_is_new_then_stopped_then_finished(small):
    folder, store, state = small
    assert state() == ("new", "")
    store(num_workers=7, device="cuda", precision="bf16", img_size=8, crop="pad", crop_padding=1, val_fraction=0.1)
    assert state() == ("stopped", "")
    (folder / "summary.json").write_text("{}")
    assert state() == ("finished", "")


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"epochs": 6}, "--epochs 6 in place of 5"),
        ({"ema": 0.9, "lr": 0.3}, "--lr 0.3 in place of 0.1, --ema 0.9 in place of None"),
        ({"seed": 1}, "--seed 1 in place of 0"),
        ({"model_args": {"widths": [8, 8, 8, 8], "stem": "cifar"}}, "--widths [8, 8, 8, 8] in place of"),
    ],
)
def test_a_run_with_other_settings_is_not_taken_for_the_studys(small, changes, words):
    """Also if the run was given a flag that the study leaves at its default."""
    folder, store, state = small
    store(**changes)
    (folder / "summary.json").write_text("{}")
    found, reason = state()
    assert found == "changed" and words in reason


def test_a_damaged_run_is_not_taken_for_the_studys(small):
    folder, store, state = small
    store()
    (folder / "settings.json").write_text('{"settings": []}')
    found, reason = state()
    assert found == "changed" and reason.startswith(f"{folder}/settings.json: damaged")


TAUGHT = """
seeds = [0, 1]
folds = 2
[base]
dataset = "digits"
epochs = 2
[variants.student]
model = "deit_tiny_distill"
teacher-variant = "cnn"
distill = "soft"
[variants.cnn]
recipe = "cifar-fast"
[variants.other]
model = "resnet20"
"""


def test_a_student_learns_from_the_run_of_its_own_seed_and_fold(file, cli):
    """Of any model of the script's, here that of a recipe; before there is a checkpoint."""
    file.write_text(TAUGHT)
    result = cli("s.toml --dry-run --no-estimate --runs-dir ./r", script=study)
    lines = [shlex.split(line) for line in result.out.splitlines()[1:]]
    found = {line[line.index("--run-name") + 1]: line for line in lines}
    assert len(found) == 12 and result.status == 0
    for name, line in found.items():
        weights = [word for word in line if word.endswith("best.pth")]
        teacher = name.replace("student", "cnn")
        assert weights == ([f"r/{teacher}/best.pth"] if "student" in name else [])
    line = found["s/student-fold2-seed1"]
    of_teacher = SCRIPTS["main.py"].ask(found["s/cnn-fold2-seed1"][2:]).settings
    assert line[line.index("--teacher") + 1] == of_teacher.model.model == "airbench94"


def test_a_student_is_in_the_shard_of_its_teacher(file, cli):
    file.write_text(TAUGHT)
    shards = [
        [line.split("--run-name s/")[1].split()[0] for line in cli(
            f"s.toml --dry-run --no-estimate --seeds 0 --shard {i}/2", script=study).out.splitlines()[1:]]
        for i in range(2)
    ]  # fmt: skip
    assert shards == [
        ["student-fold1-seed0", "cnn-fold1-seed0", "student-fold2-seed0", "cnn-fold2-seed0"],
        ["other-fold1-seed0", "other-fold2-seed0"],
    ]


def test_a_stored_student_differs_from_the_study_with_its_teacher(file):
    file.write_text(TAUGHT)
    found = plan.make_plan(study_file.read_study(file), "runs")
    settings = plan.check_runs(found, with_data=False)
    for run in found.runs[:2]:
        found.directory(run).mkdir(parents=True)
        stored = {**settings[run.name].stored(), **({"lr": 9.0} if run.variant == "cnn" else {})}
        (found.directory(run) / "settings.json").write_text(json.dumps({"settings": stored, "wandb_run_id": "0"}))
        (found.directory(run) / "summary.json").write_text("{}")
    states = {run.name: (state, reason) for run, state, reason in plan.inspect_runs(found, found.runs, settings)}
    assert states["student-fold1-seed0"] == ("changed", "as its teacher cnn-fold1-seed0 does")
    assert states["cnn-fold1-seed0"][0] == "changed" and states["student-fold2-seed0"] == ("new", "")
