from __future__ import annotations

import platform
import subprocess
import sys

import pytest
import torch

from featstore.errors import DeviceError
from featstore.models import devices, freed_memory

CPU = torch.device("cpu")


def test_auto_is_a_device_that_is_there():
    expected = "cuda" if torch.cuda.is_available() else "cpu"
    assert devices.resolve_device("auto").type == expected


def test_a_gpu_that_is_not_there_is_named():
    with pytest.raises(DeviceError, match="cuda:99"):
        devices.resolve_device("cuda:99")


@pytest.mark.parametrize(("fast", "expected"), [(True, "bf16"), (False, "fp32")])
def test_auto_precision_follows_the_hardware(monkeypatch, fast, expected):
    monkeypatch.setattr(devices, "has_fast_bf16", lambda _: fast)
    assert devices.resolve_precision("auto", CPU) == expected
    assert devices.resolve_precision("bf16", CPU) == "bf16"


def test_half_precision_is_not_for_cpus():
    with pytest.raises(DeviceError, match="fp16"):
        devices.resolve_precision("fp16", CPU)


def test_emulated_bf16_does_not_count(monkeypatch):
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: False, raising=False)
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: False, raising=False)
    assert not devices.has_fast_bf16(CPU)
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: True, raising=False)
    assert devices.has_fast_bf16(CPU)


def test_batches_shrink_as_images_grow():
    sizes = [devices.default_batch_size(CPU, px) for px in (32, 224, 448, 1024, 4096)]
    assert sizes == sorted(sizes, reverse=True)
    assert sizes[1] == 32
    assert sizes[-1] == 1


def test_another_c_library_is_no_obstacle(monkeypatch):
    def missing(_):
        raise OSError("no such file")

    monkeypatch.setattr(freed_memory.ctypes, "CDLL", missing)
    freed_memory.keep_freed_memory()
    freed_memory.return_freed_memory()


def printed(code):
    """Return what a new process prints."""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.soak
@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="needs glibc")
def test_freed_memory_is_kept():
    code = (
        "import resource, torch\n"
        "from featstore.models.freed_memory import keep_freed_memory\n"
        # The C library settles on an address after a dozen tensors or so: how many depends on
        # the heap.
        "def faults(n_before):\n"
        "    for _ in range(n_before): torch.ones(10_000_000)\n"
        "    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt\n"
        "    for _ in range(10): torch.ones(10_000_000)\n"
        "    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before\n"
        "by_default = faults(1)\n"
        "keep_freed_memory()\n"
        "print(by_default, faults(80))\n"
    )
    by_default, kept = map(int, printed(code).split())
    assert kept < by_default / 4


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="needs glibc")
def test_freed_memory_that_was_kept_is_given_back():
    code = (
        "import psutil, torch\n"
        "from featstore.models.freed_memory import keep_freed_memory, return_freed_memory\n"
        "keep_freed_memory()\n"
        "def nbytes(): return psutil.Process().memory_info().rss\n"
        "tensors = [torch.ones(10_000_000) for _ in range(5)]\n"
        "del tensors\n"
        "kept = nbytes()\n"
        "return_freed_memory()\n"
        "print(kept - nbytes())\n"
    )
    assert int(printed(code)) > 150_000_000
