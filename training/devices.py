"""The device of a process: choice, precision, determinism, memory, name."""

from __future__ import annotations

import contextlib
import ctypes
import os
import sys
import traceback
import warnings
from collections.abc import Callable, Iterator

import torch
from torch import nn

from models.convolution import FastConv2d, is_depthwise
from models.matrix_units import has_matrix_units
from models.memory import lacks_memory
from records.log import say
from utils import BadRequest, RunFailed, cpu_name, is_distributed, local_rank, rank, world_size

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD, M_MMAP_MAX = -1, -3, -4  # of glibc's malloc.h
PRECISIONS = {"fp32": None, "bf16": torch.bfloat16, "fp16": torch.float16}


def choose_device(device: str | None, gpu: int | None) -> tuple[torch.device, str | None]:
    """Returns the device, and a warning or None.

    A missing `gpu` falls back to the CPU with a warning. A missing `device` raises BadRequest.
    """
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


def choose_precision(precision: str, device: torch.device, model: nn.Module, fast: bool = True) -> str:
    """Resolves "auto" for a model on a device. Any other precision is returned as it is.

    "auto" is bf16 on GPUs that have it and on CPUs with matrix units (AMX), else fp32, also on MPS. On CPUs a model
    gets fp32 too if it has depthwise convolutions that only the library computes: their gradients are slow in bf16.

    Args:
        fast: whether layers may compute in the ways of models/fast_layers.py.
    """
    if precision != "auto":
        return precision
    if device.type == "cuda":
        return "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "fp32"
    return "bf16" if device.type == "cpu" and has_matrix_units() and not _filters_slowly(model, fast) else "fp32"


def _filters_slowly(model: nn.Module, fast: bool) -> bool:
    """Whether the model has depthwise convolutions that only the library computes."""
    depthwise = [module for module in model.modules() if is_depthwise(module)]
    return not all(fast and isinstance(module, FastConv2d) and module.can_be_fast() for module in depthwise)


def autocast(device: torch.device, precision: str) -> torch.autocast:
    """Returns the context of a forward pass in "fp32", "bf16" or "fp16". Weights stay in float32."""
    dtype = PRECISIONS[precision]
    return torch.autocast(device.type, dtype=dtype, enabled=dtype is not None)


def input_dtype(device: torch.device, precision: str) -> torch.dtype:
    """The type in which a model gets images. On a CPU float32: results stay as they are, and little is lost."""
    return torch.float32 if device.type == "cpu" else PRECISIONS[precision] or torch.float32


def make_scaler(device: torch.device, precision: str) -> torch.amp.GradScaler:
    """Returns a loss scaler for "fp16", where gradients would underflow. In other precisions it does nothing."""
    return torch.amp.GradScaler(device.type, enabled=precision == "fp16")


def set_up(
    device: str | None,
    gpu: int | None,
    precision: str = "fp32",
    eval_precision: str = "fp32",
    deterministic: bool = False,
    tf32: bool = False,
) -> torch.device:
    """Chooses the device of a run (see `choose_device`), and sets up torch for it.

    Args:
        tf32: whether float32 may be computed in TF32 on a CUDA device, unless `deterministic`: for training, never for
            what is reported.

    Raises BadRequest for fp16 on any device but a CUDA GPU.
    """
    if is_distributed() and device is None and torch.cuda.is_available():
        device = f"cuda:{local_rank()}"
    chosen, warning = choose_device(device, gpu)
    if warning:
        say(f"warning: {warning}")
    for flag, value in (("precision", precision), ("eval-precision", eval_precision)):
        if value == "fp16" and chosen.type != "cuda":
            raise BadRequest(f"--{flag} fp16 needs a CUDA GPU; on {chosen.type} use bf16 or fp32")
    if deterministic:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # cuBLAS requires it
    torch.use_deterministic_algorithms(deterministic)
    torch.backends.cudnn.benchmark = not deterministic
    if chosen.type == "cpu":
        has_matrix_units()  # a wrong value of its environment variable is refused before a run begins
        keep_freed_memory(True)
    if chosen.type == "cuda":
        torch.cuda.set_device(chosen)
        # cudnn.benchmark takes another plan where a card refuses one. torch up to 2.11 announces other switches.
        for message in ("Plan failed with a cudnnException", "Please use the new API settings to control TF32"):
            warnings.filterwarnings("ignore", message=message)
        _use_tf32(tf32 and not deterministic)
    return chosen


