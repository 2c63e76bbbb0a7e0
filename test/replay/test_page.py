"""report.html as a reader's machine sees it: structure, contrast and width, in a real browser."""

from __future__ import annotations

import html
import json
import re
import shutil
import subprocess
from collections import Counter
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from vq_anomaly_ros.detection.atlas import Atlas, write_atlas
from vq_anomaly_ros.replay import bags
from vq_anomaly_ros.replay.evaluate_bag import main

# Every text against what is behind it, after WCAG 2: 4.5, or 3 where it is large.
MEASURE = """
const parse = c => (c.match(/[\\d.]+/g) || [0, 0, 0, 0]).map(Number);
const light = c => { const f = c.slice(0, 3).map(v => { v /= 255;
  return v <= .03928 ? v / 12.92 : ((v + .055) / 1.055) ** 2.4; });
  return .2126 * f[0] + .7152 * f[1] + .0722 * f[2]; };
const behind = e => { for (; e; e = e.parentElement) { const c = parse(getComputedStyle(e)
  .backgroundColor); if (c.length < 4 || c[3] > .5) return c; } return [255, 255, 255]; };
const poor = [];
for (const e of document.body.querySelectorAll('*')) {
  if (e.closest('svg, script') || ![...e.childNodes].some(n => n.nodeType === 3 && n.data.trim()))
    continue;
  if (!e.getClientRects().length) continue;
  const s = getComputedStyle(e), a = light(parse(s.color)), b = light(behind(e));
  const ratio = (Math.max(a, b) + .05) / (Math.min(a, b) + .05);
  const size = parseFloat(s.fontSize), large = size >= 24 || (size >= 18.66 && s.fontWeight >= 700);
  if (ratio < (large ? 3 : 4.5)) poor.push([e.className, e.textContent.trim().slice(0, 40), ratio]);
}
const wide = document.documentElement.scrollWidth - document.documentElement.clientWidth;
const seen = [...document.querySelectorAll('.cards .views')].map(v =>
  [...v.querySelectorAll('img')].filter(i => i.getClientRects().length).length);
"""


@pytest.fixture(scope='module')
def page(
    tmp_path_factory: pytest.TempPathFactory,
    tiny_model: Path,
    tiny_atlas: Atlas,
    road_drive: Callable[..., list[np.ndarray]],
) -> str:
    """A page with all its parts: labels, an event, conditions, a comparison, what was dropped."""
    folder = tmp_path_factory.mktemp('page')
    pictures = road_drive(0, 12)
    with bags.BagWriter(folder / 'drive') as writer:
        (folder / 'labels').mkdir()
        for place, pixels in enumerate([*pictures, *[pictures[-1]] * 12]):
            stamp = 10**9 + place * 10**8
            writer.write_image('/front/image_raw', stamp, pixels, 'bgr8')
            anomaly = np.zeros(pixels.shape[:2], np.uint8)
            anomaly[20:60, 40:90] = 1
            cv2.imwrite(str(folder / 'labels' / f'{stamp}.png'), anomaly)
        depth = np.full((180, 320), np.nan, np.float32)
        writer.write_image('/front/image_raw', 4 * 10**9, depth, '32FC1')
    model = [str(folder / 'drive'), '--model', str(tiny_model), '--no-video', '--threads', '1']
    assert main([*model, '--out', str(folder / 'before')]) == 0
    write_atlas(tiny_atlas, folder / 'atlas.npz')
    more = [
        '--atlas',
        str(folder),
        '--compare',
        str(folder / 'before'),
        '--labels',
        str(folder / 'labels'),
    ]
    more += ['--target-fpr', '0.01', '--fail-if', 'frames>1', '--fail-if', 'metrics.ap<0']
    assert main([*model, '--out', str(folder / 'out'), *more]) == 1
    return (folder / 'out' / 'report.html').read_text()


