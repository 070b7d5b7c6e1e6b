"""Every mode of the suite once on a device, to see what breaks there. `python -m benchmarks.gpu_smoke --help`."""

from __future__ import annotations

import contextlib
import functools
import io
import itertools
import os
import shlex
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from benchmarks.common import script
from settings import checks
from settings.flag import flag, flags_of_group, same_flag
from settings.flag_types import COUNT, text
from settings.groups import Hardware
from settings.parser import read_flags
from settings.terminal import run_script
from training.stopping import TIME_LIMIT
from utils import BadRequest, suggestion

DESCRIPTION = """Runs every mode of the suite once on a device, on the embedded digits, and checks how it ends. Prints a
line for each mode and keeps what it printed. Exit status 1 if a mode failed."""

ROOT = Path(__file__).resolve().parents[1]
SECONDS = 300  # before a mode counts as hung

# fmt: off


@dataclass(frozen=True, kw_only=True)
class Request:
    """Flags of this script."""

    device: str | None = same_flag(Hardware, "device")
    jobs: int = flag("modes at once, each in a process of its own", 8, check=COUNT, metavar="N")
    here: bool = flag("run the modes in this process, one after the other", False)
    only: list[str] | None = flag("names of modes", check=text, metavar="NAME", nargs="+", default_text="all")
    output: str | None = flag("folder for runs and output", check=text, metavar="FOLDER", default_text="a new one")
    quick: bool = flag("a tenth of the images and one epoch, to see that the modes work on a CPU", False)


# fmt: on


@dataclass(frozen=True)
class Mode:
    """A command line, and how it ends if it works.

    Attributes:
        words: it prints them.
        status: its exit status.
        cuda: whether it needs a CUDA device.
        runs_there: whether it takes the flags of a training: device, folder of runs.
    """

    line: str
    words: str = "result "
    status: int = 0
    cuda: bool = False
    runs_there: bool = True


TRAIN = "main.py --dataset digits --model resnet20 {size}"
TAUGHT = "--teacher resnet20 --teacher-epochs 6 --epochs 1 --train-fraction 0.5"
IN_COLOUR = "--in-chans 3 --epochs 1 --train-fraction 0.1"
FIRST = {
    "auto": Mode(TRAIN),
    "fp32": Mode(TRAIN + " --precision fp32"),
    "bf16": Mode(TRAIN + " --precision bf16"),
    "fp16": Mode(TRAIN + " --precision fp16", cuda=True),
    "fp16-clip-accumulate": Mode(TRAIN + " --precision fp16 --clip-grad 1 --accumulate 3", cuda=True),
    "deterministic-a": Mode(TRAIN + " --deterministic --flip --random-erasing 0.25"),
    "deterministic-b": Mode(TRAIN + " --deterministic --flip --random-erasing 0.25"),
    "vgg-deterministic": Mode(f"main.py --dataset digits --model vgg11 --img-size 224 {IN_COLOUR} --deterministic",
                              cuda=True),
    "compile": Mode(TRAIN + " --compile", cuda=True),
    "contiguous": Mode(TRAIN + " --no-channels-last"),
    "ema": Mode(TRAIN + " --ema 0.99 --select-by map", "averaged weights"),
    "cutmix+mixup": Mode(TRAIN + " --augmentation cutmix+mixup", "agreement"),
    "bce": Mode(TRAIN + " --loss BCE --bce-target-threshold 0.2 --augmentation cutmix"),
    "resized": Mode(TRAIN + " --crop resized"),
    "rand": Mode(TRAIN + " --rand --in-chans 3 --img-size 32"),
    "tta": Mode(TRAIN + " --tta shift", "with --tta shift"),
    "224": Mode(f"main.py --dataset digits --model mobilevit_xxs --img-size 224 {IN_COLOUR}", cuda=True),
    "vit": Mode("main.py --dataset digits --model vit_tiny --depth 2 --patch-size 2 --optimizer adamw {size}"),
    "auto-batch": Mode(TRAIN + " --batch-size auto", "batch size "),
    "muon": Mode("main.py --dataset digits --recipe cifar-fast {size}"),
    "lamb": Mode(TRAIN + " --optimizer lamb --lr 0.01"),
    "stop": Mode("main.py --dataset digits --model resnet20 --epochs 4000 --max-minutes {minutes}",
                 "--resume continues", TIME_LIMIT),
    "rollback": Mode(TRAIN + " --on-nonfinite rollback --lr 1e9", "not finite", 1),
    "teacher": Mode("main.py --dataset digits --model deit_tiny_distill --depth 2 --patch-size 2 --optimizer adamw"
                    " {taught}"),
    "cached-teacher": Mode("main.py --dataset digits --model resnet20 --crop none --no-flip --cache-teacher"
                           " --distill soft {taught}"),
    "out-of-memory": Mode("main.py --dataset digits --model vit_l_16 --img-size 384 --in-chans 3 --epochs 1"
                          " --batch-size 1024 --precision fp32", "would fit", 1, cuda=True),
}  # fmt: skip
SECOND = {  # these use runs of the first
    "resume": Mode("main.py --resume --run-name stop --max-minutes {minutes}", "resumed ", TIME_LIMIT),
    "evaluate": Mode("main.py --evaluate {runs}/fp32/best.pth"),
    "measure": Mode("main.py --measure {runs}/fp32 --corrupt-images 16", "images", runs_there=False),
    "answers": Mode("viz_random_10_vit_vs_deit.py --first {runs}/vit --second {runs}/teacher --attention"
                    " --output {runs}/answers.png", "wrote", runs_there=False),
}  # fmt: skip


