"""A codebook model in torch, in the place of a TensorRT plan, for `training.bench_gpu`.

Where a GPU is at hand but no TensorRT, the buffers, streams and copies of the engine can still be
measured, around a CUDA graph that torch captured of the same network. It is no TensorRT, and every
row says so. **The part that needs CUDA was not run by us**; the network is tested on a CPU.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from training.graph import folded
from training.methods.codebook.model import OUTPUTS, CodebookNet
from training.methods.codebook.task import CodebookTask, Config
from training.warm_start import StartError, codevectors, model_file_weights
from vq_anomaly_ros.detection.engines.cuda import Cuda

_WARM_UP = 3  # runs before a capture: the first ones choose algorithms and allocate


def network_of(path: Path, config: Config) -> CodebookNet:
    """The network of a codebook model file, with its weights, batch norms folded, centred.

    config: what it was trained with, for its shape alone. Raises StartError where they do not fit.
    """
    model, graph, weights = model_file_weights(path)
    if model.info.method != 'codebook':
        raise StartError(f'{path}: is of the method {model.info.method}; torch runs codebook alone')
    plain = cast('CodebookNet', folded(CodebookTask(config, pretrained=False).net))
    plain.features.centre()
    known = codevectors(model, graph, weights, plain.codevectors.shape[2])
    if set(known) != set(config.classes):
        raise StartError(f'{path}: its classes are not those of the configuration {config.name}')
    weights['codevectors'] = torch.stack([known[name] for name in config.classes])
    state = plain.state_dict()
    lacking = [name for name in state if name not in weights or _other(state, weights, name)]
    if lacking:
        raise StartError(f'{path}: has no fitting {lacking[0]}; name its configuration')
    plain.load_state_dict({name: weights[name] for name in state})
    return plain.eval()


def _other(state: Mapping[str, Tensor], weights: Mapping[str, Tensor], name: str) -> bool:
    return state[name].shape != weights[name].shape


class CameraNet(nn.Module):
    """The GPU graph of a model (`gpu_graph.derive`) in torch: frames of a camera in, maps out."""

    def __init__(
        self,
        net: nn.Module,
        network: tuple[int, int],
        size: tuple[int, int],
        outputs: Sequence[str],
    ) -> None:
        """network: (h, w) of the input; size: (H, W) of the frames; outputs: those of the graph.

        Of the camera's size there is `camera_labels`; ValueError for others.
        """
        super().__init__()
        known = {*OUTPUTS, 'camera_labels'}
        if unknown := [name for name in outputs if name not in known]:
            raise ValueError(f'torch gives no output {", ".join(unknown)}')
        self.net, self.network, self.size, self.outputs = net, network, size, tuple(outputs)

    def forward(self, frames: Tensor) -> tuple[Tensor, ...]:
        """uint8 RGB [N, H, W, 3] -> the outputs in their order."""
        pictures = frames
        if self.size != self.network:
            planes = frames.permute(0, 3, 1, 2).to(torch.float32)
            small = F.interpolate(planes, self.network, mode='bilinear', align_corners=False)
            pictures = torch.floor(small + 0.5).permute(0, 2, 3, 1)
        found = dict(zip(OUTPUTS, self.net(pictures), strict=True))
        if 'camera_labels' in self.outputs:
            labels = found['labels'][:, None].to(torch.float32)
            found['camera_labels'] = F.interpolate(labels, self.size, mode='nearest-exact')[
                :, 0
            ].to(torch.uint8)
        return tuple(found[name] for name in self.outputs)


class TorchPlan:
    """Makes contexts of a CameraNet on the GPU: what `lanes.Plan` asks for."""

    def __init__(self, net: CameraNet, batch: int, precision: str, cuda: Cuda, graph: bool) -> None:
        """graph: replay a CUDA graph instead of launching kernel after kernel."""
        self._net, self._batch, self._cuda = net.to('cuda'), batch, cuda
        self._half, self._graph = precision == 'fp16', graph

    def create_execution_context(self) -> TorchContext:
        """A new context with tensors of its own."""
        return TorchContext(self._net, self._batch, self._half, self._cuda, self._graph)


class TorchContext:
    """One copy of the work: its input and its results lie in tensors of torch."""

    def __init__(self, net: CameraNet, batch: int, half: bool, cuda: Cuda, graph: bool) -> None:
        self._net, self._half, self._cuda = net, half, cuda
        self._addresses: dict[str, int] = {}
        self._frames = torch.zeros((batch, *net.size, 3), dtype=torch.uint8, device='cuda')
        self._graph: torch.cuda.CUDAGraph | None = None
        for _ in range(_WARM_UP):
            self._results = self._computed()
        torch.cuda.synchronize()
        if graph:
            self._graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(self._graph):
                self._results = self._computed()

    def set_tensor_address(self, name: str, address: int) -> bool:
        """See lanes.Context."""
        self._addresses[name] = address
        return name == 'frames' or name in self._net.outputs

    def execute_async_v3(self, stream_handle: int) -> bool:
        """See lanes.Context: frames to torch's tensor, the work, results to their addresses."""
        with torch.cuda.stream(torch.cuda.ExternalStream(stream_handle)):
            self._move(self._frames.data_ptr(), 'frames', self._frames, stream_handle, inward=True)
            if self._graph is None:
                self._results = self._computed()
            else:
                self._graph.replay()
            for name, result in zip(self._net.outputs, self._results, strict=True):
                self._move(result.data_ptr(), name, result, stream_handle, inward=False)
        return True

    def _computed(self) -> tuple[Tensor, ...]:
        with torch.inference_mode(), torch.autocast('cuda', torch.float16, enabled=self._half):
            return tuple(result.contiguous() for result in self._net(self._frames))

    def _move(self, own: int, name: str, tensor: Tensor, stream: int, inward: bool) -> None:
        size = tensor.numel() * tensor.element_size()
        source, target = (self._addresses[name], own) if inward else (own, self._addresses[name])
        self._cuda.on_device(target, source, size, stream)
