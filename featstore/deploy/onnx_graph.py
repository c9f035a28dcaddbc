"""Build an ONNX graph, operation by operation; the only file that imports onnx."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import compose, helper, numpy_helper

from featstore.errors import ExportError

OPSET = 18
"""Version of ONNX's operators: that of 2022, which onnxruntime reads from version 1.14 on."""


IR_VERSION = 8
"""Version of the file format that belongs to it."""


MAX_NBYTES = 2**31 - 1
"""Largest file: protobuf counts bytes in 31 bits."""


TYPES = {
    "uint8": onnx.TensorProto.UINT8,
    "float32": onnx.TensorProto.FLOAT,
    "string": onnx.TensorProto.STRING,
}


class Graph:
    """A graph that grows by operations; a tensor is known by its name."""

    def __init__(self) -> None:
        self._nodes: list[Any] = []
        self._constants: list[Any] = []
        self._inputs: list[Any] = []
        self._outputs: list[Any] = []
        self._n_names = 0

    def _name(self, of: str) -> str:
        self._n_names += 1
        return f"{of.lower()}_{self._n_names}"

    def input(self, name: str, type_: str, shape: Sequence[int | str]) -> str:
        """Declare an input; axes of any length have names."""
        self._inputs.append(helper.make_tensor_value_info(name, TYPES[type_], list(shape)))
        return name

    def output(self, tensor: str, name: str, type_: str, shape: Sequence[int | str]) -> None:
        """Declare a tensor as an output, under another name."""
        self._nodes.append(helper.make_node("Identity", [tensor], [name]))
        self._outputs.append(helper.make_tensor_value_info(name, TYPES[type_], list(shape)))

    def constant(self, value: Any, dtype: Any = np.float32) -> str:
        """Return a tensor of constant numbers or texts."""
        name = self._name("constant")
        if dtype is str:
            texts: Any = [str(text).encode() for text in value]
            tensor = helper.make_tensor(name, TYPES["string"], [len(texts)], texts)
        else:
            tensor = numpy_helper.from_array(np.array(value, dtype), name)
        self._constants.append(tensor)
        return name

    def add(self, operator: str, *inputs: str, **attributes: Any) -> str:
        """Append an operation, and return its result."""
        return self.add_several(operator, 1, *inputs, **attributes)[0]

    def add_several(self, operator: str, n: int, *inputs: str, **attributes: Any) -> list[str]:
        """Append an operation that has several results."""
        results = [self._name(operator) for _ in range(n)]
        self._nodes.append(helper.make_node(operator, list(inputs), results, **attributes))
        return results

    def cast(self, tensor: str, dtype: Any) -> str:
        """Return a tensor in another type of numpy's."""
        return self.add("Cast", tensor, to=helper.np_dtype_to_tensor_dtype(np.dtype(dtype)))

    def embed(self, content: bytes, tensor: str) -> list[str]:
        """Append a whole ONNX model of one input, and return its results."""
        model = compose.add_prefix(onnx.load_model_from_string(content), f"{self._name('net')}/")
        given = model.graph.input[0].name
        for node in model.graph.node:
            node.input[:] = [tensor if name == given else name for name in node.input]
        self._nodes += model.graph.node
        self._constants += model.graph.initializer
        return [result.name for result in model.graph.output]

    def write(self, path: Path, name: str, metadata: Mapping[str, str]) -> None:
        """Write what the outputs need as one file, after checking it."""
        needed = {output.name for output in self._outputs}
        nodes = []
        for node in reversed(self._nodes):
            if needed.intersection(node.output):
                nodes.append(node)
                needed.update(node.input)
        constants = [constant for constant in self._constants if constant.name in needed]
        graph = helper.make_graph(
            nodes[::-1], name, self._inputs, self._outputs, initializer=constants
        )
        opsets = [helper.make_opsetid("", OPSET)]
        model = helper.make_model(graph, opset_imports=opsets, ir_version=IR_VERSION)
        model.producer_name = "featstore"
        helper.set_model_props(model, dict(metadata))
        if (nbytes := model.ByteSize()) > MAX_NBYTES:
            raise ExportError(
                f"The model is {nbytes / 1e9:.1f} GB, and an ONNX file holds 2.1 GB. Use a smaller "
                "network."
            )
        onnx.checker.check_model(model)
        path.write_bytes(model.SerializeToString())
