"""fuzz_guided: the targets of `fuzz`, with inputs that atheris (libFuzzer) grows by coverage.

    python -m vq_anomaly_ros.trials.fuzz_guided image out/corpus -runs=100000

TARGET, a folder that keeps the corpus, then options of libFuzzer. A finding ends it; libFuzzer
writes the input to a file crash-… and says so. Needs `pip install -r requirements/fuzzing.txt`.
"""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Sequence
from pathlib import Path


def main(arguments: Sequence[str] | None = None) -> int:
    """Fuzz until an error, a signal, or the end of -runs."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    if not given or given[0] in ('-h', '--help'):
        print(__doc__)
        return 0 if given else 2
    if importlib.util.find_spec('atheris') is None:
        remedy = 'pip install -c constraints.txt -r requirements/fuzzing.txt'
        print(f'fuzz_guided: atheris is not installed: {remedy}', file=sys.stderr)
        return 2
    import atheris

    # What is imported in this block reports which of its lines an input has reached.
    with atheris.instrument_imports(include=['vq_anomaly_ros', 'rosbags']):
        from vq_anomaly_ros.trials.fuzz_targets import TARGETS
    if given[0] not in TARGETS:
        print(f'fuzz_guided: {given[0]!r} is none of {", ".join(TARGETS)}', file=sys.stderr)
        return 2
    target = TARGETS[given[0]]
    corpus = Path(given[1] if given[1:] else 'out/corpus') / target.name
    corpus.mkdir(parents=True, exist_ok=True)
    seeds = corpus.parent / f'{target.name}_seeds'
    seeds.mkdir(exist_ok=True)
    for number, seed in enumerate(target.seeds(seeds)):
        (corpus / f'seed_{number}').write_bytes(seed)
    atheris.Setup([sys.argv[0], str(corpus), *given[2:]], target.check)
    atheris.Fuzz()
    return 0


if __name__ == '__main__':
    sys.exit(main())
