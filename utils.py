"""Small helpers that know nothing about training. Nothing heavy is imported here: the flag checks use them."""

from __future__ import annotations

import contextlib
import difflib
import hashlib
import importlib.util
import json
import os
import platform
import re
import signal
import sys
import time
import uuid
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

if TYPE_CHECKING:
    from multiprocessing.pool import ThreadPool

    import torch

IMPORTED_AS = {"pillow": "PIL", "scikit-learn": "sklearn"}  # packages that are imported by another name
SIGNALS = [getattr(signal, name) for name in ("SIGTERM", "SIGUSR1", "SIGINT", "SIGHUP") if hasattr(signal, name)]
SET_UP = "run .venv/bin/python, which `make train` sets up, or install requirements.txt"


class BadRequest(Exception):
    """A request that cannot be met. Scripts print it as one line and exit with status 2."""


class RunFailed(Exception):
    """A run that started and failed. Scripts print it as one line and exit with status 1."""


class Stopped(Exception):
    """A run that stopped early and can be continued. Scripts print it as one line.

    Args:
        status: exit status of the script.
    """

    def __init__(self, message: str, status: int):
        super().__init__(message)
        self.status = status


def derive_seed(*parts: int | str) -> int:
    """Returns a seed in [0, 2**63) that depends on every part and nothing else.

    It makes a random draw a function of its position, e.g. ``derive_seed(seed, "augment", epoch, step)``.
    """
    digest = hashlib.blake2b(repr(parts).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") >> 1


def suggestion(name: str, known: Iterable[str]) -> str:
    """`` Did you mean X?`` for a name that differs from a known one by a typo, else an empty string."""
    close = difflib.get_close_matches(name, list(known), n=2, cutoff=0.7)
    return f" Did you mean {' or '.join(close)}?" if close else ""


def sides(size: int | Sequence[int]) -> tuple[int, int]:
    """(height, width) in pixels. One number is the side of a square."""
    return (size, size) if isinstance(size, int) else (size[0], size[1])


def in_px(size: int | Sequence[int]) -> str:
    """A size as text: `224 px`, or `96 x 160 px` with the height first."""
    return f"{size} px" if isinstance(size, int) else f"{size[0]} x {size[1]} px"


def cores() -> int:
    """Processor cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@contextlib.contextmanager
def thread_pool(count: int) -> Iterator[ThreadPool]:
    """A pool of threads. Leaving the block early, by Ctrl-C for example, waits only for calls that have begun.

    A thread inside torch at the end of Python would abort the process.
    """
    from multiprocessing.pool import ThreadPool

    with ThreadPool(max(1, count)) as pool:
        try:
            yield pool
        finally:
            pool.terminate()
            pool.join()


@contextlib.contextmanager
def noting_signals(
    note: Callable[[int], None], repeat_seconds: float, stay_ignored: Collection[int] = ()
) -> Iterator[None]:
    """Within the block each of SIGNALS calls `note(number)` and does nothing else.

    Args:
        repeat_seconds: a signal that comes this soon after one that was noted is the same request, and not noted: SLURM
            preempts with two SIGTERM in a row.
        stay_ignored: the signals that stay ignored if they are, as under nohup.
    """
    noted = -float("inf")

    def handle(number: int, frame: object) -> None:
        nonlocal noted
        now = time.monotonic()
        if now - noted > repeat_seconds:
            noted = now
            note(number)

    before = {}
    try:
        for number in SIGNALS:
            if number not in stay_ignored or signal.getsignal(number) != signal.SIG_IGN:
                with contextlib.suppress(ValueError):  # only the main thread can set handlers
                    before[number] = signal.signal(number, handle)
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def require(*modules: str) -> None:
    """Raises BadRequest if a package is not installed. Imports nothing."""
    missing = [_requirement(module) for module in modules if importlib.util.find_spec(module) is None]
    if missing:
        be = "is" if len(missing) == 1 else "are"
        raise BadRequest(f"{shorten(missing, 3)} {be} not installed for {sys.executable}; {SET_UP}")


def package_at_fault(error: BaseException) -> str | None:
    """The message for an error of a package that is missing, or older than in requirements.txt; else None."""
    if isinstance(error, ModuleNotFoundError) and (module := (error.name or "").partition(".")[0]) in _requirements():
        try:
            require(module)
        except BadRequest as missing:
            return str(missing)
    from importlib import metadata

    for module, (package, least) in _requirements().items():
        with contextlib.suppress(metadata.PackageNotFoundError):
            if module in sys.modules and _numbers(installed := metadata.version(package)) < _numbers(least):
                reason = " ".join(f"{type(error).__name__}: {error}".split())[:200]
                return f"{reason}; {package} {installed} is installed, {package}>={least} is needed; {SET_UP}"
    return None


def _requirement(module: str) -> str:
    package, least = _requirements().get(module, (module, ""))
    return f"{package}>={least}" if least else package


def _requirements() -> dict[str, tuple[str, str]]:
    """(package, least version) in requirements.txt, by import name."""
    text = (Path(__file__).parent / "requirements.txt").read_text(encoding="utf-8")
    pairs = re.findall(r"^([\w-]+)>=([\d.]+)", text, re.MULTILINE)
    return {IMPORTED_AS.get(package, package): (package, least) for package, least in pairs}


def _numbers(version: str) -> list[int]:
    """Splits 2.11.0+cu128 into [2, 11, 0]."""
    return [int(number) for number in re.findall(r"\d+", version.partition("+")[0])]


def parse_toml(text: str) -> dict[str, Any]:
    """Parses TOML. Raises ValueError, naming the line, for other text."""
    if sys.version_info >= (3, 11):
        import tomllib
    else:
        require("tomli")
        import tomli as tomllib
    return tomllib.loads(text)


def shorten(items: Iterable[Any], most: int = 5) -> str:
    """The first few items as text, with the number of those left out."""
    items = [str(item) for item in items]
    more = f", ... ({len(items) - most} more)" if len(items) > most else ""
    return ", ".join(items[:most]) + more


def human(value: float) -> str:
    """12,345,678 as ``12.35 M``, with the unit prefixes k, M, G, T of 1000."""
    for size, unit in ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= size:
            return f"{value / size:.2f} {unit}"
    return f"{value:g} "


def decimal(value: float, places: int = 4) -> str:
    """A number, such as a loss, with so many decimals; one that ran away as ``1.2e+37``."""
    return f"{value:.1e}" if abs(value) >= 1e6 else f"{value:.{places}f}"


def duration(seconds: float) -> str:
    """Time as `42 s`, `7 min` or `3.5 h`; small numbers have one more digit."""
    if seconds < 100:
        return f"{seconds:.0f} s"
    if seconds < 6000:
        return f"{seconds / 60:.1f} min" if seconds < 600 else f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h"


def widest_float(device: torch.device) -> torch.dtype:
    """float64 for sums on this device; float32 on MPS, which has no float64."""
    import torch

    return torch.float32 if device.type == "mps" else torch.float64


@contextlib.contextmanager
def replacing(path: Path):
    """Yields a temporary path beside `path`, which replaces `path` if the block ends without error.

    Its content is on disk before the rename, so a reader (or the machine after a power cut) sees either the old file
    or the whole new one.
    """
    temporary = path.with_name(f".{path.stem}-{uuid.uuid4().hex[:12]}{path.suffix}")
    temporary.touch(exist_ok=False)  # with the permissions that the umask leaves, unlike tempfile's
    try:
        yield temporary
        with temporary.open("rb+") as file:
            os.fsync(file.fileno())
        temporary.replace(path)
        _flush_names(path.parent)
    finally:
        temporary.unlink(missing_ok=True)


def _flush_names(folder: Path) -> None:
    """Writes a rename to disk, on systems that can open folders."""
    with contextlib.suppress(OSError):
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def in_utf8(name: str) -> str:
    """A file name as Python reads it on a machine with UTF-8 file names, whatever their encoding is here.

    Sorted by this, files have the same order on every machine. Bytes that are not UTF-8 stay surrogates.
    """
    return name if name.isascii() else os.fsencode(name).decode("utf-8", "surrogateescape")


def readable(name: str) -> str:
    """A file name as text that can be written anywhere: bytes that are not UTF-8 become ``\\xe9``."""
    return in_utf8(name).encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


def write_text(path: Path, text: str) -> None:
    """Replaces a file by `text` in UTF-8, which may hold file names of other encodings (see `readable`)."""
    with replacing(path) as temporary:
        temporary.write_bytes(text.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace").encode())


def take_lock(file: IO, wait: bool = False) -> bool | None:
    """Locks an open file for this process. Returns False if another process holds it and `wait` is off.

    Returns None on systems without such locks: Windows, and some file systems.

    The lock is the kernel's (a POSIX record lock, which NFS hands to its server). It ends with the process, however
    that dies, and child processes have no part in it.
    """
    try:
        import fcntl
    except ImportError:
        return None
    try:
        fcntl.lockf(file, fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB)
    except (BlockingIOError, PermissionError):
        return False
    except OSError:
        return None
    return True


def write_json(path: Path, value: Any) -> None:
    """Writes strict JSON: NaN and infinity become null, which every reader understands."""
    write_text(path, json.dumps(_finite(value), indent=2, allow_nan=False, default=str) + "\n")


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {str(key): _finite(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(item) for item in value]
    if isinstance(value, float) and (value != value or abs(value) == float("inf")):
        return None
    return value


def read_json(path: Path) -> Any:
    """Reads JSON. Raises BadRequest, naming the file, if it is missing or damaged."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise BadRequest(f"{path}: no such file") from None
    except (OSError, ValueError) as error:
        raise BadRequest(f"{path}: cannot be read as JSON ({error})") from None


def cpu_name() -> str:
    path = Path("/proc/cpuinfo")
    if path.is_file():
        for line in path.read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def world_size() -> int:
    """The number of processes."""
    return int(os.environ.get("WORLD_SIZE", 1)) if "RANK" in os.environ else 1


def rank() -> int:
    """The number of this process, from 0."""
    return int(os.environ["RANK"]) if world_size() > 1 else 0


def local_rank() -> int:
    """The number of this process on this machine, from 0."""
    return int(os.environ.get("LOCAL_RANK", rank()))


def is_distributed() -> bool:
    return world_size() > 1


def is_main_process() -> bool:
    return rank() == 0


def restarted() -> bool:
    """Whether torchrun has restarted the processes after one died."""
    return is_distributed() and int(os.environ.get("TORCHELASTIC_RESTART_COUNT", 0)) > 0
