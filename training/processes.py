"""Which device a process computes on, and how: choice, precision, determinism."""

from __future__ import annotations

import contextlib
import os
import sys

import torch

from training.tracking import say
from utils import BadRequest, RunFailed


def choose_device(device: str | None, gpu: int | None) -> tuple[torch.device, str | None]:
    """(device, a warning or None). `gpu` falls back to the CPU, with a warning; a named device that is missing raises
    BadRequest."""
    if device is not None:
        chosen = torch.device(device)
        if chosen.type == "cuda":
            chosen = torch.device("cuda", chosen.index or 0)
        if chosen.type == "cuda" and chosen.index >= torch.cuda.device_count():
            raise BadRequest(f"--device {device}: there are {torch.cuda.device_count()} CUDA devices here")
        if chosen.type == "mps" and not torch.backends.mps.is_available():
            raise BadRequest(f"--device {device}: there is no such device here")
        return chosen, None
    if gpu is not None:
        if gpu < torch.cuda.device_count():
            return torch.device("cuda", gpu), None
        count = torch.cuda.device_count()
        return torch.device("cpu"), f"--gpu {gpu}: there are {count} GPUs here, so the CPU is used"
    if torch.cuda.is_available():
        return torch.device("cuda", 0), None
    if torch.backends.mps.is_available():
        return torch.device("mps"), None
    return torch.device("cpu"), None


def choose_precision(precision: str, device: torch.device) -> str:
    """What "auto" means on `device`. fp16 is refused (BadRequest) where there is no loss scaling for it."""
    if precision == "fp16" and device.type != "cuda":
        raise BadRequest(f"--precision fp16 needs a CUDA GPU; on {device.type} use bf16 or fp32")
    if precision != "auto":
        return precision
    return "bf16" if device.type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False) else "fp32"


def set_up(
    device: str | None, gpu: int | None, precision: str, deterministic: bool = False
) -> tuple[torch.device, str]:
    """Chooses device and precision and sets the libraries up for them. See `choose_device`, `choose_precision`."""
    chosen, warning = choose_device(device, gpu)
    if warning:
        say(f"warning: {warning}")
    chosen_precision = choose_precision(precision, chosen)
    if deterministic:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # what cuBLAS asks for
    torch.use_deterministic_algorithms(deterministic)
    torch.backends.cudnn.benchmark = not deterministic
    if chosen.type == "cuda":
        torch.cuda.set_device(chosen)
        torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = not deterministic
    return chosen, chosen_precision


@contextlib.contextmanager
def one_line_failures(need: str):
    """Turns what the machine, not the request, is to blame for into RunFailed: memory, disk, a missing compiler.

    Args:
        need: what takes the memory, and what to do about it.
    """
    try:
        yield
    except (torch.OutOfMemoryError, MemoryError):
        raise RunFailed(f"not enough memory for {need}") from None
    except OSError as error:
        raise RunFailed(f"{error.filename or 'input or output'}: {error.strerror or error}") from None
    except RuntimeError as error:
        reason = " ".join(str(error).split())[:300]
        if "allocate" in reason:
            raise RunFailed(f"not enough memory for {need}") from None
        if "deterministic" in reason:
            raise RunFailed(f"--deterministic is not possible here: {reason}") from None
        if type(error).__module__.startswith(("torch._dynamo", "torch._inductor")):
            raise RunFailed(f"--compile does not work here: {reason}") from None
        raise


def peak_memory(device: torch.device) -> int:
    """Bytes: the most that was allocated on a CUDA device; elsewhere the largest resident size of this process, without
    its workers."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    import resource  # not everywhere, but where a CPU trains

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def describe(device: torch.device) -> str:
    if device.type == "cuda":
        return f"{device} ({torch.cuda.get_device_name(device)})"
    return f"{device} ({torch.get_num_threads()} threads)" if device.type == "cpu" else str(device)
