"""Study files: their variants, and errors in one line that names file and key."""

from pathlib import Path

import pytest

import study
from experiments import study_file

GOOD = """
seeds = [0, 1]
[base]
dataset = "digits"
epochs = 2
[variants.small]
model = "resnet20"
"""


def write(folder: Path, content: str) -> Path:
    file = folder / "s.toml"
    file.write_text(content, encoding="utf-8")
    return file


def test_every_variant_meets_every_point_of_the_grid(tmp_path):
    axes = (
        "[variants.big]\nmodel = 'resnet18'\nepochs = 3\n[axes]\nloss = ['CE', 'BCE']\nema = [0, 0.9]\nrand = [true]\n"
    )
    found = study_file.read_study(write(tmp_path, GOOD + axes)).variants
    names = [
        f"{v}-{loss}-{ema}-rand" for v in ("small", "big") for loss in ("CE", "BCE") for ema in ("ema-0", "ema-0.9")
    ]
    assert list(found) == names
    assert found["big-BCE-ema-0.9-rand"] == {
        "dataset": "digits", "epochs": 3, "model": "resnet18", "loss": "BCE", "ema": 0.9, "rand": True,
    }  # fmt: skip


def test_a_grid_alone_names_its_points(tmp_path):
    content = "[base]\nmodel = 'mobilenet_v2'\n[axes]\nwidth-mult = [0.5, 1]\nse = [false, true]\nwidths = [[8, 16]]\n"
    found = study_file.read_study(write(tmp_path, content))
    assert list(found.variants)[:2] == ["width-mult-0.5-no-se-widths-8x16", "width-mult-0.5-se-widths-8x16"]
    assert found.name == "s" and found.seeds == [0] and found.fractions == [None]


def test_set_wins_over_everything(tmp_path):
    file = write(tmp_path, GOOD + "epochs = 5\n")
    found = study_file.read_study(file, {"epochs": "1", "data-path": "elsewhere"}, "short")
    assert found.name == "short"
    assert found.variants["small"]["epochs"] == "1" and found.variants["small"]["data_path"] == "elsewhere"


