"""A command that measures one thing on a stage of its own and says whether it held."""

from __future__ import annotations

import json
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console

from vq_anomaly_ros.replay.files import OutputError, write_text
from vq_anomaly_ros.replay.interruption import interruptible
from vq_anomaly_ros.replay.processes import ProcessError
from vq_anomaly_ros.trials.machine_kind import machine_kind
from vq_anomaly_ros.trials.peer import TrialError, own_domain
from vq_anomaly_ros.trials.stage import Stage

Row = dict[str, Any]


@dataclass(frozen=True)
class OneTrial:
    """What is measured.

    name: of the command; key: of the row in the file; measure: on a stage; problems: what of a row
    is not as it should be; shown: what of it is printed.
    """

    name: str
    key: str
    measure: Callable[[Stage], Row]
    problems: Callable[[Row], Sequence[str]]
    shown: Callable[[Row], Row]

    def run(self, path: Path | None, console: Console) -> int:
        """Measure, write the row to `path`; returns 0 where all held, 1 where not, 130."""
        try:
            with (
                interruptible(),
                tempfile.TemporaryDirectory(prefix=f'{self.key}.') as folder,
                own_domain() as (peer, environment),
            ):
                row = self.measure(Stage(peer.node.context, environment, Path(folder)))
            if path is not None:
                told = {'machine': machine_kind(), self.key: row}
                write_text(path, json.dumps(told, indent=1) + '\n')
        except (TrialError, ProcessError, OutputError) as error:
            print(f'{self.name}: {error}', file=sys.stderr)
            return 1
        except KeyboardInterrupt:
            print(f'{self.name}: interrupted; nothing was written', file=sys.stderr)
            return 130
        console.print(self.shown(row))
        problems = self.problems(row)
        for problem in problems:
            print(f'{self.name}: {problem}', file=sys.stderr)
        return int(bool(problems))
