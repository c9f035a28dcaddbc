from __future__ import annotations

import subprocess
import sys
from importlib.util import find_spec

import pytest
import torch
from torch import fx, nn

from featstore.errors import BackboneError
from featstore.models import engines
from featstore.models.engine_choice import compiling_engine
from featstore.models.engines import build, fold_batch_norms, reopen
from featstore.models.model_cache import CacheFile

CPU = torch.device("cpu")


class Small(nn.Module):
    """A network with all that engines fuse, which reads a map and a vector."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(8)
        self.depthwise = nn.Conv2d(8, 8, 3, groups=8)
        self.fc = nn.Linear(8, 5)

    def forward(self, images):
        x = torch.relu(self.norm(self.conv(images.float() / 255)))
        early = x.mean((2, 3))
        return early, self.fc(self.depthwise(x).mean((2, 3)))


def small():
    torch.manual_seed(0)
    network = Small().eval()
    network.norm.running_mean.normal_()
    network.norm.running_var.uniform_(0.5, 2)
    return network


def pixels(n=4, seed=1):
    generator = torch.Generator().manual_seed(seed)
    shape = (n, 3, 16, 16)
    return torch.randint(0, 256, shape, dtype=torch.uint8, generator=generator)


COMPILED = pytest.param("inductor", marks=pytest.mark.soak)


@pytest.mark.parametrize("engine", ["eager", COMPILED, "openvino"])
def test_engines_agree(engine, monkeypatch, tmp_path):
    if engine == "openvino" and not find_spec("openvino"):
        pytest.skip("OpenVINO is not installed")
    if engine == "inductor" and compiling_engine(CPU, "bf16") is None:
        pytest.skip("there is no C++ compiler")
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path))
    network = small()
    run = build(network, engine, pixels(), torch.float32)
    with torch.inference_mode():
        for seed in (2, 3):
            found, expected = run(pixels(seed=seed)), network(pixels(seed=seed))
            for a, b in zip(found, expected, strict=True):
                torch.testing.assert_close(a, b, atol=1e-5, rtol=1e-4)
        first = run(pixels(seed=2))
        run(pixels(seed=3))
        again = run(pixels(seed=2))
        assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))


needs_openvino = pytest.mark.skipif(not find_spec("openvino"), reason="OpenVINO is not installed")


@needs_openvino
def test_a_compiled_network_is_opened_again_with_the_same_bits_unless_its_file_is_damaged():
    kept = CacheFile("resnet18", "openvino", {"test": "reopened"})
    assert reopen(kept, torch.float32) is None
    run = build(small(), "openvino", pixels(), torch.float32, kept)
    again = reopen(kept, torch.float32)
    for a, b in zip(run(pixels()), again(pixels()), strict=True):
        assert torch.equal(a, b)
    (path,) = (p for p in kept._path.parent.iterdir() if p.name == kept._path.name)
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    for damaged in (bytes(content), bytes(content[:-9]), b""):
        path.write_bytes(damaged)
        assert reopen(kept, torch.float32) is None
    # Whole, and of no use to this OpenVINO.
    kept.write(b"of another version")
    assert reopen(kept, torch.float32) is None


def test_an_engine_that_computes_something_else_is_refused(monkeypatch):
    monkeypatch.setattr(
        engines, "_inductor", lambda network: lambda x: [1.1 * v for v in network(x)]
    )
    with pytest.raises(BackboneError, match="off.*--compile off"):
        build(small(), "inductor", pixels(), torch.float32)


def test_small_results_are_compared_too(monkeypatch):
    class Tiny(nn.Module):
        def forward(self, images):
            return (1e-30 * images.float().mean((2, 3)),)

    monkeypatch.setattr(engines, "_inductor", lambda network: lambda x: [0 * v for v in network(x)])
    with pytest.raises(BackboneError, match="off.*--compile off"):
        build(Tiny(), "inductor", pixels(), torch.float32)


def test_an_engine_that_breaks_is_named(monkeypatch):
    def broken(*_):
        raise RuntimeError("\nno such operation\nand more")

    monkeypatch.setattr(engines, "_inductor", broken)
    with pytest.raises(BackboneError, match=r"inductor can't .*\(no such operation\)"):
        build(small(), "inductor", pixels(), torch.float32)


class Shared(nn.Module):
    """A convolution that is called twice, and one whose result is read before the norm."""

    def __init__(self):
        super().__init__()
        self.twice, self.norm = nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3)
        self.read, self.norm2 = nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3)
        self.conv, self.norm3 = nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3)

    def forward(self, x):
        x = self.norm(self.twice(x)) + self.twice(x)
        read = self.read(x)
        return read, self.norm3(self.conv(self.norm2(read)))


def test_only_what_may_be_folded_is():
    torch.manual_seed(0)
    network = Shared().eval()
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_()
            module.running_var.uniform_(0.5, 2)
    traced = fx.symbolic_trace(network)
    x = torch.randn(2, 3, 4, 4)
    with torch.inference_mode():
        expected = network(x)
        fold_batch_norms(traced)
        found = traced(x)
    targets = {str(node.target) for node in traced.graph.nodes}
    assert {"norm", "norm2"} <= targets
    assert "norm3" not in targets
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(a, b, atol=1e-5, rtol=1e-4)


@needs_openvino
def test_openvino_does_not_report_its_use():
    code = (
        "import socket, sys, torch\n"
        "calls = []\n"
        "def spy(*args, **_):\n"
        "    calls.append(args)\n"
        "    raise OSError\n"
        "socket.getaddrinfo = socket.socket.connect = spy\n"
        "from featstore.models.engines import build\n"
        "pixels = torch.zeros(2, 3, 8, 8, dtype=torch.uint8)\n"
        "class Net(torch.nn.Module):\n"
        "    def forward(self, x):\n"
        "        return (x.float().mean((2, 3)),)\n"
        "build(Net().eval(), 'openvino', pixels, torch.float32)\n"
        "assert 'openvino' in sys.modules\n"
        "print(calls)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout.splitlines()[-1:] == ["[]"], done.stderr
