from __future__ import annotations

from importlib.util import find_spec

import pytest
import torch
from torch import fx, nn

from featstore.models.devices import has_fast_bf16
from featstore.models.engines import build
from featstore.models.first_layers import convert_to_bf16, mark_first_layers
from featstore.models.network_extractor import row_cosines

CPU = torch.device("cpu")
needs_openvino = pytest.mark.skipif(not find_spec("openvino"), reason="OpenVINO is not installed")


class Stem(nn.Module):
    """Two convolutions of the pixels, side by side, and what comes after them."""

    def __init__(self):
        super().__init__()
        self.left, self.right = nn.Conv2d(3, 8, 3), nn.Conv2d(3, 8, 3)
        self.token = nn.Parameter(torch.randn(1, 16, 1, 1))
        self.after, self.fc = nn.Conv2d(16, 8, 1), nn.Linear(8, 4)

    def forward(self, x):
        n = x.shape[0]
        x = 2 * x
        x = torch.cat([self.left(x), self.right(x)], 1) + self.token
        return self.fc(torch.relu(self.after(x)).mean((2, 3)).reshape(n, -1))


def traced(network):
    torch.manual_seed(0)
    return fx.symbolic_trace(network.eval())


def pixels(n=16):
    return torch.rand(n, 3, 12, 12, generator=torch.Generator().manual_seed(1))


@torch.inference_mode()
def test_only_the_first_layers_stay_in_fp32_and_features_are_nearer_for_it():
    torch.manual_seed(0)
    network = traced(Stem())
    x = pixels()
    expected = network(x)
    weights = network.left.weight.clone()
    plain = traced(Stem())
    plain.load_state_dict(network.state_dict())
    plain.to(dtype=torch.bfloat16)
    assert convert_to_bf16(network) == torch.float32
    dtypes = {name: value.dtype for name, value in network.named_parameters()}
    assert {name for name, dtype in dtypes.items() if dtype == torch.float32} == {
        f"{side}.layer.{what}" for side in ("left", "right") for what in ("weight", "bias")
    }
    assert torch.equal(network.left.layer.weight, weights)
    found = network(x)
    assert found.dtype == torch.bfloat16
    own, all_rounded = ((y.float() - expected).norm() for y in (found, plain(x.bfloat16())))
    assert own < all_rounded


class Block(nn.Sequential):
    """A node as a whole, as torchvision's blocks are."""


class Blocks(fx.Tracer):
    def is_leaf_module(self, module, name):
        return isinstance(module, Block) or super().is_leaf_module(module, name)


@pytest.mark.parametrize(
    ("layers", "expected"),
    [
        ((nn.Conv2d(3, 8, 3), nn.GroupNorm(1, 8), nn.ReLU()), torch.float32),
        ((nn.Conv2d(3, 8, 3), nn.Conv2d(8, 8, 1)), torch.bfloat16),
    ],
)
def test_a_convolution_with_its_normalisation_is_a_first_layer(layers, expected):
    network = nn.Sequential(Block(*layers), nn.Conv2d(8, 2, 1)).eval()
    traced = fx.GraphModule(network, Blocks().trace(network))
    assert convert_to_bf16(traced) == expected
    assert {value.dtype for value in traced.get_submodule("0").parameters()} == {expected}
    assert traced(pixels().to(expected)).dtype == torch.bfloat16


class Shared(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 3, 1)

    def forward(self, x):
        return self.conv(self.conv(x))


class Mixed(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv, self.after = nn.Conv2d(3, 3, 1), nn.Conv2d(6, 2, 1)

    def forward(self, x):
        return self.after(torch.cat([x, self.conv(x)], 1))


@pytest.mark.parametrize("network", [Shared(), Mixed(), nn.BatchNorm2d(3)])
def test_unusual_networks_are_converted_whole(network):
    whole = traced(nn.Sequential(network))
    assert convert_to_bf16(whole) == torch.bfloat16
    assert whole(pixels().bfloat16()).dtype == torch.bfloat16


def test_networks_that_were_not_traced_are_converted_whole():
    network = Stem().eval()
    assert convert_to_bf16(network) == torch.bfloat16
    assert network(pixels().bfloat16()).dtype == torch.bfloat16


@needs_openvino
@pytest.mark.filterwarnings("ignore:.*jit.trace:FutureWarning")
def test_openvino_gets_marks_on_all_up_to_the_first_layers():
    import openvino

    torch.manual_seed(0)
    network, x = Stem().eval(), pixels(2)
    model = openvino.convert_model(torch.jit.trace(network, x), example_input=x)
    marked = mark_first_layers(openvino, openvino.Core(), model)
    found = {"Convolution": [], "MatMul": []}
    for node in marked.get_ordered_ops():
        if node.get_type_name() in found:
            has_mark = "DisablePrecisionConversion_0" in node.get_rt_info()
            found[node.get_type_name()].append(has_mark)
    assert sorted(found["Convolution"]) == [False, True, True]
    assert found["MatMul"] == [False]


@needs_openvino
@pytest.mark.skipif(not has_fast_bf16(CPU), reason="the processor does not multiply bfloat16")
@torch.inference_mode()
def test_openvino_computes_marked_layers_in_fp32():
    torch.manual_seed(0)

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.second = nn.Conv2d(3, 64, 3), nn.Conv2d(64, 64, 1)

        def forward(self, images):
            first = self.first(images.float() / 255)
            return first.flatten(1), self.second(first).flatten(1)

    images = torch.randint(0, 256, (4, 3, 12, 12), dtype=torch.uint8)
    network = Net().eval()
    exact, expected = network(images)
    first, second = build(network, "openvino", images, torch.bfloat16)(images)
    # Only what is computed in fp32 agrees to so many digits.
    torch.testing.assert_close(first, exact, atol=1e-5, rtol=1e-5)
    assert 1e-7 < 1 - row_cosines(second, expected).min() < 1e-4
