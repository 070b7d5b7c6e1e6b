"""studies/sweep_wandb.yaml: what wandb's agent makes of it is a command line of main.py, and the run is the agent's."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from settings.scripts import SCRIPTS

REPO = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def sweep() -> dict:
    yaml = pytest.importorskip("yaml")
    return yaml.safe_load((REPO / "studies/sweep_wandb.yaml").read_text(encoding="utf-8"))


def command(sweep: dict, values: dict) -> list[str]:
    """The words of a run, as wandb.wandb_agent.Agent._command_run joins them."""
    utils = pytest.importorskip("wandb.sdk.launch.sweeps.utils")
    macros = utils.create_sweep_command_args({"args": {key: {"value": value} for key, value in values.items()}})
    macros |= {"env": ["/usr/bin/env"], "interpreter": ["python"], "program": [sweep["program"]]}
    words = utils.create_sweep_command([*sweep["command"]])
    return [part for word in words for part in (macros[word[2:-1]] if word.startswith("${") else [word])]


def test_every_choice_of_the_sweep_is_a_command_line(sweep, workdir):
    choices = {key: space.get("values") or [space["min"], space["max"]] for key, space in sweep["parameters"].items()}
    names = set()
    for i in range(6):  # every value of each parameter
        values = {key: options[i % len(options)] for key, options in choices.items()}
        env, python, program, *words = command(sweep, values)
        assert (env, python, program) == ("/usr/bin/env", "python", "main.py")
        settings = SCRIPTS[program].ask(words).settings
        flat = settings.flat()
        assert {key: flat[key] for key in values} == values
        assert not settings.run.resume
        names.add(settings.run.run_name)
    assert len(names) == 6
    assert sweep["metric"] == {"name": "val_top1", "goal": "maximize"}  # a column of metrics.csv, which wandb gets too


def test_a_run_of_a_sweep_has_the_id_that_its_agent_gave_it(tmp_path):
    pytest.importorskip("wandb")
    code = (
        "from pathlib import Path; from records.wandb_run import Wandb\n"
        "for id in ('agent1', 'teacher'):\n"
        "    tracked = Wandb('offline', 'project', 'name', id, Path('.'), {})\n"
        "    print(tracked.run.id, tracked.run.sweep_id); tracked.finish({}, {})"
    )
    env = {**os.environ, "PYTHONPATH": str(REPO), "WANDB_SWEEP_ID": "sweep1", "WANDB_MODE": "offline"}
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, env=env, capture_output=True, text=True)
    printed = done.stdout.splitlines()
    assert "agent1 sweep1" in printed and "teacher sweep1" in printed, done.stderr
