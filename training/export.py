"""Export a run as a model file: `python -m training.export RUN --out M.onnx`.

The file is written only when OpenVINO and ONNX Runtime give what the trained network gives.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from training import parity
from training.exporting import Exported, require_checkpoint
from training.graph import ExportError
from training.methods.ccl import export as ccl
from training.methods.ccl.task import Config as CclConfig
from training.methods.codebook import export as codebook
from training.methods.codebook.model import CodebookNet
from training.methods.codebook.task import CodebookTask
from training.methods.codebook.task import Config as CodebookConfig
from training.methods.cpc import export as cpc
from training.train import read_any_config, read_config
from vq_anomaly_ros.detection import model_file
from vq_anomaly_ros.detection.calibration import Calibration
from vq_anomaly_ros.detection.engines import EngineError
from vq_anomaly_ros.detection.model_file import ModelFile


def load_run(run: Path) -> tuple[CodebookConfig, CodebookNet]:
    """The configuration of a codebook run and its trained network, in evaluation mode.

    Raises ExportError where the run has no checkpoint.
    """
    task = load_task(run)
    return task.config, task.net


def load_task(run: Path) -> CodebookTask:
    """A codebook run's task with all that it trained; ExportError as `load_run`."""
    require_checkpoint(run)
    return codebook.load_task(run, read_config(str(run / 'config.yaml'), []))


def exported(run: Path, data: Path) -> Exported:
    """The parts of the model file of a run; ExportError where it has no checkpoint."""
    require_checkpoint(run)
    config = read_any_config(str(run / 'config.yaml'), [])
    if isinstance(config, CodebookConfig):
        return codebook.exported(run, config, data)
    if isinstance(config, CclConfig):
        return ccl.exported(run, config, data)
    return cpc.exported(run, config, data)


def export(run: Path, out: Path, data: Path) -> ModelFile:
    """Export a run; `data`: folder of the data sets. Nothing is written where parity fails."""
    return write_checked(exported(run, data), out)


def write_checked(parts: Exported, out: Path) -> ModelFile:
    """Write the parts of a model file, calibrated; ParityError, and nothing, where they differ."""
    with tempfile.TemporaryDirectory() as folder:
        draft = model_file.write(parts.graph, parts.info, Path(folder) / 'draft.onnx')
        report = parity.check(draft, parts.pictures, parts.network)
        table = Calibration.from_scores(
            parts.normal_scores(draft),
            source='training set',
            score_range=draft.info.score_range,
            model_sha256=draft.info.weights_sha256,
        )
    info = replace(parts.info, calibration=table.to_dict(), parity=report, **parts.facts())
    out.parent.mkdir(parents=True, exist_ok=True)
    return model_file.write(parts.graph, info, out)


def summary(model: ModelFile) -> str:
    """A line about a model file that was written: path, size, hash."""
    size = model.path.stat().st_size / 2**20
    return f'{model.path}: {size:.1f} MiB, sha256 {model.sha256[:12]}'


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
    print(summary(model))
    print(json.dumps(model.info.parity, indent=2))
    return 0


if __name__ == '__main__':
    sys.exit(main())