@dataclass
class Result:
    """How a mode ended: its exit status, None if it hung, its output, and its seconds."""

    name: str
    mode: Mode
    status: int | None
    output: str
    seconds: float

    @property
    def works(self) -> bool:
        """Whether it ended as it should."""
        return self.status == self.mode.status and self.mode.words in self.output

    def __str__(self) -> str:
        warned = self.output.count("Warning")
        last = "" if self.works else f"  {' | '.join(self.output.strip().splitlines()[-2:])[:160]}"
        status = "hung" if self.status is None else f"exit status {self.status}"
        warnings = f", {warned} warnings" if warned else ""
        return f"{'ok ' if self.works else 'BAD'} {self.name:22} {self.seconds:5.1f} s, {status}{warnings}{last}"


def main(argv: list[str] | None = None) -> int:
    given = read_flags(sys.argv[1:] if argv is None else argv, DESCRIPTION, {"what to run": flags_of_group(Request)})
    request = Request(**given)
    checks.check_device(request.device, None)
    for name in request.only or ():
        if name not in FIRST | SECOND:
            raise BadRequest(f"--only {name}: no such mode.{suggestion(name, FIRST | SECOND)}")
    folder = Path(request.output or tempfile.mkdtemp(prefix="smoke-"))
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise BadRequest(f"--output {folder}: is no folder that can be written ({error.strerror})") from None
    bad = [result.name for modes in (FIRST, SECOND) for result in _run_all(modes, request, folder) if not result.works]
    pair = [folder / "runs" / f"deterministic-{each}" / "metrics.csv" for each in "ab"]
    if all(file.is_file() for file in pair):
        same = pair[0].read_text(encoding="utf-8") == pair[1].read_text(encoding="utf-8")
        print(f"two deterministic runs: {'the same bits' if same else 'DIFFERENT BITS'}")
        bad += [] if same else ["deterministic"]
    print(f"failed: {', '.join(bad)}" if bad else "all work", end=f"; output in {folder}\n")
    return 1 if bad else 0


def _run_all(modes: dict[str, Mode], request: Request, folder: Path) -> Iterator[Result]:
    """Runs the modes that are asked for; what fills the memory of a card runs alone, at the end."""
    from training import devices

    on_cuda = devices.choose_device(request.device, None)[0].type == "cuda"
    chosen = {name: mode for name, mode in modes.items() if request.only is None or name in request.only}
    works = {
        name: functools.partial(_run, name, mode, request, folder)
        for name, mode in chosen.items()
        if on_cuda or not mode.cuda
    }
    alone = [name for name in works if request.here or name == "out-of-memory"]
    with ThreadPoolExecutor(request.jobs) as pool:
        together = pool.map(lambda name: works[name](), [name for name in works if name not in alone])
        for result in itertools.chain(together, (works[name]() for name in alone)):
            print(result, flush=True)
            yield result
    for name in chosen.keys() - works.keys():
        print(f"--  {name:22} needs CUDA")


def _run(name: str, mode: Mode, request: Request, folder: Path) -> Result:
    """Runs a mode and keeps what it printed."""
    runs, quick = folder / "runs", request.quick
    size = "--epochs 1 --train-fraction 0.1" if quick else "--epochs 2"
    words = shlex.split(mode.line.format(size=size, runs=runs, minutes=0.1 if quick else 0.3, taught=TAUGHT))
    if request.device is not None:
        words += ["--device", request.device]
    if mode.runs_there:
        words += ["--runs-dir", str(runs), "--wandb", "disabled"]
        words += [] if "--resume" in words else ["--run-name", name, "--overwrite"]
    began = time.perf_counter()
    status, output = (_here if request.here else _in_process)(words)
    (folder / f"{name}.log").write_text(f"{shlex.join(words)}\n{output}", encoding="utf-8")
    return Result(name, mode, status, output, time.perf_counter() - began)


def _in_process(words: list[str]) -> tuple[int | None, str]:
    """Runs a command line in a process of its own. Returns (exit status, output)."""
    environment = {"OMP_NUM_THREADS": "2", **os.environ}
    try:
        done = subprocess.run([sys.executable, *words], capture_output=True, text=True, timeout=SECONDS, cwd=ROOT,
                              env=environment)  # fmt: skip
    except subprocess.TimeoutExpired as error:
        return None, b"".join(each for each in (error.stdout, error.stderr) if each).decode(errors="replace")
    return done.returncode, done.stdout + done.stderr


def _here(words: list[str]) -> tuple[int | None, str]:
    """Runs a command line in this process."""
    import importlib

    module, *argv = words
    output = io.StringIO()
    with contextlib.redirect_stdout(output), contextlib.redirect_stderr(output):
        status = run_script(lambda: importlib.import_module(module.removesuffix(".py")).main(argv))
    return status, output.getvalue()


if __name__ == "__main__":
    sys.exit(script(main))
