"""The baselines against closed forms, torch.distributions, scikit-learn and slow loops."""

from __future__ import annotations

import json
import math
from functools import partial
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from scipy.special import logsumexp, softmax
from sklearn.neighbors import NearestNeighbors
from torch import Tensor
from torch.distributions import Independent, Normal
from torch.nn import functional as F

from training.ablation import SCHEDULE
from training.backbones import EfficientNetLite0
from training.baselines import (
    LOGIT_SCORES,
    FeatureDensity,
    GmmHead,
    Head,
    LinearNet,
    LinearTask,
    ProtoHead,
    SharedCodebookHead,
    entropy,
    max_softmax,
)
from training.baselines import __main__ as command
from training.baselines import measure as rows
from training.baselines.density import coarse_features, training_features
from training.baselines.gmmseg import (
    VARIANCE_FLOOR,
    FeatureMemory,
    balanced_components,
    log_likelihood,
    m_step,
)
from training.baselines.network import as_maps, by_position, ramped
from training.baselines.protoseg import moved_prototypes, prototype_contrast, prototype_distance
from training.data.folders import VOID
from training.data.street import Example
from training.methods.codebook.task import Config


def unit(*shape: int, seed: int = 0) -> Tensor:
    """Random unit vectors along the last dimension."""
    return F.normalize(torch.randn(*shape, generator=torch.Generator().manual_seed(seed)), dim=-1)


def test_scores_against_scipy() -> None:
    logits = torch.randn(2, 5, 3, 4, generator=torch.Generator().manual_seed(0)) * 3
    values = logits.double().numpy()
    share = softmax(values, axis=1)
    expected = {
        'max softmax': 1 - share.max(axis=1),
        'max logit': -values.max(axis=1),
        'entropy': -(share * np.log(share)).sum(axis=1) / math.log(5),
        'energy': -logsumexp(values, axis=1),
    }
    for name, score in LOGIT_SCORES.items():
        np.testing.assert_allclose(score(logits), expected[name], atol=1e-5)


def test_scores_of_a_coin_and_of_a_certainty() -> None:
    even, sure = torch.zeros(1, 4, 1, 1), torch.zeros(1, 4, 1, 1)
    sure[0, 2] = 100.0
    assert max_softmax(even).item() == pytest.approx(0.75)
    assert entropy(even).item() == pytest.approx(1.0)
    assert max_softmax(sure).item() == pytest.approx(0.0)
    assert entropy(sure).item() == pytest.approx(0.0, abs=1e-6)


def test_a_linear_head_learns_two_colours() -> None:
    torch.manual_seed(0)
    net = LinearNet(2, channels=16, pretrained=False).train()
    pictures = torch.zeros(4, 64, 64, 3, dtype=torch.uint8)
    pictures[:, :, 32:] = 255
    labels = torch.zeros(4, 16, 16, dtype=torch.long)
    labels[:, :, 8:] = 1
    optimiser = torch.optim.Adam(net.parameters(), 1e-2)
    first = None
    for _ in range(25):
        loss = F.cross_entropy(net(pictures), labels)
        first = first or loss.item()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    assert loss.item() < 0.3 * first


def test_the_task_of_the_linear_head_has_its_network() -> None:
    task = LinearTask(SCHEDULE, pretrained=False)
    assert isinstance(task.net, LinearNet)
    assert task.net.eval()(torch.zeros(1, 32, 32, 3, dtype=torch.uint8)).shape == (1, 11, 8, 8)


def test_positions_and_maps_are_inverse() -> None:
    maps = torch.arange(2.0 * 3 * 4 * 5).view(2, 3, 4, 5)
    rows_ = by_position(maps)
    assert rows_.shape == (40, 3) and torch.equal(rows_[7], maps[0, :, 1, 2])
    assert torch.equal(as_maps(rows_, maps), maps)


def test_momentum_begins_short_and_ends_where_it_should() -> None:
    steps = [ramped(0.999, step) for step in range(0, 10_000, 10)]
    assert steps[0] == pytest.approx(0.1) and steps == sorted(steps) and steps[-1] == 0.999


