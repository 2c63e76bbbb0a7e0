"""CPC: losses against slow references and closed forms, the grid and its predictions."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from training.graph import ExportError
from training.methods.cpc.export import frame_term
from training.methods.cpc.losses import (
    bank_loss,
    borrowed_loss,
    condensed_bank_loss,
    excess_bank_loss,
    info_nce,
)
from training.methods.cpc.model import (
    DIRECTIONS,
    CpcNet,
    PatchEncoder,
    filled,
    patch_grid,
    patch_scores,
    turned,
    turned_back,
)
from training.methods.cpc.scorer import (
    CpcScorer,
    FrameTerm,
    condensed,
    gaussian,
    grids_of,
    patches_of,
    picture_score,
    spread,
)
from training.methods.cpc.task import normalised


def values(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def pixels(seed: int) -> np.ndarray:
    """Blocks of noise, uint8 [64, 96, 3]."""
    rng = np.random.default_rng(seed)
    return rng.integers(0, 256, (8, 12, 3), dtype=np.uint8).repeat(8, 0).repeat(8, 1)


def test_info_nce_against_a_slow_loop_and_in_closed_form() -> None:
    positive, negatives = values(3, 4), values(3, 4, 16, seed=1)
    found = info_nce(positive, negatives)
    for y, x in np.ndindex(3, 4):
        own = math.exp(positive[y, x])
        rest = sum(math.exp(f) for f in negatives[y, x])
        assert found[y, x].item() == pytest.approx(-math.log(own / (own + rest)), rel=1e-5)
    equal = info_nce(torch.zeros(1), torch.zeros(1, 16))
    assert equal.item() == pytest.approx(math.log(17))
    assert info_nce(torch.tensor([50.0]), torch.zeros(1, 16)).item() == pytest.approx(0, abs=1e-6)


def test_the_bank_is_the_expectation_over_draws() -> None:
    """Many negatives drawn from the bank with replacement approach it; all of it at once is it."""
    positive, bank = values(1), 0.5 * values(1, 40, seed=1)
    exact = bank_loss(positive, bank, 40)
    torch.testing.assert_close(exact, info_nce(positive, bank))
    few = bank_loss(positive, bank, 16)
    mean = bank.exp().mean().item()
    expected = math.log(math.exp(positive.item()) + 16 * mean) - positive.item()
    assert few.item() == pytest.approx(expected, rel=1e-5)
    draws = torch.randint(40, (20_000, 16), generator=torch.Generator().manual_seed(2))
    drawn = info_nce(positive.expand(20_000), bank[0][draws])
    assert drawn.mean().item() == pytest.approx(few.item(), abs=0.03)


def test_a_condensed_bank_of_ones_is_the_bank_and_repeated_patches_are_counts() -> None:
    positive, bank = values(2, 3), values(2, 3, 10, seed=1)
    torch.testing.assert_close(
        condensed_bank_loss(positive, bank, torch.zeros(10), 16), bank_loss(positive, bank, 16)
    )
    counts = torch.tensor([3, 1, 4, 1, 5, 9, 2, 6, 5, 3])
    repeated = bank.repeat_interleave(counts, dim=-1)
    torch.testing.assert_close(
        condensed_bank_loss(positive, bank, counts.float().log(), 16),
        bank_loss(positive, repeated, 16),
    )


@given(st.integers(0, 1000), st.floats(-30, 30), st.integers(1, 64))
def test_losses_are_finite_and_not_negative_at_any_scale(seed: int, scale: float, n: int) -> None:
    positive, bank = scale * values(5, seed=seed), scale * values(5, 9, seed=seed + 1)
    for found in (info_nce(positive, bank), bank_loss(positive, bank, n)):
        assert torch.isfinite(found).all() and (found >= -1e-4).all()


def test_a_crop_of_256_has_seven_by_seven_patches_that_overlap_by_half() -> None:
    picture = torch.arange(256.0).view(1, 1, 1, 256).expand(1, 3, 256, 256)
    grid = patch_grid(picture, 64, 32)
    assert grid.shape == (1, 7, 7, 3, 64, 64)
    assert torch.equal(grid[0, 2, 3, 0, 0], torch.arange(96.0, 160.0))
    assert torch.equal(grid[0, 0, 1, 0, :, :32], grid[0, 0, 0, 0, :, 32:])


def test_each_patch_is_encoded_alone() -> None:
    """Without batch norm; with it the same patch differs by what is beside it."""
    patches = values(6, 3, 32, 32)
    for norm, alone in ((False, True), (True, False)):
        torch.manual_seed(0)
        encoder = PatchEncoder((8, 16), norm=norm).train()
        for block in encoder.blocks:
            torch.nn.init.normal_(block.second.weight, std=0.1)
        one, many = encoder(patches[:2])[0], encoder(patches)[0]
        assert torch.allclose(one, many, atol=1e-5) == alone


@pytest.mark.parametrize('direction', DIRECTIONS)
def test_turning_is_undone_and_rows_run_in_the_direction(direction: str) -> None:
    grid = torch.arange(12.0).view(1, 1, 3, 4)
    there = turned(grid, direction)
    assert torch.equal(turned_back(there[:, 0], direction), grid[:, 0])
    first = {'down': grid[0, 0, 0], 'up': grid[0, 0, -1], 'right': grid[0, 0, :, 0]}
    first['left'] = grid[0, 0, :, -1]
    assert torch.equal(there[0, 0, 0], first[direction])


def test_predictions_meet_the_rows_that_they_are_of() -> None:
    net = CpcNet(patch=16, stride=8, widths=(4, 6), directions=2, steps=3, skip=1)
    z = values(2, 6, 7, 5)
    found = net.predictions(z)
    assert [(d, s) for d, s, _, _ in found] == [(d, s) for d in (0, 1) for s in range(3)]
    for number, step, said, target in found:
        distance = 2 + step
        grid = z if number == 0 else z.flip(2)
        assert said.shape == target.shape == (2, 6, 7 - distance, 5)
        torch.testing.assert_close(target, grid[:, :, distance:])
        for b, y, x in ((0, 0, 0), (1, 6 - distance, 4)):
            expected = net.predict[number, step] @ grid[b, :, y, x]
            torch.testing.assert_close(said[b, :, y, x], expected)


def test_a_grid_with_fewer_rows_than_the_distance_predicts_what_it_can() -> None:
    net = CpcNet(patch=16, stride=8, widths=(4, 6), steps=5, skip=1)
    assert {net.distances[s] for _, s, _, _ in net.predictions(values(1, 6, 4, 4))} == {2, 3}
    assert net.predictions(values(1, 6, 2, 2)) == []


def test_the_context_sees_no_row_below() -> None:
    net = CpcNet(patch=16, stride=8, widths=(4, 6), directions=1, context=True)
    z = values(1, 6, 7, 5)
    changed = z.clone()
    changed[:, :, 4:] += 1.0
    before, after = (net.context[0](one) for one in (z, changed))
    torch.testing.assert_close(before[:, :, :4], after[:, :, :4])
    assert not torch.allclose(before[:, :, 4:], after[:, :, 4:])


def test_patch_scores_are_the_mean_over_what_predicts_a_patch() -> None:
    """Against a loop over patches, directions and distances."""
    rows, columns, distances = 5, 4, (2, 3)
    losses, table = [], {}
    for seed, direction in enumerate(DIRECTIONS):
        along = rows if direction in ('down', 'up') else columns
        across = columns if direction in ('down', 'up') else rows
        for distance in distances:
            if distance < along:
                loss = values(2, along - distance, across, seed=10 * seed + distance)
                losses.append((direction, distance, loss))
                table[direction, distance] = loss
    found = patch_scores(losses, (rows, columns))
    for y, x in np.ndindex(rows, columns):
        own = []
        for (direction, distance), loss in table.items():
            place = {'down': y, 'up': rows - 1 - y, 'right': x, 'left': columns - 1 - x}[direction]
            across = x if direction in ('down', 'up') else y
            if place >= distance:
                own.append(loss[1, place - distance, across].item())
        if own:
            assert found[1, y, x].item() == pytest.approx(np.mean(own), abs=1e-5)
        else:
            assert found[1, y, x].item() != 0.0, 'the mean of the neighbours, never zero'


def test_one_direction_leaves_rows_that_are_filled_from_below() -> None:
    loss = torch.full((1, 5, 3), 2.0)
    assert torch.equal(patch_scores([('down', 2, loss)], (7, 3)), torch.full((1, 7, 3), 2.0))


def test_filling_goes_ring_by_ring_and_leaves_what_is_known() -> None:
    scores, known = torch.zeros(1, 1, 5), np.zeros((1, 5), np.bool_)
    scores[0, 0, 0], known[0, 0] = 3.0, True
    assert torch.equal(filled(scores, known), torch.full((1, 1, 5), 3.0))
    assert torch.equal(filled(scores, np.zeros((1, 5), np.bool_)), scores)


class TestScorer:
    @pytest.fixture(scope='class')
    def scorer(self) -> CpcScorer:
        torch.manual_seed(0)
        net = CpcNet(patch=16, stride=8, widths=(6, 8), stem_stride=2, steps=2, skip=1).eval()
        for block in net.encoder.blocks:
            torch.nn.init.normal_(block.second.weight, std=0.2)
        torch.nn.init.normal_(net.predict, std=1.0)
        bank = patches_of(grids_of(net, [pixels(seed) for seed in range(6)]))
        return CpcScorer(net, *condensed(bank, len(bank)), negatives=16, most=50.0).eval()

    def test_a_score_depends_neither_on_the_batch_nor_on_chance(self, scorer: CpcScorer) -> None:
        one, other = (torch.from_numpy(pixels(seed))[None] for seed in (20, 21))
        with torch.inference_mode():
            alone, again = scorer(one), scorer(one)
            beside = scorer(torch.cat([other, one, other]))[1:2]
        assert torch.equal(alone, again)
        torch.testing.assert_close(alone, beside, atol=1e-5, rtol=0)
        assert alone.shape == (1, 64 // 8, 96 // 8) and alone.std() > 1e-3

    def test_patch_losses_are_those_of_a_loop_over_the_bank(self, scorer: CpcScorer) -> None:
        picture = torch.from_numpy(pixels(30))[None]
        net = scorer.net
        with torch.inference_mode():
            found = scorer.patch_losses(picture)[0]
            z = net.encode(normalised(picture))[0]
        rows, columns = z.shape[1:]
        own: dict[tuple[int, int], list[float]] = {}
        moves = {'down': (1, 0), 'up': (-1, 0), 'right': (0, 1), 'left': (0, -1)}
        for number, direction in enumerate(net.directions):
            for step, distance in enumerate(net.distances):
                for y, x in np.ndindex(rows, columns):
                    down, right = (distance * part for part in moves[direction])
                    if not (0 <= y + down < rows and 0 <= x + right < columns):
                        continue
                    said = net.predict[number, step].detach() @ z[:, y, x]
                    loss = bank_loss(said @ z[:, y + down, x + right], said @ scorer.centres.T, 16)
                    own.setdefault((y + down, x + right), []).append(loss.item())
        for (y, x), losses in own.items():
            assert found[y, x].item() == pytest.approx(np.mean(losses), abs=1e-3)

    def test_a_condensed_bank_scores_nearly_the_same(self, scorer: CpcScorer) -> None:
        bank = scorer.centres
        small = CpcScorer(scorer.net, *condensed(bank, len(bank) // 4), 16, 50.0)
        picture = torch.from_numpy(pixels(31))[None]
        with torch.inference_mode():
            full, fewer = scorer.patch_losses(picture), small.patch_losses(picture)
        assert len(small.centres) <= len(bank) // 4
        assert small.log_counts.exp().sum().item() == pytest.approx(len(bank), rel=1e-4)
        assert np.corrcoef(full.flatten(), fewer.flatten())[0, 1] > 0.9

    def test_spreading_is_the_mean_of_the_patches_that_cover_a_cell(self) -> None:
        patches = torch.tensor([[1.0, 3.0], [5.0, 7.0]])[None, None]
        expected = torch.tensor([[1, 2, 3], [3, 4, 5], [5, 6, 7]]).float()
        assert torch.equal(spread(patches, 2)[0, 0], expected)

    def test_the_map_lies_where_the_patches_lie(self, scorer: CpcScorer) -> None:
        """A loss in one patch is highest in the cells that it covers."""
        patches = torch.zeros(1, 7, 11)
        patches[0, 2, 5] = 10.0
        found = scorer.map_of(patches)[0]
        top, left = np.unravel_index(int(found.argmax()), found.shape)
        assert 2 <= top <= 3 and 5 <= left <= 6
        assert found.sum() > 0 and found.max() <= 10.0

    def test_scores_of_a_picture(self) -> None:
        patches = torch.arange(40.0).view(1, 5, 8)
        assert picture_score(patches, 'mean').item() == pytest.approx(19.5)
        assert picture_score(patches, 'max').item() == 39.0
        assert picture_score(patches, 'top').item() == pytest.approx(38.5)
        assert picture_score(patches[:, :1, :3], 'top').item() == 2.0

    def test_a_gaussian_sums_to_one_and_falls(self) -> None:
        kernel = gaussian(0.5)[0, 0]
        assert kernel.sum().item() == pytest.approx(1.0)
        assert kernel[2, 2] > kernel[2, 3] > kernel[2, 4] > 0 and torch.equal(kernel, kernel.T)


def test_the_excess_of_what_the_context_expects_is_zero_on_average() -> None:
    """Patches of the bank, each with the probability that the context gives it."""
    centres, log_counts = 2 * values(7, seed=3), values(7, seed=4)
    weights = torch.softmax(centres + log_counts, dim=0)
    excess = excess_bank_loss(centres, centres.expand(7, 7), log_counts, 16)
    loss = condensed_bank_loss(centres, centres.expand(7, 7), log_counts, 16)
    assert (weights * excess).sum().item() == pytest.approx(0.0, abs=1e-5)
    torch.testing.assert_close(excess - excess[0], loss - loss[0])


def test_the_borrowed_loss_is_a_soft_minimum_over_contexts() -> None:
    products, normalisers = values(2, 9), values(9, seed=1)
    counts = torch.tensor([1.0, 2, 3, 1, 1, 4, 1, 1, 2])
    found = borrowed_loss(products, normalisers, counts.log())
    for row in range(2):
        likely = [math.exp(f - n) for f, n in zip(products[row], normalisers, strict=True)]
        mean = sum(c * p for c, p in zip(counts, likely, strict=True)) / counts.sum()
        assert found[row].item() == pytest.approx(-math.log(mean), rel=1e-5)


class TestFrameTerm:
    @pytest.fixture(scope='class')
    def net(self) -> CpcNet:
        torch.manual_seed(0)
        net = CpcNet(patch=16, stride=8, widths=(6, 8), stem_stride=2, steps=2, directions=1)
        torch.nn.init.normal_(net.predict, std=1.0)
        return net.eval()

    @pytest.fixture(scope='class')
    def grids(self, net: CpcNet) -> list[torch.Tensor]:
        return grids_of(net, [pixels(seed) for seed in range(24)])

    @pytest.fixture(scope='class')
    def term(self, net: CpcNet, grids: list[torch.Tensor]) -> FrameTerm:
        return frame_term(net, *condensed(patches_of(grids), 32), grids)

    def test_the_profile_is_the_mean_loss_by_direction_and_distance(
        self, net: CpcNet, grids: list[torch.Tensor], term: FrameTerm
    ) -> None:
        centres, log_counts = condensed(patches_of(grids), 32)
        found = term.profile(grids[0])
        assert found.shape == (1, 2)
        weights = log_counts.exp() / log_counts.exp().sum()
        for step in range(2):
            said = centres @ net.predict[0, step].detach().T
            normalisers = torch.log((said @ centres.T).exp() @ weights)
            products = grids[0][0].flatten(1).T @ said.T
            borrowed = -torch.log((products - normalisers).exp() @ weights)
            assert found[0, step].item() == pytest.approx(borrowed.mean().item(), rel=1e-3)

    def test_normal_pictures_are_one_on_average_and_others_more(
        self, net: CpcNet, grids: list[torch.Tensor], term: FrameTerm
    ) -> None:
        normal = torch.cat([term(grid) for grid in grids])
        assert normal.square().mean().item() == pytest.approx(1.0, abs=0.1)
        dark, flat = (pixels(40) // 4, np.full((64, 96, 3), 127, np.uint8))
        for grid in grids_of(net, [dark.astype(np.uint8), flat]):
            assert term(grid).item() > 1.5 * normal.max().item()

    def test_it_raises_the_whole_map(self, net: CpcNet, term: FrameTerm) -> None:
        bank = values(5, 8), torch.zeros(5)
        plain = CpcScorer(net, *bank, negatives=16, most=99.0).eval()
        raised = CpcScorer(net, *bank, negatives=16, most=99.0, frame=term).eval()
        picture = torch.from_numpy(pixels(50))[None]
        with torch.inference_mode():
            higher, expected = (
                raised(picture) - plain(picture),
                term(grids_of(net, [pixels(50)])[0]),
            )
        torch.testing.assert_close(higher, expected.expand_as(higher), atol=1e-4, rtol=1e-4)

    def test_too_few_pictures_say_nothing(self, net: CpcNet, grids: list[torch.Tensor]) -> None:
        with pytest.raises(ExportError, match='7 pictures do not say what is typical'):
            frame_term(net, *condensed(patches_of(grids), 32), grids[:7])
