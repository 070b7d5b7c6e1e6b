"""study.py submits a study to a real SLURM, as an array."""

from __future__ import annotations

import sys

from slurm_cluster import ROOT, cluster, wait_until  # noqa: F401 (a fixture)

from utils import read_json

STUDY = """
seeds = [0, 1]
[base]
dataset = "digits"
train-fraction = 0.1
model = "resnet20"
epochs = 1
wandb = "disabled"
[variants]
cnn = {}
"""


def test_a_study_is_submitted_as_an_array_whose_jobs_make_its_runs(cluster, tmp_path):
    (tmp_path / "s.toml").write_text(STUDY)
    line = [
        sys.executable,
        str(ROOT / "study.py"),
        "s.toml",
        "--launcher",
        "slurm",
        "--slurm",
        "partition=low",
        "time=5",
    ]
    said = cluster.run(*line, cwd=tmp_path)
    assert "submitted     2 runs as array" in said, said
    summaries = [tmp_path / f"runs/s/cnn-seed{seed}/summary.json" for seed in (0, 1)]
    wait_until(
        lambda: all(file.is_file() for file in summaries),
        lambda: cluster.run("squeue") + "".join(file.read_text() for file in tmp_path.glob("runs/s/**/*.err")),
    )
    assert [read_json(file)["settings"]["seed"] for file in summaries] == [0, 1]
    assert "2 finished" in cluster.run(*line, cwd=tmp_path)
