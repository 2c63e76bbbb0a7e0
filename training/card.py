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

from training.tables import markdown
from vq_anomaly_ros.detection import model_file
from vq_anomaly_ros.detection.model_file import ModelFile, ModelFileError
from vq_anomaly_ros.replay.files import write_text

BEGIN, END = '<!-- benchmark -->', '<!-- /benchmark -->'


class CardError(ValueError):
    """Rows or a page that a card cannot be made from."""


def card(model: ModelFile, rows: Sequence[dict[str, Any]], notes: str) -> str:
    """Markdown text of a model's card."""
    info = model.info
    height, width = info.input_size
    table = info.calibration or {}
    calibration = f'{table.get("source")}, {table.get("pixels")} pixels, {table.get("date")}'
    parity = '; '.join(
        f'{name}: score within {found["score_difference"]:.1e} of its range, '
        f'{found["labels_equal"]:.3%} of the labels equal'
        for name, found in info.parity.items()
    )
    use = info.codebook_usage
    usage = f'{use["unused"]} unused codevectors; perplexity ' if use else 'not measured'
    usage += ', '.join(f'{name} {value:.1f}' for name, value in use.get('perplexity', {}).items())
    return f"""# {info.name}

Made by `python -m training.card`; do not edit.

| | |
|---|---|
| method | {info.method}, {info.codevectors_per_class} codevectors a class |
| classes | {', '.join(info.classes)} |
| input | {width}x{height} RGB, uint8; frames are stretched to it |
| score | {info.score_kind}; map at 1/{info.stride} of the input |
| codebook over the training pictures | {usage} |
| training data | {', '.join(info.training_data)} |
| outlier data | {', '.join(info.outlier_data) or 'none'} |
| calibration | {calibration} |
| parity with the trained network | {parity} |
| created | {info.created}, commit `{info.commit}` |
| sha256 | file `{model.sha256}`, weights `{info.weights_sha256}` |

**Terms.** {info.terms} See [LICENSE](LICENSE).

## Results
Per cent; in brackets the 95 % bootstrap interval over images, where the set is small. OpenVINO f32.

{markdown(rows)}

{notes.strip()}
"""


def own_rows(model: ModelFile, rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """The rows that were measured with this very file; CardError where there is none."""
    own = [row for row in rows if row['provenance']['sha256'] == model.sha256]
    if not own:
        raise CardError(
            f'{model.path}: no row was measured with this file (sha256 {model.sha256[:8]}); '
            'run training.benchmark again'
        )
    return own


def with_table(page: str, table: str, name: str = 'benchmark') -> str:
    """`page` with `table` between the markers of that name; CardError where it has none."""
    opening, closing = f'<!-- {name} -->', f'<!-- /{name} -->'
    before, begin, rest = page.partition(opening)
    _, end, after = rest.partition(closing)
    if not begin or not end:
        raise CardError(f'the page has no {opening} … {closing}; put both where the table belongs')
    return f'{before}{opening}\n{table}\n{closing}{after}'


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
        write_text(options.model.with_suffix('.md'), card(model, own_rows(model, rows), notes))
        if options.readme:
            page = with_table(options.readme.read_text(), markdown(rows))
            write_text(options.readme, page)
    except (CardError, ModelFileError, OSError, ValueError, KeyError) as error:
        print(f'training.card: {error}', file=sys.stderr)
        return 2
    return 0


if __name__ == '__main__':
    sys.exit(main())