def test_log_likelihood_is_that_of_a_diagonal_normal() -> None:
    generator = torch.Generator().manual_seed(1)
    features, means = unit(50, 16), unit(3, 4, 16, seed=1)
    variances = torch.rand(3, 4, 16, generator=generator) * 0.1 + 0.01
    expected = Independent(Normal(means, variances.sqrt()), 1).log_prob(features[:, None, None])
    torch.testing.assert_close(
        log_likelihood(features, means, variances), expected, atol=1e-3, rtol=1e-5
    )


def test_gmm_judges_by_the_best_component_of_a_class() -> None:
    head = GmmHead(3, channels=8, dimension=16, components=4, memory=20).eval()
    with torch.no_grad():
        head.norm.bias.copy_(torch.tensor([0.0, 5.0, 0.0]))  # of the classes, not of the likelihood
        fused = torch.randn(2, 8, 5, 6)
        judged = head.judge(fused)
        normal = Independent(Normal(head.means, head.variances.sqrt()), 1)
        features = head.features(fused).permute(0, 2, 3, 1)[..., None, None, :]
        classes = normal.log_prob(features).amax(dim=-1)  # [B, h, w, C]
        logits = F.layer_norm(classes, (3,), head.norm.weight, head.norm.bias)
    torch.testing.assert_close(
        judged.anomaly['likelihood'], -classes.amax(dim=-1), atol=1e-3, rtol=1e-5
    )
    torch.testing.assert_close(
        judged.class_scores, logits.permute(0, 3, 1, 2), atol=1e-3, rtol=1e-3
    )


def test_components_are_shared_out_evenly_at_any_likelihood() -> None:
    # Two clusters of each class, all of them a little nearer to component 0, in nats by the dozen.
    likelihood = torch.full((80, 2, 2), -5000.0)
    labels = torch.arange(2).repeat_interleave(40)
    for position in range(80):
        likelihood[position, labels[position]] = torch.tensor([900.0, 850.0 + position % 2 * 20])
    assert (likelihood.flatten(1).argmax(dim=1) % 2 == 0).all()
    assigned = balanced_components(likelihood, labels, dimension=64)
    assert torch.equal(assigned, labels * 2 + torch.arange(80) % 2)


