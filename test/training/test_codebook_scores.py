"""Scores of the codebook method: closed forms and a slow reference."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from training.methods.codebook.scores import (
    anomaly_score,
    class_evidence,
    coarse_novelty,
    cosines,
    mean_top_k,
    nearest_codes,
    negative_evidence,
    shared_top_k,
    weighted_top_k,
    whitened_novelty,
    with_coarse,
    without_runner_up,
)


def unit(*shape: int, seed: int = 0, dim: int = 1) -> torch.Tensor:
    values = torch.randn(*shape, generator=torch.Generator().manual_seed(seed))
    return torch.nn.functional.normalize(values, dim=dim)


def reference_top_k(similarity: np.ndarray, k: int, temperature: float) -> np.ndarray:
    batch, classes, _, height, width = similarity.shape
    result = np.zeros((batch, classes, height, width))
    for b, c, y, x in np.ndindex(batch, classes, height, width):
        nearest = sorted(similarity[b, c, :, y, x], reverse=True)[:k]
        weights = [math.exp((s - nearest[0]) / temperature) for s in nearest]
        result[b, c, y, x] = sum(w * s for w, s in zip(weights, nearest, strict=True)) / sum(
            weights
        )
    return result


@pytest.mark.parametrize('k', [1, 2, 3, 5, 9])
def test_weighted_top_k_equals_the_slow_reference(k: int) -> None:
    similarity = cosines(unit(2, 8, 3, 4), unit(3, 5, 8, seed=1, dim=-1))
    expected = reference_top_k(similarity.double().numpy(), min(k, 5), 0.1)
    np.testing.assert_allclose(weighted_top_k(similarity, k, 0.1).numpy(), expected, atol=1e-6)


def test_cosines_are_dot_products_with_every_codevector() -> None:
    features, codebook = unit(2, 8, 3, 4), unit(3, 5, 8, seed=1, dim=-1)
    expected = torch.einsum('bdhw,cmd->bcmhw', features, codebook)
    torch.testing.assert_close(cosines(features, codebook), expected, atol=1e-6, rtol=0)


def test_two_codes_of_equal_similarity_give_that_similarity() -> None:
    similarity = torch.full((1, 1, 4, 1, 1), 0.25)
    assert weighted_top_k(similarity, 3, 0.07).item() == pytest.approx(0.25)


def test_weights_of_two_codes_in_closed_form() -> None:
    similarity = torch.tensor([0.8, 0.5, -0.9]).view(1, 1, 3, 1, 1)
    share = 1 / (1 + math.exp(-0.3 / 0.1))
    expected = share * 0.8 + (1 - share) * 0.5
    assert weighted_top_k(similarity, 2, 0.1).item() == pytest.approx(expected, abs=1e-6)


@given(st.integers(0, 1000), st.integers(1, 6), st.floats(0.02, 1.0))
def test_score_lies_between_the_kth_and_the_nearest(seed: int, k: int, tau: float) -> None:
    similarity = cosines(unit(1, 4, 2, 2, seed=seed), unit(2, 6, 4, seed=seed + 1, dim=-1))
    score = weighted_top_k(similarity, k, tau)
    ordered = similarity.sort(dim=2, descending=True).values
    assert (score <= ordered[:, :, 0] + 1e-6).all()
    assert (score >= ordered[:, :, k - 1] - 1e-6).all()


def test_anomaly_score_is_minus_the_best_class_and_stays_in_range() -> None:
    class_scores = torch.tensor([[0.2, 0.9], [0.5, 1.0000002]]).view(1, 2, 1, 2)
    torch.testing.assert_close(anomaly_score(class_scores), torch.tensor([[[-0.5, -1.0]]]))


def test_nearest_codes_number_the_codebook_class_by_class() -> None:
    codebook = torch.eye(6).view(3, 2, 6)
    features = torch.eye(6)[:, [4, 1]].view(1, 6, 1, 2)
    assert nearest_codes(cosines(features, codebook)).tolist() == [[[4, 1]]]


def slow_positions(similarity: Tensor) -> Iterator[tuple[tuple[int, int, int], list[list[float]]]]:
    """Every position with its cosines as [C][M]."""
    batch, _, _, height, width = similarity.shape
    for b, y, x in itertools.product(range(batch), range(height), range(width)):
        yield (b, y, x), similarity[b, :, :, y, x].tolist()


def random_similarity(classes: int = 3, codes: int = 4) -> Tensor:
    generator = torch.Generator().manual_seed(5)
    return torch.rand(2, classes, codes, 2, 3, generator=generator) * 2 - 1


@pytest.mark.parametrize('k', [1, 3, 12, 50])
def test_shared_top_k_against_a_slow_loop(k: int) -> None:
    similarity = random_similarity()
    found = shared_top_k(similarity, k, 0.1)
    for (b, y, x), values in slow_positions(similarity):
        ranked = sorted(((s, c) for c, row in enumerate(values) for s in row), reverse=True)[:k]
        for c in range(3):
            own = [s for s, label in ranked if label == c]
            weights = [math.exp(s / 0.1) for s in own]
            expected = sum(w * s for w, s in zip(weights, own, strict=True))
            expected = expected / sum(weights) if own else -1.0
            assert found[b, c, y, x].item() == pytest.approx(expected, abs=1e-5)


def test_shared_top_k_with_every_code_is_the_weighted_top_k_with_every_code() -> None:
    similarity = random_similarity()
    torch.testing.assert_close(
        shared_top_k(similarity, 12, 0.1), weighted_top_k(similarity, 4, 0.1)
    )


def test_mean_top_k_and_negative_evidence_against_a_slow_loop() -> None:
    similarity = random_similarity()
    mean, evidence = mean_top_k(similarity, 2), negative_evidence(similarity, 0.1)
    for (b, y, x), values in slow_positions(similarity):
        for c in range(3):
            expected = sum(sorted(values[c])[-2:]) / 2
            assert mean[b, c, y, x].item() == pytest.approx(expected, abs=1e-6)
        total = sum(math.exp(s / 0.1) for row in values for s in row)
        assert evidence[b, y, x].item() == pytest.approx(-0.1 * math.log(total), abs=1e-5)


def test_the_runner_up_takes_its_share() -> None:
    scores = torch.tensor([0.9, 0.5, 0.1]).reshape(1, 3, 1, 1)
    assert without_runner_up(scores, 0.5).item() == pytest.approx(-0.65)
    torch.testing.assert_close(without_runner_up(scores, 0.0), anomaly_score(scores))


def test_evidence_of_classes_against_a_slow_loop() -> None:
    scores = torch.rand(2, 5, 3, 4, generator=torch.Generator().manual_seed(3)) * 2 - 1
    for b, y, x in np.ndindex(2, 3, 4):
        values = [math.exp(float(s) / 0.1) for s in scores[b, :, y, x]]
        expected = -0.1 * math.log(sum(values) / len(values))
        assert class_evidence(scores, 0.1)[b, y, x].item() == pytest.approx(expected, abs=1e-5)


@given(st.integers(0, 10_000), st.floats(0.02, 1.0))
def test_evidence_lies_between_the_best_and_the_mean_class(seed: int, tau: float) -> None:
    scores = torch.rand(1, 4, 2, 2, generator=torch.Generator().manual_seed(seed)) * 2 - 1
    evidence = class_evidence(scores, tau)
    assert (evidence >= anomaly_score(scores) - 1e-5).all()
    assert (evidence <= -scores.mean(dim=1) + 1e-5).all()


def test_evidence_of_equal_classes_is_their_score_and_cold_evidence_the_best_one() -> None:
    equal = torch.full((1, 7, 2, 2), 0.3)
    torch.testing.assert_close(class_evidence(equal, 0.1), torch.full((1, 2, 2), -0.3))
    scores = torch.tensor([0.9, 0.2, -0.5]).view(1, 3, 1, 1)
    assert class_evidence(scores, 0.001).item() == pytest.approx(-0.9, abs=2e-3)
    assert class_evidence(torch.full((1, 2, 1, 1), 1.0001), 0.1).item() == -1.0


@given(st.floats(0.01, 100.0))
def test_coarse_novelty_knows_directions_not_lengths(length: float) -> None:
    """-1 on a coarse codevector, 0 at right angles to all, 1 opposite the only one."""
    codes = torch.eye(3)[:2, :, None, None]
    features = length * torch.tensor([[1.0, 0, 0], [0, 0, 1], [0, 1, 0]]).T[None, :, :, None]
    found = coarse_novelty(features, codes)
    torch.testing.assert_close(found, torch.tensor([[[-1.0], [0.0], [-1.0]]]))
    opposite = coarse_novelty(-features[:, :, :1], codes[:1])
    torch.testing.assert_close(opposite, torch.ones(1, 1, 1))


def test_coarse_novelty_is_the_nearest_of_all_codevectors() -> None:
    features, codes = unit(2, 8, 3, 4, seed=1) * torch.arange(1, 5), unit(5, 8)
    found = coarse_novelty(features, codes[:, :, None, None])
    for b, y, x in np.ndindex(2, 3, 4):
        one = features[b, :, y, x].double().numpy()
        best = max(float(one @ code / np.linalg.norm(one)) for code in codes.double().numpy())
        assert math.isclose(found[b, y, x].item(), -best, abs_tol=1e-6)


def test_whitened_novelty_is_the_distance_to_the_nearest() -> None:
    torch.manual_seed(2)
    features, codes = 3 * torch.randn(2, 8, 3, 4), 3 * torch.randn(5, 8)
    found = whitened_novelty(
        features, codes[:, :, None, None], torch.tensor(8.0), torch.tensor(1 / 6)
    )
    for b, y, x in np.ndindex(2, 3, 4):
        one = features[b, :, y, x].double()
        nearest = min(float((one - code).norm()) for code in codes.double())
        expected = min(max((nearest - 8.0) / 6.0, -1.0), 1.0)
        assert math.isclose(found[b, y, x].item(), expected, abs_tol=1e-5)
    two, quarter = torch.tensor(2.0), torch.tensor(0.25)
    at_a_code = whitened_novelty(codes[:1, :, None, None], codes[:, :, None, None], two, quarter)
    torch.testing.assert_close(at_a_code, torch.full((1, 1, 1), -0.5), atol=1e-3, rtol=0)


def test_the_shares_of_two_codebooks_sum_to_one() -> None:
    anomaly, novelty = unit(2, 8, 12), torch.full((2, 2, 3), 0.5)
    found = with_coarse(anomaly, novelty, 0.25)
    torch.testing.assert_close(found, 0.75 * anomaly + 0.125)
    corners = torch.tensor([[[0.0, 1.0], [0.0, 1.0]]])
    across = with_coarse(torch.zeros(1, 2, 4), corners, 1.0)[0, 0]
    torch.testing.assert_close(across, torch.tensor([0.0, 0.25, 0.75, 1.0]), msg='bilinear')
