"""What a model file says of itself, and the only place that reads or writes it.

A model is one self-contained ONNX file; its metadata is JSON under one key, with a version.
Graph: input `image` uint8 [N, h, w, 3] RGB; outputs `score` float32 [N, h/s, w/s] (higher = more
anomalous), `labels` uint8 [N, h/s, w/s], `class_scores` float32 [N, C, h/s, w/s] and `codes`
int32 [N, h/s, w/s]; N is dynamic. A method without classes has neither labels nor class scores.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import onnx
import onnx.inliner
from onnx import TensorProto, numpy_helper

from vq_anomaly_ros.detection import model_info
from vq_anomaly_ros.detection.model_info import (
    FORMAT_VERSION,
    REMEDY,
    ModelFileError,
    ModelInfo,
)
from vq_anomaly_ros.file_sizes import read_bounded
from vq_anomaly_ros.share import share_folders

__all__ = [
    'FORMAT_VERSION',
    'METADATA_KEY',
    'ModelFile',
    'ModelFileError',
    'ModelInfo',
    'find_model',
    'keep_outputs',
    'outputs',
    'pruned',
    'read',
    'write',
]

METADATA_KEY = 'vq_anomaly_ros'
# A shipped one has at most 12 MB, a bank of patches more; nobody's is this large.
LARGEST_FILE = 512 * 2**20


@dataclass(frozen=True)
class ModelFile:
    """A model file that was read and found valid; sha256 is that of the whole file."""

    path: Path
    info: ModelInfo
    sha256: str


def read(path: Path | str) -> ModelFile:
    """The validated description of a model file; raises ModelFileError."""
    path = Path(path)
    data = _bytes_of(path)
    model = _parse(data, path)
    info = _info_of(model, path)
    if _weights_sha256(model, path) != info.weights_sha256:
        raise ModelFileError(
            f'{path}: the weights are not those that the metadata describes '
            f'(sha256 differs); copy the file again or {REMEDY}'
        )
    _check_graph(model, info, path)
    return ModelFile(path, info, hashlib.sha256(data).hexdigest())


def write(model: onnx.ModelProto, info: ModelInfo, path: Path | str) -> ModelFile:
    """Write a graph with its metadata as one file, whole or not at all; raises ModelFileError.

    `info.weights_sha256` is computed here. The graph is checked against the metadata first.
    """
    path = Path(path)
    if model.functions:
        model = onnx.inliner.inline_local_functions(model)
    described = onnx.ModelProto()
    described.CopyFrom(model)
    info = dataclasses.replace(info, weights_sha256=_weights_sha256(described, path))
    info = model_info.from_dict(model_info.to_dict(info), path)
    _check_graph(described, info, path)
    _check_onnx(described, path)
    others = [entry for entry in described.metadata_props if entry.key != METADATA_KEY]
    del described.metadata_props[:]
    metadata = _json_of(info, path)
    # ours last: of a file that was cut anywhere it is missing, so that the cut cannot go unseen
    described.metadata_props.extend(
        [*others, onnx.StringStringEntryProto(key=METADATA_KEY, value=metadata)]
    )
    _write_atomically(described.SerializeToString(deterministic=True), path)
    return read(path)


def _json_of(info: ModelInfo, path: Path) -> str:
    try:
        return json.dumps(model_info.to_dict(info), sort_keys=True, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise ModelFileError(
            f'{path}: not written, its metadata cannot be JSON ({error}); give '
            'plain finite numbers and texts in parity'
        ) from error


def outputs(path: Path | str) -> tuple[str, ...]:
    """Names of the outputs of the graph."""
    path = Path(path)
    return tuple(value.name for value in _parse(_bytes_of(path), path).graph.output)


def pruned(path: Path | str, outputs: Sequence[str]) -> bytes:
    """The serialised graph with only these outputs, in this order, and what they need.

    Raises ModelFileError where the graph has no such output.
    """
    path = Path(path)
    model = _parse(_bytes_of(path), path)
    graph = model.graph
    available = {value.name: value for value in graph.output}
    missing = [name for name in outputs if name not in available]
    if missing or not outputs:
        raise ModelFileError(
            f'{path}: the model has no output {", ".join(missing) or "of an empty list"}; '
            f'ask for some of {", ".join(available)}'
        )
    keep_outputs(graph, [available[name] for name in outputs])
    return bytes(model.SerializeToString())


def keep_outputs(graph: onnx.GraphProto, kept: Sequence[onnx.ValueInfoProto]) -> None:
    """Leave, in place, only these outputs of a graph, in this order, and what they need."""
    nodes, needed = _needed(graph, [value.name for value in kept])
    for field, values in (
        (graph.output, kept),
        (graph.node, nodes),
        (graph.initializer, [tensor for tensor in graph.initializer if tensor.name in needed]),
        (graph.value_info, [value for value in graph.value_info if value.name in needed]),
    ):
        copies = list(values)
        del field[:]
        field.extend(copies)


def find_model(name_or_path: Path | str) -> Path:
    """A path as it is, else a name (with or without .onnx) in the models that were installed.

    Looks in <prefix>/share/vq_anomaly_ros/models of every prefix of AMENT_PREFIX_PATH, then in
    models/ of the checkout that this file lies in. Raises ModelFileError, listing the places.
    """
    given = Path(name_or_path).expanduser()
    names = (given, given.with_name(given.name + '.onnx'))
    folders = [Path()] if given.is_absolute() else [Path(), *share_folders('models')]
    candidates = [folder / name for folder in folders for name in names]
    for candidate in candidates:
        if candidate.is_file():
            return candidate
    places = ', '.join(str(candidate) for candidate in candidates)
    raise ModelFileError(
        f'{name_or_path}: no such model (looked for {places}); give the path of a model file or '
        'the name of a shipped one'
    )


def _bytes_of(path: Path) -> bytes:
    try:
        return read_bounded(path, LARGEST_FILE)
    except FileNotFoundError as error:
        raise ModelFileError(
            f'{path}: there is no such model file; check the path or {REMEDY}'
        ) from error
    except OSError as error:
        raise ModelFileError(
            f'{path}: it cannot be read ({error.strerror}); check the path and its rights'
        ) from error


def _parse(data: bytes, path: Path) -> onnx.ModelProto:
    model = onnx.ModelProto()
    try:
        model.ParseFromString(data)
    except Exception as error:  # what protobuf raises differs between its implementations
        raise ModelFileError(
            f'{path}: the file is no ONNX model or was cut ({len(data)} bytes); '
            f'copy it again or {REMEDY}'
        ) from error
    return model


def _info_of(model: onnx.ModelProto, path: Path) -> ModelInfo:
    entries = [entry.value for entry in model.metadata_props if entry.key == METADATA_KEY]
    if not entries:
        raise ModelFileError(
            f'{path}: the file has no metadata under the key {METADATA_KEY!r}, so it was not made '
            f'for this package or was cut; {REMEDY}'
        )
    try:
        fields = json.loads(entries[-1])
    except (ValueError, RecursionError) as error:
        raise ModelFileError(f'{path}: its metadata is no JSON ({error}); {REMEDY}') from error
    if not isinstance(fields, dict):
        raise ModelFileError(f'{path}: its metadata is no JSON object; {REMEDY}')
    return model_info.from_dict(fields, path)


def _weights_sha256(model: onnx.ModelProto, path: Path) -> str:
    """sha256 over name, type, shape and values of every initializer, sorted by name."""
    digest = hashlib.sha256()
    for tensor in sorted(model.graph.initializer, key=lambda tensor: str(tensor.name)):
        if tensor.data_location == TensorProto.EXTERNAL:
            raise ModelFileError(
                f'{path}: the weight {tensor.name} lies in another file; a model is one file, '
                'save it without external data'
            )
        try:
            values = numpy_helper.to_array(tensor)
        except (
            Exception
        ) as error:  # to_array raises many kinds for values that contradict the shape
            raise ModelFileError(
                f'{path}: the weight {tensor.name} is damaged ({error}); copy the file again'
            ) from error
        digest.update(f'{tensor.name}|{values.dtype}|{values.shape}|'.encode())
        digest.update(values.tobytes())
    return digest.hexdigest()


def _check_onnx(model: onnx.ModelProto, path: Path) -> None:
    try:
        onnx.checker.check_model(model)
    except onnx.checker.ValidationError as error:
        cause = str(error).splitlines()[0]
        raise ModelFileError(
            f'{path}: not written, the graph is no valid ONNX ({cause}); repair the exporter'
        ) from error


def _check_graph(model: onnx.ModelProto, info: ModelInfo, path: Path) -> None:
    """Names, types and known dimensions of the graph's input and outputs against the metadata."""
    initializers = {tensor.name for tensor in model.graph.initializer}
    inputs = [value for value in model.graph.input if value.name not in initializers]
    if [value.name for value in inputs] != ['image']:
        found = ', '.join(str(value.name) for value in inputs) or 'none'
        raise ModelFileError(f'{path}: its inputs are {found} where one `image` is due; {REMEDY}')
    _check_value(inputs[0], 'uint8', (*info.input_size, 3), path)
    outputs = {value.name: value for value in model.graph.output}
    for name, (dtype, shape) in info.output_layouts().items():
        if name not in outputs:
            raise ModelFileError(
                f'{path}: the graph lacks the output `{name}` that its metadata calls for; {REMEDY}'
            )
        _check_value(outputs[name], dtype, shape, path)


