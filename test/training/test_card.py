"""The card of a model: made from its metadata and the benchmark's rows alone."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from training import ablation, card, new_town
from training.baselines import measure
from training.tables import markdown
from vq_anomaly_ros.detection import model_file

ROOT = Path(__file__).resolve().parents[2]
ROW = {
    'model': 'tiny', 'data': 'animals', 'protocol': 'smiyc', 'images': 3, 'outliers': 'none',
    'seed': 0, 'commit': 'abc', 'metrics': {'ap': 0.5}, 'interval': {'ap': [0.4, 0.6]},
    'not_measured': {}, 'provenance': {'sha256': '12345678', 'weights_sha256': '12345678'},
}  # fmt: skip


def test_the_card_holds_hash_terms_and_figures(tiny_model: Path) -> None:
    model = model_file.read(tiny_model)
    text = card.card(model, [ROW], 'how it came about')
    for part in (model.sha256, model.info.terms, 'road, tree, car, person', 'how it came about'):
        assert part in text
    assert '50.0 [40.0, 60.0]' in text


def test_the_table_goes_between_the_markers_and_nowhere_else() -> None:
    page = f'before\n{card.BEGIN}\nold\n{card.END}\nafter'
    assert card.with_table(page, 'new') == f'before\n{card.BEGIN}\nnew\n{card.END}\nafter'
    with pytest.raises(card.CardError, match='put both'):
        card.with_table('no markers', 'new')


def test_readme_and_cards_say_what_the_rows_and_the_shipped_models_say() -> None:
    rows = json.loads((ROOT / 'docs/benchmarks/street.json').read_text())
    models = [model_file.read(path) for path in sorted((ROOT / 'models').glob('*.onnx'))]
    assert {row['provenance']['sha256'] for row in rows} == {model.sha256 for model in models}
    assert markdown(rows) in (ROOT / 'README.md').read_text()
    for model in models:
        notes = (ROOT / f'docs/benchmarks/{model.info.name.replace("-", "_")}_notes.md').read_text()
        page = (ROOT / f'models/{model.info.name}.md').read_text()
        assert page == card.card(model, card.own_rows(model, rows), notes)


@pytest.mark.parametrize('study', ['ablation', 'baselines', 'new_town'])
def test_the_page_of_the_method_says_what_the_rows_of_the_studies_say(study: str) -> None:
    rows = json.loads((ROOT / f'docs/benchmarks/{study}.json').read_text())
    tables = {
        'ablation': ablation.markdown,
        'baselines': measure.markdown,
        'new_town': new_town.markdown,
    }
    table = tables[study](rows)
    assert f'<!-- {study} -->\n{table}' in (ROOT / 'docs/codebook.md').read_text()


@pytest.mark.parametrize('name', ['void', 'context', 'shared', 'unseen'])
def test_the_page_of_the_method_says_what_the_rows_of_the_benchmark_say(name: str) -> None:
    rows = json.loads((ROOT / f'docs/benchmarks/{name}.json').read_text())
    page = (ROOT / 'docs/codebook.md').read_text()
    assert f'<!-- {name} -->\n{markdown(rows)}\n<!-- /{name} -->' in page


def test_the_readme_says_of_a_context_what_its_rows_say() -> None:
    rows = json.loads((ROOT / 'docs/benchmarks/context.json').read_text())
    readme = ' '.join((ROOT / 'README.md').read_text().split())
    street = {row['data']: row for row in rows if row['model'] == 'street-context'}
    for data, name in (('road_anomaly21', 'RoadAnomaly21'), ('fs_static', 'Static')):
        found = street[data]['metrics']
        assert f'{100 * found["ap"]:.1f} / {100 * found["fpr95"]:.1f} on {name}' in readme
    ratio = street['fs_static']['provenance']['timing']['time_over_trunk']
    assert f'in {ratio:.1f} times the bare trunk' in readme


def test_a_card_needs_rows_of_its_own_file(tiny_model: Path) -> None:
    with pytest.raises(card.CardError, match='no row was measured with this file'):
        card.own_rows(model_file.read(tiny_model), [ROW])
