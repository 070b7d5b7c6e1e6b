"""What a user sees of a run while it goes on: progress on the terminal, and Weights & Biases."""

from __future__ import annotations

import contextlib
import netrc
import os
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from training import distributed
from utils import decimal, duration, last_line

if TYPE_CHECKING:
    from training.metrics import Totals

# Seconds that wandb gets for a thing at most; after that the run goes on, or ends, without it.
INIT_SECONDS = 60
LOG_SECONDS = 30
FINISH_SECONDS = 300  # the upload of all that has not been uploaded yet
FORMER_MODES = {"run": "online", "dryrun": "offline"}  # words that WANDB_MODE may hold, too
STOP_SECONDS = 15  # the same, where a scheduler kills the process before long


class Log:
    """log.txt of a run: what was said, over all of its attempts. Lines wait until its directory is known.

    A line is in the file, whole, as soon as it is written. One that cannot be written is left out: no run stops for it.
    """

    def __init__(self):
        self.waiting: list[str] = []
        self.file: int | None = None
        self.torn = False  # whether the file ends within a line

    def open(self, path: Path, attempt: dict[str, Any]) -> None:
        """Goes on with `path`, under the attempt's time and command."""
        with contextlib.suppress(OSError):
            self.file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o666)
            if os.fstat(self.file).st_size:
                with path.open("rb") as file:
                    file.seek(-1, os.SEEK_END)
                    self.torn = file.read() != b"\n"
                self.write()
            self.write(f"# {attempt['time']} $ {attempt['command']}")
            for line in self.waiting:
                self.write(line)

    def write(self, text: str = "") -> None:
        if self.file is None:
            self.waiting.append(text)
            return
        data = b"\n" * self.torn + f"{text}\n".encode("utf-8", "backslashreplace")
        with contextlib.suppress(OSError):
            self.torn = os.write(self.file, data) < len(data)

    def close(self) -> None:
        if self.file is not None:
            with contextlib.suppress(OSError):
                os.close(self.file)


_logs: list[Log] = []  # of the runs that are at work: a student's, and that of the teacher which it trains first


@contextlib.contextmanager
def logged() -> Iterator[None]:
    """Within the block `say` also writes to the log of a run, which `open_log` names; so does an exception that ends
    it."""
    log = Log()
    _logs.append(log)
    try:
        yield
    except BaseException as error:
        told = last_line(error)
        log.write(told[0] if told else traceback.format_exc().rstrip())
        raise
    finally:
        _logs.remove(log)
        log.close()


def open_log(path: Path, attempt: dict[str, Any]) -> None:
    """The log of the run that is at work is this file.

    Args:
        attempt: see `run_directory.this_attempt`.
    """
    if _logs:
        _logs[-1].open(path, attempt)


def say(text: str = "") -> None:
    """A line in the run's log.txt, and on the terminal, where it does not tear a progress bar; of several processes the
    first one speaks."""
    if not distributed.is_first():
        return
    if _logs:
        _logs[-1].write(text)
    from tqdm import tqdm

    tqdm.write(text, file=sys.stdout)
    sys.stdout.flush()


