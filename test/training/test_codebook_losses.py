"""Terms of the objective: closed forms, empty sets, gradients in the right direction."""

from __future__ import annotations

import math

import pytest
import torch

from training.data.folders import VOID
from training.data.outliers import PASTED
from training.data.street import GROUPED
from training.methods.codebook import losses
from training.methods.codebook.task import restart, split, usage
from training.schedules import one_cycle


def scores(*values: float) -> torch.Tensor:
    """Scores of two classes at len/2 positions in a row: a0, b0, a1, b1 ..."""
    return torch.tensor(values).view(-1, 2).T.reshape(1, 2, 1, -1).requires_grad_()


def row(*labels: int) -> torch.Tensor:
    return torch.tensor(labels).view(1, 1, -1)


def test_segmentation_is_the_cross_entropy_of_known_positions_alone() -> None:
    value = losses.segmentation(scores(0.5, 0.3, 9.0, -9.0, 9.0, -9.0), row(0, VOID, PASTED), 0.1)
    assert value.item() == pytest.approx(math.log(1 + math.exp(-2.0)), rel=1e-5)


def test_attraction_of_an_own_score_below_the_bound() -> None:
    value = losses.attraction(scores(0.5, 0.95, 0.95, 0.2), row(0, 0), above=0.9)
    assert value.item() == pytest.approx((0.4**2 + 0.0) / 2, rel=1e-5)


@pytest.mark.parametrize('length', [0.1, 7.0])
def test_forgetting_is_the_mean_distance_on_the_sphere(length: float) -> None:
    """0 in the direction that was taught, 1 at right angles to it, 2 opposite; length is free."""
    taught = torch.tensor([[1.0, 0.0], [1.0, 0.0], [0.0, 2.0]]).T.view(1, 2, 1, 3)
    found = torch.tensor([[1.0, 0.0], [0.0, 1.0], [0.0, -1.0]]).T.view(1, 2, 1, 3) * length
    assert losses.forgetting(found, taught).item() == pytest.approx((0 + 1 + 2) / 3, abs=1e-6)
    turning = found[..., 1:2].clone().requires_grad_()
    losses.forgetting(turning, taught[..., 1:2]).backward()
    assert turning.grad is not None
    assert turning.grad[0, 0, 0, 0] < 0 and turning.grad[0, 1, 0, 0].abs() < 1e-6


SETS = torch.tensor([[True, True, False], [False, False, True]])


