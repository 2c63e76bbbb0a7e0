import math
import operator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vq_anomaly_ros.replay.conditions import Condition, ConditionError, numbers, parse

OPERATORS = {
    '>': operator.gt,
    '>=': operator.ge,
    '<': operator.lt,
    '<=': operator.le,
    '==': operator.eq,
    '!=': operator.ne,
}
parts = st.text(
    st.characters(codec='utf-8', exclude_categories=('Z', 'C'), exclude_characters='.<>=!'),
    min_size=1,
)
names = st.lists(parts, min_size=1, max_size=3).map('.'.join)
finite = st.floats(allow_nan=False, allow_infinity=False)
spaces = st.sampled_from(['', ' ', '\t '])


@given(names, st.sampled_from(sorted(OPERATORS)), finite, spaces, spaces)
def test_what_is_written_is_what_is_read(
    name: str, sign: str, number: float, before: str, after: str
) -> None:
    text = f'{before}{name}{after}{sign}{before}{number!r}{after}'
    assert parse(text) == Condition(name, sign, number)


@given(finite, st.sampled_from(sorted(OPERATORS)), finite)
def test_a_condition_compares_as_python_does(value: float, sign: str, number: float) -> None:
    condition = Condition('a.b', sign, number)
    assert condition.met({'a': {'b': value}}) == OPERATORS[sign](value, number)


@pytest.mark.parametrize(
    'text',
    [
        '',
        'anomaly_fraction',
        '>0.01',
        'anomaly_fraction>',
        'anomaly_fraction>high',
        'a>1 or b>1',
        'a>1e',
        'a>nan',
        'a>1_000',
        'a..b>1',
        '.a>1',
        'a.>1',
        'a=>1',
        'a=1',
        "__import__('os').getcwd()>1 ",
        'a>(1)',
        'a>0x10',
    ],
)
def test_whatever_else_is_refused(text: str) -> None:
    if text.startswith('__import__'):
        # A name is looked up, never run: quotes and brackets are no more than letters of a name.
        with pytest.raises(ConditionError, match='no number'):
            parse(text).check_name({'a': 1})
        return
    with pytest.raises(ConditionError, match=r"such as 'anomaly_fraction>0\.01'"):
        parse(text)


def test_numbers_are_found_by_dotted_names_and_nothing_else_is() -> None:
    summary = {
        'frames': 3,
        'latency_ms': {'p50': 1.5, 'p99': None},
        'metrics': {'iou': {'car': 0.5}, 'protocol': 'pooled'},
        'failed': [1, 2],
        'labelled': True,
    }
    assert numbers(summary) == {
        'frames': 3,
        'latency_ms.p50': 1.5,
        'latency_ms.p99': None,
        'metrics.iou.car': 0.5,
    }


def test_an_unknown_name_lists_the_known_ones() -> None:
    with pytest.raises(ConditionError, match=r'no number latency.*frames, latency_ms\.p50'):
        parse('latency>1').met({'frames': 1, 'latency_ms': {'p50': 2.0}})


def test_an_undefined_number_is_no_verdict() -> None:
    with pytest.raises(ConditionError, match='undefined'):
        parse('metrics.ap<0.5').met({'metrics': {'ap': None}})


def test_infinite_constants_come_only_from_overflow() -> None:
    assert math.isinf(parse('a<1e999').number)
