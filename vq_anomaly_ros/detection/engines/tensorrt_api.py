"""What of TensorRT's Python module is used here, for the type checker alone.

`tensorrt-stubs` describes the module; a library is passed as a value (TensorRT, TensorRT-RTX, a
stand-in in tests), so its names stand in a protocol.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    import tensorrt as trt


class TensorRt(Protocol):
    """The module."""

    __name__: str
    __version__: str
    Builder: type[trt.Builder]
    BuilderFlag: type[trt.BuilderFlag]
    IProgressMonitor: type[trt.IProgressMonitor]
    Logger: type[trt.Logger]
    MemoryPoolType: type[trt.MemoryPoolType]
    NetworkDefinitionCreationFlag: type[trt.NetworkDefinitionCreationFlag]
    OnnxParser: type[trt.OnnxParser]
    Runtime: type[trt.Runtime]
