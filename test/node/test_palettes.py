"""Palettes of the user's choice."""

from __future__ import annotations

from pathlib import Path

import pytest

from vq_anomaly_ros.node.palettes import PaletteError, read_palette

ROOT = Path(__file__).resolve().parents[2]


def test_colours_come_in_the_order_of_the_classes(tmp_path: Path) -> None:
    path = tmp_path / 'mine.yaml'
    path.write_text('car: [1, 2, 3]\nroad: [4, 5, 6]\nsky: [7, 8, 9]\n')
    assert read_palette(str(path), ('road', 'car')) == ((4, 5, 6), (1, 2, 3))


def test_a_name_is_found_in_the_package() -> None:
    assert read_palette('cityscapes', ('road',)) == ((128, 64, 128),)


def test_a_name_is_found_in_an_installed_package(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / 'share' / 'vq_anomaly_ros' / 'config' / 'palettes'
    folder.mkdir(parents=True)
    (folder / 'mine.yaml').write_text('road: [1, 1, 1]\n')
    monkeypatch.setenv('AMENT_PREFIX_PATH', str(tmp_path))
    assert read_palette('mine', ('road',)) == ((1, 1, 1),)


@pytest.mark.parametrize(
    ('text', 'word'),
    [
        ('- 1\n', 'not a palette'),
        ('road: [1, 2, 3]\n', 'no colour for car'),
        ('car: [1, 2]\nroad: [1, 2, 3]', 'no colour for car'),
        ('car: [1, 2, 300]\nroad: [1, 2, 3]', 'no colour for car'),
        ('car: [1, 2, true]\nroad: [1, 2, 3]', 'no colour for car'),
        ('car: [1, 2', 'no palette can be read'),
    ],
)
def test_a_bad_palette_is_refused(tmp_path: Path, text: str, word: str) -> None:
    path = tmp_path / 'bad.yaml'
    path.write_text(text)
    with pytest.raises(PaletteError, match=word) as caught:
        read_palette(str(path), ('road', 'car'))
    assert str(path) in str(caught.value)


def test_a_missing_palette_is_named_with_the_places() -> None:
    with pytest.raises(PaletteError, match=r'nowhere: no such palette \(looked for .*nowhere'):
        read_palette('nowhere', ())


@pytest.mark.parametrize('path', sorted((ROOT / 'config' / 'palettes').glob('*')), ids=str)
def test_shipped_palettes_cover_the_street_model(path: Path, street_model: Path) -> None:
    from vq_anomaly_ros.detection import model_file

    read_palette(path.stem, model_file.read(street_model).info.classes)
