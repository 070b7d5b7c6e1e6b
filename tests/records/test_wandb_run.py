"""Weights & Biases never prompts and never stops a run."""

import json
import os
import socket
import subprocess
import sys
import threading
from pathlib import Path
from types import SimpleNamespace
from typing import ClassVar

import pytest

from records import wandb_run
from records.wandb_run import Wandb, has_credentials

REPO = Path(__file__).resolve().parents[2]
QUICK = "--dataset digits --model resnet20 --batch-size 64 --train-fraction 0.2 --epochs 1"


@pytest.fixture
def no_credentials(monkeypatch, tmp_path):
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    return tmp_path / "netrc"


def test_credentials_are_found_in_the_environment_and_in_netrc(no_credentials, monkeypatch):
    assert not has_credentials()
    no_credentials.write_text("machine api.wandb.ai login user password 0123\n")
    assert has_credentials()
    no_credentials.unlink()
    monkeypatch.setenv("WANDB_API_KEY", "0123")
    assert has_credentials()


def test_auto_is_offline_without_credentials_and_a_resumed_run_keeps_its_id(
    cli, learns, workdir, no_credentials, monkeypatch
):
    from records.run_directory import RunDirectory

    with monkeypatch.context() as patch:
        patch.setattr(RunDirectory, "write_metrics", lambda self, history: (_ for _ in ()).throw(KeyboardInterrupt))
        assert cli(QUICK, "--run-name", "a", "--wandb", "auto").status == 130
    run_id = json.loads((workdir / "runs/a/settings.json").read_text())["wandb_run_id"]
    assert (
        f"wandb         offline, project image-classification, run {run_id}"
        in learns("--resume --run-name a --wandb auto").out
    )
    folders = list((workdir / "runs/a/wandb").glob(f"offline-run-*-{run_id}"))
    assert folders and all(list(folder.glob(f"run-{run_id}.wandb")) for folder in folders)


@pytest.mark.parametrize("where", ["init", "log"])
def test_a_failing_wandb_is_given_up_and_the_run_goes_on(learns, workdir, monkeypatch, where):
    import wandb

    class Broken:
        def log(self, *args, **kwargs):
            raise OSError("no space left on device")

        finish = log

    def init(**kwargs):
        if where == "init":
            raise wandb.errors.CommError("the network is unreachable")
        return Broken()

    monkeypatch.setattr(wandb, "init", init)
    out = learns(QUICK, "--run-name", "a", "--wandb", "offline").out
    assert out.count("given up") == 1
    assert (workdir / "runs/a/summary.json").is_file()


TROUBLED = """
import os, resource, signal, sys
import main
from records import wandb_run
from settings.terminal import run_script

trouble = sys.argv.pop(1)
bounds = (3, 2, 2) if trouble == "silence" else (30, 2, 2)
wandb_run.INIT_SECONDS, wandb_run.LOG_SECONDS, wandb_run.FINISH_SECONDS = bounds
log = wandb_run.Wandb.log

def log_in_trouble(self, values, step):
    if step == 1 and trouble != "silence":
        import wandb
        service = wandb.setup().assert_service()._proc._process.pid
        if trouble == "full":  # no file may grow beyond a byte
            resource.prlimit(service, resource.RLIMIT_FSIZE, (1, 1))
        else:
            os.kill(service, signal.SIGKILL if trouble == "killed" else signal.SIGSTOP)
    log(self, values, step)

wandb_run.Wandb.log = log_in_trouble
sys.exit(run_script(main.main))
"""


@pytest.mark.slow
@pytest.mark.parametrize("trouble", ["killed", "hung", "full", "silence"])
def test_a_run_outlives_the_real_package_in_trouble(tmp_path, trouble):
    """wandb's service is killed, hangs or cannot write, or the server accepts connections and never answers."""
    server = socket.create_server(("127.0.0.1", 0))
    address = f"http://127.0.0.1:{server.getsockname()[1]}"
    key = {"WANDB_BASE_URL": address, "WANDB_API_KEY": "0" * 40} if trouble == "silence" else {}
    mode = "online" if trouble == "silence" else "offline"
    line = f"--dataset digits --model vit_tiny --depth 1 --embed-dim 24 --train-fraction 0.1 --epochs 2 --wandb {mode}"
    done = subprocess.run(
        [sys.executable, "-c", TROUBLED, trouble, *line.split(), "--run-name", "a"],
        cwd=tmp_path, env={**os.environ, "PYTHONPATH": str(REPO), **key}, capture_output=True, text=True, timeout=240,
    )  # fmt: skip
    server.close()
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr
    assert done.stdout.count("wandb         given up: ") == (0 if trouble == "full" else 1)
    assert json.loads((tmp_path / "runs/a/summary.json").read_text())["epochs"] == 2
    assert len((tmp_path / "runs/a/metrics.csv").read_text().splitlines()) == 3


def test_a_run_that_is_left_to_be_resumed_is_marked_so(tmp_path):
    class Run:
        said: ClassVar = []

        def mark_preempting(self):
            self.said.append("preempting")

        def finish(self, exit_code):
            self.said.append(exit_code)

    for failed, preempted in ((False, False), (True, False), (False, True)):
        run = Wandb("disabled", "project", "name", "id", tmp_path, {})
        run.run = Run()
        run.stop(failed, preempted)
    assert Run.said == [0, 1, "preempting", 1]


