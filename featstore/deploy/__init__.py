"""Files with which a run's model works outside featstore."""

from importlib.util import find_spec

from featstore._lazy import attach
from featstore.errors import ExportError

__getattr__, __dir__, __all__ = attach(
    __name__,
    {
        "ExportedModel": "featstore.deploy.export",
        "export_run": "featstore.deploy.export",
    },
)


def require_onnx() -> None:
    """Refuse to go on without the packages that write and check ONNX files."""
    lacking = [name for name in ("onnx", "onnxruntime") if find_spec(name) is None]
    if lacking:
        raise ExportError(
            f"Writing ONNX files needs {' and '.join(lacking)}: pip install onnx onnxruntime"
        )
