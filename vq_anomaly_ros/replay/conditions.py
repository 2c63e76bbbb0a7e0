"""Conditions on the numbers of a summary, such as 'anomaly_fraction>0.01' or 'metrics.ap < 0.6'.

The grammar: condition = name operator number. A name is a path into the summary, its parts joined
by dots; a part holds no space, dot or one of < > = !. An operator is > >= < <= == or !=, a number
decimal, such as 3, 0.01 or 1e-3.
"""

from __future__ import annotations

import operator
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

_OPERATORS: dict[str, Callable[[float, float], bool]] = {
    '>': operator.gt,
    '>=': operator.ge,
    '<': operator.lt,
    '<=': operator.le,
    '==': operator.eq,
    '!=': operator.ne,
}
_CONDITION = re.compile(
    r"""\s* (?P<name> [^\s.<>=!]+ (?: \. [^\s.<>=!]+ )* )
        \s* (?P<operator> >= | <= | == | != | > | < )
        \s* (?P<number> [+-]? (?: [0-9]+ (?: \.[0-9]* )? | \.[0-9]+ ) (?: [eE][+-]?[0-9]+ )? )
        \s*""",
    re.VERBOSE,
)


class ConditionError(ValueError):
    """A condition cannot be read or judged; the message says what would do."""


@dataclass(frozen=True)
class Condition:
    """One comparison of a summary's number with a constant."""

    name: str
    operator: str
    number: float

    def __str__(self) -> str:
        return f'{self.name} {self.operator} {self.number:g}'

    def met(self, summary: Mapping[str, Any]) -> bool:
        """Return whether the summary's number meets the condition.

        Raises:
            ConditionError: the summary has no such number, or it is undefined there.
        """
        self.check_name(summary)
        value = numbers(summary)[self.name]
        if value is None:
            raise ConditionError(
                f'--fail-if {self}: {self.name} is undefined in this run (nothing to compute it '
                'from); drop the condition or give the labels that it needs'
            )
        return _OPERATORS[self.operator](value, self.number)

    def check_name(self, summary: Mapping[str, Any]) -> None:
        """Raise ConditionError, listing what there is, where the summary has no such number."""
        known = numbers(summary)
        if self.name not in known:
            raise ConditionError(
                f'--fail-if {self}: the summary has no number {self.name}; '
                f'choose from: {", ".join(sorted(known))}'
            )


def parse(text: str) -> Condition:
    """Parse one condition.

    Raises:
        ConditionError: `text` is not of the grammar.
    """
    match = _CONDITION.fullmatch(text)
    if match is None:
        raise ConditionError(
            f'--fail-if {text!r}: no condition; write a number of the summary, an operator '
            f"({', '.join(_OPERATORS)}) and a constant, such as 'anomaly_fraction>0.01'"
        )
    return Condition(match['name'], match['operator'], float(match['number']))


def numbers(summary: Mapping[str, Any], prefix: str = '') -> dict[str, float | None]:
    """Return {dotted name: number} of a nested summary; None where a number is undefined."""
    found: dict[str, float | None] = {}
    for key, value in summary.items():
        name = f'{prefix}{key}'
        if isinstance(value, Mapping):
            found |= numbers(value, f'{name}.')
        elif value is None or (isinstance(value, (int, float)) and not isinstance(value, bool)):
            found[name] = value
    return found