def test_a_call_that_does_not_end_is_given_up(tmp_path, monkeypatch, capsys):
    called = []

    class Run:
        def log(self, values, step):
            called.append(step)
            threading.Event().wait()

    monkeypatch.setattr(wandb_run, "LOG_SECONDS", 0.05)
    run = Wandb("disabled", "project", "name", "id", tmp_path, {})
    run.run = Run()
    for step in range(3):
        run.log({}, step)
    assert called == [0]
    assert capsys.readouterr().out == "wandb         given up: no answer within 0.05 s\n"


@pytest.fixture
def asked(monkeypatch):
    """The arguments of wandb.init, a dict for each run; none of wandb's environment variables is set."""
    import wandb

    runs = []

    def init(**kwargs):
        runs.append(kwargs)
        return SimpleNamespace(log=lambda *_, **__: None, summary={}, finish=lambda **_: None)

    monkeypatch.setattr(wandb, "init", init)
    for name in [name for name in os.environ if name.startswith("WANDB_")]:
        monkeypatch.delenv(name)
    return runs


def test_wandb_s_own_variables_say_what_no_flag_says(learns, workdir, asked, monkeypatch):
    monkeypatch.setenv("WANDB_SILENT", "true")  # the suite sets it if it is not set
    monkeypatch.setenv("WANDB_API_KEY", "0" * 40)
    flags = "--wandb-project flag --wandb-group flags --wandb online --run-name named"
    out = learns(f"{QUICK} --wandb auto --seed 1").out
    assert asked[-1]["mode"] == "online" and asked[-1]["project"] == "image-classification"
    assert asked[-1]["name"] == "digits-resnet20-seed1" and asked[-1]["dir"] == "runs/digits-resnet20-seed1"
    values = {"MODE": "offline", "PROJECT": "p", "RUN_GROUP": "g", "NAME": "n", "RUN_ID": "id", "DIR": "d",
              "RESUME": "must", "CONSOLE": "wrap"}  # fmt: skip
    for name, value in values.items():
        monkeypatch.setenv(f"WANDB_{name}", value)
    out = learns(f"{QUICK} --wandb auto").out
    assert "wandb         offline, project p, run id" in out
    assert [asked[-1][key] for key in ("mode", "project", "group", "id")] == ["offline", "p", "g", "id"]
    assert not {"name", "dir", "resume"} & set(asked[-1])  # wandb reads them
    assert "console" not in asked[-1]["settings"].model_fields_set
    stored = json.loads((workdir / "runs/digits-resnet20-seed0/settings.json").read_text())
    assert stored["wandb_run_id"] == "id" and stored["settings"]["wandb_project"] == "p"
    learns(f"{QUICK} {flags}")
    wanted = {"mode": "online", "project": "flag", "group": "flags", "name": "named"}
    assert {key: asked[-1][key] for key in wanted} == wanted


def test_a_resumed_run_stays_in_its_project_and_the_mode_is_that_of_now(cli, learns, workdir, asked, monkeypatch):
    from records.run_directory import RunDirectory

    monkeypatch.setenv("WANDB_PROJECT", "first")
    with monkeypatch.context() as patch:
        patch.setattr(RunDirectory, "write_metrics", lambda self, history: (_ for _ in ()).throw(KeyboardInterrupt))
        assert cli(QUICK, "--run-name", "a", "--wandb", "auto").status == 130
    monkeypatch.setenv("WANDB_PROJECT", "second")
    monkeypatch.setenv("WANDB_MODE", "dryrun")
    learns("--resume --run-name a --wandb auto")
    assert asked[-1]["project"] == "first" and asked[-1]["mode"] == "offline" and asked[-1]["id"] == asked[0]["id"]


def test_a_disabled_wandb_writes_nothing_and_a_word_that_is_none_is_told(learns, workdir, asked, monkeypatch):
    monkeypatch.setenv("WANDB_API_KEY", "0" * 40)
    monkeypatch.setenv("WANDB_MODE", "disabled")
    out = learns(f"{QUICK} --wandb auto --run-name a").out
    assert not asked and "wandb" not in out and not (workdir / "runs/a/wandb").exists()
    monkeypatch.setenv("WANDB_MODE", "off")
    out = learns(f"{QUICK} --wandb auto --run-name b").out
    assert not asked and "given up: WANDB_MODE=off is none of online, offline, disabled" in out


def test_without_the_package_metrics_go_to_the_run_directory_only(learns, workdir, monkeypatch):
    monkeypatch.setitem(sys.modules, "wandb", None)
    assert "not installed" in learns(QUICK, "--run-name", "a", "--wandb", "auto").out
    assert (workdir / "runs/a/summary.json").is_file()


def test_online_without_credentials_is_given_up_without_asking(no_credentials, tmp_path, capsys):
    run = Wandb("online", "project", "name", "id", tmp_path, {})
    assert run.run is None and "needs credentials" in capsys.readouterr().out


def test_disabled_does_nothing(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "wandb", None)
    run = Wandb("disabled", "project", "name", "id", tmp_path, {})
    run.log({"loss": 1.0}, step=1)
    run.finish({}, {})
    run.stop(failed=True)


def test_the_runs_of_a_study_are_a_group(monkeypatch, tmp_path):
    import wandb

    asked = {}
    monkeypatch.setattr(wandb, "init", lambda **kwargs: asked.update(kwargs))
    Wandb("offline", "project", "name", "id", tmp_path, {}, group="digits")
    assert asked["group"] == "digits" and asked["project"] == "project"
