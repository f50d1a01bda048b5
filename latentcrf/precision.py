"""The number type in which networks compute: bfloat16 where the processor has it, since emulated bfloat16 is slow."""

import argparse
import os

import torch

PRECISIONS = ("auto", "float32", "bfloat16", "float16")
# Values of ONEDNN_MAX_CPU_ISA below the first instruction set with bfloat16.
_ISA_WITHOUT_BFLOAT16 = ("SSE41", "AVX", "AVX2", "AVX2_VNNI", "AVX2_VNNI_2", "AVX512_CORE", "AVX512_CORE_VNNI")


def choose_precision(name: str, device: torch.device | str) -> torch.dtype:
    """Return the number type that `name` stands for on `device`.

    Args:
        name: one of `PRECISIONS`. "auto" is bfloat16 where the device computes in it natively; else float16 on a GPU
            and float32 on a CPU. The other names stand for themselves.
        device: the device on which the networks compute.

    Returns:
        torch.float32, torch.bfloat16 or torch.float16.

    Raises:
        ValueError: another name, or float16 on a CPU.
    """
    if name not in PRECISIONS:
        raise ValueError(f"precision {name!r} is unknown; accepted are {', '.join(PRECISIONS)}.")
    on_cpu = torch.device(device).type == "cpu"
    if name == "float16" and on_cpu:
        raise ValueError("precision float16 needs a GPU; accepted on a CPU are auto, float32, bfloat16.")
    if name != "auto":
        return {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}[name]
    if _has_native_bfloat16(torch.device(device)):
        return torch.bfloat16
    return torch.float32 if on_cpu else torch.float16


def _has_native_bfloat16(device: torch.device) -> bool:
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    return device.type == "cpu" and _cpu_has_bfloat16() and not _is_cpu_limited()


def _cpu_has_bfloat16() -> bool:
    return torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()


def _is_cpu_limited() -> bool:
    """Whether the environment keeps PyTorch or oneDNN from using bfloat16 instructions that the CPU may have."""
    isa = os.environ.get("ONEDNN_MAX_CPU_ISA", "").upper()
    return os.environ.get("ATEN_CPU_CAPABILITY", "").lower() in ("default", "avx2") or isa in _ISA_WITHOUT_BFLOAT16


def autocast(device: torch.device | str, precision: torch.dtype) -> torch.autocast:
    """Return the context in which networks compute in a precision; for float32 autocast is off.

    Args:
        device: of the networks.
        precision: torch.float32, torch.bfloat16 or torch.float16.
    """
    kind = torch.device(device).type
    return torch.autocast(kind, enabled=False) if precision == torch.float32 else torch.autocast(kind, precision)


def precision_name(precision: torch.dtype) -> str:
    """Return the type's name as tables and settings record it, for example "bfloat16".

    Args:
        precision: a torch type.
    """
    return str(precision).removeprefix("torch.")


def add_precision_argument(parser: argparse.ArgumentParser) -> None:
    """Add the option `--precision`; `choose_precision` resolves its value.

    Args:
        parser: of a command line that runs networks.
    """
    parser.add_argument(
        "--precision",
        choices=PRECISIONS,
        default="auto",
        help="number type of the networks (default auto: bfloat16 where the device has it natively, else float32 on a "
        "CPU and float16 on a GPU)",
    )
