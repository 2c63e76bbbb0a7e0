"""The coarse codebook: k-means on the sphere of the features of labelled positions."""

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
    codes = coarse.fitted(backbone, [example], (64, 128), 3, seed=1)
    assert codes.shape == (3, 112, 1, 1)
