"""A run at Weights & Biases."""

from __future__ import annotations

import contextlib
import netrc
import os
from pathlib import Path
from typing import Any

from records.log import say
from records.trackers import Fallible, within
from utils import is_main_process

# Timeouts in seconds; after one the run continues, or ends, without wandb.
INIT_SECONDS = 60
LOG_SECONDS = 30
FINISH_SECONDS = 300  # for uploading everything that is left
STOP_SECONDS = 15  # the same when a scheduler is about to kill the process
FORMER_MODES = {"run": "online", "dryrun": "offline"}  # other values that WANDB_MODE may have


class Wandb(Fallible):
    """Weights & Biases, if it is installed and wanted.

    It never prompts, never stops a run and never delays one for long. After the first failure, which is printed, the
    run continues without wandb.
    """

    name = "wandb"

    def __init__(
        self,
        mode: str,
        project: str,
        name: str,
        run_id: str,
        directory: Path,
        config: dict[str, Any],
        group: str | None = None,
        named: bool = True,
    ):
        """wandb's environment variables override the arguments, except for project, group and mode, which are flags.

        Args:
            mode: online, offline, disabled, or auto: WANDB_MODE, else online with credentials and offline without.
            named: the user chose the name, which then overrides WANDB_NAME.
        """
        super().__init__()
        chosen = _choose_mode(mode)
        if chosen is None:
            return
        os.environ.setdefault("WANDB_SILENT", "true")
        try:
            import wandb
        except ImportError:
            say("wandb         not installed, so metrics go to the run directory only")
            return
        bounds = {"init_timeout": INIT_SECONDS / 2, "finish_timeout": FINISH_SECONDS}
        settings = wandb.Settings(**bounds, **_unless_set(silent=True, console="off"))
        ours = {**_unless_set(dir=str(directory), resume="allow", name=name), **({"name": name} if named else {})}

        ours.update(project=project, group=group, id=run_id, config=config, mode=chosen, settings=settings)

        def start() -> Any:
            if os.environ.get("WANDB_SWEEP_ID"):  # wandb.init then ignores its argument `id`
                wandb.setup(wandb.Settings(run_id=run_id))
            return wandb.init(**ours)

        try:
            self.run = within(INIT_SECONDS, start)
            say(f"wandb         {chosen}, project {project}, run {run_id}")
        except Exception as error:  # network, login, disk: no reason to stop training
            self._give_up(error)

    def log(self, values: dict[str, Any], step: int) -> None:
        """Logs the numbers of a step."""
        self._try(LOG_SECONDS, lambda run: run.log(values, step=step))

    def finish(self, summary: dict[str, Any], pictures: dict[str, Path]) -> None:
        """Uploads the summary and those pictures that exist, and ends the run."""

        def publish(run) -> None:
            import wandb

            run.log({name: wandb.Image(str(path)) for name, path in pictures.items() if path.is_file()})
            run.summary.update(summary)
            run.finish()

        self._try(FINISH_SECONDS + LOG_SECONDS, publish)

    def publish(self, page: Path, tables: dict[str, tuple[list[Any], list[Any]]], files: dict[str, Path]) -> None:
        """Uploads a report.

        Args:
            page: HTML file.
            tables: (columns, rows) by name.
            files: the report's files by their names in the artifact.
        """

        def send(run) -> None:
            import wandb

            run.log({"report": wandb.Html(page.read_text(encoding="utf-8"), inject=False)})
            run.log({name: wandb.Table(columns=columns, data=rows) for name, (columns, rows) in tables.items()})
            artifact = wandb.Artifact(f"report-{run.id}", type="report")
            for name, path in files.items():
                artifact.add_file(str(path), name=name)
            run.log_artifact(artifact)

        self._try(LOG_SECONDS, send)

    def stop(self, failed: bool, preempted: bool = False) -> None:
        """Ends a run that is not finished.

        Args:
            preempted: a signal or a time limit stopped the run, and it will be resumed.
        """

        def close(run) -> None:
            if preempted:
                run.mark_preempting()  # takes effect with an exit code other than 0
            run.finish(exit_code=1 if failed or preempted else 0)

        self._try(STOP_SECONDS, close)

    def _give_up(self, error: Exception) -> None:
        super()._give_up(error)
        with contextlib.suppress(Exception):
            within(LOG_SECONDS, _end_service)


def _choose_mode(mode: str) -> str | None:
    """The mode to start wandb in, or None not to start it; unless that was asked for, a line says why."""
    asked = f"--wandb {mode}"
    if mode == "auto" and (variable := os.environ.get("WANDB_MODE")):
        asked, mode = f"WANDB_MODE={variable}", FORMER_MODES.get(variable, variable)
    if mode == "disabled" or not is_main_process():
        return None
    if mode == "auto":
        return "online" if has_credentials() else "offline"
    if mode not in ("online", "offline", "shared"):
        say(f"wandb         given up: {asked} is none of online, offline, disabled")
        return None
    if mode != "offline" and not has_credentials():
        say(f"wandb         given up: {asked} needs credentials (wandb login, or WANDB_API_KEY)")
        return None
    return mode


def _unless_set(**values: Any) -> dict[str, Any]:
    """Drops values that one of wandb's environment variables sets: wandb reads those itself."""
    return {key: value for key, value in values.items() if not os.environ.get(f"WANDB_{key.upper()}")}


def _end_service() -> None:
    """Ends wandb's service process.

    At exit wandb would wait for it without limit, and print a traceback if it is already gone.
    """
    import wandb

    with contextlib.suppress(Exception):  # not public; without it the next call waits for the process
        service: Any = wandb.setup().assert_service()._proc
        service._process.kill()
    with contextlib.suppress(Exception, SystemExit):  # exits with the status of the killed process
        wandb.teardown()


def has_credentials() -> bool:
    """Whether wandb can log in without prompting: by a key or token in the environment, or a key in netrc."""
    if os.environ.get("WANDB_API_KEY") or os.environ.get("WANDB_IDENTITY_TOKEN_FILE"):
        return True
    host = os.environ.get("WANDB_BASE_URL", "https://api.wandb.ai").split("://")[-1].split("/")[0]
    try:
        return netrc.netrc(os.environ.get("NETRC")).authenticators(host) is not None
    except (OSError, netrc.NetrcParseError):
        return False