def test_components_are_of_the_own_class_and_follow_the_likelihood() -> None:
    means, noise = unit(3, 4, 32), unit(3, 4, 25, 32, seed=1)
    features = F.normalize(means.unsqueeze(2) + 0.3 * noise, dim=-1).flatten(0, 2)
    truth = torch.arange(12).repeat_interleave(25)
    likelihood = log_likelihood(features, means, torch.full_like(means, 1 / 32))
    assert torch.equal(balanced_components(likelihood, truth // 4, dimension=32), truth)
    others = torch.randint(3, (300,), generator=torch.Generator().manual_seed(2))
    assert torch.equal(balanced_components(likelihood, others, dimension=32) // 4, others)


def test_memory_keeps_the_latest_of_each_component() -> None:
    memory = FeatureMemory(components=3, size=5, dimension=1, samples=2)
    for step in range(4):
        features = torch.tensor([[10.0 * step + n] for n in range(1, 5)])
        memory.push(features, torch.tensor([0, 0, 0, 2]))
    assert memory.pushed.tolist() == [8, 0, 4] and memory.counts().tolist() == [5, 0, 4]
    assert memory.features[1].eq(0).all() and memory.features[2, 4] == 0
    assert memory.features[2, :4].flatten().tolist() == [4, 14, 24, 34]
    # Of component 0 two a step, so five places hold the last two steps and one of the second.
    assert sorted(int(value) // 10 for value in memory.features[0]) == [1, 2, 2, 3, 3]
    assert len(set(memory.features[0].flatten().tolist())) == 5
    with pytest.raises(ValueError, match='20 a step'):
        FeatureMemory(3, 10, 8, samples=20)


def test_m_step_against_a_slow_loop() -> None:
    memory = FeatureMemory(components=4, size=30, dimension=8, samples=10)
    for step, sizes in enumerate(((25, 12, 3), (7, 0, 4), (40, 5, 0), (9, 9, 0))):
        assigned = torch.arange(3).repeat_interleave(torch.tensor(sizes))
        memory.push(unit(len(assigned), 8, seed=step), assigned)
    assert memory.counts().tolist() == [30, 24, 7, 0]
    means = unit(4, 8, seed=9)
    new_means, variances, due = m_step(memory, means, momentum=0.7)
    assert due.tolist() == [True, True, False, False]
    for k in range(2):
        held = memory.features[k, : memory.counts()[k]].double().numpy()
        average = held.mean(axis=0) / np.linalg.norm(held.mean(axis=0))
        moved = 0.7 * means[k].double().numpy() + 0.3 * average
        moved /= np.linalg.norm(moved)
        spread = sum((x - moved) ** 2 for x in held) / len(held) + VARIANCE_FLOOR
        np.testing.assert_allclose(new_means[k], moved, atol=1e-6)
        np.testing.assert_allclose(variances[k], spread, atol=1e-6)


def test_em_finds_the_components_that_data_came_from() -> None:
    torch.manual_seed(0)
    truth = unit(4, 16)
    memory = FeatureMemory(components=4, size=200, dimension=16)
    means, variances = unit(4, 16, seed=1), torch.full((4, 16), 1 / 16)
    labels = torch.zeros(400, dtype=torch.long)
    before = (means @ truth.T).amax(dim=0).min()
    for step in range(60):
        centres = truth[torch.arange(4).repeat(100)]
        features = F.normalize(centres + 0.1 * torch.randn(400, 16), dim=1)
        likelihood = log_likelihood(features, means[None], variances[None])
        memory.push(features, balanced_components(likelihood, labels, dimension=16))
        means, variances, _ = m_step(memory, means, ramped(0.9, step))
    assert before < 0.7 < 0.98 < (means @ truth.T).amax(dim=0).min()
    torch.testing.assert_close(
        variances, torch.full((4, 16), 0.01 + VARIANCE_FLOOR), atol=0.005, rtol=0.0
    )


def test_prototype_losses_in_closed_form() -> None:
    assigned = torch.tensor([0, 5, 3])
    even = torch.full((3, 2, 3), 0.3)
    assert prototype_contrast(even, assigned).item() == pytest.approx(math.log(6))
    assert prototype_distance(even, assigned).item() == pytest.approx(0.49)
    on_it = torch.full((3, 6), -1.0).scatter(1, assigned[:, None], 1.0).view(3, 2, 3)
    # No temperature: even on its prototype and opposite to all others a position pays.
    assert prototype_contrast(on_it, assigned).item() == pytest.approx(
        math.log(math.e + 5 / math.e) - 1
    )
    assert prototype_distance(on_it, assigned).item() == 0.0
    assert prototype_distance(-on_it, assigned).item() == 4.0


def test_prototype_losses_against_slow_loops() -> None:
    similarity = torch.rand(20, 3, 4, generator=torch.Generator().manual_seed(0)) * 2 - 1
    assigned = torch.randint(12, (20,), generator=torch.Generator().manual_seed(1))
    values = similarity.double().numpy().reshape(20, 12)
    own = [values[position, code] for position, code in enumerate(assigned.tolist())]
    contrast = [logsumexp(row) - mine for row, mine in zip(values, own, strict=True)]
    assert prototype_contrast(similarity, assigned).item() == pytest.approx(np.mean(contrast))
    distance = [(1 - mine) ** 2 for mine in own]
    assert prototype_distance(similarity, assigned).item() == pytest.approx(np.mean(distance))


def test_prototypes_move_to_the_mean_of_their_features() -> None:
    prototypes, features = unit(2, 3, 8), unit(40, 8, seed=1)
    assigned = torch.arange(40) % 5  # none for the last
    moved = moved_prototypes(prototypes, features, assigned, momentum=0.9).flatten(0, 1)
    for code, old in enumerate(prototypes.flatten(0, 1)):
        own = features[assigned == code]
        expected = old
        if len(own):
            average = own.mean(dim=0) / own.mean(dim=0).norm()
            expected = 0.9 * old + 0.1 * average
            expected = expected / expected.norm()
        torch.testing.assert_close(moved[code], expected)


def test_protoseg_judges_by_the_nearest_prototype() -> None:
    head = ProtoHead(3, channels=8, dimension=16, prototypes=4).eval()
    with torch.no_grad():
        fused = torch.randn(2, 8, 5, 6)
        judged = head.judge(fused)
        cosines = torch.einsum('bdhw,cmd->bchwm', head.features(fused), head.prototypes)
        classes = cosines.amax(dim=-1).permute(0, 2, 3, 1)
    torch.testing.assert_close(judged.anomaly['cosine'], -classes.amax(dim=-1))
    logits = F.layer_norm(classes, (3,)).permute(0, 3, 1, 2)
    torch.testing.assert_close(judged.class_scores, logits)


def small_head(name: str, classes: int = 2) -> Head:
    if name == 'GMMSeg':
        return GmmHead(classes, channels=16, dimension=16, components=3, memory=100, every=2)
    if name == 'shared codebook':
        return SharedCodebookHead(classes, channels=16, dimension=16, codevectors=9)
    return ProtoHead(classes, channels=16, dimension=16, prototypes=3)


def learnt(head: Head) -> list[Tensor]:
    return [buffer.clone() for buffer in head.buffers()]


@pytest.mark.parametrize('name', ['GMMSeg', 'ProtoSeg-like'])
def test_only_known_and_correctly_classified_positions_are_learnt_from(name: str) -> None:
    torch.manual_seed(0)
    head, weight = small_head(name, classes=3), torch.ones(3)
    fused = torch.randn(2, 16, 8, 8)
    predicted = head.judge(fused).class_scores.argmax(dim=1)
    before = learnt(head)
    head.train()
    for _ in range(4):
        head.loss(fused, (predicted + 1) % 3, weight)
    assert all(torch.equal(a, b) for a, b in zip(before, learnt(head), strict=True))
    head.eval().loss(fused, predicted, weight)
    assert all(torch.equal(a, b) for a, b in zip(before, learnt(head), strict=True))
    head.train()
    for _ in range(4):
        head.loss(fused, predicted, weight)
    assert not any(torch.equal(a, b) for a, b in zip(before, learnt(head), strict=True))


@pytest.mark.parametrize('name', ['GMMSeg', 'ProtoSeg-like', 'shared codebook'])
def test_void_has_no_part_in_the_loss(name: str) -> None:
    torch.manual_seed(0)
    head, weight = small_head(name).eval(), torch.tensor([1.0, 2.0])
    fused = torch.randn(2, 16, 8, 8)
    labels = torch.randint(2, (2, 8, 8))
    labels[:, :4] = VOID
    loss = head.loss(fused, labels, weight)
    fused[:, :, :4] = torch.randn(2, 16, 4, 8)
    torch.testing.assert_close(head.loss(fused, labels, weight), loss)


@pytest.mark.parametrize('name', ['GMMSeg', 'ProtoSeg-like', 'shared codebook'])
def test_a_generative_head_learns_what_is_known_and_what_is_not(name: str) -> None:
    torch.manual_seed(0)
    head = small_head(name, classes=3).train()
    centres = unit(4, 16) * 4
    labels = torch.randint(3, (2, 16, 16))

    def fused(classes: Tensor) -> Tensor:
        return centres[classes].permute(0, 3, 1, 2) + torch.randn(2, 16, 16, 16)

    optimiser = torch.optim.Adam(head.parameters(), 1e-2)
    losses = []
    for _ in range(60):
        loss = head.loss(fused(labels), labels, torch.ones(3))
        losses.append(loss.item())
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    assert np.mean(losses[-5:]) < 0.5 * losses[0]
    with torch.no_grad():
        known, unknown = head.eval().judge(fused(labels)), head.judge(fused(labels * 0 + 3))
    assert (known.class_scores.argmax(dim=1) == labels).float().mean() > 0.95
    for score, values in known.anomaly.items():
        assert unknown.anomaly[score].median() > values.quantile(0.9)


def test_a_shared_codebook_asks_for_no_class() -> None:
    """It follows the features whatever their labels are, void left out, and only in training."""
    torch.manual_seed(0)
    head, weight = SharedCodebookHead(2, channels=16, dimension=16, codevectors=6), torch.ones(2)
    fused, labels = torch.randn(2, 16, 8, 8), torch.randint(2, (2, 8, 8))
    start = {name: value.clone() for name, value in head.state_dict().items()}
    head.eval().loss(fused, labels, weight)
    assert torch.equal(head.moving.sums, start['moving.sums'])
    found = []
    for given in (labels, 1 - labels, torch.where(labels == 0, VOID, labels)):
        head.load_state_dict(start)
        torch.manual_seed(1)
        head.train().loss(fused, given, weight)
        found.append(head.moving.sums.clone())
    assert not torch.equal(found[0], start['moving.sums'])
    assert torch.equal(found[0], found[1])
    assert not torch.equal(found[0], found[2])


def test_a_shared_codebook_judges_by_its_nearest_codevectors() -> None:
    head = SharedCodebookHead(3, channels=8, dimension=16, codevectors=5, top_k=2).eval()
    with torch.no_grad():
        fused = torch.randn(2, 8, 5, 6)
        judged = head.judge(fused)
        codebook = head.moving.codebook().double().numpy()
        features = head.features(fused).double().numpy()
        for b, y, x in ((0, 1, 2), (1, 4, 5)):
            cosines = codebook @ features[b, :, y, x]
            first, second = np.sort(cosines)[::-1][:2]
            share = softmax(np.array([first, second]) / head.temperature)
            logits = head.classify(torch.from_numpy(codebook[cosines.argmax()]).float())
            expected = {'nearest': -first, 'top 2': -share @ [first, second]}
            for name, value in expected.items():
                assert judged.anomaly[name][b, y, x].item() == pytest.approx(value, abs=1e-5)
            torch.testing.assert_close(judged.class_scores[b, :, y, x], logits)


def test_codevectors_that_nobody_takes_are_given_another_start() -> None:
    """Four heaps of features: each has its codevector in the end, wherever they began."""
    torch.manual_seed(0)
    head = SharedCodebookHead(2, channels=16, dimension=16, codevectors=8).train()
    heaps = unit(4, 16) * 4
    for _ in range(200):
        labels = torch.randint(4, (1, 16, 16))
        fused = heaps[labels].permute(0, 3, 1, 2) + 0.1 * torch.randn(1, 16, 16, 16)
        with torch.no_grad():
            head.loss(fused, labels % 2, torch.ones(2))
    with torch.no_grad():
        centres = head.features(heaps.view(1, 4, 1, 16).permute(0, 3, 1, 2))
        cosines = by_position(centres) @ head.moving.codebook().T
    assert cosines.amax(dim=1).min() > 0.98, cosines


def test_density_is_the_distance_to_the_nearest_reference() -> None:
    rng = np.random.default_rng(0)
    normal = rng.normal(size=(300, 8)).astype(np.float32) + 4
    density = FeatureDensity(normal, centres=5, neighbours=100)
    assert {name: len(r) for name, r in density.references.items()} == {
        'centres': 5,
        'neighbours': 100,
    }
    features = torch.from_numpy(rng.normal(size=(2, 8, 3, 4)).astype(np.float32))
    flat = F.normalize(features.permute(0, 2, 3, 1).reshape(-1, 8), dim=1).numpy()
    for name, references in density.references.items():
        oracle = NearestNeighbors(n_neighbors=1).fit(references.numpy())
        expected = oracle.kneighbors(flat)[0].reshape(2, 3, 4)
        np.testing.assert_allclose(density.score(features, name), expected, atol=1e-4)
    seen = torch.from_numpy(normal[:12]).reshape(1, 12, 8).permute(0, 2, 1).unsqueeze(-1)
    for name in density.references:
        assert density.score(-seen, name).min() > density.score(seen, name).max()


def test_features_of_the_training_are_those_of_labelled_positions() -> None:
    backbone = EfficientNetLite0(pretrained=False).eval()
    rng = np.random.default_rng(0)
    labels = np.zeros((64, 96), np.uint8)
    labels[:32] = VOID
    examples = [Example(rng.integers(0, 255, (64, 96, 3), np.uint8), labels) for _ in range(2)]
    found = training_features(backbone, examples, (64, 96))
    with torch.no_grad():
        maps = coarse_features(backbone, torch.from_numpy(examples[1].image)[None])
    assert maps.shape == (1, 112, 4, 6) and found.shape == (2 * 2 * 6, 112)
    np.testing.assert_allclose(found[12:], by_position(maps)[12:], atol=1e-5)
    with pytest.raises(ValueError, match='nothing to fit'):
        FeatureDensity(found[:0])


@pytest.fixture(scope='module')
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three pictures a split with seven classes, and an anomaly folder `pasted`."""
    root = tmp_path_factory.mktemp('data')
    rng = np.random.default_rng(0)
    for split in ('camvid/train', 'camvid/val', 'pasted'):
        for name in ('images', 'labels'):
            (root / split / name).mkdir(parents=True)
        for number in range(3):
            labels = np.arange(7).repeat(14)[:96][None].repeat(64, axis=0).astype(np.uint8)
            labels[:4] = 11
            image = np.repeat((rng.integers(0, 40, (64, 96)) + labels * 10)[..., None], 3, axis=2)
            if split == 'pasted':
                labels = np.where(labels == 11, VOID, 0).astype(np.uint8)
                image[20:40, 30:50], labels[20:40, 30:50] = (200, 20, 230), 1
            cv2.imwrite(str(root / split / 'images' / f'{number}.png'), image.astype(np.uint8))
            cv2.imwrite(str(root / split / 'labels' / f'{number}.png'), labels)
    return root


def test_the_command_writes_its_rows_and_takes_finished_ones(
    root: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    tiny_schedule: Config,
) -> None:
    monkeypatch.setattr(command, 'measure', partial(rows.measure, schedule=tiny_schedule))
    out = tmp_path / 'runs'
    arguments = ['--data', str(root), '--pasted', str(root / 'pasted'), '--out', str(out)]
    assert command.main([*arguments, '--seeds', '0']) == 0
    written = (out / 'baselines.json').read_bytes()
    found = json.loads(written)
    assert [row['row'] for row in found] == list(rows.ROWS)
    assert [list(row['scores']) for row in found] == [
        list(LOGIT_SCORES),
        ['likelihood'],
        ['cosine'],
        ['nearest', 'top 3'],
        ['k-means', 'kNN'],
    ]
    for row in found:
        assert row['seed'] == 0 and row['outliers'] == 'none'
        assert (row['miou'] is None) == (row['row'] == rows.DENSITY)
        for values in row['scores'].values():
            assert 0 <= values['ap'] <= 1 and 0 <= values['fpr95'] <= 1
    assert found[-1]['scores']['kNN']['ap'] > 0.5, 'nothing known has the colour of the anomalies'
    table = (out / 'baselines.md').read_text()
    assert table.count('\n') == 2 + 10 and capsys.readouterr().out.endswith(table)
    monkeypatch.setattr(rows, 'fit', None)
    monkeypatch.setattr(rows, 'FeatureDensity', None)
    assert command.main([*arguments, '--seeds', '0']) == 0
    assert (out / 'baselines.json').read_bytes() == written
    assert command.main([*arguments, '--rows', 'GMMSeg', '--seeds', '0']) == 0
    assert [row['row'] for row in json.loads((out / 'baselines.json').read_text())] == ['GMMSeg']


def test_missing_data_are_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ['--data', str(tmp_path / 'none'), '--pasted', str(tmp_path), '--out']
    assert command.main([*arguments, str(tmp_path / 'runs'), '--rows', 'linear head']) == 2
    assert str(tmp_path / 'none') in capsys.readouterr().err


def test_the_table_shows_mean_and_half_of_the_range() -> None:
    figures = [
        {'row': 'GMMSeg', 'seed': seed, 'miou': 0.5, 'outliers': 'none'}
        | {'scores': {'likelihood': {'ap': ap, 'fpr95': 0.25}}}
        for seed, ap in ((0, 0.40), (1, 0.50))
    ]
    density = {'row': 'feature density', 'seed': 0, 'miou': None, 'outliers': 'none'}
    text = rows.markdown([*figures, density | {'scores': {'kNN': {'ap': 0.3, 'fpr95': 0.6}}}])
    assert '| GMMSeg | likelihood | none | 2 | 45.0 ± 5.0 | 25.0 ± 0.0 | 50.0 ± 0.0 |' in text
    assert '| feature density | kNN | none | 1 | 30.0 | 60.0 | – |' in text
