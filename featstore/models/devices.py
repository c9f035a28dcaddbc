"""Choose device, precision and batch size for this machine."""

from __future__ import annotations

import torch

from featstore.errors import DeviceError

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


def resolve_device(name: str) -> torch.device:
    """Return the device that `name` (``auto``, ``cpu``, ``cuda``, ``cuda:i``) means.

    A GPU that torch does not see raises DeviceError.
    """
    if name == "auto":
        return torch.device("cuda:0" if torch.cuda.is_available() else "cpu")
    device = torch.device(name)
    if device.type == "cuda":
        n_gpus = torch.cuda.device_count() if torch.cuda.is_available() else 0
        index = device.index or 0
        if index >= n_gpus:
            raise DeviceError(
                f"--device {name} was requested, but torch sees {n_gpus} CUDA GPUs here. "
                "Use --device cpu or auto, or install a torch build that fits the driver."
            )
        return torch.device("cuda", index)
    return device


def has_fast_bf16(device: torch.device) -> bool:
    """Return whether the device multiplies bfloat16 in hardware.

    A CPU without AVX512-BF16 and AMX emulates bfloat16 at a sixth of the speed of float32.
    """
    if device.type == "cuda":
        return torch.cuda.get_device_capability(device) >= (8, 0)
    probes = ("_is_avx512_bf16_supported", "_is_amx_tile_supported")
    return any(getattr(torch.cpu, probe, bool)() for probe in probes)


def resolve_precision(name: str, device: torch.device) -> str:
    """Return ``fp32``, ``bf16`` or ``fp16`` for the requested precision.

    ``auto`` is bfloat16 where the hardware has it, else float16 on a GPU, else float32. float16
    on a CPU raises DeviceError.
    """
    if name == "auto":
        if has_fast_bf16(device):
            return "bf16"
        return "fp16" if device.type == "cuda" else "fp32"
    if name == "fp16" and device.type == "cpu":
        raise DeviceError(
            "--precision fp16 runs on GPUs only: on a CPU it is slower than fp32. "
            "Use --precision auto, fp32 or bf16."
        )
    return name


def default_batch_size(device: torch.device, image_size: int) -> int:
    """Return the number of images in a forward pass, by device and size, never by a timing.

    A row's last bits depend on the batch's shape, so the same command must always choose the
    same batch. On a CPU the rate is flat from 16 images on; a batch of 32 at 224 px keeps the
    activations near the caches and is at most a few seconds of work. A GPU with less memory than
    8 GB per 256 images at 224 px gets fewer.
    """
    area = (224 / image_size) ** 2
    if device.type == "cpu":
        return max(1, min(64, round(32 * area)))
    memory_nbytes = torch.cuda.get_device_properties(device).total_memory
    fitting = 256 * area * min(1.0, memory_nbytes / 8e9)
    return 1 << max(0, int(fitting).bit_length() - 1)


def make_deterministic(device: torch.device) -> None:
    """Make the same command give the same bits: no autotuned kernels, no TF32."""
    if device.type == "cuda":
        torch.backends.cudnn.benchmark = False
        torch.backends.cudnn.deterministic = True
        torch.backends.cudnn.allow_tf32 = False
        torch.backends.cuda.matmul.allow_tf32 = False


def describe_device(device: torch.device) -> str:
    """Return the device's name for people."""
    if device.type == "cuda":
        return f"{device} ({torch.cuda.get_device_name(device)})"
    return f"cpu ({torch.get_num_threads()} threads)"
