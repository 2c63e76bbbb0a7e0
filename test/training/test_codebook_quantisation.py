"""Assignment, moving averages and decoder against slow references and closed forms."""

from __future__ import annotations

import math
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional as F

from training.methods.codebook.quantisation import (
    Decoder,
    MovingCodebook,
    balanced_codes,
    commitment,
    own_codes,
    reconstruction,
    reconstruction_error,
    straight_through,
)

ROOT = Path(__file__).resolve().parents[2]
C, M, D, VOID = 3, 4, 6, 255


def unit(*shape: int, seed: int = 0) -> Tensor:
    return F.normalize(torch.randn(*shape, generator=torch.Generator().manual_seed(seed)), dim=-1)


def drawn(positions: int, seed: int = 0) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Features [P, D], labels [P], codebook [C, M, D], similarity [P, C, M]."""
    features, codebook = unit(positions, D, seed=seed), unit(C, M, D, seed=seed + 1)
    labels = torch.from_numpy(np.random.default_rng(seed).integers(0, C, positions))
    return features, labels, codebook, torch.einsum('pd,cmd->pcm', features, codebook)


@given(st.integers(0, 1000), st.integers(1, 20))
def test_own_codes_are_the_nearest_of_the_class(seed: int, positions: int) -> None:
    _, labels, _, similarity = drawn(positions, seed)
    for position, code in enumerate(own_codes(similarity, labels).tolist()):
        own = similarity[position, labels[position]].tolist()
        assert code == int(labels[position]) * M + own.index(max(own))


def test_balanced_codes_use_every_codevector_alike() -> None:
    """All positions are nearest to codevector 0; balanced, each codevector gets its quarter."""
    similarity = torch.rand(40, 1, M, generator=torch.Generator().manual_seed(0)) * 0.1
    similarity[:, :, 0] += 0.5
    labels = torch.zeros(40, dtype=torch.long)
    assert own_codes(similarity, labels).unique().tolist() == [0]
    counts = balanced_codes(similarity, labels, iterations=50).bincount(minlength=M)
    assert counts.min() >= 6 and counts.sum() == 40


def test_balanced_codes_against_a_slow_sinkhorn() -> None:
    _, labels, _, similarity = drawn(30)
    found = balanced_codes(similarity, labels, 0.05, 3)
    for label in range(C):
        members = [i for i in range(30) if labels[i] == label]
        plan = [
            [math.exp(float(similarity[i, label, m]) / 0.05) for m in range(M)] for i in members
        ]
        for _ in range(3):
            for m in range(M):
                total = sum(row[m] for row in plan)
                for row in plan:
                    row[m] /= total * M
            for row in plan:
                total = sum(row) * len(members)
                row[:] = [value / total for value in row]
        for i, row in zip(members, plan, strict=True):
            assert found[i] == label * M + row.index(max(row))


def test_straight_through_goes_forward_as_code_and_back_as_identity() -> None:
    features, labels, codebook, similarity = drawn(5)
    features.requires_grad_()
    codebook.requires_grad_()
    assigned = own_codes(similarity, labels)
    quantised = straight_through(features, codebook, assigned)
    torch.testing.assert_close(quantised, codebook.flatten(0, 1)[assigned])
    weight = torch.randn_like(quantised)
    (quantised * weight).sum().backward()
    torch.testing.assert_close(features.grad, weight)
    assert codebook.grad is None


def test_commitment_is_two_minus_two_cosines_and_moves_the_features_only() -> None:
    features, labels, codebook, similarity = drawn(7)
    features.requires_grad_()
    codebook.requires_grad_()
    loss = commitment(features, codebook, own_codes(similarity, labels))
    own = similarity[torch.arange(7), labels].amax(dim=1)
    assert loss.item() == pytest.approx((2 - 2 * own).mean().item(), abs=1e-6)
    loss.backward()
    assert features.grad is not None and codebook.grad is None
    assert float(commitment(features[:0], codebook, torch.zeros(0, dtype=torch.long))) == 0.0


def test_moving_averages_against_a_slow_reference() -> None:
    _, _, codebook, _ = drawn(1)
    moving = MovingCodebook(codebook, decay=0.9)
    counts = [1.0] * (C * M)
    sums = codebook.flatten(0, 1).double().numpy().copy()
    for step in range(5):
        features, labels, _, similarity = drawn(12, seed=step)
        assigned = own_codes(similarity, labels)
        moving.update(features, assigned)
        for code in range(C * M):
            mine = [features[i].double().numpy() for i in range(12) if assigned[i] == code]
            counts[code] = 0.9 * counts[code] + 0.1 * len(mine)
            sums[code] = 0.9 * sums[code] + 0.1 * np.sum(mine, axis=0) if mine else 0.9 * sums[code]
    torch.testing.assert_close(moving.counts, torch.tensor(counts))
    expected = sums / np.linalg.norm(sums, axis=1, keepdims=True)
    np.testing.assert_allclose(moving.codebook(), expected, atol=1e-5)


def test_a_constant_stream_is_learnt_and_stays_on_the_sphere() -> None:
    _, _, codebook, _ = drawn(1)
    moving = MovingCodebook(codebook, decay=0.5)
    target = unit(1, D, seed=9)
    for _ in range(30):
        moving.update(target.expand(8, D), torch.full((8,), 2))
    torch.testing.assert_close(moving.codebook()[2], target[0], atol=1e-4, rtol=0)
    torch.testing.assert_close(moving.codebook().norm(dim=1), torch.ones(C * M))


def test_dead_codevectors_restart_on_features_of_their_class() -> None:
    features, labels, codebook, _ = drawn(50)
    labels[labels == 2] = 0  # class 2 has no positions
    moving = MovingCodebook(codebook)
    moving.counts[[1, 5, 9]] = 0.5
    before = moving.codebook().clone()
    assert moving.restart(features, labels, M) == 2
    for index in (1, 5):
        own = features[labels == index // M]
        assert (own - moving.codebook()[index]).norm(dim=1).min() < 1e-5
    torch.testing.assert_close(moving.codebook()[9], before[9])
    assert moving.restart(features, labels, M) == 0


def _one_of_two(rank: int, folder: str) -> None:
    torch.distributed.init_process_group(
        'gloo', init_method=f'file://{folder}/meeting', rank=rank, world_size=2
    )
    features, labels, codebook, similarity = drawn(20)
    assigned = own_codes(similarity, labels)
    moving = MovingCodebook(codebook)
    moving.counts[0] = 0.5
    moving.update(features[rank::2], assigned[rank::2])
    torch.manual_seed(rank)
    moving.restart(features[rank::2], labels[rank::2], M)
    torch.save(moving.state_dict(), f'{folder}/{rank}.pt')
    torch.distributed.destroy_process_group()


def test_two_processes_have_the_codebook_of_one(tmp_path: Path) -> None:
    environment = {**os.environ, 'PYTHONPATH': str(ROOT)}
    ends = [
        subprocess.Popen([sys.executable, __file__, str(rank), str(tmp_path)], env=environment)
        for rank in range(2)
    ]
    assert [end.wait(120) for end in ends] == [0, 0]
    one, other = (torch.load(tmp_path / f'{rank}.pt') for rank in range(2))
    features, labels, codebook, similarity = drawn(20)
    alone = MovingCodebook(codebook)
    alone.counts[0] = 0.5
    alone.update(features, own_codes(similarity, labels))
    for name in ('counts', 'sums'):
        torch.testing.assert_close(one[name], other[name])
        torch.testing.assert_close(one[name][1:], getattr(alone, name)[1:])
    assert one['counts'][0] == 1.0, 'restarted, on both at the same feature'


def test_the_decoder_learns_a_picture_from_its_codes() -> None:
    torch.manual_seed(0)
    quantised = unit(1, 8, 8, D).permute(0, 3, 1, 2).contiguous()
    picture = torch.rand(1, 3, 8, 8)
    labels = torch.randint(0, C, (1, 8, 8))
    labels[0, 0, 0] = VOID
    decoder = Decoder(D, classes=C)
    optimiser = torch.optim.Adam(decoder.parameters(), 1e-2)
    losses = []
    for _ in range(150):
        loss = reconstruction(decoder(quantised), picture, labels, VOID)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    assert losses[-1] < 0.3 * losses[0]
    error = reconstruction_error(decoder(quantised)[0], picture)
    assert error.shape == (1, 8, 8) and error.mean() < 0.2


def test_reconstruction_in_closed_form() -> None:
    picture = torch.zeros(1, 3, 2, 2)
    decoded = torch.full((1, 3, 2, 2), 0.25)
    labels = torch.tensor([[[0, 1], [VOID, 254]]])
    assert float(reconstruction((decoded, None), picture, labels, VOID)) == pytest.approx(0.25)
    logits = torch.zeros(1, 2, 2, 2)
    both = float(reconstruction((decoded, logits), picture, labels, VOID))
    assert both == pytest.approx(0.25 + math.log(2))
    nothing = torch.full_like(labels, VOID)
    assert float(reconstruction((decoded, logits), picture, nothing, VOID)) == pytest.approx(0.25)


if __name__ == '__main__':
    _one_of_two(int(sys.argv[1]), sys.argv[2])
