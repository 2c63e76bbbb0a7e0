"""Put an untrained backbone beside a model file: `python -m training.context M.onnx --out N.onnx`.

A network that was fine-tuned on labels and pasted objects has forgotten what ImageNet taught it of
other things. The new file runs both: classes, codes and class scores are those of the model, and
the share `--share` of the anomaly score is how unlike the coarse codevectors (fitted to the model's
own training pictures) the deepest map of an EfficientNet-lite0 is that keeps its ImageNet weights.
That costs the time of a second backbone, less with a smaller `--size`.

`--shared N` lets both have the stem and the first N blocks in common, which are the model's, and
adds the later ones alone, with ImageNet's weights. With `--steps` these learn on the model's
training crops to give what the whole untouched backbone gives for the same picture; no label is
used. Written as every model file: only with parity, and calibrated on the training pictures.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import count, islice
from pathlib import Path
from typing import Any, cast

import numpy as np
import onnx
import onnx.compose
import torch
from numpy.typing import NDArray
from onnx import helper, numpy_helper
from torch import Tensor, nn
from torch.nn import functional as F

from training import parity
from training.backbones import BackboneError, EfficientNetLite, EfficientNetLite0, normalise
from training.export import summary, write_checked
from training.exporting import Exported, Image, commit, parity_pictures, run_model, today
from training.graph import ExportError, folded, to_onnx, with_half_weights
from training.methods.codebook import coarse
from training.methods.codebook.coarse import CoarseCodebook
from training.methods.codebook.export import CodeCounts, mixed_kind, normal_scores
from training.methods.codebook.memory import remembered
from training.methods.codebook.task import SAMPLE_DRIVE, CodebookTask, StreetData
from training.train import ConfigError, keep_freed_memory, load_start, read_config
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

    def __init__(
        self,
        backbone: EfficientNetLite,
        codebook: CoarseCodebook,
        size: tuple[int, int],
        map_size: tuple[int, int],
    ) -> None:
        super().__init__()
        self.backbone, self.codebook = backbone, codebook
        self.size, self.map_size = size, map_size

    def forward(self, pictures: Tensor) -> Tensor:
        x = normalise(pictures, self.backbone)
        if self.size != pictures.shape[1:3]:
            x = F.interpolate(x, self.size, mode='bilinear', align_corners=False)
        return self.novelty(self.backbone(x)[-1])

    def novelty(self, deepest: Tensor) -> Tensor:
        """The backbone's deepest map [N, D, h', w'] -> [N, h, w]."""
        novelty = self.codebook(deepest).unsqueeze(1)
        return F.interpolate(novelty, self.map_size, mode='bilinear', align_corners=False)[:, 0]


class Behind(nn.Module):
    """As `Context`, of the map that block `first - 1` gives instead of the picture."""

    def __init__(self, context: Context, first: int) -> None:
        super().__init__()
        self.context, self.first = context, first

    def forward(self, x: Tensor) -> Tensor:
        for block in self.context.backbone.blocks[self.first :]:
            x = block(x)
        return self.context.novelty(x)


def given_to(model: onnx.ModelProto, first: int) -> str:
    """Name of the tensor that block `first` of a model's backbone is given.

    Raises ExportError where the model has no such block.
    """
    weight = f'backbone.blocks.{first}._expand_conv.weight'
    for node in model.graph.node:
        if node.op_type == 'Conv' and node.input[1] == weight:
            return str(node.input[0])
    raise ExportError(
        f'--shared {first}: the backbone of the model has no block {first} to begin beside'
    )


def beside(
    model: onnx.ModelProto, context: onnx.ModelProto, share: float, source: str = 'image'
) -> onnx.ModelProto:
    """The graph of `model` whose `score` is (1 - share) * its own + share * that of `context`.

    `context` takes the tensor `source` of `model` as its `image`, and gives `context_novelty` of
    the score's shape.
    """
    result, second = onnx.ModelProto(), onnx.ModelProto()
    result.CopyFrom(model)
    second.CopyFrom(onnx.compose.add_prefix(context, _PREFIX, rename_inputs=False))
    for node in second.graph.node:
        node.input[:] = [source if name == 'image' else name for name in node.input]
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


@dataclass(frozen=True)
class Beside:
    """What is put beside a model, and how much it says."""

    size: tuple[int, int]  # (h, w) of its input, multiples of 32
    share: float  # of the score, 0..1
    count: int  # coarse codevectors
    distance: str = 'cosine'  # to the nearest of them, or 'whitened'
    shared: int = 0  # blocks that are the model's (0: none)
    left_out: tuple[int, ...] = ()  # blocks behind them that are left out
    steps: int = 0  # in which the blocks behind them learn what ImageNet's weights give


def with_context(model: ModelFile, data: Path, how: Beside) -> Exported:
    """The parts of the new model file; `data`: folder of the data sets that the model learnt from.

    Raises ExportError for a model of another method or with a context, or a size that is no
    multiple of 32.
    """
    info = model.info
    graph = onnx.load(model.path)
    _check(model, graph, how)
    source = given_to(graph, how.shared) if how.shared else 'image'
    pictures = _training_pictures(model, data, how)
    backbone = _backbone(model, pictures, how)
    codebook = CoarseCodebook(how.count, backbone.channels[-1], how.distance)
    shown, seed = pictures.some(coarse.PICTURES), pictures.config.seed
    coarse.fit(codebook, backbone, shown, how.size, seed)
    context = Context(backbone, codebook, how.size, info.map_size).eval()
    examples = [one.load() for one in pictures.examples]
    seen = f'{coarse.KINDS[how.distance]}, of {_features(how)}'
    codes = CodeCounts(np.zeros((len(info.classes), info.codevectors_per_class), np.int64))
    return Exported(
        info=replace(
            info,
            name=f'{info.name}-shared{how.shared}' if how.shared else f'{info.name}-context',
            score_kind=mixed_kind(info.score_kind, seen, how.share),
            commit=commit(),
            created=today(),
        ),
        graph=beside(graph, _graph(context, info.input_size, how.shared), how.share, source),
        pictures=parity_pictures([one.image for one in examples], info.input_size),
        network=partial(_outputs, model, context, how.share),
        normal_scores=partial(normal_scores, examples, codes),
    )


