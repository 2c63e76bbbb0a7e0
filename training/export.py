"""Export a run as a model file: `python -m training.export RUN --out M.onnx`.

The file is written only when OpenVINO and ONNX Runtime give what the trained network gives.
"""

from __future__ import annotations

import argparse
import datetime
import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from rich.progress import track
from torch import nn

from training import parity
from training.data.street import Example
from training.graph import ExportError, folded, to_onnx, with_half_weights
from training.methods.codebook.model import OUTPUTS, CodebookNet
from training.methods.codebook.task import CodebookTask, Config, read_examples, usage
from training.train import read_config
from vq_anomaly_ros.detection import model_file
from vq_anomaly_ros.detection.calibration import Calibration
from vq_anomaly_ros.detection.engines import EngineError, open_engine
from vq_anomaly_ros.detection.model_file import ModelFile, ModelInfo

_PARITY_PICTURES = 24
# Terms of the data that weights inherit, by the first part of a data set's name.
_TERMS = {
    'camvid': 'CamVid (CC BY-NC, via the SegNet copy)',
    'idd_lite': 'IDD-Lite (research use)',
    'cityscapes': 'Cityscapes (non-commercial)',
}


def load_run(run: Path) -> tuple[Config, CodebookNet]:
    """The configuration of a run and its trained network, in evaluation mode.

    Raises ExportError where the run has no checkpoint.
    """
    task = load_task(run)
    return task.config, task.net


def load_task(run: Path) -> CodebookTask:
    """A run's task with all that it trained, in evaluation mode; ExportError as `load_run`."""
    checkpoint = run / 'last.ckpt'
    if not checkpoint.exists():
        raise ExportError(f'{run}: no last.ckpt in it; train first or name the folder of a run')
    config = read_config(str(run / 'config.yaml'), [])
    task = CodebookTask(config, pretrained=False)
    state = torch.load(checkpoint, map_location='cpu', weights_only=False)
    task.load_state_dict(state['state_dict'])
    return task.eval()


def describe(config: Config) -> ModelInfo:
    """The metadata of a codebook model, still without calibration, parity and hash."""
    outliers = [
        name
        for name, used in (
            ('void labels', config.void_labels or config.void_soft_weight),
            ('pasted objects', config.outlier_objects),
            ('noise textures', config.outlier_objects and config.outlier_textures),
        )
        if used
    ]
    data = [*config.datasets] + (['sample drive'] if config.sample_drive_pictures else [])
    height, width = config.input_size
    return ModelInfo(
        name=config.name,
        method='codebook',
        classes=tuple(config.classes),
        palette=config.palette,
        input_size=(int(height), int(width)),
        stride=4,
        score_kind=score_kind(config),
        score_range=(-1.0, 1.0),
        codevectors_per_class=config.codevectors,
        calibration=None,
        training_data=tuple(data),
        outlier_data=tuple(outliers),
        terms=terms(config),
        commit=commit(),
        weights_sha256='0' * 64,
        parity={},
        created=datetime.datetime.now(datetime.UTC).date().isoformat(),
    )


def score_kind(config: Config) -> str:
    """In words, what the exported score is."""
    each = f'weighted top-{config.top_k} cosine'
    kind = f'minus the best {each} to a class'
    if config.evidence:
        kind = f'minus the evidence of all classes (t = {config.evidence:g}) by their {each}'
    window = f', mean of {config.smooth}x{config.smooth} positions' if config.smooth > 1 else ''
    return kind + window


def terms(config: Config) -> str:
    """What the weights of a run inherit from the data that they were trained on."""
    data = dict.fromkeys(name.split('/')[0] for name in config.datasets)
    known = [_TERMS.get(name, f'{name} (see its own terms)') for name in data]
    if config.outlier_objects:
        known.append('cut-outs of COCO instances (CC BY 4.0)')
    return (
        f'Research and non-commercial use: the weights were trained on {", ".join(known)}, and '
        'inherit their terms.'
    )


def commit() -> str:
    """The commit that the exporter ran from, with '+' behind where files were changed."""
    folder = Path(__file__).parent
    try:
        head = subprocess.run(
            ['git', 'rev-parse', '--short=12', 'HEAD'],
            cwd=folder, capture_output=True, text=True, check=True,
        ).stdout.strip()  # fmt: skip
        changed = subprocess.run(
            ['git', 'status', '--porcelain', '--untracked-files=no'],
            cwd=folder, capture_output=True, text=True, check=True,
        ).stdout.strip()  # fmt: skip
    except (OSError, subprocess.CalledProcessError):
        return 'unknown'
    return head + ('+' if changed else '')