class Progress:
    """A tqdm bar for each epoch on a terminal; elsewhere a plain line an epoch, and one a minute in long epochs, with
    the time that is left."""

    def __init__(self, accuracy: str = "top-1"):
        """Args: accuracy: what the share of right answers is called; with mixed targets it is none."""
        self.accuracy = accuracy
        self.terminal = sys.stderr.isatty() and distributed.is_first()
        self.interval = 0.5 if self.terminal else 60.0  # seconds between two readings of the sums
        self.bar = None
        self.just_shown = False
        self.after_steps = 0.0  # seconds of the last epoch behind its last step: validation and saving

    def start_epoch(self, epoch: int, epochs: int, images: int, done: int) -> None:
        """Args: epoch: from 0; images: in an epoch; done: those that a resumed epoch has behind it."""
        from tqdm import tqdm

        width = len(str(epochs))
        self.title = f"epoch {epoch + 1:{width}d}/{epochs}"
        self.images, self.seen, self.fresh = images, done, 0
        self.more = epochs - epoch - 1  # epochs behind this one
        self.began = self.shown = self.stepped = time.perf_counter()
        if self.bar is None:
            self.bar = tqdm(unit="img", unit_scale=True, leave=False, dynamic_ncols=True, disable=not self.terminal)
        self.bar.set_description(self.title, refresh=False)
        self.bar.initial = done
        self.bar.reset(total=images)  # one bar for all epochs: Ctrl-C between two would find one half made

    def step(self, images: int, totals: Totals, lr: float) -> None:
        """One batch is done. Reads `totals` only when it is time to show them."""
        self.seen += images
        self.fresh += images
        self.stepped = now = time.perf_counter()
        self.just_shown = now - self.shown >= self.interval
        if not self.just_shown:
            return
        means = totals.means()
        text = f"loss {decimal(means['loss'])}, {self.accuracy} {100 * means['top1']:.2f} %, lr {lr:.4g}"
        if self.terminal:
            self.bar.set_postfix_str(text, refresh=False)
            self.bar.update(self.seen - self.bar.n)
        else:
            speed = self.fresh / (now - self.began)
            left = (self.images - self.seen) / speed
            whole = left + self.after_steps + self.more * (self.images / speed + self.after_steps)
            say(f"{self.title}: {self.seen}/{self.images} images, {text}, {speed:.0f} images/s,"
                f" {duration(left)} left of the epoch, {duration(whole)} of the run")  # fmt: skip
        self.shown = now

    def end_epoch(self, row: dict[str, Any], is_best: bool) -> None:
        """Prints the epoch's line."""
        now = time.perf_counter()
        seconds, self.after_steps = now - self.began, now - self.stepped
        say(f"{self.title}: {describe(row)}, {seconds:.1f} s{', best so far' if is_best and 'val_top1' in row else ''}")

    def close(self) -> None:
        """After the last epoch, or where a run ends before it."""
        if self.bar is not None:
            self.bar.close()


def describe(row: dict[str, Any]) -> str:
    """A row of the history as text."""
    mixed = "train_agreement_top1" in row
    label, key = ("agreement", "train_agreement_top1") if mixed else ("top-1", "train_top1")
    text = f"lr {row['lr']:.2e}, train loss {decimal(row['train_loss'])}, {label} {100 * row[key]:.2f} %"
    for prefix, title in (("val_", "val"), ("val_ema_", "EMA")):
        if f"{prefix}top1" in row:
            text += f"; {title} loss {decimal(row[prefix + 'loss'])}, top-1 {100 * row[prefix + 'top1']:.2f} %"
            text += "".join(f", {name} {row[prefix + name]:.4f}" for name in ("map", "f1") if prefix + name in row)
    return text