def _check(model: ModelFile, graph: onnx.ModelProto, how: Beside) -> None:
    size, info = how.size, model.info
    if info.method != 'codebook':
        raise ExportError(f'{model.path}: is of the method {info.method}; give one of codebook')
    if any(side % 32 or side <= 0 for side in size):
        raise ExportError(f'--size {size[0]}x{size[1]}: must be multiples of 32, as 384x768')
    names = {one.name for one in graph.graph.initializer}
    if any(name.startswith('coarse') for name in names):
        raise ExportError(
            f'{model.path}: has a coarse codebook of its own backbone, which ImageNet taught; a '
            'second one would say the same'
        )
    if _SHARE in names:
        raise ExportError(f'{model.path}: has a second backbone; give the file that it was made of')
    if how.shared and size != info.input_size:
        raise ExportError('--size: blocks that are shared see the size of the model; leave it out')
    if not how.shared and (how.left_out or how.steps):
        raise ExportError('--left-out and --steps: are of the blocks behind --shared N; give it')
    if any(block < how.shared for block in how.left_out):
        raise ExportError(f'--left-out: the first {how.shared} blocks are shared')


def _features(how: Beside) -> str:
    """In words, the map that coarse codevectors describe."""
    if how.shared:
        return f'features behind block {how.shared} as ImageNet weights give them'
    return f'ImageNet features at {how.size[1]}x{how.size[0]}'


def _training_pictures(model: ModelFile, data: Path, how: Beside) -> StreetData:
    """What the model learnt from, as crops of the configuration of `street`."""
    info = model.info
    config = replace(
        read_config('street', []),
        classes=info.classes,
        datasets=tuple(name for name in info.training_data if name != SAMPLE_DRIVE),
        repeats=(),
        sample_drive_pictures=0,
        start_blocks=how.shared,
        left_out=how.left_out,
        codevectors=info.codevectors_per_class or 0,
    )
    if 'pasted objects' not in info.outlier_data:
        config = replace(config, outlier_objects='')
    pictures = StreetData(config, data)
    pictures.setup()
    few = min(config.batch_size, len(pictures.examples))  # a smaller set has no whole batch
    pictures.config = replace(config, batch_size=few)
    return pictures


def _backbone(model: ModelFile, pictures: StreetData, how: Beside) -> EfficientNetLite:
    """ImageNet's, or the model's whose blocks behind the shared ones have learnt to be like it.

    Raises ConfigError where the model has another backbone.
    """
    if not how.shared:
        return EfficientNetLite0()
    task = CodebookTask(pictures.config)
    load_start(task, pictures, model.path)
    torch.manual_seed(pictures.config.seed)
    if how.steps:
        loader = pictures.train_dataloader()
        crops = (batch for _ in count() for batch, _ in loader)
        distance = remembered(task.net.backbone, how.shared, islice(crops, how.steps), how.steps)
        print(f'mean distance to what ImageNet weights give: {distance:.3f}', file=sys.stderr)
    return task.net.backbone.eval()


def _graph(context: Context, input_size: tuple[int, int], shared: int) -> onnx.ModelProto:
    """The second network as a graph, from the picture or from the last map that is shared."""
    plain, name = cast(Context, folded(context)), _NOVELTY.removeprefix(_PREFIX)
    pictures = torch.zeros((2, *input_size, 3), dtype=torch.uint8)
    if not shared:
        return with_half_weights(to_onnx(plain, pictures, [name]))
    with torch.no_grad():
        first = nn.Sequential(plain.backbone.stem, *plain.backbone.blocks[:shared])
        x = first(normalise(pictures, plain.backbone))
    return with_half_weights(to_onnx(Behind(plain, shared).eval(), x, [name]))


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
    keep_freed_memory()
    try:
        model = model_file.read(model_file.find_model(options.model))
        size = options.size or model.info.input_size
        if not 0 < options.share < 1:
            raise ExportError(f'--share {options.share}: must lie between 0 and 1')
        how = Beside(
            size, options.share, options.count, options.distance, options.shared,
            options.left_out, options.steps,
        )  # fmt: skip
        parts = with_context(model, options.data, how)
        made = write_checked(parts, options.out)
    except (
        BackboneError, ConfigError, ExportError, EngineError, ModelFileError, parity.ParityError,
        OSError, ValueError,
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
    add('--distance', choices=coarse.KINDS, default='cosine', help='to the nearest of them')
    add('--shared', type=int, default=0, metavar='N', help='blocks that both backbones share')
    left_out = 'blocks behind the shared ones that are left out, as 12,13'
    add('--left-out', type=_numbers, default=(), metavar='N,N', help=left_out)
    add('--steps', type=int, default=0, help='in which the blocks behind the shared ones learn')
    return parser


def _numbers(text: str) -> tuple[int, ...]:
    return tuple(int(one) for one in text.split(','))


if __name__ == '__main__':
    sys.exit(main())
