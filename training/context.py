"""Put an untrained backbone beside a model file: `python -m training.context M.onnx --out N.onnx`.

A network that was fine-tuned on labels and pasted objects has forgotten what ImageNet taught it of
other things. The new file runs both: classes, codes and class scores are those of the model, and
the share `--share` of the anomaly score is how unlike the coarse codevectors (fitted to the model's
own training pictures) the deepest map of an EfficientNet-lite0 is that keeps its ImageNet weights.
That costs the time of a second backbone, less with a smaller `--size`. Written as every model file:
only with parity, and calibrated on the training pictures.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx.compose
import torch
from numpy.typing import NDArray
from onnx import helper, numpy_helper
from rich.progress import track
from torch import Tensor, nn
from torch.nn import functional as F

from training import parity
from training.backbones import BackboneError, EfficientNetLite0, normalise
from training.export import summary, write_checked
from training.exporting import Exported, Image, commit, parity_pictures, run_model, today
from training.graph import ExportError, folded, to_onnx, with_half_weights
from training.methods.codebook import coarse
from training.methods.codebook.export import CodeCounts, mixed_kind, normal_scores
from training.methods.codebook.scores import coarse_novelty
from training.methods.codebook.task import SAMPLE_DRIVE, Config, StreetData
from vq_anomaly_ros.detection import model_file
from vq_anomaly_ros.detection.engines import EngineError
from vq_anomaly_ros.detection.model_file import ModelFile, ModelFileError
from vq_anomaly_ros.replay.build_engine import frame_size

_NOVELTY = 'context_novelty'  # names of tensors of the second network begin with _PREFIX
_PREFIX, _ALONE, _SHARE = 'context_', 'score_alone', 'share_context'


class Context(nn.Module):
    """uint8 RGB [N, H, W, 3] -> how unlike the coarse codevectors it is: [N, h, w] in [-1, 1].

    size: (h, w) that pictures are resized to before the backbone sees them, multiples of 32;
    map_size: (h, w) of what is given.
    """

    def __init__(self, size: tuple[int, int], map_size: tuple[int, int]) -> None:
        """Raises BackboneError where backbone or weights are not installed."""
        super().__init__()
        self.backbone = EfficientNetLite0()
        self.size, self.map_size = size, map_size
        self.codes: Tensor
        self.register_buffer('codes', torch.zeros(1, self.backbone.channels[-1], 1, 1))

    def forward(self, pictures: Tensor) -> Tensor:
        x = normalise(pictures, self.backbone)
        if self.size != pictures.shape[1:3]:
            x = F.interpolate(x, self.size, mode='bilinear', align_corners=False)
        novelty = coarse_novelty(self.backbone(x)[-1], self.codes).unsqueeze(1)
        return F.interpolate(novelty, self.map_size, mode='bilinear', align_corners=False)[:, 0]


def beside(model: onnx.ModelProto, context: onnx.ModelProto, share: float) -> onnx.ModelProto:
    """The graph of `model` whose `score` is (1 - share) * its own + share * that of `context`.

    Both take `image`; `context` gives `context_novelty` of the score's shape.
    """
    result, second = onnx.ModelProto(), onnx.ModelProto()
    result.CopyFrom(model)
    second.CopyFrom(onnx.compose.add_prefix(context, _PREFIX, rename_inputs=False))
    for node in result.graph.node:
        for names in (node.input, node.output):
            names[:] = [_ALONE if name == 'score' else name for name in names]
    shares = [('share_alone', 1 - share), (_SHARE, share)]
    result.graph.initializer.extend(second.graph.initializer)
    result.graph.initializer.extend(
        numpy_helper.from_array(np.array(value, np.float32), name) for name, value in shares
    )
    result.graph.node.extend(second.graph.node)
    parts = (_ALONE, _NOVELTY)
    for name, (weight, _) in zip(parts, shares, strict=True):
        result.graph.node.append(helper.make_node('Mul', [name, weight], [f'{name}_share']))
    result.graph.node.append(helper.make_node('Add', [f'{n}_share' for n in parts], ['score']))
    del result.graph.value_info[:]
    return result


def with_context(
    model: ModelFile, data: Path, size: tuple[int, int], share: float, count: int
) -> Exported:
    """The parts of the new model file; `data`: folder of the data sets that the model learnt from.

    Raises ExportError for a model of another method or with a context, or a size that is no
    multiple of 32.
    """
    info = model.info
    if info.method != 'codebook':
        raise ExportError(f'{model.path}: is of the method {info.method}; give one of codebook')
    if any(side % 32 or side <= 0 for side in size):
        raise ExportError(f'--size {size[0]}x{size[1]}: must be multiples of 32, as 384x768')
    graph = onnx.load(model.path)
    if any(one.name == _SHARE for one in graph.graph.initializer):
        raise ExportError(f'{model.path}: has a second backbone; give the file that it was made of')
    config = Config(
        classes=info.classes,
        datasets=tuple(name for name in info.training_data if name != SAMPLE_DRIVE),
        coarse=count,
    )
    pictures = StreetData(config, data)
    pictures.setup()
    context = Context(size, info.map_size).eval()
    shown = track(list(pictures.some(coarse.PICTURES)), 'fitting coarse codevectors')
    context.codes = coarse.fitted(context.backbone, shown, size, count, config.seed)
    examples = [one.load() for one in pictures.examples]
    features = f'ImageNet features at {size[1]}x{size[0]}'
    seen = f'minus the best cosine of {features} to a coarse codevector'
    codes = CodeCounts(np.zeros((len(info.classes), info.codevectors_per_class), np.int64))
    return Exported(
        info=replace(
            info,
            name=f'{info.name}-context',
            score_kind=mixed_kind(info.score_kind, seen, share),
            commit=commit(),
            created=today(),
        ),
        graph=beside(graph, _graph(context, info.input_size), share),
        pictures=parity_pictures([one.image for one in examples], info.input_size),
        network=partial(_outputs, model, context, share),
        normal_scores=partial(normal_scores, examples, codes),
    )


def _graph(context: Context, input_size: tuple[int, int]) -> onnx.ModelProto:
    example = torch.zeros((2, *input_size, 3), dtype=torch.uint8)
    name = _NOVELTY.removeprefix(_PREFIX)
    return with_half_weights(to_onnx(folded(context), example, [name]))


def _outputs(
    model: ModelFile, context: Context, share: float, pictures: Image
) -> dict[str, NDArray[Any]]:
    """What the new file must give: the outputs of the old one, and the mixed score."""
    names = list(model.info.output_layouts())
    single = [
        {name: np.array(value) for name, value in found.items()}
        for found in run_model(model, iter(pictures), names)
    ]
    found = {name: np.stack([one[name] for one in single]) for name in names}
    with torch.inference_mode():
        novelty = [context(torch.from_numpy(one[None]))[0].numpy() for one in pictures]
    found['score'] = (1 - share) * found['score'] + share * np.stack(novelty)
    return found


def main(argv: Sequence[str] | None = None) -> int:
    """Command line; returns the exit code."""
    options = _parser().parse_args(argv)
    try:
        model = model_file.read(model_file.find_model(options.model))
        size = options.size or model.info.input_size
        if not 0 < options.share < 1:
            raise ExportError(f'--share {options.share}: must lie between 0 and 1')
        parts = with_context(model, options.data, size, options.share, options.count)
        made = write_checked(parts, options.out)
    except (
        BackboneError, ExportError, EngineError, ModelFileError, parity.ParityError, OSError,
        ValueError,
    ) as error:  # fmt: skip
        print(f'training.context: {error}', file=sys.stderr)
        return 1
    print(summary(made))
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog='training.context', description=__doc__)
    add = parser.add_argument
    add('model', help='model file of the method codebook, or the name of a shipped one')
    add('--data', type=Path, required=True, help='folder of the data sets it was trained on')
    add('--out', type=Path, required=True, help='model file to write')
    size_help = 'input of the second backbone, as 384x768 (default: that of the model)'
    add('--size', type=frame_size, metavar='HxW', help=size_help)
    add('--share', type=float, default=0.3, help='of the second backbone in the score (0..1)')
    add('--count', type=int, default=200, help='coarse codevectors')
    return parser


if __name__ == '__main__':
    sys.exit(main())
