"""The coarse codebook: k-means of the features of labelled positions, by either distance."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from training.backbone_features import backbone_features
from training.backbones import EfficientNetLite0, normalise
from training.data.folders import VOID
from training.data.street import Example
from training.methods.codebook import coarse


def test_centres_are_the_directions_of_separate_clusters() -> None:
    rng = np.random.default_rng(0)
    directions = np.eye(6, dtype=np.float32)[:4]
    lengths = rng.uniform(0.1, 50, (400, 1))
    features = directions.repeat(100, axis=0) * lengths + 0.001 * rng.normal(size=(400, 6))
    found = coarse.centres(features.astype(np.float32), 4, seed=0)
    torch.testing.assert_close(found.norm(dim=1), torch.ones(4))
    nearest = (found.numpy() @ directions.T).max(axis=0)
    np.testing.assert_allclose(nearest, 1.0, atol=1e-3)
    assert torch.equal(found, coarse.centres(features.astype(np.float32), 4, seed=0))


def test_more_codevectors_than_positions_are_refused() -> None:
    with pytest.raises(ValueError, match='5 codevectors cannot be fitted to 4 labelled'):
        coarse.centres(np.ones((4, 6), np.float32), 5, seed=0)


def test_void_is_not_what_a_coarse_codebook_is_fitted_to() -> None:
    """The features of a picture whose left half is void are those of its right half."""
    backbone = EfficientNetLite0(pretrained=False, blocks=11).eval()
    rng = np.random.default_rng(0)
    labels = np.zeros((64, 128), np.uint8)
    labels[:, :64] = VOID
    example = Example(rng.integers(0, 255, (64, 128, 3), np.uint8), labels)
    found = backbone_features(backbone, [example], (64, 128), 2)
    with torch.no_grad():
        maps = backbone(normalise(torch.from_numpy(example.image)[None], backbone))[2]
    expected = maps[0, :, :, 4:].permute(1, 2, 0).reshape(-1, 112).numpy()
    np.testing.assert_allclose(found, expected, atol=1e-5)
    for distance in coarse.KINDS:
        codebook = coarse.CoarseCodebook(3, 112, distance)
        coarse.fit(codebook, backbone, [example], (64, 128), seed=1)
        expected_codebook = coarse.CoarseCodebook(3, 112, distance)
        expected_codebook.fit(found, seed=1)
        for name, value in codebook.state_dict().items():
            assert torch.equal(value, expected_codebook.state_dict()[name]) and value.any()


def correlated(count: int, seed: int) -> np.ndarray:
    """Normal features of five dimensions with variances from 0.01 to 100, turned and moved."""
    rng = np.random.default_rng(seed)
    turn = np.linalg.qr(np.random.default_rng(7).normal(size=(5, 5)))[0]
    scales = np.array([0.1, 0.5, 1.0, 3.0, 10.0])
    return (rng.normal(size=(count, 5)) * scales @ turn + 20.0).astype(np.float32)


def test_whitened_features_have_no_preferred_direction() -> None:
    """Mean 0; the variance of each direction is l / (l + s), for s a tenth of the mean of all l."""
    features = correlated(5000, seed=0)
    weight, bias = coarse.whitening(features)
    white = features @ weight.T + bias
    np.testing.assert_allclose(white.mean(axis=0), 0.0, atol=1e-3)
    values = np.linalg.eigvalsh(np.cov(features.T.astype(np.float64)))
    expected = np.diag(values / (values + 0.1 * values.mean()))
    np.testing.assert_allclose(np.cov(white.T), expected, atol=1e-3)


def test_with_one_codevector_the_distance_is_that_of_mahalanobis() -> None:
    """sqrt((f - m)' (S + s I)^-1 (f - m)) of each position, in deviations from its mean."""
    features = correlated(4000, seed=0)
    others = correlated(24, seed=1) + np.linspace(0, 8, 24, dtype=np.float32)[:, None]
    codebook = coarse.CoarseCodebook(1, 5, 'whitened')
    codebook.fit(features, seed=0)
    covariance = np.cov(features.T.astype(np.float64))
    shrunk = covariance + 0.1 * np.trace(covariance) / 5 * np.eye(5)
    mean = features.mean(axis=0, dtype=np.float64)

    def distance(f: np.ndarray) -> np.ndarray:
        away = f - mean
        return np.sqrt(np.einsum('pi,ij,pj->p', away, np.linalg.inv(shrunk), away))

    normal = distance(features)
    expected = (distance(others) - normal.mean()) / (4 * normal.std(ddof=1))
    maps = torch.from_numpy(others.T.reshape(1, 5, 4, 6).copy())
    found = codebook(maps)[0].flatten().numpy()
    np.testing.assert_allclose(found, expected.clip(-1, 1), atol=2e-3)
    assert 0.05 < np.mean(found == 1) < 0.95, 'some beyond four deviations, some not'


def test_an_unknown_distance_is_refused() -> None:
    with pytest.raises(ValueError, match="use 'whitened' or 'cosine'"):
        coarse.CoarseCodebook(3, 5, 'manhattan')
