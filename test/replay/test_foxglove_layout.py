"""config/foxglove_layout.json fits the bags that evaluate_bag writes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from vq_anomaly_ros.replay import bags
from vq_anomaly_ros.replay.evaluate_bag import EvaluationConfig, evaluate

LAYOUT = Path(__file__).resolve().parents[2] / 'config' / 'foxglove_layout.json'
KINDS = {
    'Image': (bags.IMAGE, bags.COMPRESSED_IMAGE),
    'RawMessages': (bags.STRING,),
    'DiagnosticSummary': ('diagnostic_msgs/msg/DiagnosticArray',),
}


@pytest.fixture(scope='module')
def layout() -> dict[str, Any]:
    return json.loads(LAYOUT.read_text())


def panels(tree: Any) -> list[str]:
    """Ids of the panels in the layout's tree of splits."""
    if isinstance(tree, str):
        return [tree]
    assert tree['direction'] in ('row', 'column') and 0 < tree['splitPercentage'] < 100
    return panels(tree['first']) + panels(tree['second'])


def test_every_panel_is_placed_once_and_configured(layout: dict[str, Any]) -> None:
    assert sorted(panels(layout['layout'])) == sorted(layout['configById'])
    assert {panel.split('!')[0] for panel in layout['configById']} <= set(KINDS)
    # What the importer of Foxglove asks for.
    assert {'globalVariables', 'userNodes', 'playbackConfig'} <= set(layout)


def test_its_topics_are_those_of_the_output_bag(
    tmp_path: Path, picture: Any, tiny_model: Path, layout: dict[str, Any]
) -> None:
    with bags.BagWriter(tmp_path / 'drive') as writer:
        for place in range(8):  # the same picture again and again is an event
            writer.write_image('/front/image_raw', 1 + place * 10**8, picture(0), 'bgr8')
    evaluate(EvaluationConfig((tmp_path / 'drive',), tmp_path / 'out', tiny_model, video=False))
    written = bags.topics(tmp_path / 'out' / 'output')
    for panel, config in layout['configById'].items():
        kind = panel.split('!')[0]
        topic = config.get('imageMode', {}).get('imageTopic') or config.get('topicPath')
        if kind == 'DiagnosticSummary':
            assert config['topicToRender'] == '/diagnostics'  # of the node only
            continue
        assert written[topic.removesuffix('.data')][0] in KINDS[kind]
