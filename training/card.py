"""The card of a shipped model, from its metadata and the rows of the benchmark.

`python -m training.card models/street.onnx --rows docs/benchmarks/street.json --readme README.md`
writes models/street.md and the table between the markers of README.md; nothing is typed by hand.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from training.tables import write_text
from vq_anomaly_ros.detection import model_file
from vq_anomaly_ros.detection.model_file import ModelFile, ModelFileError

BEGIN, END = '<!-- benchmark -->', '<!-- /benchmark -->'
_SHOWN = {
    'ap': 'AP ↑', 'fpr95': 'FPR95 ↓', 'auroc': 'AUROC ↑', 'f1_star': 'F1* ↑', 'miou': 'mIoU ↑',
}  # fmt: skip


class CardError(ValueError):
    """Rows or a page that a card cannot be made from."""


def results_table(rows: Sequence[dict[str, Any]]) -> str:
    """Markdown table of benchmark rows, metrics in per cent, an interval where there is one."""
    head = ['data', 'protocol', 'images', *_SHOWN.values(), 'outlier data', 'weights', 'commit']
    lines = [f'| {" | ".join(head)} |', f'|{"---|" * len(head)}']
    for row in rows:
        cells = [row['data'], row['protocol'], str(row['images'])]
        cells += [_metric(row, name) for name in _SHOWN]
        weights = row['provenance']['weights_sha256'][:8]
        outliers = row['outliers']
        named = outliers if isinstance(outliers, str) else ', '.join(outliers)
        cells += [named or 'none', f'`{weights}`', f'`{row["commit"]}`']
        lines.append(f'| {" | ".join(cells)} |')
    return '\n'.join(lines)


def _metric(row: dict[str, Any], name: str) -> str:
    value = row['metrics'].get(name)
    if value is None:
        return '–'
    interval = (row.get('interval') or {}).get(name)
    spread = f' [{100 * interval[0]:.1f}, {100 * interval[1]:.1f}]' if interval else ''
    return f'{100 * value:.1f}{spread}'


def card(model: ModelFile, rows: Sequence[dict[str, Any]], notes: str) -> str:
    """Markdown text of a model's card."""
    info = model.info
    height, width = info.input_size
    calibration = info.calibration or {}
    parity = '; '.join(
        f'{name}: score within {found["score_difference"]:.1e} of its range, '
        f'{found["labels_equal"]:.3%} of the labels equal'
        for name, found in info.parity.items()
    )
    return f"""# {info.name}

Made by `python -m training.card`; do not edit.

| | |
|---|---|
| method | {info.method}, {info.codevectors_per_class} codevectors a class |
| classes | {', '.join(info.classes)} |
| input | {width}x{height} RGB, uint8; frames are stretched to it |
| score | {info.score_kind}; map at 1/{info.stride} of the input |
| training data | {', '.join(info.training_data)} |
| outlier data | {', '.join(info.outlier_data) or 'none'} |
| calibration | {calibration.get('source')}, {calibration.get('pixels')} pixels, {calibration.get('date')} |
| parity with the trained network | {parity} |
| created | {info.created}, commit `{info.commit}` |
| sha256 | file `{model.sha256}`, weights `{info.weights_sha256}` |

**Terms.** {info.terms} See [LICENSE](LICENSE).

## Results
Per cent; in brackets the 95 % bootstrap interval over images, where the set is small. OpenVINO f32.

{results_table(rows)}

{notes.strip()}
"""


def with_table(page: str, table: str) -> str:
    """`page` with `table` between its markers; CardError where it has none."""
    before, begin, rest = page.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise CardError(f'the page has no {BEGIN} … {END}; put both where the table belongs')
    return f'{before}{BEGIN}\n{table}\n{END}{after}'


def main(argv: Sequence[str] | None = None) -> int:
    """Command line; returns the exit code."""
    parser = argparse.ArgumentParser(prog='training.card', description=__doc__)
    parser.add_argument('model', type=Path)
    parser.add_argument('--rows', type=Path, required=True, help='JSON of training.benchmark')
    parser.add_argument('--notes', type=Path, help='Markdown to append: how the weights came about')
    parser.add_argument('--readme', type=Path, help='page whose table is replaced')
    options = parser.parse_args(argv)
    try:
        model = model_file.read(options.model)
        rows = json.loads(options.rows.read_text())
        notes = options.notes.read_text() if options.notes else ''
        write_text(options.model.with_suffix('.md'), card(model, rows, notes))
        if options.readme:
            page = with_table(options.readme.read_text(), results_table(rows))
            write_text(options.readme, page)
    except (CardError, ModelFileError, OSError, ValueError, KeyError) as error:
        print(f'training.card: {error}', file=sys.stderr)
        return 2
    return 0


if __name__ == '__main__':
    sys.exit(main())