def drawn(seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Scores of three classes, and labels with classes, sets, void and pasted objects."""
    generator = torch.Generator().manual_seed(seed)
    class_scores = torch.rand(2, 3, 4, 5, generator=generator) * 2 - 1
    choices = torch.tensor([0, 1, 2, GROUPED, GROUPED + 1, PASTED, VOID])
    return class_scores, choices[torch.randint(0, 7, (2, 4, 5), generator=generator)]


def test_without_sets_segmentation_is_torchs_cross_entropy() -> None:
    class_scores, labels = drawn(0)
    labels = torch.where(labels < 3, labels, VOID)
    weight = torch.tensor([0.5, 1.0, 2.0])
    for given in (None, weight):
        expected = torch.nn.functional.cross_entropy(
            class_scores / 0.1, labels, given, ignore_index=VOID
        )
        torch.testing.assert_close(losses.segmentation(class_scores, labels, 0.1, given), expected)


def test_sets_of_classes_against_a_slow_loop() -> None:
    class_scores, labels = drawn(1)
    weight = torch.tensor([0.5, 1.0, 2.0])
    total, weights, hinges = 0.0, 0.0, []
    for b in range(2):
        for y in range(4):
            for x in range(5):
                label = int(labels[b, y, x])
                members = {GROUPED: [0, 1], GROUPED + 1: [2]}.get(label, [label])
                if members[0] > 2:
                    continue
                values = [math.exp(float(s) / 0.1) for s in class_scores[b, :, y, x]]
                share = sum(values[c] for c in members) / sum(values)
                mean = sum(float(weight[c]) for c in members) / len(members)
                total, weights = total - mean * math.log(share), weights + mean
                nearest = max(float(class_scores[b, c, y, x]) for c in members)
                hinges.append(max(0.0, 0.9 - nearest) ** 2)
    found = losses.segmentation(class_scores, labels, 0.1, weight, SETS)
    assert found.item() == pytest.approx(total / weights, rel=1e-4)
    pulled = losses.attraction(class_scores, labels, 0.9, SETS)
    assert pulled.item() == pytest.approx(sum(hinges) / len(hinges), rel=1e-4)


def test_a_set_of_all_classes_teaches_nothing_and_a_set_of_one_is_its_class() -> None:
    class_scores, _ = drawn(2)
    class_scores.requires_grad_()
    everything = torch.full((2, 4, 5), GROUPED)
    losses.segmentation(class_scores, everything, 0.1, None, torch.ones(1, 3) > 0).backward()
    assert class_scores.grad is not None and class_scores.grad.abs().max() < 1e-5
    own, alone = torch.full((2, 4, 5), 2), torch.full((2, 4, 5), GROUPED + 1)
    torch.testing.assert_close(
        losses.segmentation(class_scores, alone, 0.1, None, SETS),
        losses.segmentation(class_scores, own, 0.1),
    )


def test_repulsion_of_the_best_class_alone() -> None:
    value = losses.repulsion(scores(0.7, 0.1, 0.3, 0.2), row(VOID, VOID) == VOID, below=0.4)
    assert value.item() == pytest.approx((0.3**2 + 0.0) / 2, rel=1e-4)


@pytest.mark.parametrize('label', [VOID, PASTED])
def test_terms_without_positions_are_zero_and_have_a_gradient(label: int) -> None:
    class_scores = scores(0.5, 0.3)
    total = (
        losses.segmentation(class_scores, row(label), 0.1)
        + losses.attraction(class_scores, row(label), 0.9)
        + losses.repulsion(class_scores, row(label) == 0, 0.2)
    )
    total.backward()
    assert total.item() == 0.0
    assert class_scores.grad is not None and not class_scores.grad.any()


def test_a_step_along_the_gradient_separates_known_from_pasted() -> None:
    class_scores = scores(0.5, 0.4, 0.6, 0.5)
    labels = row(0, PASTED)
    total = losses.attraction(class_scores, labels, 0.9) + losses.repulsion(
        class_scores, labels == PASTED, 0.2
    )
    total.backward()
    assert class_scores.grad is not None
    after = class_scores.detach() - 0.1 * class_scores.grad
    assert after[0, 0, 0, 0] > 0.5 and after[0, 0, 0, 1] < 0.6


def test_rare_classes_weigh_more_within_bounds() -> None:
    weight = losses.class_weights(torch.tensor([1_000_000, 10_000, 0]))
    assert weight[0] < weight[1] <= weight[2]
    assert weight.min() >= 0.4 and weight.max() <= 3.0


def test_usage_of_even_one_sided_and_unused_codes() -> None:
    unused, perplexity = usage(torch.tensor([[5.0, 5.0, 5.0, 5.0], [9.0, 0.0, 0.0, 0.0]]))
    assert unused == 3
    torch.testing.assert_close(perplexity, torch.tensor([4.0, 1.0]), atol=1e-4, rtol=0)


def test_unused_codevectors_move_onto_features_of_their_own_class() -> None:
    features = torch.nn.functional.normalize(torch.randn(1, 4, 2, 3), dim=1)
    labels = torch.tensor([[[0, 0, 0], [1, 1, VOID]]])
    codevectors = torch.full((3, 2, 4), 2.0)
    which = torch.tensor([[True, False], [False, True], [True, True]])
    restart(codevectors, which, features, labels)
    own = [features[0, :, labels[0] == c].T for c in (0, 1)]
    for c, m in ((0, 0), (1, 1)):
        assert codevectors[c, m].norm().item() == pytest.approx(4.0)  # |(2, 2, 2, 2)|
        assert torch.isclose(codevectors[c, m] / 4.0, own[c]).all(dim=1).any()
    untouched = torch.full((4,), 2.0)
    for c, m in ((0, 1), (1, 0), (2, 0), (2, 1)):
        assert torch.equal(codevectors[c, m], untouched)


def test_an_unused_codevector_takes_half_of_the_most_used_one() -> None:
    torch.manual_seed(0)
    codevectors = torch.randn(2, 4, 8)
    before, counts = codevectors.clone(), torch.tensor([[90, 0, 20, 0], [0, 0, 0, 0]])
    split(codevectors, counts, apart=0.1)
    assert torch.equal(codevectors[0, 2], before[0, 2]), 'the less used one stays'
    assert torch.equal(codevectors[1], before[1]), 'a class that chose none keeps all'
    # First into 0 and 1 (45 each), then one of these once more; all stay near where 0 was.
    for m in (0, 1, 3):
        moved = (codevectors[0, m] - before[0, 0]).norm() / before[0, 0].norm()
        assert 0 < moved.item() < 0.21
    features = before[0, 0] + 0.05 * torch.randn(500, 8)
    nearest = (torch.nn.functional.normalize(codevectors[0], dim=-1) @ features.T).argmax(dim=0)
    assert set(nearest.tolist()) >= {0, 1, 3}, 'each is used now'


def test_one_cycle_rises_to_one_and_falls_to_nothing() -> None:
    assert one_cycle(0.0, 0.3) == pytest.approx(0.04)
    assert one_cycle(0.3, 0.3) == pytest.approx(1.0)
    assert one_cycle(0.65, 0.3) == pytest.approx(0.5)
    assert one_cycle(1.0, 0.3) == pytest.approx(0.0)