PUBLISHED = "[published.p]\nsource = 'a paper'\n"
BAD = [
    ("epochs = = 3", "s.toml: is no TOML:"),
    (GOOD + "[base]\nepochs = 3\n", "s.toml: is no TOML:"),
    (GOOD + "[variants.small]\nlr = 1.0\n", "s.toml: is no TOML:"),
    ("seed = [1]\n" + GOOD, "s.toml: seed: unknown key. Did you mean seeds?"),
    ("seeds = []\n", "s.toml: variants: there are none"),
    (GOOD.replace("[0, 1]", "[]"), "s.toml: seeds: must be a list of whole numbers"),
    (GOOD.replace("[0, 1]", "[0, true]"), "s.toml: seeds: must be a list of whole numbers"),
    (GOOD.replace("[0, 1]", "[3, 3]"), "s.toml: seeds: 3 is given twice"),
    ("fractions = [0.5, 1.5]\n" + GOOD, "s.toml: fractions: must be a list of numbers above 0"),
    ("fractions = [0.5]\n" + GOOD + "train-fraction = 0.1\n", "s.toml: fractions: variant small has a train-fraction"),
    ("script = 'mian.py'\n" + GOOD, "s.toml: script 'mian.py': is none of main.py"),
    ("name = 'a/b'\n" + GOOD, "s.toml: name: 'a/b' is no name"),
    ("variants = 3\n", "s.toml: variants: must be a table"),
    ("folds = 1\n" + GOOD, "s.toml: folds: must be a whole number from 2 to 100"),
    ("folds = [5]\n" + GOOD, "s.toml: folds: must be a whole number from 2 to 100"),
    ("folds = true\n" + GOOD, "s.toml: folds: must be a whole number from 2 to 100"),
    ("folds = 3\n" + GOOD + "val-fold = '1/3'\n", "s.toml: [variants.small]: val-fold: a study sets that itself"),
    (GOOD + "[axes]\nval-fold = ['1/2', '2/2']\n", "s.toml: [axes]: val-fold: a study sets that itself; write folds"),
    ("folds = 3\n" + GOOD + "val-fraction = 0.1\n", "s.toml: variant small: --val-fraction has no effect: --val-fold"),
    ("folds = 3\n" + GOOD + "select-on = 'reported'\n", "s.toml: variant small: --select-on has no effect: with --val"),
    (GOOD + "activaton = 'relu'\n", "s.toml: [variants.small]: unknown flag --activaton. Did you mean --activation?"),
    (GOOD + "batch-size = 8\nbatch_size = 9\n", "s.toml: [variants.small]: batch_size: given twice"),
    (GOOD + "data-path = 'a'\ndatapath = 'b'\n", "s.toml: [variants.small]: datapath: given twice"),
    (GOOD + "seed = 1\n", "s.toml: [variants.small]: seed: a study sets that itself; write seeds"),
    (GOOD + "evaluate = 'x.pth'\n", "s.toml: [variants.small]: unknown flag --evaluate"),
    (GOOD + "rand = 1\n", "s.toml: [variants.small]: rand: is a switch: true or false"),
    (GOOD + "lr = true\n", "s.toml: [variants.small]: lr: its value is a number"),
    (GOOD + "[variants.'a b']\nlr = 1.0\n", "s.toml: [variants]: 'a b' is no name"),
    (GOOD + "[variants.width-0.5]\nlr = 1.0\n", 's.toml: [variants.width-0]: 5: is no flag; a name with a dot'),
    (GOOD + "[variants.same]\nmodel = 'resnet20'\n", "s.toml: the variants small and same have the same flags"),
    (GOOD + "[axes]\nlr = 1.0\n", "s.toml: [axes] lr: must be a list"),
    (GOOD + "[axes]\nloss = ['CE', 'CE']\n", "s.toml: [axes]: two variants have the name small-CE"),
    ("fractions = [0.50000001, 0.5]\n" + GOOD, "s.toml: fractions: two of variant small's runs have the name"),
    (GOOD + "[published.p]\ntop1 = 70\n", "s.toml: [published.p]: source: who published"),
    (GOOD + PUBLISHED + "top_1 = 70\n", "s.toml: [published.p]: top_1: unknown key. Did you mean top1"),
    (GOOD + PUBLISHED + "top1 = 170\n", "s.toml: [published.p]: top1: must be a number of per cent"),
    (GOOD + PUBLISHED + "variant = 'smal'\n", "s.toml: [published.p]: variant: there is no variant 'smal'"),
    (GOOD + PUBLISHED + "per_class = 3\n", "s.toml: [published.p]: per_class: must be a table"),
    (GOOD + PUBLISHED + "params = 'many'\n", "s.toml: [published.p]: params: must be a whole number"),
    (GOOD + "[variants.s]\nteacher-variant = 'smal'\n",
     "s.toml: variant s: teacher-variant smal: there is no such variant. Did you mean small? The file has small, s"),
    (GOOD + "[variants.s]\nteacher-variant = [1]\n", "s.toml: variant s: teacher-variant [1]: there is no such"),
    (GOOD + "[variants.s]\nteacher-variant = 's'\n", "s.toml: variant s: teacher-variant s: is the variant itself"),
    (GOOD + "teacher-variant = 's'\n[variants.s]\nteacher-variant = 'small'\n",
     "s.toml: variant small: teacher-variant s: has a teacher-variant of its own"),
    (GOOD + "[variants.s]\nteacher-variant = 'small'\nteacher-epochs = 1\n",
     "s.toml: variant s: teacher-variant small: contradicts its --teacher-epochs"),
    (GOOD.replace("epochs = 2", "epochs = 2\nteacher = 'resnet18'") + "[variants.s]\nteacher-variant = 'small'\n",
     "s.toml: variant s: teacher-variant small: contradicts its --teacher"),
    (GOOD.replace("epochs = 2", "epochs = 2\nteacher-variant = 'small'"),
     "s.toml: [base]: teacher-variant: belongs in a [variants.NAME]"),
    (GOOD + "[axes]\nteacher-variant = ['small']\n", "s.toml: [axes]: teacher-variant: belongs in a [variants.NAME]"),
    (GOOD + "[variants.s]\nteacher-variant = 'small'\ndistill = 'none'\n",
     "s.toml: variant s: --teacher resnet20 has no effect with --distill none"),
    # Errors that only the script's own checks find.
    (GOOD.replace("resnet20", "resnet21"), "s.toml: variant small: "),
    (GOOD + "nesterov = true\noptimizer = 'adam'\n", "s.toml: variant small: --nesterov has no effect"),
    (GOOD + "activation = 'relu'\n", "s.toml: variant small: --activation has no effect: resnet20 has no such"),
    (GOOD + "lr = 'fast'\n", "s.toml: variant small: --lr: 'fast' is not a number"),
    (GOOD + "warmup-epochs = 2\n", "s.toml: variant small: --warmup-epochs 2: must be shorter"),
    (GOOD + "[variants.far]\ndataset = 'cifar10'\ndata-path = 'nowhere'\n", "s.toml: variant far: "),
    ("script = 'train_deit_imagenet100.py'\n" + GOOD, "s.toml: [base]: unknown flag --dataset"),
]  # fmt: skip


