"""What the studies of the documentation share: how results are kept, and the command on drives."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from training.card import with_table
from vq_anomaly_ros.detection.detector import DetectorConfig
from vq_anomaly_ros.detection.model_file import find_model
from vq_anomaly_ros.replay.files import write_text


def keep_results(
    results: Any, table: str, name: str, options: argparse.Namespace, indent: int | None = 1
) -> None:
    """Results as JSON to `options.json`, the table into `options.page`, each where it is asked for.

    name: of the markers in the page; CardError where it has none of that name.
    """
    if options.json is not None:
        write_text(options.json, json.dumps(results, indent=indent) + '\n')
    if options.page is not None:
        page = with_table(options.page.read_text(encoding='utf-8'), table, name)
        write_text(options.page, page)


def add_result_options(
    parser: argparse.ArgumentParser, kept: str = 'write all cases there'
) -> None:
    """The options of `keep_results`; kept: what --json writes."""
    parser.add_argument('--json', type=Path, metavar='F', help=kept)
    parser.add_argument(
        '--page', type=Path, metavar='P', help='page whose table between markers is replaced'
    )


def drive_parser(name: str, description: str | None) -> argparse.ArgumentParser:
    """The command line of a study that runs a model over drives: training.`name`."""
    parser = argparse.ArgumentParser(
        f'training.{name}',
        description=description,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add('--data', type=Path, required=True, help='folder of the data sets')
    add('--model', default='street', help='model file, or name of a shipped one')
    add('--cache', type=Path, help='folder that keeps what was read off the frames')
    add_result_options(parser)
    return parser


def drive_config(model: str, with_codes: bool = True) -> DetectorConfig:
    """The detector of such a study: maps as the network says them, no obstacles looked for."""
    return DetectorConfig(
        find_model(model), output_size='network', with_codes=with_codes, min_obstacle_area=1.0
    )