class Wandb:
    """Weights & Biases, where it is installed and wanted. It never asks, never stops a run, and holds none up for long:
    whatever goes wrong is said once, and the run goes on without it."""

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
        """wandb's own variables win over what is given here, but for project, group and mode, which are flags.

        Args:
            mode: auto (what WANDB_MODE says, else online with credentials and offline without), online, offline or
                disabled.
            named: the name is the user's, and wins over WANDB_NAME.
        """
        self.run = None
        asked = f"--wandb {mode}"
        if mode == "auto" and os.environ.get("WANDB_MODE"):
            mode = os.environ["WANDB_MODE"]
            asked = f"WANDB_MODE={mode}"
            mode = FORMER_MODES.get(mode, mode)
        if mode == "disabled" or not distributed.is_first():
            return
        if mode == "auto":
            mode = "online" if has_credentials() else "offline"
        if mode not in ("online", "offline", "shared"):
            say(f"wandb         given up: {asked} is none of online, offline, disabled")
            return
        if mode != "offline" and not has_credentials():
            say(f"wandb         given up: {asked} needs credentials (wandb login, or WANDB_API_KEY)")
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

        def init():
            return wandb.init(project=project, group=group, id=run_id, config=config, mode=mode, settings=settings,
                              **ours)  # fmt: skip

        try:
            self.run = _within(INIT_SECONDS, init)
            say(f"wandb         {mode}, project {project}, run {run_id}")
        except Exception as error:  # network, login, disk: none of it concerns the training
            self._give_up(error)

    def log(self, values: dict[str, Any], step: int) -> None:
        self._try(LOG_SECONDS, lambda run: run.log(values, step=step))

    def finish(self, summary: dict[str, Any], pictures: dict[str, Path]) -> None:
        def publish(run) -> None:
            import wandb

            run.log({name: wandb.Image(str(path)) for name, path in pictures.items() if path.is_file()})
            run.summary.update(summary)
            run.finish()

        self._try(FINISH_SECONDS + LOG_SECONDS, publish)

    def publish(self, page: Path, tables: dict[str, tuple[list[str], list[list[str]]]], files: dict[str, Path]) -> None:
        """A finished report: the page, tables as (columns, rows), and all its files as an artifact, by name there."""

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
        """Closes a run that has not come to its end.

        Args:
            preempted: it will be resumed: it was left because of a signal or a time limit.
        """

        def close(run) -> None:
            if preempted:
                run.mark_preempting()  # with an exit code other than 0 the run counts as preempted
            run.finish(exit_code=1 if failed or preempted else 0)

        self._try(STOP_SECONDS, close)

    def _try(self, seconds: float, action: Callable[[Any], None]) -> None:
        if self.run is None:
            return
        try:
            run = self.run
            _within(seconds, lambda: action(run))
        except Exception as error:
            self._give_up(error)

    def _give_up(self, error: Exception) -> None:
        self.run = None
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        say(f"wandb         given up: {reason}")
        with contextlib.suppress(Exception):
            _within(LOG_SECONDS, _end_service)


def _unless_set(**values: Any) -> dict[str, Any]:
    """Without those that one of wandb's variables holds: it reads that itself."""
    return {key: value for key, value in values.items() if not os.environ.get(f"WANDB_{key.upper()}")}


def _within(seconds: float, action: Callable[[], Any]) -> Any:
    """What `action` gives. Raises what it raises, and TimeoutError where it takes longer; it goes on then, unheeded."""
    result: list[Any] = []

    def act() -> None:
        try:
            result.append((action(), None))
        except BaseException as error:
            result.append((None, error))

    thread = threading.Thread(target=act, daemon=True)
    thread.start()
    thread.join(seconds)
    if not result:
        raise TimeoutError(f"no answer within {seconds:g} s")
    value, error = result[0]
    if error is not None:
        raise error
    return value


def _end_service() -> None:
    """Ends the process that wandb sends its data through. When Python exits wandb would wait for it without limit, and
    print a traceback where it is gone already."""
    import wandb

    with contextlib.suppress(Exception):  # there is no public way to the process, for whose end the next call waits
        wandb.setup().assert_service()._proc._process.kill()
    with contextlib.suppress(Exception, SystemExit):  # it leaves with the exit status of the process that was killed
        wandb.teardown()


def has_credentials() -> bool:
    """Whether wandb could log in without asking: a key or token in the environment, or a key in the netrc file."""
    if os.environ.get("WANDB_API_KEY") or os.environ.get("WANDB_IDENTITY_TOKEN_FILE"):
        return True
    host = os.environ.get("WANDB_BASE_URL", "https://api.wandb.ai").split("://")[-1].split("/")[0]
    try:
        return netrc.netrc(os.environ.get("NETRC")).authenticators(host) is not None
    except (OSError, netrc.NetrcParseError):
        return False