@pytest.mark.parametrize(("content", "needle"), BAD, ids=range(len(BAD)))
def test_a_bad_study_file_is_refused_in_one_line_before_anything_starts(cli, workdir, content, needle):
    write(workdir, content)
    result = cli("s.toml", script=study)
    assert result.status == 2, result.out
    assert needle in result.err and len(result.err.splitlines()) == 1
    assert result.err.startswith("study.py: error: ")
    assert [path.name for path in workdir.iterdir()] == ["s.toml"]


FLAGS = [
    ("none.toml", "none.toml: cannot be read (No such file or directory)"),
    ("", "STUDY.toml"),
    ("s.toml --set epochs=1", "--set epochs: results depend on it, so this is another study; give it a name"),
    ("s.toml --set epochs=1 --name s", "--set epochs: results depend on it"),
    ("s.toml --set epochs=1 epochs=2 --name t", "--set epochs: given twice"),
    ("s.toml --set epocs=1 --name t", "--set: unknown flag --epocs. Did you mean --epochs?"),
    ("s.toml --set epochs --name t", "'epochs' is not of the form flag=value"),
    ("s.toml --set val-fold=1/5 --name t", "--set: val-fold: a study sets that itself; write folds = K"),
    ("s.toml --set teacher-variant=small --name t", "--set: teacher-variant: belongs in a [variants.NAME]"),
    ("s.toml --set rand=maybe --name t", "--set: rand: is a switch"),
    ("s.toml --name a/b", "--name: 'a/b' is no name"),
    ("s.toml --only smal", "--only smal: s.toml has no such variant. Did you mean small?"),
    ("s.toml --seeds 2", "--seeds 2: s.toml has the seeds 0, 1"),
    ("s.toml --shard 2/2", "'2/2' is not of the form I/N"),
    ("s.toml --no-estimate", "--no-estimate has no effect: it needs --dry-run"),
    ("s.toml --slurm partition=x", "--slurm has no effect: it needs --launcher slurm"),
    ("s.toml --jobs 0", "--jobs: '0' is not a whole number from 1"),
]


@pytest.mark.parametrize(("flags", "needle"), FLAGS, ids=[flags for flags, _ in FLAGS])
def test_bad_flags_are_refused_in_one_line(cli, workdir, flags, needle):
    write(workdir, GOOD)
    result = cli(flags, script=study)
    assert result.status == 2, result.out
    assert needle in result.err and len(result.err.splitlines()) == 1
    assert [path.name for path in workdir.iterdir()] == ["s.toml"]
