"""The baselines' scores against closed forms and scikit-learn; a linear head that learns."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy.special import logsumexp, softmax
from sklearn.neighbors import NearestNeighbors
from torch.nn import functional as F

from training.baselines import LOGIT_SCORES, FeatureDensity, LinearNet, entropy, max_softmax


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
