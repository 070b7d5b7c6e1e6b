"""Studies whose runs take no time: a small script behaves like a training."""

import os
import subprocess
import sys
import time
from pathlib import Path

REPO = Path(__file__).resolve().parents[2]

# All that a study can see of a training: settings.json first, a row of metrics.csv per epoch, best.pth, summary.json at
# the end; after signal N it saves and exits with 128 + N, after a second signal at once. It holds its folder's lock.
# --model selects its behaviour, and runs/notes lists what happens to it.
SCRIPT = """
import json, os, signal, subprocess, sys, time
from pathlib import Path
sys.path.insert(0, "{repo}")
from records import lock
from settings.scripts import SCRIPTS

settings = SCRIPTS["main.py"].ask(sys.argv[1:]).settings
model, resume = settings.model.model, settings.run.resume
folder = Path(settings.run.runs_dir) / settings.run.run_name
notes = Path(settings.run.runs_dir) / "notes"

def note(text):
    with notes.open("a") as file:
        file.write(f"{{folder.name}} {{text}}\\n")

signal.alarm(120)  # so that it does not outlive a failed test
told = []
def hear(number, frame):
    note(f"signal {{number}}")
    if told:
        os._exit(1)
    told.append(number)
for number in (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1, signal.SIGHUP):
    signal.signal(number, hear)

note(f"begins with {{resume and 'a checkpoint' or 'nothing'}}, {{os.environ.get('OMP_NUM_THREADS')}} threads")
folder.mkdir(parents=True, exist_ok=True)
if model == "vgg19" and not (notes.parent / "held").exists():
    hold = "import sys, time; from pathlib import Path; from records import lock"
    hold += "\\nwith lock.locked(Path(sys.argv[1])):\\n Path(sys.argv[2]).touch(); time.sleep(1)"
    command = [sys.executable, "-c", hold, folder, notes.parent / "held"]
    subprocess.Popen(command, env={{**os.environ, "PYTHONPATH": "{repo}"}})
    while not (notes.parent / "held").exists():
        time.sleep(0.02)
try:
    own = lock.locked(folder)
    own.__enter__()
except Exception as error:
    print(error)
    sys.exit(2)
if model == "vgg11":
    print("about to fail")
    sys.exit("main.py: failed: no memory")
if not resume:
    (folder / "settings.json").write_text(json.dumps({{"settings": settings.stored(), "wandb_run_id": "0"}}))
if model == "vgg13" and not resume:
    while not told:
        time.sleep(0.02)
    time.sleep(0.3)
    note("saved")
    sys.exit(128 + told[0])
if model == "vgg16":
    while len(set(line.split()[0] for line in notes.read_text().splitlines())) < 2:
        time.sleep(0.02)
(folder / "metrics.csv").write_text("epoch,val_top1\\n1,0.5\\n")
(folder / "best.pth").touch()
(folder / "summary.json").write_text(json.dumps({{"top1": 0.75, "split": "test"}}))
note("ends")
"""


class Studies:
    """A study in `folder`, which study.py runs in a process of its own."""

    def __init__(self, folder: Path):
        self.folder = folder
        (folder / "main.py").write_text(SCRIPT.format(repo=REPO))

    def write(self, **variants: str) -> None:
        """Writes s.toml, with lines of flags for each variant."""
        lines = ["[base]", "dataset = 'digits'", "epochs = 1", "wandb = 'disabled'"]
        for name, flags in variants.items():
            lines += [f"[variants.{name}]", flags]
        (self.folder / "s.toml").write_text("\n".join(lines))

    def start(self, *flags: str, terminal: int | None = None) -> subprocess.Popen:
        """Starts study.py with these flags.

        Args:
            terminal: file descriptor for its output and errors; None: files.
        """
        code = (
            "import signal, sys; from pathlib import Path; import study; from experiments import plan;"
            # In the background of a shell, tests ignore Ctrl-C.
            " signal.signal(signal.SIGINT, signal.default_int_handler);"
            " from settings.terminal import run_script;"
            f" plan.ROOT = Path({str(self.folder)!r}); sys.exit(run_script(study.main))"
        )
        environment = {**os.environ, "PYTHONPATH": str(REPO)}
        environment.pop("OMP_NUM_THREADS", None)
        # Not pipes: submitted jobs would keep them open.
        with (self.folder / "out").open("w") as out, (self.folder / "err").open("w") as err:
            return subprocess.Popen([sys.executable, "-c", code, "s.toml", *flags], cwd=self.folder, env=environment,
                                    stdout=terminal or out, stderr=terminal or err)  # fmt: skip

    def finish(self, process: subprocess.Popen) -> tuple[int, str, str]:
        """Waits for a started study.py. Returns (exit status, output, errors)."""
        status = process.wait(timeout=60)
        return status, (self.folder / "out").read_text(), (self.folder / "err").read_text()

    def run(self, *flags: str) -> tuple[int, str, str]:
        """Runs study.py with these flags. Returns (exit status, output, errors)."""
        return self.finish(self.start(*flags))

    def notes(self) -> list[str]:
        file = self.folder / "runs/notes"
        return file.read_text().splitlines() if file.is_file() else []

    def await_note(self, text: str) -> None:
        """Waits until a note contains `text`."""
        deadline = time.monotonic() + 60
        while not any(text in line for line in self.notes()):
            assert time.monotonic() < deadline, self.notes()
            time.sleep(0.02)

    def summary(self, run: str) -> Path:
        return self.folder / "runs/s" / run / "summary.json"