class Elements(HTMLParser):
    """All elements with their attributes, and how deep headings are."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))

    def of(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.found if name == tag]


def test_all_parts_are_there_and_linked(page: str) -> None:
    elements = Elements(page)
    identities = Counter(a['id'] for _, a in elements.found if a.get('id'))
    assert set(identities.values()) == {1}
    links = {(a['href'] or '') for a in elements.of('a')}
    assert {link[1:] for link in links if link.startswith('#')} <= set(identities)
    parts = {'conditions', 'comparison', 'gallery', 'timeline', 'events', 'rates', 'drift'}
    assert parts | {'metrics', 'latency', 'provenance'} <= set(identities)
    assert {f'#{part}' for part in parts} <= links
    for section in elements.of('section'):
        assert section['aria-labelledby'] in identities


def test_headings_pictures_controls_and_tables_can_be_read_aloud(page: str) -> None:
    elements = Elements(page)
    levels = [int(tag[1]) for tag, _ in elements.found if re.fullmatch('h[1-6]', tag)]
    assert levels[0] == 1 and levels.count(1) == 1 and set(levels) == {1, 2}
    assert all(image['alt'] for image in elements.of('img'))
    labels = {label['for'] for label in elements.of('label')}
    assert {control['id'] for control in elements.of('input')} == labels
    charts = [svg for svg in elements.of('svg') if svg.get('aria-hidden') != 'true']
    assert charts and all(svg['role'] == 'img' and svg['aria-label'] for svg in charts)
    assert all(cell.get('scope') for cell in elements.of('th'))
    assert not [tag for tag, a in elements.found if 'onclick' in a or a.get('tabindex')]


def test_the_explanation_names_codevectors(page: str) -> None:
    assert page.count('Why the ringed pixel?') == len(re.findall('id="frame-', page))
    assert 'in this frame itself, for want of a calibration' in page
    assert 'Patches: noise.' in page
    assert len(re.findall('alt="patch [12] of', page)) == 10 * page.count('Why the ringed pixel?')


@pytest.fixture(scope='module')
def browser() -> str:
    for name in ('chromium', 'chromium-browser', 'google-chrome'):
        if path := shutil.which(name):
            return path
    pytest.skip('no browser is installed')


def measured(page: str, width: int, browser: str, folder: Path, dark: bool) -> dict[str, Any]:
    """What MEASURE finds in the page at a width; all that can be opened is open."""
    opened = page.replace('<details', '<details open')
    script = (
        f'<script>{MEASURE}parent.document.title = JSON.stringify({{poor, wide, seen}});</script>'
    )
    inner = html.escape(opened.replace('</body>', script + '</body>'))
    frame = f'<iframe srcdoc="{inner}" style="width:{width}px;height:900px;border:0"></iframe>'
    (folder / 'frame.html').write_text(f'<!doctype html><title>x</title>{frame}')
    scheme = f'--blink-settings=preferredColorScheme={0 if dark else 1}'
    options = ['--headless=new', '--no-sandbox', '--disable-gpu', scheme, '--dump-dom']
    options += [f'--user-data-dir={folder / "profile"}', '--virtual-time-budget=5000']
    done = subprocess.run(
        [browser, *options, f'file://{folder / "frame.html"}'],
        capture_output=True, text=True, timeout=120, check=True,
    )  # fmt: skip
    title = re.search('<title>(.*?)</title>', done.stdout, re.DOTALL)
    assert title is not None, done.stderr
    return dict(json.loads(html.unescape(title[1])))


@pytest.mark.parametrize(('width', 'dark'), [(1280, False), (360, True)])
def test_text_stands_out_and_fits_the_screen(
    page: str, browser: str, tmp_path: Path, width: int, dark: bool
) -> None:
    found = measured(page, width, browser, tmp_path, dark)
    assert found['poor'] == []
    assert found['wide'] <= 0, 'the page scrolls sideways'
    assert set(found['seen']) == {1}, 'one view of each frame is shown'
