"""The tables of docs/ccl.md, of what training.ccl_industrial found."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np

from training.judging import Figures, spread

METRICS = ('image_auroc', 'pixel_auroc', 'pro', 'ap')
_SCORES = {'highest': 'highest of the map', 'mean': 'mean of the map', 'unlike': 'global feature'}
_FULL = 'CCL'


def markdown(found: Figures) -> str:
    """All tables, of `training.ccl_industrial.study`."""
    parts = [_rows(found), _light(found), _added(found), _changes(found)]
    parts += [_unseen(found), _speed(found)]
    return '\n\n'.join('\n'.join(lines) for lines in parts if lines)


def of_row(found: Figures, row: str) -> dict[int, list[Figures]]:
    """The rows of a model by seed."""
    by_seed: dict[int, list[Figures]] = {}
    for one in found['rows']:
        if one['model'] == row:
            by_seed.setdefault(one['seed'], []).append(one)
    return by_seed


def means(by_seed: dict[int, list[Figures]], metric: str) -> list[float]:
    """Mean over the categories of a metric, for each seed."""
    return [float(np.mean([one['metrics'][metric] for one in rows])) for rows in by_seed.values()]


def _rows(found: Figures) -> list[str]:
    categories = list(dict.fromkeys(one['data'] for one in found['rows']))
    heads = ['row', 'seeds', *categories, 'image AUROC', 'pixel AUROC', 'PRO', 'AP', 'v-measure']
    lines = _head(heads)
    for row in dict.fromkeys(one['model'] for one in found['rows']):
        by_seed = of_row(found, row)
        known = {one['data'] for rows in by_seed.values() for one in rows}
        if known != set(categories):
            continue
        cells = [row, str(len(by_seed))]
        cells += [_of_category(by_seed, name) for name in categories]
        cells += [spread(means(by_seed, metric)) for metric in METRICS]
        values = [
            one['v_measure'] for one in found['runs'] if one['row'] == row and 'v_measure' in one
        ]
        lines.append(_line([*cells, f'{np.mean(values):.3f}' if values else '–']))
    return lines


def _of_category(by_seed: dict[int, list[Figures]], name: str) -> str:
    return spread(
        [one['metrics']['image_auroc'] for rows in by_seed.values() for one in rows
         if one['data'] == name]
    )  # fmt: skip


def _light(found: Figures) -> list[str]:
    """How far the mean grey level of a picture alone goes."""
    told = ', '.join(f'{name} {100 * value:.1f}' for name, value in found['brightness'].items())
    pseudo = sorted({f'{value:.3f}' for value in found['pseudo_v_measure'].values()})
    return [
        f"Image AUROC of a picture's mean grey level alone: {told}. V-measure of pseudo-classes "
        f'and true ones, before any training: {", ".join(pseudo)}.'
    ]


def _added(found: Figures) -> list[str]:
    """What a third category does to the two others: their figures without it and with it."""
    lines = _head(['category', 'trained with', 'seeds', 'image AUROC', 'pixel AUROC', 'PRO'])
    for category in dict.fromkeys(one['data'] for one in found['rows']):
        models = [
            seeds
            for row, seeds in _models_with(found, category)
            if row == _FULL
            or row.startswith(f'{_FULL} without')
            or row.endswith(('alone', 'added'))
        ]
        shared = set.intersection(*(set(seeds) for seeds in models)) if models else set()
        for seeds in models if len(models) > 1 else []:
            some = [seeds[seed] for seed in sorted(shared)]
            cells = [spread([one['metrics'][metric] for one in some]) for metric in METRICS[:3]]
            lines.append(_line([category, _company(some[0]), str(len(some)), *cells]))
    return lines if len(lines) > 2 else []


def _changes(found: Figures) -> list[str]:
    """What adding a category to a trained model changes for those that it knew, seed by seed."""
    metrics = [f'change of {name}' for name in ('image AUROC', 'pixel AUROC', 'PRO')]
    lines = _head(['added', 'to', 'seeds', *metrics])
    for late in dict.fromkeys(one['data'] for one in found['rows']):
        before = of_row(found, f'{_FULL} without {late}')
        after = of_row(found, f'{_FULL}, {late} added')
        seeds = sorted(set(before) & set(after))
        changes = {
            one['data']: [_change(one['data'], before[seed], after[seed]) for seed in seeds]
            for seed in seeds[:1]
            for one in before[seed]
        }
        if changes:
            changes['their mean'] = np.mean(list(changes.values()), axis=0).tolist()
        for name, of_seeds in changes.items():
            cells = [_signed(values) for values in zip(*of_seeds, strict=True)]
            lines.append(_line([late, name, str(len(seeds)), *cells]))
    return lines if len(lines) > 2 else []


def _change(name: str, before: Sequence[Figures], after: Sequence[Figures]) -> list[float]:
    """Of a category, from the rows of one run to those of another: a change of each metric."""
    was, now = (
        next(one['metrics'] for one in rows if one['data'] == name) for rows in (before, after)
    )
    return [now[metric] - was[metric] for metric in METRICS[:3]]


def _signed(values: Sequence[float]) -> str:
    """As `spread`, of differences."""
    told = spread(values)
    return told if told.startswith('-') else f'+{told}'


def _company(row: Figures) -> str:
    """What a category was trained with: "b + c"; "b, then c" where c was added later."""
    others = [name for name in row['provenance']['trained_on'] if name != row['data']]
    if row['model'].endswith(' added'):
        late = row['model'].removesuffix(' added').removeprefix(f'{_FULL}, ')
        earlier = ' + '.join(name for name in others if name != late) or 'nothing'
        return f'{earlier}, then {late}' if late in others else f'{earlier} before it'
    return ' + '.join(others) or 'nothing'


def _models_with(found: Figures, category: str) -> Iterator[tuple[str, dict[int, Figures]]]:
    """Models that know a category, those with fewest others first: its rows by seed."""
    models: dict[str, dict[int, Figures]] = {}
    for one in found['rows']:
        if one['data'] == category:
            models.setdefault(one['model'], {})[one['seed']] = one

    def others(item: tuple[str, dict[int, Figures]]) -> int:
        return len(next(iter(item[1].values()))['provenance']['trained_on'])

    yield from sorted(models.items(), key=others)


def _unseen(found: Figures) -> list[str]:
    """Frames of a category left out, by each score of a frame: AUROC, and the share flagged."""
    runs = [one for one in found['runs'] if one['row'].startswith(f'{_FULL} without')]
    lines = _head(['left out', 'seeds', *_SCORES.values()])
    for row in dict.fromkeys(one['row'] for one in runs):
        mine = [one['unseen'] for one in runs if one['row'] == row]
        (name,) = mine[0]
        cells = [_told([one[name][score] for one in mine]) for score in _SCORES]
        lines.append(_line([name.rpartition('/')[2], str(len(mine)), *cells]))
    return lines if len(lines) > 2 else []


def _told(figures: Sequence[dict[str, float]]) -> str:
    mean: Callable[[str], float] = lambda key: float(np.mean([one[key] for one in figures]))  # noqa: E731
    return f'{100 * mean("auroc"):.1f}, flagged {mean("flagged"):.0%}'


def _speed(found: Figures) -> list[str]:
    speed: Any = found['speed']
    if not speed:
        return []
    return [
        f'In the node: {speed["answered"]} of {speed["sent"]} frames of 256x256 answered that came '
        f'at {speed["sent_a_second"]:g} Hz, {speed["frames_per_second"]:.1f} a second, '
        f'p50 {speed["latency_ms"]["p50"]:.0f} ms ({speed["cores"]} cores, {speed["cpu"]}, '
        f'other work beside it).'
    ]


def _head(titles: Sequence[str]) -> list[str]:
    return [_line(titles), _line(['---'] * len(titles))]


def _line(cells: Sequence[str]) -> str:
    return '| ' + ' | '.join(cells) + ' |'
