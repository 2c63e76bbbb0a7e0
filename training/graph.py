"""From a trained torch network to the ONNX graph of a model file."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

OPSET = 18
# Tensors of up to so many values keep float32: all but the pointwise convolutions of late stages.
# They are a third of the weights and make nearly all of the error that rounding to fp16 causes
# (EfficientNet-lite0, largest difference of the score as a share of its range: 0.0185 without this
# rule, 0.0009 at 30,000 values, 0.0002 at 150,000).
SMALL = 150_000


class ExportError(RuntimeError):
    """A network that cannot become a model file."""


def folded(net: nn.Module) -> nn.Module:
    """A copy of `net` in evaluation mode, every batch norm folded into the convolution before it.

    Folded in float32 before the weights are rounded to fp16, so that the rounding is of what is
    multiplied and not of its factors.
    """
    net = copy.deepcopy(net).eval()
    for found in norms_behind(net):
        conv = found.parent.get_submodule(found.conv)
        setattr(found.parent, found.conv, _fused(conv, found.norm))
        setattr(found.parent, found.name, nn.Identity())
    left = [name for name, module in net.named_modules() if isinstance(module, nn.BatchNorm2d)]
    if left:
        raise ExportError(f'batch norm {left[0]} has no convolution before it; fold it by hand')
    return net


class NormBehind(NamedTuple):
    """A batch norm and what stands before it: names within `parent`, and the path of the latter."""

    parent: nn.Module
    conv: str
    path: str
    name: str
    norm: nn.BatchNorm2d


def norms_behind(net: nn.Module) -> list[NormBehind]:
    """Every batch norm that has a module before it."""
    return [
        NormBehind(parent, conv, f'{path}.{conv}'.lstrip('.'), name, child)
        for path, parent in net.named_modules()
        for (conv, _), (name, child) in pairwise(parent.named_children())
        if isinstance(child, nn.BatchNorm2d)
    ]


def _fused(conv: nn.Module, norm: nn.BatchNorm2d) -> nn.Module:
    inner = getattr(conv, 'conv', conv)
    if not isinstance(inner, nn.Conv2d):
        raise ExportError(f'a batch norm follows {type(conv).__name__}, which is no convolution')
    return fuse_conv_bn_eval(inner, norm)


def to_onnx(net: nn.Module, picture: Tensor, outputs: Sequence[str]) -> onnx.ModelProto:
    """Trace `net`, a batch [N, ...] as input `image` -> `outputs`, into a graph with N dynamic."""
    with torch.no_grad():
        program = torch.onnx.export(
            net,
            (picture,),
            input_names=['image'],
            output_names=list(outputs),
            dynamic_shapes=({0: torch.export.Dim('N')},),
            opset_version=OPSET,
            dynamo=True,
            optimize=True,
            verbose=False,
        )
    if program is None:
        raise ExportError('torch.onnx.export returned nothing; see its messages above')
    model = onnx.ModelProto()
    model.CopyFrom(program.model_proto)
    del model.metadata_props[:]
    _without_traces(model.graph)
    return model


def _without_traces(graph: onnx.GraphProto) -> None:
    """Drop the exporter's notes: they name source files of the machine that exported."""
    graph.doc_string = ''
    for node in graph.node:
        node.doc_string = ''
        del node.metadata_props[:]
    for value in [*graph.value_info, *graph.input, *graph.output]:
        del value.metadata_props[:]


def rounded(net: nn.Module) -> nn.Module:
    """`net` with every float32 parameter and buffer rounded to the nearest fp16, in place.

    A graph of it may keep all of them as fp16 and still gives what the network gives. Raises
    ExportError where a value is beyond fp16.
    """
    with torch.no_grad():
        for name, tensor in [*net.named_parameters(), *net.named_buffers()]:
            if tensor.dtype == torch.float32:
                tensor.copy_(torch.from_numpy(_half(name, tensor.detach().numpy())))
    return net


def _half(name: str, values: NDArray[np.float32]) -> NDArray[np.float16]:
    with np.errstate(over='ignore'):
        half = values.astype(np.float16)
    if not np.isfinite(half).all():
        raise ExportError(f'weight {name} has values up to {np.abs(values).max():.3g}, beyond fp16')
    return half


def with_half_weights(model: onnx.ModelProto, small: int = SMALL) -> onnx.ModelProto:
    """The graph with its large float32 weights stored as fp16 behind a Cast to float32.

    small: tensors of up to so many values stay float32. Raises ExportError where a weight does not
    fit into fp16.
    """
    result = onnx.ModelProto()
    result.CopyFrom(model)
    casts = []
    for tensor in result.graph.initializer:
        values = numpy_helper.to_array(tensor)
        if values.dtype != np.float32 or values.size <= small:
            continue
        name = tensor.name
        half = _half(name, values)
        tensor.CopyFrom(numpy_helper.from_array(half, f'{name}_half'))
        casts.append(helper.make_node('Cast', [f'{name}_half'], [name], to=TensorProto.FLOAT))
    nodes = [*casts, *result.graph.node]
    del result.graph.node[:]
    result.graph.node.extend(nodes)
    return result
