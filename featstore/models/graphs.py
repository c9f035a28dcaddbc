"""Read a network at any of its nodes: in the graph that torch.fx traces, or by hooks on modules."""

from __future__ import annotations

import inspect
import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import fx, nn

from featstore.models.network import Network
from featstore.models.torchvision_import import torchvision

OUTPUT = "output"
"""The node of a hooked network's result."""


OPERATIONS = [
    one
    for one in vars(torchvision.ops).values()
    if isinstance(one, type) and issubclass(one, nn.Module)
]
"""Modules that are nodes as a whole, beside torch's own."""


class Trace:
    """A network's graph. Its nodes have torchvision's names: after modules, in network order."""

    hooked = False

    def __init__(self, module: nn.Module, network: Network) -> None:
        leaves, functions = network.untraced()
        tracer = torchvision.models.feature_extraction.NodePathTracer(
            autowrap_modules=(math, torchvision.ops),
            autowrap_functions=tuple(functions),
            leaf_modules=[*OPERATIONS, *leaves],
        )
        # Further arguments, such as masks, keep their defaults.
        arguments = list(inspect.signature(type(module).forward).parameters.values())[2:]
        defaults = {p.name: p.default for p in arguments if p.default is not p.empty}
        self._graph = tracer.trace(module, defaults or None)
        self._root = tracer.root
        self._nodes = {
            name: node
            for node, name in tracer.node_to_qualname.items()
            if node.op not in ("placeholder", "output") and node.target is not torch._assert
        }
        self.nodes = list(self._nodes)
        names = {node: name for name, node in self._nodes.items()}
        self.inputs = {head: _input_of(head, names) for head in network.heads}
        """The node that each head reads; None for a head that is not run."""
        (result,) = (node.args[0] for node in self._graph.nodes if node.op == "output")
        while isinstance(result, tuple | list) and result:
            result = result[0]
        self.output = names[result] if isinstance(result, fx.Node) else self.nodes[-1]
        """The node of the network's result."""

    def cut(self, nodes: Sequence[str]) -> fx.GraphModule:
        """Return the part of the network that computes the nodes; no other cut follows."""
        for node in reversed(self._graph.nodes):
            # An assertion about a later part would keep that part.
            if node.op == "output" or node.target is torch._assert:
                self._graph.erase_node(node)
        self._graph.output({name: self._nodes[name] for name in nodes})
        found = fx.GraphModule(self._root, self._graph)
        found.graph.eliminate_dead_code()
        found.delete_all_unused_submodules()
        found.recompile()
        return found


def _input_of(module: str, names: dict[fx.Node, str]) -> str | None:
    """Return the node that a module, or the first operation in it, reads."""
    inside = {node for node, name in names.items() if f"{name}.".startswith(f"{module}.")}
    read = (
        one
        for node in names
        if node in inside
        for one in node.all_input_nodes
        if one in names and one not in inside
    )
    first = next(read, None)
    return names[first] if first is not None else None


class Hooks:
    """The modules of a network that torch.fx can't trace."""

    hooked = True

    def __init__(self, module: nn.Module, network: Network) -> None:
        self._module = module
        modules = [name for name, _ in module.named_modules() if name]
        self.inputs: dict[str, str | None] = {
            head: f"{head}.input" for head in network.heads if head in modules
        }
        self.nodes = [*modules, *(node for node in self.inputs.values() if node), OUTPUT]
        self.output = OUTPUT

    def cut(self, nodes: Sequence[str]) -> HookedNetwork:
        """Return the whole network, which gives the nodes' outputs."""
        return HookedNetwork(self._module, nodes, self.inputs)


class HookedNetwork(nn.Module):
    """A network that always runs to its end, and gives the outputs of modules on the way."""

    def __init__(
        self, module: nn.Module, nodes: Sequence[str], inputs: dict[str, str | None]
    ) -> None:
        super().__init__()
        self.network = module
        self._names = tuple(nodes)
        self._found: dict[str, torch.Tensor] = {}
        read = {node: module for module, node in inputs.items()}
        for name in nodes:
            if name in read:
                part = module.get_submodule(read[name])
                part.register_forward_pre_hook(lambda _, args, n=name: self._keep(n, args))
            elif name != OUTPUT:
                part = module.get_submodule(name)
                part.register_forward_hook(lambda _, __, output, n=name: self._keep(n, output))

    def _keep(self, name: str, value: Any) -> None:
        value = first_tensor(value)
        # The last call counts, and comes last. What follows may write over its input.
        self._found.pop(name, None)
        if value is not None:
            self._found[name] = value.clone()

    def forward(self, images: torch.Tensor) -> dict[str, torch.Tensor]:
        """Return the nodes' outputs, in the order of the computation."""
        self._found.clear()
        result = first_tensor(self.network(images))
        found = dict(self._found)
        if result is not None and OUTPUT in self._names:
            found[OUTPUT] = result
        return found


def first_tensor(value: Any) -> torch.Tensor | None:
    """Return a tensor, or the first one of several; None for anything else."""
    if isinstance(value, tuple | list) and value:
        value = value[0]
    return value if isinstance(value, torch.Tensor) else None