def graph_of(net: nn.Module, config: Config) -> onnx.ModelProto:
    """The ONNX graph of a trained network: batch norm folded, weights stored as fp16."""
    height, width = config.input_size
    picture = torch.zeros((2, int(height), int(width), 3), dtype=torch.uint8)
    plain = folded(net)
    if isinstance(plain, CodebookNet):
        plain.features.centre()
    return with_half_weights(to_onnx(plain, picture, OUTPUTS))


def stretched(example: Example, size: Sequence[int]) -> NDArray[np.uint8]:
    """A picture at the input size (h, w), as on the vehicle: uint8 RGB [h, w, 3]."""
    stretched_ = cv2.resize(
        example.image, (int(size[1]), int(size[0])), interpolation=cv2.INTER_LINEAR
    )
    return np.asarray(stretched_, np.uint8)


def run_network(net: nn.Module, pictures: NDArray[np.uint8]) -> dict[str, NDArray[Any]]:
    """All outputs of the trained network by name, one picture at a time."""
    parts = []
    with torch.no_grad():
        for picture in pictures:
            parts.append([output.numpy() for output in net(torch.from_numpy(picture[None]))])
    return {
        name: np.concatenate([part[index] for part in parts]) for index, name in enumerate(OUTPUTS)
    }


@dataclass
class CodeCounts:
    """How many labelled positions each codevector of each class is nearest to, int64 [C, M]."""

    counts: NDArray[np.int64]

    def add(self, codes: NDArray[np.int32]) -> None:
        """Count indices c * M + m of any shape."""
        found = np.bincount(codes.ravel(), minlength=self.counts.size)
        self.counts += found.reshape(self.counts.shape)

    def usage(self, classes: Sequence[str]) -> dict[str, Any]:
        """`ModelInfo.codebook_usage`; empty where nothing was counted."""
        if not self.counts.any():
            return {}
        unused, perplexity = usage(torch.from_numpy(self.counts))
        found = zip(classes, perplexity.tolist(), strict=True)
        return {'unused': unused, 'perplexity': {name: round(value, 2) for name, value in found}}


def normal_scores(
    model: ModelFile, examples: Sequence[Example], codes: CodeCounts
) -> Iterator[NDArray[np.float32]]:
    """Raw scores of the labelled positions of each example, at the map's size; counts `codes`."""
    engine = open_engine(model, 'openvino', ['score', 'codes'])
    rows, columns = model.info.map_size
    try:
        for example in track(examples, description='calibrating'):
            engine.input_buffer(1)[0] = stretched(example, model.info.input_size)
            found = engine.infer(1)
            labels = cv2.resize(
                example.labels, (columns, rows), interpolation=cv2.INTER_NEAREST_EXACT
            )
            known = labels < len(model.info.classes)
            codes.add(found['codes'][0][known])
            yield found['score'][0][known]
    finally:
        engine.close()


def export(run: Path, out: Path, data: Path) -> ModelFile:
    """Export a run; `data`: folder of the data sets. Nothing is written where parity fails."""
    config, net = load_run(run)
    stored = read_examples(replace(config, repeats=()), data)
    examples = [one.load() for one in stored]
    graph = graph_of(net, config)
    chosen = examples[:: max(1, len(examples) // _PARITY_PICTURES)]
    pictures = np.stack([stretched(example, config.input_size) for example in chosen])
    with tempfile.TemporaryDirectory() as folder:
        draft = model_file.write(graph, describe(config), Path(folder) / 'draft.onnx')
        report = parity.check(draft, pictures, lambda batch: run_network(net, batch))
        codes = CodeCounts(np.zeros((len(config.classes), config.codevectors), np.int64))
        table = Calibration.from_scores(
            normal_scores(draft, examples, codes),
            source='training set',
            score_range=draft.info.score_range,
            model_sha256=draft.info.weights_sha256,
        )
    info = replace(
        describe(config),
        calibration=table.to_dict(),
        parity=report,
        codebook_usage=codes.usage(config.classes),
    )
    out.parent.mkdir(parents=True, exist_ok=True)
    return model_file.write(graph, info, out)


def main(argv: Sequence[str] | None = None) -> int:
    """Command line; returns the exit code."""
    parser = argparse.ArgumentParser(prog='training.export', description=__doc__)
    parser.add_argument('run', type=Path, help='folder of a run of training.train')
    parser.add_argument('--out', type=Path, required=True, help='model file to write')
    parser.add_argument('--data', type=Path, required=True, help='folder of the data sets')
    arguments = parser.parse_args(argv)
    try:
        model = export(arguments.run, arguments.out, arguments.data)
    except (ExportError, EngineError, parity.ParityError, OSError, ValueError) as error:
        print(f'training.export: {error}', file=sys.stderr)
        return 1
    size = model.path.stat().st_size / 2**20
    print(f'{model.path}: {size:.1f} MiB, sha256 {model.sha256[:12]}')
    print(json.dumps(model.info.parity, indent=2))
    return 0


if __name__ == '__main__':
    sys.exit(main())