def _check_value(
    value: onnx.ValueInfoProto, dtype: str, shape: tuple[int, ...], path: Path
) -> None:
    """One input or output: its type, its rank, a free batch, and every dimension that is fixed."""
    tensor = value.type.tensor_type
    found = _dtype_name(tensor.elem_type)
    if found != dtype:
        raise ModelFileError(f'{path}: `{value.name}` is {found} where {dtype} is due; {REMEDY}')
    if not tensor.HasField('shape'):
        return
    sizes = [dim.dim_value if dim.HasField('dim_value') else None for dim in tensor.shape.dim]
    agrees = len(sizes) == 1 + len(shape) and all(
        size is None or size == due for size, due in zip(sizes[1:], shape, strict=True)
    )
    if not agrees or sizes[0] is not None:
        names = ', '.join('?' if size is None else str(size) for size in sizes)
        due = ', '.join(str(size) for size in ('N', *shape))
        raise ModelFileError(
            f'{path}: `{value.name}` has the shape [{names}] where its metadata says [{due}] with '
            f'a free N; {REMEDY}'
        )


def _dtype_name(elem_type: int) -> str:
    try:
        return str(onnx.helper.tensor_dtype_to_np_dtype(elem_type))
    except (KeyError, ValueError):
        return f'of the ONNX type {elem_type}'


def _needed(
    graph: onnx.GraphProto, outputs: Iterable[str]
) -> tuple[list[onnx.NodeProto], set[str]]:
    """The nodes that the outputs depend on, in graph order, and every name they touch."""
    needed = set(outputs)
    nodes = []
    # ONNX graphs are sorted topologically: from the end, a consumer comes before its producers
    for node in reversed(graph.node):
        if needed.isdisjoint(node.output):
            continue
        nodes.append(node)
        needed.update(node.output)
        needed.update(_inputs_of(node))
    return nodes[::-1], needed


def _inputs_of(node: onnx.NodeProto) -> set[str]:
    """Inputs of a node and those that its subgraphs (If, Loop) take from outside."""
    names = set(node.input)
    for attribute in node.attribute:
        for inner in (attribute.g, *attribute.graphs):
            names.update(name for child in inner.node for name in _inputs_of(child))
    return names


def _write_atomically(data: bytes, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f'.{path.name}.{os.getpid()}.part')
    try:
        temporary.write_bytes(data)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
