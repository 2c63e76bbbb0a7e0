"""The weights of another training as a start: a checkpoint of a run, or a model file.

A model file holds the network as it runs on the vehicle, every batch norm folded into the
convolution before it. `unfolded` puts the norms back: their statistics are measured on pictures,
and their scale and shift are chosen so that the network computes what the file computes.
"""

from __future__ import annotations

import pickle
import re
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path

import numpy as np
import onnx
import torch
from onnx import ModelProto, numpy_helper
from torch import Tensor, nn

from training.graph import folded, norms_behind
from vq_anomaly_ros.detection import model_file
from vq_anomaly_ros.detection.model_file import ModelFile, ModelFileError


class StartError(ValueError):
    """Weights that a training cannot begin with."""


def checkpoint_weights(path: Path) -> dict[str, Tensor]:
    """The state of a run's checkpoint by name; StartError where the file is none."""
    try:
        state: dict[str, Tensor] = torch.load(  # nosec B614  a checkpoint of the user's own
            path, map_location='cpu', weights_only=False
        )['state_dict']
    except (OSError, KeyError, RuntimeError, pickle.UnpicklingError) as error:
        raise StartError(
            f'{path}: cannot be read as a checkpoint ({error}); give the last.ckpt of a run, or a '
            'model file (.onnx)'
        ) from error
    return state


def model_file_weights(path: Path) -> tuple[ModelFile, ModelProto, dict[str, Tensor]]:
    """A model file, its graph and weights by name, float32; StartError where it is none."""
    try:
        model = model_file.read(path)
        graph = onnx.load(path)
    except (ModelFileError, OSError) as error:
        raise StartError(str(error)) from error
    return (
        model,
        graph,
        {
            tensor.name.removesuffix('_half'): torch.from_numpy(
                numpy_helper.to_array(tensor).astype(np.float32)
            )
            for tensor in graph.graph.initializer
        },
    )


def unfolded(net: nn.Module, weights: Mapping[str, Tensor], pictures: Tensor) -> list[str]:
    """Fill `net` in place with the weights of its folded form; batch norms measured on `pictures`.

    With out = w'x + b' the folded convolution and m, v the mean and variance of each channel of it
    over `pictures` (uint8 [B, h, w, 3]): the convolution gets w' without b', the norm's running
    mean m - b', running variance v, scale sqrt(v + eps) and shift m, which gives out again.
    What `weights` lacks, or has in another shape, stays as it is. Returns the names of it; raises
    StartError where the backbone is among them.
    """
    plain = folded(net)
    state = {
        name: weights[name]
        for name, value in plain.state_dict().items()
        if name in weights and weights[name].shape == value.shape
    }
    lacking = [name for name, _ in plain.named_parameters() if name not in state]
    refuse_other_backbone(lacking)
    plain.load_state_dict(state, strict=False)
    moments = _moments(plain, pictures)
    own = net.state_dict()
    norms = {found.path: found.norm for found in norms_behind(net)}
    for name, value in state.items():
        stem, _, kind = name.rpartition('.')
        conv = stem if f'{stem}.weight' in own else f'{stem}.conv'
        if stem not in norms:
            own[name].copy_(value)
        elif kind == 'weight':
            own[f'{conv}.weight'].copy_(value)
        else:
            mean, variance = moments[stem]
            norm = norms[stem]
            norm.running_mean.copy_(mean - value)  # type: ignore[union-attr]
            norm.running_var.copy_(variance)  # type: ignore[union-attr]
            norm.weight.data.copy_((variance + norm.eps).sqrt())
            norm.bias.data.copy_(mean)
    return lacking


def with_own_blocks(
    weights: Mapping[str, Tensor], own: Mapping[str, Tensor], blocks: int
) -> dict[str, Tensor]:
    """`weights` with those of `own` for the backbone's blocks `blocks` (from 0) and later."""
    numbers = {name: re.search(r'backbone\.blocks\.(\d+)\.', name) for name in own}
    later = {
        name: own[name] for name, found in numbers.items() if found and int(found[1]) >= blocks
    }
    return {**weights, **later}


def refuse_other_backbone(lacking: Sequence[str]) -> None:
    """StartError where names of tensors that a start lacks are of the backbone."""
    backbone = [name for name in lacking if 'backbone.' in name]
    if backbone:
        raise StartError(
            f'has no fitting {backbone[0]} (and {len(backbone) - 1} more); '
            'fine-tuning needs the same backbone'
        )


def codevectors(
    model: ModelFile, graph: ModelProto, weights: Mapping[str, Tensor], dimension: int
) -> dict[str, Tensor]:
    """The codevectors of each class of a model file, unit vectors [M, D], by its name.

    They are the one convolution with C * M outputs of D = `dimension` inputs; the exporter gives it
    no name. Its outputs stand as m * C + c, in earlier files as c * M + m: the shape that they are
    unfolded to tells. Empty where there is no such convolution.
    """
    classes, codes = model.info.classes, model.info.codevectors_per_class or 0
    for node in graph.graph.node:
        kernel = weights.get(node.input[1]) if node.op_type == 'Conv' else None
        if kernel is None or kernel.shape != (len(classes) * codes, dimension, 1, 1):
            continue
        flat = kernel.flatten(1)
        if _unfolded_shape(graph, node.output[0])[1:3] == [len(classes), codes] != [codes] * 2:
            return dict(zip(classes, flat.view(len(classes), codes, dimension), strict=True))
        by_class = flat.view(codes, len(classes), dimension).transpose(0, 1)
        return dict(zip(classes, by_class, strict=True))
    return {}


def _unfolded_shape(graph: ModelProto, name: str) -> list[int]:
    """The shape that a Reshape gives the tensor `name`; empty where there is none."""
    shapes = {one.name: numpy_helper.to_array(one) for one in graph.graph.initializer}
    for node in graph.graph.node:
        if node.op_type == 'Reshape' and node.input[0] == name and node.input[1] in shapes:
            return [int(size) for size in shapes[node.input[1]]]
    return []


@torch.no_grad()
def _moments(plain: nn.Module, pictures: Tensor) -> dict[str, tuple[Tensor, Tensor]]:
    """Mean and variance of each channel behind every convolution, over all positions."""
    found: dict[str, tuple[Tensor, Tensor]] = {}

    def keep(name: str, module: nn.Module, inputs: object, output: Tensor) -> None:
        found[name] = (output.mean(dim=(0, 2, 3)), output.var(dim=(0, 2, 3)))

    hooks = [
        module.register_forward_hook(partial(keep, name))
        for name, module in plain.named_modules()
        if isinstance(module, nn.Conv2d)
    ]
    plain(pictures)
    for hook in hooks:
        hook.remove()
    return found
