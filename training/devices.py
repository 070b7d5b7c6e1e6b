"""Which device a process computes on, and how: choice, precision, determinism."""

from __future__ import annotations

import contextlib
import os
import sys
import traceback
from collections.abc import Callable, Iterator

import torch
from torch import nn

from records.log import say
from utils import BadRequest, RunFailed, cpu_name, is_distributed, local_rank, rank, world_size

MATRIX_UNITS = "SUITE_MATRIX_UNITS"
PRECISIONS = {"fp32": None, "bf16": torch.bfloat16, "fp16": torch.float16}


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


def choose_precision(precision: str, device: torch.device, model: nn.Module) -> str:
    """What "auto" means for a model on a device; any other choice stays.

    bf16 on GPUs that have it, and on CPUs with matrix units for it (AMX). There depthwise convolutions, for which these
    units are of no use, are quicker in fp32 (docs/speed.md), and so are all models on CPUs without such units. fp32 on
    MPS.
    """
    if precision != "auto":
        return precision
    if device.type == "cuda":
        return "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "fp32"
    return "bf16" if device.type == "cpu" and has_matrix_units() and not _has_depthwise(model) else "fp32"


def has_matrix_units() -> bool:
    """Whether this CPU multiplies bf16 matrices in units of its own (AMX).

    The environment variable SUITE_MATRIX_UNITS, "on" or "off", overrides what the CPU says. Tests use it to behave like
    either kind of machine; set ONEDNN_MAX_CPU_ISA as well to keep oneDNN from using units that are there.

    Raises:
        BadRequest: the variable holds something else.
    """
    forced = os.environ.get(MATRIX_UNITS)
    if forced is None:
        return torch.cpu._is_amx_tile_supported()
    if forced not in ("on", "off"):
        raise BadRequest(f"{MATRIX_UNITS}={forced}: this environment variable is neither on nor off")
    return forced == "on"


def _has_depthwise(model: nn.Module) -> bool:
    return any(isinstance(module, nn.Conv2d) and 1 < module.groups == module.in_channels for module in model.modules())


def autocast(device: torch.device, precision: str) -> torch.autocast:
    """The context of a forward pass in "fp32", "bf16" or "fp16"; weights stay in float32."""
    dtype = PRECISIONS[precision]
    return torch.autocast(device.type, dtype=dtype, enabled=dtype is not None)


def make_scaler(device: torch.device, precision: str) -> torch.amp.GradScaler:
    """Scales the loss in "fp16", where gradients would underflow. In other precisions it does nothing."""
    return torch.amp.GradScaler(device.type, enabled=precision == "fp16")


def set_up(
    device: str | None,
    gpu: int | None,
    precision: str = "fp32",
    eval_precision: str = "fp32",
    deterministic: bool = False,
) -> torch.device:
    """The device of a run (see `choose_device`), for which the libraries are set up.

    Raises BadRequest for fp16 on other devices than CUDA GPUs.
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
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # what cuBLAS asks for
    torch.use_deterministic_algorithms(deterministic)
    torch.backends.cudnn.benchmark = not deterministic
    if chosen.type == "cuda":
        torch.cuda.set_device(chosen)
        torch.set_float32_matmul_precision("highest" if deterministic else "high")
        torch.backends.cudnn.allow_tf32 = not deterministic
    return chosen


@contextlib.contextmanager
def without_tf32() -> Iterator[None]:
    """Within the block float32 products keep all 23 bits of the mantissa; TF32, which training uses on GPUs, has 10."""
    products, convolutions = torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32
    torch.set_float32_matmul_precision("highest")
    torch.backends.cudnn.allow_tf32 = False
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(products)
        torch.backends.cudnn.allow_tf32 = convolutions


@contextlib.contextmanager
def machine_errors_as_run_failed(need: Callable[[], str]):
    """Turns what the machine, not the request, is to blame for into RunFailed: memory, disk, a missing compiler.

    Args:
        need: says what takes the memory, and what to do about it. What ran out of memory has let go of it by then.
    """
    try:
        yield
    except (torch.OutOfMemoryError, MemoryError) as error:
        failed = error
    except OSError as error:
        raise RunFailed(f"{error.filename or 'input or output'}: {error.strerror or error}") from None
    except RuntimeError as error:
        reason = " ".join(str(error).split())[:300]
        if "deterministic" in reason:
            raise RunFailed(f"--deterministic is not possible here: {reason}") from None
        if type(error).__module__.startswith(("torch._dynamo", "torch._inductor")):
            raise RunFailed(f"--compile does not work here: {reason}") from None
        if reason.startswith("DataLoader worker"):
            raise RunFailed(
                f"a process that decodes images died ({reason}); where memory is short fewer --num-workers help, and"
                " --resume continues the run"
            ) from None
        if is_distributed() and ("gloo" in reason.lower() or "nccl" in reason.lower()):
            told = reason.split(". ")[0]
            raise RunFailed(f"process {rank()} (from 0) lost another one of the {world_size()} ({told})") from None
        if "allocate" not in reason:
            raise
        failed = error
    else:
        return
    traceback.clear_frames(failed.__traceback__)
    raise RunFailed(f"not enough memory for {need()}")


def peak_memory(device: torch.device) -> int | None:
    """Bytes: the most that was allocated on a CUDA device; elsewhere the largest resident size of this process, without
    its workers. None where the system does not tell (Windows)."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    try:
        import resource
    except ImportError:
        return None
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def describe_device(device: torch.device) -> str:
    if device.type == "cuda":
        return f"{device} ({torch.cuda.get_device_name(device)})"
    return f"{device} ({torch.get_num_threads()} threads)" if device.type == "cpu" else str(device)


def device_name(device: torch.device) -> str:
    """The device by its kind and model, by which other machines are told apart."""
    if device.type == "cuda":
        return f"cuda ({torch.cuda.get_device_name(device)})"
    return f"cpu ({cpu_name()})" if device.type == "cpu" else device.type