def _use_tf32(allowed: bool) -> None:
    torch.set_float32_matmul_precision("high" if allowed else "highest")
    torch.backends.cudnn.allow_tf32 = allowed


def keep_freed_memory(keep: bool) -> None:
    """Tells the C library to reuse freed memory, or to return large blocks to the system (glibc; else nothing).

    A step on a CPU frees and allocates the same large tensors each time. Memory from the system comes as zeroed pages,
    one fault each, which took a fifth of a MobileNetV2's step. Without this call glibc adapts its thresholds to what
    the process allocates. There is no way back to that.
    """
    if sys.platform != "linux":
        return
    with contextlib.suppress(AttributeError):  # other C libraries have no such function
        mallopt = ctypes.CDLL(None).mallopt
        mallopt(M_MMAP_MAX, 0 if keep else 65536)
        mallopt(M_MMAP_THRESHOLD, 2**25)  # this and the next are the largest that glibc chooses by itself
        mallopt(M_TRIM_THRESHOLD, 2**31 - 1 if keep else 2**26)


@contextlib.contextmanager
def without_tf32() -> Iterator[None]:
    """Turns TF32 off within the block. It keeps 10 bits of a mantissa, float32 keeps 23. Training uses it on GPUs."""
    products, convolutions = torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32
    _use_tf32(False)
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(products)
        torch.backends.cudnn.allow_tf32 = convolutions


@contextlib.contextmanager
def machine_errors_as_run_failed(need: Callable[[], str]) -> Iterator[None]:
    """Turns errors of the machine into RunFailed: no memory, no disk space, no compiler, a lost process.

    Args:
        need: returns what the memory was not enough for, and advice. When it is called, the memory is free again.
    """
    try:
        yield
    except OSError as error:
        raise RunFailed(f"{error.filename or 'input or output'}: {error.strerror or error}") from None
    except (RuntimeError, MemoryError) as error:
        if known := _known_failure(error):
            raise RunFailed(known) from None
        if not lacks_memory(error):
            raise
        failed = error
    else:
        return
    traceback.clear_frames(failed.__traceback__)
    raise RunFailed(f"not enough memory for {need()}")


def _known_failure(error: BaseException) -> str | None:
    """What the user can do about an error of torch that is no lack of memory; None for any other."""
    reason = " ".join(str(error).split())[:300]
    if "deterministic" in reason:
        return f"--deterministic is not possible here: {reason}"
    if type(error).__module__.startswith(("torch._dynamo", "torch._inductor")):
        return f"--compile does not work here: {reason}"
    if reason.startswith("DataLoader worker"):
        return (
            f"a process that decodes images died ({reason}); where memory is short fewer --num-workers help, and"
            " --resume continues the run"
        )
    peers = "gloo" in reason.lower() or "nccl" in reason.lower()
    if is_distributed() and peers and not lacks_memory(error):
        first = reason.split(". ")[0]
        return f"process {rank()} (from 0) lost another one of the {world_size()} ({first})"
    return None


def reset_peak_memory(device: torch.device) -> None:
    """Makes `peak_memory` of a CUDA device count from here: without trials of batch sizes, without a teacher's run."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)


def peak_memory(device: torch.device) -> int | None:
    """Peak memory in bytes, or None if the system does not tell (Windows).

    On a CUDA device it counts what torch allocated. Elsewhere it is the resident size of this process without its
    workers.
    """
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    try:
        import resource
    except ImportError:
        return None
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def describe_device(device: torch.device) -> str:
    """The device with its name or number of threads, such as `cpu (2 threads)`, for people."""
    if device.type == "cuda":
        return f"{device} ({torch.cuda.get_device_name(device)})"
    return f"{device} ({torch.get_num_threads()} threads)" if device.type == "cpu" else str(device)


def device_name(device: torch.device) -> str:
    """The device's kind and model, such as `cuda (NVIDIA H100)`, which tells machines apart in records."""
    if device.type == "cuda":
        return f"cuda ({torch.cuda.get_device_name(device)})"
    return f"cpu ({cpu_name()})" if device.type == "cpu" else device.type
