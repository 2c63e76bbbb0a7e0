"""The contrastive terms against slow loops and closed forms; the sampling's properties."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional as F

from training.methods.codebook.contrastive import (
    VoidQueue,
    code_to_code,
    code_to_pixel,
    eroded,
    half_hard,
    pixel_to_code,
    sampled_void,
    void_repulsion,
)
from training.methods.codebook.quantisation import own_codes

C, M, D, T = 3, 2, 5, 0.1


def unit(*shape: int, seed: int = 0) -> Tensor:
    return F.normalize(torch.randn(*shape, generator=torch.Generator().manual_seed(seed)), dim=-1)


def drawn(positions: int, seed: int = 0) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    features, codebook = unit(positions, D, seed=seed), unit(C, M, D, seed=seed + 1)
    labels = torch.from_numpy(np.random.default_rng(seed).integers(0, C, positions))
    return features, labels, codebook, torch.einsum('pd,cmd->pcm', features, codebook)


def test_pixel_to_code_against_a_slow_loop() -> None:
    _, labels, _, similarity = drawn(9)
    total = 0.0
    for position, label in enumerate(labels.tolist()):
        positive = max(similarity[position, label].tolist())
        every = [math.exp(s / T) for s in similarity[position].flatten().tolist()]
        total -= math.log(math.exp(positive / T) / sum(every))
    assert float(pixel_to_code(similarity, labels, T)) == pytest.approx(total / 9, rel=1e-5)


def test_pixel_to_code_of_equal_similarities_is_the_logarithm_of_their_number() -> None:
    similarity = torch.zeros(4, C, M)
    labels = torch.tensor([0, 1, 2, 0])
    assert float(pixel_to_code(similarity, labels, T)) == pytest.approx(math.log(C * M))


@pytest.mark.parametrize('voids', [0, 4])
def test_code_to_pixel_against_a_slow_loop(voids: int) -> None:
    features, labels, codebook, similarity = drawn(11, seed=3)
    void = unit(voids, D, seed=8) if voids else torch.zeros(0, D)
    assigned = own_codes(similarity, labels)
    flat, losses = codebook.flatten(0, 1), []
    for code in range(C * M):
        mine = [i for i in range(11) if assigned[i] == code]
        if not mine:
            continue
        others = [features[i] for i in range(11) if labels[i] != code // M] + list(void)
        repel = sum(math.exp(float(flat[code] @ n) / T) for n in others)
        values = [math.exp(float(flat[code] @ features[i]) / T) for i in mine]
        losses.append(sum(-math.log(v / (v + repel)) for v in values) / len(mine))
    found = code_to_pixel(codebook, features, labels, assigned, void, T)
    assert float(found) == pytest.approx(sum(losses) / len(losses), rel=1e-4)


def test_code_to_pixel_without_negatives_is_nothing_and_has_a_finite_gradient() -> None:
    features, _, codebook, similarity = drawn(5)
    features.requires_grad_()
    labels = torch.zeros(5, dtype=torch.long)
    assigned = own_codes(similarity, labels)
    loss = code_to_pixel(codebook, features, labels, assigned, torch.zeros(0, D), T)
    loss.backward()
    assert loss.item() == pytest.approx(0.0, abs=1e-6)
    assert features.grad is not None and torch.isfinite(features.grad).all()


def test_void_pushes_a_codevector_away_from_itself() -> None:
    features, labels, codebook, similarity = drawn(8)
    codebook.requires_grad_()
    assigned = own_codes(similarity, labels)
    chosen = int(assigned[0])
    void = codebook.detach().flatten(0, 1)[chosen : chosen + 1] * 0.9 + 0.1
    code_to_pixel(codebook, features, labels, assigned, void, T).backward()
    moved = F.normalize(codebook.detach() - 0.01 * codebook.grad, dim=-1).flatten(0, 1)[chosen]
    assert float(moved @ void[0]) < float(codebook.detach().flatten(0, 1)[chosen] @ void[0])


def test_code_to_code_against_a_slow_loop() -> None:
    codebook = unit(C, M, D, seed=4)
    between, within = [], []
    for c in range(C):
        for m in range(M):
            for other in range(C):
                for k in range(M):
                    cosine = float(codebook[c, m] @ codebook[other, k])
                    if c != other:
                        between.append(math.exp(cosine / T))
                    elif m != k:
                        within.append(max(0.0, cosine - 0.2) ** 2)
    expected = T * math.log(np.mean(between)) + np.mean(within)
    assert float(code_to_code(codebook, T, within=0.2)) == pytest.approx(expected, rel=1e-5)


def test_orthogonal_classes_cost_less_than_one_that_shares_its_codes() -> None:
    apart = torch.eye(4).reshape(4, 1, 4)
    alike = torch.ones(4, 1, 4) / 2
    assert float(code_to_code(apart, T)) == pytest.approx(0.0, abs=1e-6)
    assert float(code_to_code(alike, T)) == pytest.approx(1.0, abs=1e-6)
    assert float(code_to_code(torch.eye(2).reshape(1, 2, 2), T)) == 0.0, 'one class alone'


def test_void_repulsion_in_closed_form_and_against_a_loop() -> None:
    at_delta = torch.full((2, C, M), 0.3)
    expected = math.log(1 + C * M)
    assert float(void_repulsion(at_delta, T, 0.3)) == pytest.approx(expected, rel=1e-5)
    *_, similarity = drawn(6)
    slow = [
        math.log(1 + sum(math.exp((s - 0.1) / T) for s in one.flatten().tolist()))
        for one in similarity
    ]
    assert float(void_repulsion(similarity, T, 0.1)) == pytest.approx(np.mean(slow), rel=1e-5)


def test_terms_without_positions_are_zero_and_differentiable() -> None:
    features = unit(3, D).requires_grad_()
    none = torch.zeros(0, dtype=torch.long)
    similarity = torch.einsum('pd,cmd->pcm', features, unit(C, M, D))
    codebook = unit(C, M, D)
    loss = pixel_to_code(similarity[:0], none, T) + void_repulsion(similarity[:0], T, 0.1)
    loss = loss + code_to_pixel(codebook, features[:0], none, none, features[:0], T)
    loss.backward()
    assert loss.item() == 0.0


@given(st.integers(0, 10**6), st.integers(1, 40), st.integers(2, 12))
def test_half_hard_takes_half_wrong_ones_where_there_are_enough(
    seed: int, positions: int, most: int
) -> None:
    rng = np.random.default_rng(seed)
    labels = torch.from_numpy(rng.choice([0, 1, 2, 254, 255], positions))
    predicted = torch.from_numpy(rng.integers(0, C, positions))
    chosen = half_hard(labels, predicted, C, most)
    assert len(chosen.unique()) == len(chosen)
    for label in range(C):
        own = labels == label
        hard = int((own & (predicted != label)).sum())
        easy = int((own & (predicted == label)).sum())
        mine = chosen[labels[chosen] == label]
        assert len(mine) == min(most, hard + easy)
        taken = int((predicted[mine] != label).sum())
        if hard >= most // 2 and easy >= most - most // 2:
            assert taken == most // 2
        else:
            assert taken == min(hard, max(most // 2, most - easy))
    assert (labels[chosen] < C).all()


def test_erosion_keeps_what_is_void_all_around() -> None:
    void = torch.zeros(1, 7, 9, dtype=torch.bool)
    void[0, 1:6, 2:8] = True
    expected = torch.zeros_like(void)
    expected[0, 2:5, 3:7] = True
    assert torch.equal(eroded(void, 1), expected)
    assert torch.equal(eroded(void, 0), void)
    assert eroded(torch.ones(1, 3, 3, dtype=torch.bool), 1).all(), 'beyond the picture is void'


@given(st.integers(1, 60), st.integers(1, 30), st.integers(0, 10**6))
def test_sampled_void_holds_the_hardest_half(positions: int, most: int, seed: int) -> None:
    nearest = torch.from_numpy(np.random.default_rng(seed).permutation(positions)).float()
    chosen = sampled_void(nearest, most)
    assert len(chosen) == len(chosen.unique()) == min(positions, most)
    if positions > most:
        hardest = set(nearest.topk(most // 2).indices.tolist())
        assert hardest <= set(chosen.tolist())


@given(st.lists(st.integers(0, 13), max_size=8))
def test_the_queue_holds_the_last_ones(pushes: list[int]) -> None:
    queue = VoidQueue(1, length=6)
    everything: list[float] = []
    for count in pushes:
        values = torch.arange(len(everything), len(everything) + count).float()[:, None]
        everything += values.flatten().tolist()
        queue.push(values)
    assert sorted(queue.held().flatten().tolist()) == everything[-6:]


def test_the_queue_survives_a_checkpoint() -> None:
    queue, other = VoidQueue(2, 4), VoidQueue(2, 4)
    queue.push(torch.rand(6, 2, requires_grad=True))
    other.load_state_dict(queue.state_dict())
    assert torch.equal(other.held(), queue.held()) and not other.held().requires_grad
