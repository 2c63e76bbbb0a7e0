"""How the command line names sets, with protocols and tracks of their own."""

from __future__ import annotations

from pathlib import Path

import pytest

from training.measurement import BenchmarkError, NamedSet, named_set, protocol_of


@pytest.mark.parametrize(
    ('text', 'expected'),
    [
        ('data/roads', (None, None)),
        ('data/roads:smiyc', ('smiyc', None)),
        ('data/roads:smiyc:obstacle', ('smiyc', 'obstacle')),
        ('data/roads:segmentation', ('segmentation', None)),
    ],
)
def test_a_set_may_carry_protocol_and_track(text, expected):
    assert named_set(text) == NamedSet(Path('data/roads'), *expected)


def test_colons_of_the_folder_stay_with_it(tmp_path):
    folder = tmp_path / 'run:smiyc'
    assert named_set(f'{folder}:pooled') == NamedSet(folder, 'pooled')
    folder.mkdir()
    assert named_set(str(folder)) == NamedSet(folder)


@pytest.mark.parametrize('suffix', ['smiyk', 'smiyc:lane', 'obstacle', ''])
def test_an_unknown_suffix_of_a_folder_is_named(tmp_path, suffix):
    with pytest.raises(BenchmarkError, match='is no PROTOCOL') as error:
        named_set(f'{tmp_path}:{suffix}')
    assert 'fishyscapes' in str(error.value)
    assert 'obstacle' in str(error.value)


def test_the_protocol_of_the_set_comes_before_the_default():
    roads = Path('roads')
    assert protocol_of(NamedSet(roads, 'pooled'), 'smiyc', 'anomaly').name == 'pooled'
    assert protocol_of(NamedSet(roads), 'smiyc', 'anomaly').name == 'smiyc'
    with pytest.raises(BenchmarkError, match='roads: no protocol is named for it'):
        protocol_of(NamedSet(roads), None, 'anomaly')


def test_the_track_of_the_set_comes_before_the_default():
    own = protocol_of(NamedSet(Path('roads'), 'smiyc', 'anomaly'), None, 'obstacle')
    default = protocol_of(NamedSet(Path('roads'), 'smiyc'), None, 'obstacle')
    assert (own.components.min_predicted, default.components.min_predicted) == (500, 50)
    with pytest.raises(BenchmarkError, match='track obstacle belongs to component metrics'):
        protocol_of(NamedSet(Path('roads'), 'pooled', 'obstacle'), None, 'anomaly')
