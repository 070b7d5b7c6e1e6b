"""Students that learn from the run of another variant: they wait for it, and are reported if it never finishes."""

import json
import os
import signal
import time

import pytest
from fake_training import Studies

from experiments import plan, study_file, submission
from records import lock
from utils import BadRequest, RunFailed

STUDENT = "model = 'deit_tiny_distill'\nteacher-variant = 'cnn'"
UNTAUGHT = "student-seed0: was not started: the run of its teacher, cnn-seed0, is not finished"


@pytest.fixture
def studies(tmp_path):
    return Studies(tmp_path)


def begun(studies: Studies) -> list[str]:
    """The runs in the order in which they began."""
    return [line.split("-seed0")[0] for line in studies.notes() if " begins " in line]


def test_a_student_begins_when_its_teacher_is_trained_and_others_go_first(studies):
    studies.write(student=STUDENT, cnn="model = 'vgg16'", other="model = 'resnet18'")  # cnn ends after other has begun
    status, out, err = studies.run("--jobs", "2")
    assert status == 0 and not err and "[3/3] student-seed0: finished" in out
    notes = studies.notes()
    begins = next(i for i, line in enumerate(notes) if line.startswith("student-seed0 begins"))
    assert notes.index("cnn-seed0 ends") < begins and set(begun(studies)[:2]) == {"cnn", "other"}
    stored = json.loads((studies.folder / "runs/s/student-seed0/settings.json").read_text())["settings"]
    assert (stored["teacher"], stored["teacher_weights"]) == ("vgg16", "runs/s/cnn-seed0/best.pth")
    runs = json.loads((studies.folder / "runs/s/study.json").read_text())["runs"]
    assert runs[0]["flags"]["teacher_weights"] == stored["teacher_weights"]
    assert "3 runs (3 finished)" in studies.run("--runs-dir", str(studies.folder / "runs"))[1]


def test_a_failed_teacher_stops_its_students_alone(studies):
    studies.write(student=STUDENT, cnn="model = 'vgg11'", other="model = 'resnet18'")
    status, _, err = studies.run()
    assert status == 1 and begun(studies) == ["cnn", "other"] and studies.summary("other-seed0").is_file()
    failed, untaught = err.splitlines()
    assert failed.startswith("cnn-seed0: failed") and untaught == UNTAUGHT


def test_a_teacher_that_saved_before_its_end_is_continued_and_then_teaches(studies):
    studies.write(student=STUDENT, cnn="model = 'vgg13'")
    process = studies.start()
    studies.await_note("begins")
    os.kill(int(os.popen(f"pgrep -P {process.pid}").read()), signal.SIGTERM)
    status, _, err = studies.finish(process)
    assert status == 143 and err.splitlines()[1] == UNTAUGHT
    assert studies.run()[0] == 0 and begun(studies) == ["cnn", "cnn", "student"]


def test_a_student_whose_teacher_is_not_asked_for_is_reported(studies):
    studies.write(student=STUDENT, cnn="model = 'resnet20'", other="model = 'resnet18'")
    status, out, err = studies.run("--only", "student", "other")
    assert "2 of 3 runs (1 new, 1 without a trained teacher)" in out
    assert status == 1 and err.splitlines() == [UNTAUGHT] and begun(studies) == ["other"]


@pytest.mark.parametrize("finishes", [True, False])
def test_a_teacher_that_another_process_holds_is_waited_for(studies, finishes):
    studies.write(student=STUDENT, cnn="model = 'resnet20'", other="model = 'resnet18'")
    assert studies.run("--only", "cnn")[0] == 0
    summary = studies.summary("cnn-seed0")
    content = summary.read_text()
    summary.unlink()
    with lock.locked(summary.parent):
        process = studies.start("--only", "student", "other")
        studies.await_note("other-seed0 ends")
        time.sleep(0.5)
        assert process.poll() is None and begun(studies) == ["cnn", "other"]
        if finishes:
            summary.write_text(content)
    status, out, err = studies.finish(process)
    assert "cnn-seed0: process " in out and "waiting for it" in out
    assert (status, err.splitlines()) == ((0, []) if finishes else (1, [UNTAUGHT]))


def test_a_student_is_repeated_with_its_teacher_and_never_outlives_it(studies):
    studies.write(student=STUDENT, cnn="model = 'resnet20'")
    assert studies.run()[0] == 0
    studies.write(student=STUDENT, cnn="model = 'vgg13'")  # waits for a signal
    status, _, err = studies.run("--only", "cnn", "--overwrite")
    assert status == 1 and begun(studies) == ["cnn", "student"]
    differs = "cnn-seed0: differs from the study, it was run with --model resnet20 in place of vgg13"
    assert err.splitlines() == [f"{differs}; ask for its student student-seed0 too, which --overwrite repeats with it"]
    process = studies.start("--overwrite")
    while len(begun(studies)) < 3:
        time.sleep(0.02)
    assert not studies.summary("student-seed0").exists()
    process.send_signal(signal.SIGTERM)
    assert studies.finish(process)[0] == 143
    assert studies.run()[0] == 0 and begun(studies)[3:] == ["cnn", "student"]


def make_plan(studies: Studies) -> tuple[plan.Plan, list[tuple[plan.Run, str]]]:
    studies.write(student=STUDENT, cnn="model = 'resnet20'", other="model = 'resnet18'")
    found = plan.make_plan(study_file.read_study(studies.folder / "s.toml"), str(studies.folder / "runs"))
    return found, [(run, plan.NEW) for run in found.runs]


def test_slurm_gets_the_students_as_an_array_that_waits_for_the_first(studies, monkeypatch):
    tools = studies.folder / "bin"
    tools.mkdir()
    for name, text in (("srun", ""), ("sbatch", 'cat "$1" >> "$0.got"; echo "Submitted batch job $((41 + $(wc -l < '
                        '"$0.count")))"; echo >> "$0.count"')):  # fmt: skip
        (tools / name).write_text(f"#!/bin/sh\n{text}\n")
        (tools / name).chmod(0o755)
    (tools / "sbatch.count").write_text("\n")
    monkeypatch.setenv("PATH", f"{tools}:{os.environ['PATH']}")
    monkeypatch.setenv("PYTHONPATH", "")
    said = submission.submit(*make_plan(studies), "slurm", None, {"partition": "gpu", "dependency": "singleton"})
    assert said.startswith("submitted     2 runs as array 42, then 1 student as job 43; logs in ")
    first, second = (tools / "sbatch.got").read_text().split("#!/bin/bash")[1:]
    assert "#SBATCH --dependency=singleton\n" in first and "#SBATCH --array=0-1" in first
    assert "#SBATCH --dependency=afterany:42\n" in second and "#SBATCH --partition=gpu\n" in second


def test_a_submitted_student_fails_without_its_teacher(studies):
    found, _ = make_plan(studies)
    with pytest.raises(RunFailed, match="student-seed0: was not started: the run of its teacher is not finished"):
        submission._job(found, found.runs[0])()
    assert not studies.notes()


def test_local_jobs_cannot_wait(studies):
    with pytest.raises(BadRequest, match="--launcher submitit-local: student-seed0 has to wait"):
        submission.submit(*make_plan(studies), "submitit-local", None, {})
    assert not (studies.folder / "runs").exists()
