"""A run directory records its origin: the code, the machine, the attempts, and all printed lines."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from simulated import write_run
from test_main import QUICK, REPO, stop_after

from comparison.cohorts import make_cohorts
from comparison.runs import read_run
from comparison.sections.conclusions import mixed_commits
from records import checkout as checkout_module
from records import log, run_directory
from records.checkout import checkout
from utils import BadRequest, RunFailed


def git(folder: Path, *words: str) -> str:
    identity = ["-c", "user.name=a", "-c", "user.email=a@b", "-c", "commit.gpgsign=false"]
    return subprocess.run(["git", *identity, *words], cwd=folder, check=True, capture_output=True, text=True).stdout


@pytest.fixture
def repository(tmp_path) -> Path:
    """A git checkout with a package, a script and a data folder."""
    root = tmp_path / "suite"
    (root / "models").mkdir(parents=True)
    for name in ("models/__init__.py", "models/a.py", "main.py", "README.md"):
        (root / name).write_text("")
    (root / ".gitignore").write_text("runs/\n")
    git(root, "init", "--quiet")
    git(root, "add", ".")
    git(root, "commit", "--quiet", "-m", "first")
    return root


def read(path: Path) -> dict:
    return json.loads(path.read_text(encoding="utf-8"))


# ------------------------------------------------------------------------------------------------------- the checkout


def test_the_commit_is_that_of_the_checkout(repository):
    assert checkout(repository) == {"commit": git(repository, "rev-parse", "HEAD").strip(), "changed": False}


@pytest.mark.parametrize(
    ("file", "changed"),
    [("main.py", True), ("models/a.py", True), ("README.md", True), ("models/mine.py", True), ("runs/a.py", False),
     ("picture.png", False), ("notes.py", False)],
)  # fmt: skip
def test_a_changed_file_and_new_code_in_a_package_are_changes(repository, file, changed):
    """The files of a run and scripts that it does not import do not count as changes."""
    (repository / file).parent.mkdir(exist_ok=True)
    (repository / file).write_text("x = 1\n")
    assert checkout(repository)["changed"] is changed


def test_a_staged_or_deleted_file_is_a_change(repository):
    (repository / "models/a.py").unlink()
    assert checkout(repository)["changed"]
    git(repository, "add", "--all")
    assert checkout(repository)["changed"]


UNKNOWN = {"commit": None, "changed": None}


def test_outside_git_the_commit_is_unknown(repository, tmp_path, monkeypatch):
    copy = repository / "unpacked"  # inside another project's repository
    (copy / "models").mkdir(parents=True)
    (copy / "models/__init__.py").write_text("")
    assert checkout(copy) == UNKNOWN
    git(copy, "init", "--quiet")  # without a commit
    assert checkout(copy) == UNKNOWN
    shutil.rmtree(repository / ".git")
    (repository / ".git").write_text("gitdir: /nowhere\n")
    assert checkout(repository) == UNKNOWN


def test_without_the_git_program_or_its_answer_the_commit_is_unknown(repository, tmp_path, monkeypatch):
    monkeypatch.setenv("GIT_DIR", "/nowhere")  # as in a git hook; it is not meant for the suite
    assert checkout(repository)["commit"]
    program = tmp_path / "bin/git"
    program.parent.mkdir()
    monkeypatch.setenv("PATH", str(program.parent))
    assert checkout(repository) == UNKNOWN
    program.write_text(f"#!{sys.executable}\nimport time\ntime.sleep(60)\n")
    program.chmod(0o755)
    monkeypatch.setattr(checkout_module, "SECONDS", 0.2)
    assert checkout(repository) == UNKNOWN


# ------------------------------------------------------------------------------------------------------- the attempts


@pytest.fixture
def two_attempts(cli, learns, workdir, monkeypatch) -> Path:
    """A run that began with one commit and was resumed with another that had uncommitted changes."""
    with monkeypatch.context() as patch:
        stop_after(1, patch)
        patch.setattr(run_directory, "checkout", lambda: {"commit": "a" * 40, "changed": False})
        assert cli(QUICK, "--epochs", "2", "--run-name", "a").status == 130
    with monkeypatch.context() as patch:
        patch.setattr(run_directory, "checkout", lambda: {"commit": "b" * 40, "changed": True})
        patch.setattr("training.devices.device_name", lambda device: "cuda (another)")
        learns("--resume --run-name a")
    return workdir / "runs/a"


def test_every_attempt_is_on_record(two_attempts):
    stored = read(two_attempts / "settings.json")
    first, second = stored["attempts"]
    assert first["command"].endswith(f"main.py {QUICK} --epochs 2 --run-name a --wandb disabled")
    assert second["command"].endswith("main.py --resume --run-name a --wandb disabled")
    assert (first["commit"], first["changed"], second["commit"], second["changed"]) == ("a" * 40, False, "b" * 40, True)
    assert re.fullmatch(r"cpu \(.+\)", first["device"]) and second["device"] == "cuda (another)"
    assert first["versions"]["torch"] and first["time"] <= second["time"]
    assert {key: stored[key] for key in ("command", "commit", "changed", "device", "versions")} == {
        key: value for key, value in first.items() if key != "time"
    }
    assert not {"commit", "changed", "attempts", "versions"} & stored["settings"].keys()
    assert read(two_attempts / "summary.json")["commits"] == [
        {"commit": "a" * 40, "changed": False}, {"commit": "b" * 40, "changed": True},
    ]  # fmt: skip


def test_a_run_stores_the_commit_of_this_checkout(learns, workdir):
    learns(QUICK, "--epochs", "1", "--run-name", "a")
    stored = read(workdir / "runs/a/settings.json")
    assert {key: stored[key] for key in ("commit", "changed")} == checkout(REPO)
    learns("--evaluate runs/a/best.pth --run-name b")
    assert read(workdir / "runs/b/settings.json")["attempts"][0]["device"] == stored["device"]
    assert read(workdir / "runs/b/summary.json")["commits"] == [checkout(REPO)]


def test_a_run_of_a_version_without_attempts_keeps_its_first(cli, learns, workdir, monkeypatch):
    with monkeypatch.context() as patch:
        stop_after(1, patch)
        assert cli(QUICK, "--epochs", "2", "--run-name", "a").status == 130
    file = workdir / "runs/a/settings.json"
    older = {
        key: value for key, value in read(file).items() if key in ("settings", "command", "versions", "wandb_run_id")
    }
    file.write_text(json.dumps({**older, "attempts": 3}))
    result = cli("--resume --run-name a")
    assert result.status == 2 and "settings.json: damaged (its attempts are no list of objects)" in result.err
    file.write_text(json.dumps(older))
    learns("--resume --run-name a")
    first, second = read(file)["attempts"]
    assert (first["command"], first["versions"], first["commit"]) == (older["command"], older["versions"], None)
    assert second["command"].endswith("main.py --resume --run-name a --wandb disabled")


# ---------------------------------------------------------------------------------------------------------- compare.py


A, B = {"commit": "a" * 40, "changed": False}, {"commit": "b" * 40, "changed": False}


def sentences(folder: Path, *commits: list | None) -> list[str]:
    runs = []
    for i, found in enumerate(commits):
        runs.append(
            read_run(write_run(folder / f"{i}", f"net{i}", summary={} if found is None else {"commits": found}))
        )
    (cohort,) = make_cohorts(runs, dict(enumerate([None] * len(runs))), [])
    return mixed_commits(cohort)


def test_runs_of_one_commit_or_none_need_no_word(tmp_path):
    assert sentences(tmp_path / "a", [A], [A]) == []
    assert sentences(tmp_path / "b", None, [{"commit": None, "changed": None}]) == []


def test_runs_of_several_commits_are_told(tmp_path):
    assert sentences(tmp_path, [A], [A, B], None) == [
        "Not all runs were made by the same commit of the suite (aaaaaaaaaa: net0, net1; bbbbbbbbbb: net1; unknown:"
        " net2)."
    ]


def test_changes_that_no_commit_holds_are_told(tmp_path):
    assert sentences(tmp_path, [{**A, "changed": True}], [{**A, "changed": True}]) == [
        "The suite's files had changes that are in no commit (net0, net1)."
    ]


@pytest.mark.parametrize("damage", [3, ["a"], [{"commit": 3}]])
def test_damaged_commits_are_refused(tmp_path, damage):
    with pytest.raises(BadRequest, match=r"summary\.json: 'commits' is .*, not a list of commits"):
        sentences(tmp_path, damage)


def test_the_report_tells_of_commits_and_takes_them_for_no_setting(learns, tmp_path, workdir):
    import compare

    for seed, found in enumerate(([A], [B])):
        write_run(workdir / f"runs/{seed}", seed=seed, summary={"commits": found})
    learns("runs/0 runs/1", script=compare)
    report = (workdir / "runs/comparison/report.md").read_text()
    assert (
        "Not all runs were made by the same commit of the suite (aaaaaaaaaa: resnet20; bbbbbbbbbb: resnet20)" in report
    )
    assert "2 runs of 1 models" in report


# ------------------------------------------------------------------------------------------------------------- log.txt


def heads(log: str) -> list[str]:
    return re.findall(r"^# \d{4}-\d\d-\d\dT[\d:]+[+-]\d\d:\d\d \$ .*$", log, re.MULTILINE)


def test_the_log_holds_all_that_was_said_over_all_attempts(cli, learns, workdir, monkeypatch):
    with monkeypatch.context() as patch:
        stop_after(1, patch)
        stopped = cli("--gpu 3", *QUICK.split(), "--epochs", "2", "--run-name", "a")
    resumed = learns("--resume --run-name a")
    log = (workdir / "runs/a/log.txt").read_text(encoding="utf-8")
    first, second = heads(log)
    assert first.endswith("--run-name a --wandb disabled") and second.endswith(
        "main.py --resume --run-name a --wandb disabled"
    )
    assert "warning: --gpu 3: there are 0 GPUs here" in stopped.out  # printed before the directory existed
    assert stopped.err == "\nmain.py: stopped\n"  # after the ^C of a terminal
    assert log == f"{first}\n{stopped.out}main.py: stopped\n\n{second}\n{resumed.out}"
    assert "epoch 2/2: lr" in log and "result        top-1" in log


def test_the_log_holds_the_line_that_a_run_failed_with(cli, workdir, monkeypatch):
    def fail(*args):
        raise RunFailed("no more")

    monkeypatch.setattr("training.loop.train", fail)
    result = cli(QUICK, "--epochs", "1", "--run-name", "a")
    assert result.err == "main.py: failed: no more\n"
    assert (workdir / "runs/a/log.txt").read_text().endswith("\nmain.py: failed: no more\n")


def test_the_log_holds_the_traceback_of_a_bug(cli, workdir, monkeypatch):
    def fail(*args):
        raise ZeroDivisionError("a bug")

    monkeypatch.setattr("training.loop.train", fail)
    with pytest.raises(ZeroDivisionError):
        cli(QUICK, "--epochs", "1", "--run-name", "a")
    text = (workdir / "runs/a/log.txt").read_text()
    assert "Traceback (most recent call last):" in text and text.endswith("ZeroDivisionError: a bug\n")
    assert not log._logs


def test_an_overwritten_run_begins_a_new_log(learns, workdir):
    for _ in range(2):
        learns(QUICK, "--epochs", "1", "--run-name", "a", "--overwrite")
    assert len(heads((workdir / "runs/a/log.txt").read_text())) == 1


def test_a_refused_resume_leaves_the_log_and_the_record_alone(cli, workdir, monkeypatch):
    with monkeypatch.context() as patch:
        stop_after(1, patch)
        cli(QUICK, "--epochs", "2", "--run-name", "a")
    run = workdir / "runs/a"
    for name in ("last.pth", "previous.pth"):
        (run / name).unlink(missing_ok=True)
        (run / name).write_bytes(b"junk")
    before = {name: (run / name).read_bytes() for name in ("log.txt", "settings.json")}
    assert cli("--resume --run-name a").status == 2
    assert {name: (run / name).read_bytes() for name in before} == before


def test_an_evaluation_has_a_log(learns, workdir):
    learns(QUICK, "--epochs", "1", "--run-name", "a")
    result = learns("--evaluate runs/a/best.pth --run-name b")
    head, _, rest = (workdir / "runs/b/log.txt").read_text().partition("\n")
    assert heads(head) and rest == result.out


def test_a_teacher_that_is_trained_first_has_its_own(learns, workdir):
    line = "--dataset digits --model resnet20 --batch-size 32 --epochs 2 --lr 0.05 --run-name a"
    learns(line, "--teacher", "resnet20", "--teacher-epochs", "2")
    student, teacher = ((workdir / f"runs/a{name}/log.txt").read_text() for name in ("", "-teacher"))
    assert len(heads(student)) == len(heads(teacher)) == 1
    assert "is trained first, for 2 epochs" in student and "runs/a-teacher/summary.json" not in student
    assert student.count("epoch 1/2: ") == teacher.count("epoch 1/2: ") == 1
    assert "runs/a-teacher/summary.json" in teacher and "runs/a/summary.json" not in teacher


def test_a_line_is_in_the_file_when_the_process_is_killed(workdir):
    code = (
        "import os, signal\nfrom pathlib import Path\nfrom records.log import logged, open_log, say\n"
        "with logged():\n    say('before')\n    open_log(Path('log.txt'), {'time': 'now', 'command': 'this'})\n"
        "    say('caf\\udce9')\n    os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    environment = {**os.environ, "PYTHONPATH": str(REPO)}
    subprocess.run(
        [sys.executable, "-X", "utf8", "-c", code], env={**environment, "PYTHONIOENCODING": ":replace"}, check=False
    )
    assert (workdir / "log.txt").read_text() == "# now $ this\nbefore\ncaf\\udce9\n"


def test_a_line_that_a_dead_machine_left_half_written_is_not_joined_with_the_next(workdir):
    (workdir / "log.txt").write_text("# now $ this\nepoch 1/")
    with log.logged():
        log.open_log(workdir / "log.txt", {"time": "later", "command": "that"})
    assert (workdir / "log.txt").read_text() == "# now $ this\nepoch 1/\n\n# later $ that\n"


def test_a_log_that_cannot_be_written_stops_no_run(learns, workdir, monkeypatch):
    """As on a full disk. Checkpoints handle a full disk themselves."""
    write = os.write

    def full(file, data):
        if b"epoch 1/2" in data:
            return write(file, data[:5])
        if b"epoch 2/2" in data:
            raise OSError(28, "No space left on device")
        return write(file, data)

    with monkeypatch.context() as patch:
        patch.setattr(os, "write", full)
        learns(QUICK, "--epochs", "2", "--run-name", "a")
    text = (workdir / "runs/a/log.txt").read_text()
    assert "\nepoch\n" in text and "epoch 2/2" not in text and "\nresult        top-1" in text
    (workdir / "runs/b/log.txt").mkdir(parents=True)
    with log.logged():
        log.open_log(workdir / "runs/b/log.txt", {"time": "now", "command": "this"})
        log.say("said all the same")


def test_of_several_processes_the_first_one_writes(workdir, monkeypatch, capsys):
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("RANK", "1")
    with pytest.raises(RunFailed), log.logged():
        log.say("the second")
        raise RunFailed("lost the first")
    assert capsys.readouterr().out == "" and not list(workdir.iterdir())
