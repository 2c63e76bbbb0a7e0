"""Metrics against scikit-learn, against slow and obvious references, and in closed form."""

from __future__ import annotations

import dataclasses
import itertools
import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn import metrics as oracle

from vq_anomaly_ros.metrics import (
    ANOMALY_TRACK,
    OBSTACLE_TRACK,
    PROTOCOLS,
    ComponentRule,
    IndustrialEvaluation,
    MergedBins,
    MetricError,
    PerImageEvaluation,
    PixelScores,
    PooledEvaluation,
    RegionScores,
    SegmentationEvaluation,
    anomaly_evaluation,
    bootstrap_interval,
    class_iou,
    component_metrics,
    confusion,
    exact_metrics,
    find_protocol,
    frame_bins,
    frame_components,
    mean_iou,
)
from vq_anomaly_ros.metrics.pixel import operating_points

TAUS = [0.25 + 0.05 * step for step in range(11)]


def scored_labels(seed: int, size: int = 4000, levels: int | None = None):
    """Scores float32 and labels uint8 (1 in 8 anomalous, some void); few levels make many ties."""
    rng = np.random.default_rng(seed)
    labels = rng.choice(np.array([0, 1, 255], np.uint8), size, p=[0.8, 0.1, 0.1])
    scores = rng.normal(0, 1, size) + 1.5 * (labels == 1)
    if levels:
        scores = np.round(scores * levels / 8)
    return scores.astype(np.float32), labels


def judged(scores, labels):
    keep = labels != 255
    return labels[keep] == 1, scores[keep]


def sorted_kinds(truth, scores):
    return np.sort(scores[truth]), np.sort(scores[~truth])


def oracle_best_f1(truth, scores):
    return max(oracle.f1_score(truth, scores >= t) for t in np.unique(scores))


def nearest_recall_fpr(truth, scores):
    """FPR at the recall nearest to 0.95: every threshold from the lowest, the first best kept.

    Thresholds under the one that first reaches full recall are left out.
    """
    best = None
    for threshold in np.unique(scores):
        predicted = scores >= threshold
        recall = np.sum(predicted & truth) / np.sum(truth)
        lower_still_full = recall == 1 and threshold < scores[truth].min()
        if not lower_still_full and (best is None or abs(recall - 0.95) < best[0]):
            best = abs(recall - 0.95), np.sum(predicted & ~truth) / np.sum(~truth)
    return best[1]


pixel_sets = st.lists(
    st.tuples(st.sampled_from([0, 1, 255]), st.integers(-6, 6)), min_size=2, max_size=60
).filter(lambda pairs: {0, 1} <= {label for label, _ in pairs})


class TestPixelMetrics:
    @pytest.mark.parametrize('levels', [None, 3, 40])
    @pytest.mark.parametrize('seed', range(3))
    def test_equals_scikit_learn(self, seed, levels):
        scores, labels = scored_labels(seed, levels=levels)
        truth, kept = judged(scores, labels)
        pixels = PixelScores()
        for part in np.array_split(np.arange(scores.size), 7):
            pixels.add(scores[part], labels[part])
        found = pixels.result()
        fpr, tpr, _ = oracle.roc_curve(truth, kept, drop_intermediate=False)
        assert found.ap == pytest.approx(oracle.average_precision_score(truth, kept), abs=1e-6)
        assert found.auroc == pytest.approx(oracle.roc_auc_score(truth, kept), abs=1e-6)
        assert found.fpr95 == pytest.approx(fpr[np.argmax(tpr >= 0.95)], abs=1e-6)
        precision, recall, _ = oracle.precision_recall_curve(truth, kept)
        f1 = 2 * precision * recall / np.maximum(precision + recall, 1e-12)
        assert found.best_f1 == pytest.approx(f1.max(), abs=1e-6)

    @given(pixel_sets)
    @settings(deadline=None, max_examples=150)
    def test_equals_scikit_learn_on_any_ties(self, pairs):
        labels = np.array([label for label, _ in pairs], np.uint8)
        scores = np.array([score for _, score in pairs], np.float32)
        truth, kept = judged(scores, labels)
        found = exact_metrics(*sorted_kinds(truth, kept))
        fpr, tpr, _ = oracle.roc_curve(truth, kept, drop_intermediate=False)
        assert found.ap == pytest.approx(oracle.average_precision_score(truth, kept), abs=1e-9)
        assert found.auroc == pytest.approx(oracle.roc_auc_score(truth, kept), abs=1e-9)
        assert found.fpr95 == pytest.approx(fpr[np.argmax(tpr >= 0.95)], abs=1e-9)
        assert found.best_f1 == pytest.approx(oracle_best_f1(truth, kept), abs=1e-9)
        at_threshold = oracle.f1_score(truth, kept >= found.best_f1_threshold)
        assert at_threshold == pytest.approx(found.best_f1, abs=1e-9)

    @given(pixel_sets)
    @settings(deadline=None, max_examples=150)
    def test_nearest_recall_equals_a_walk_over_all_thresholds(self, pairs):
        labels = np.array([label for label, _ in pairs], np.uint8)
        truth, kept = judged(np.array([score for _, score in pairs], np.float32), labels)
        found = exact_metrics(*sorted_kinds(truth, kept), at='nearest').fpr95
        assert found == pytest.approx(nearest_recall_fpr(truth, kept), abs=1e-12)

    def test_first_and_nearest_recall_differ_where_a_step_jumps_over(self):
        # 100 anomalous pixels: 94 of score 3, 6 of score 1; 10 normal: 1 at 3, 1 at 2, 3 at 1.
        anomalous = np.array([1] * 6 + [3] * 94, np.float32)
        normal = np.array([0] * 5 + [1] * 3 + [2, 3], np.float32)
        assert exact_metrics(anomalous, normal, 'first').fpr95 == 0.5
        assert exact_metrics(anomalous, normal, 'nearest').fpr95 == 0.2

    def test_perfect_reversed_and_constant_scores(self):
        low, high = np.zeros(30, np.float32), np.ones(10, np.float32)
        many = np.ones(30, np.float32)
        perfect, reverse = exact_metrics(high, low), exact_metrics(low[:10], many)
        constant = exact_metrics(high, many)
        assert (perfect.ap, perfect.fpr95, perfect.auroc, perfect.best_f1) == (1, 0, 1, 1)
        assert (reverse.ap, reverse.fpr95, reverse.auroc, reverse.best_f1) == (0.25, 1, 0, 0.4)
        assert (constant.ap, constant.fpr95, constant.auroc) == (0.25, 1, 0.5)

    @given(pixel_sets, st.integers(1, 9))
    @settings(deadline=None, max_examples=60)
    def test_windows_change_nothing(self, pairs, window):
        labels = np.array([label for label, _ in pairs], np.uint8)
        scores = np.array([score for _, score in pairs], np.float32)
        kinds = sorted_kinds(*judged(scores, labels))
        (whole,) = operating_points(*kinds)
        parts = list(operating_points(*kinds, window=window))
        for name in ('threshold', 'tp', 'fp', 'fp_above'):
            joined = np.concatenate([getattr(part, name) for part in parts])
            np.testing.assert_array_equal(joined, getattr(whole, name))

    def test_more_images_may_follow_a_result(self):
        scores, labels = scored_labels(5)
        early, late = PixelScores(), PixelScores()
        early.add(scores[:1000], labels[:1000])
        early.result()
        early.add(scores[1000:], labels[1000:])
        late.add(scores, labels)
        assert early.result() == late.result()

    def test_parts_of_any_size_hold_every_pixel_once(self):
        scores, labels = scored_labels(6, 300_000, levels=400)
        pixels = PixelScores()
        for part in np.split(np.arange(scores.size), [1, 65_000, 66_000, 200_000, 299_999]):
            pixels.add(scores[part], labels[part])
        np.testing.assert_array_equal(pixels.normal, np.sort(scores[labels == 0]))
        np.testing.assert_array_equal(pixels.anomalous, np.sort(scores[labels == 1]))

    def test_memory_stays_within_ten_bytes_a_pixel(self):
        rng = np.random.default_rng(0)
        images, size = 40, (256, 512)
        pixels = PixelScores()
        tracemalloc.start()
        for _ in range(images):
            labels = (rng.random(size, np.float32) < 0.02).astype(np.uint8)
            pixels.add(rng.random(size, np.float32), labels)
        pixels.result()
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert peak < 10 * images * size[0] * size[1]

    @pytest.mark.parametrize('bad', [np.nan, np.inf, -np.inf])
    def test_scores_that_are_not_finite_are_refused(self, bad):
        scores = np.zeros((2, 3), np.float32)
        scores[1, 2] = bad
        with pytest.raises(MetricError, match='1 of 6 scores are NaN or infinite'):
            PixelScores().add(scores, np.zeros((2, 3), np.uint8))

    def test_sizes_and_labels_that_do_not_fit_are_refused(self):
        with pytest.raises(MetricError, match='upsample the scores'):
            PixelScores().add(np.zeros((2, 3)), np.zeros((4, 6), np.uint8))
        with pytest.raises(MetricError, match=r'labels hold \[7\]'):
            PixelScores().add(np.zeros(2), np.array([0, 7], np.uint8))
        with pytest.raises(MetricError, match='pass uint8'):
            PixelScores().add(np.zeros(2), np.zeros(2, np.int64))

    def test_one_kind_of_pixels_gives_nan_and_a_reason(self):
        for label, reason in ((0, 'no anomalous pixel'), (1, 'no normal pixel')):
            pixels = PixelScores()
            pixels.add(np.zeros(5), np.full(5, label, np.uint8))
            found = pixels.result()
            assert np.isnan([found.ap, found.fpr95, found.auroc, found.best_f1]).all()
            assert reason in found.reason


def smiyc_reference(frames):
    """SMIYC's curve the slow way: histogram each frame between its quantiles, merge, sum."""
    rows, positives, negatives = [], 0, 0
    for scores, labels in frames:
        truth, kept = judged(scores.astype(np.float16).astype(np.float64), labels)
        quantiles = [
            np.quantile(kept[kind], np.linspace(0, 1, min(384, kind.sum())))
            for kind in (truth, ~truth)
            if kind.any()
        ]
        outer = [kept.min() - 1, kept.max() + 1]
        edges = np.unique(np.concatenate([*quantiles, outer]))
        gained = [np.histogram(kept[kind], edges)[0] for kind in (truth, ~truth)]
        rows += list(zip(edges[:-1], *gained, strict=True))
        positives, negatives = positives + truth.sum(), negatives + (~truth).sum()
    tp = fp = ap = 0
    fpr95 = None
    for edge in sorted({row[0] for row in rows}, reverse=True):
        here = [row for row in rows if row[0] == edge]
        before, tp = tp, tp + sum(row[1] for row in here)
        fp += sum(row[2] for row in here)
        ap += (tp - before) / positives * tp / max(tp + fp, 1)
        if fpr95 is None and tp / positives >= 0.95:
            fpr95 = fp / negatives
    return ap, fpr95


class TestBins:
    def test_equals_the_slow_way(self):
        frames = [scored_labels(seed, 3000) for seed in range(4)]
        clean = scored_labels(9, 500)
        frames.append((clean[0], np.zeros_like(clean[1])))
        evaluation = PooledEvaluation(dataclasses.replace(PROTOCOLS['smiyc'], components=None))
        for scores, labels in frames:
            evaluation.add(scores[None], labels[None])
        found = evaluation.result().metrics
        ap, fpr95 = smiyc_reference(frames)
        assert found['ap'] == pytest.approx(ap, abs=1e-9)
        assert found['fpr95'] == pytest.approx(fpr95, abs=1e-9)

    def test_is_exact_where_every_score_is_an_edge(self):
        scores, labels = scored_labels(3, levels=20)
        truth, kept = judged(scores, labels)
        binned = MergedBins([frame_bins(kept[truth], kept[~truth], 5000)]).metrics()
        exact = exact_metrics(*sorted_kinds(truth, kept))
        for name in ('ap', 'fpr95', 'auroc', 'best_f1', 'best_f1_threshold'):
            assert getattr(binned, name) == pytest.approx(getattr(exact, name), abs=1e-12)

    def test_order_of_frames_does_not_matter(self):
        frames = []
        for seed in range(4):
            truth, kept = judged(*scored_labels(seed, 500, levels=8))
            frames.append(frame_bins(kept[truth], kept[~truth], 16))
        ahead, back = MergedBins(frames).metrics(), MergedBins(frames[::-1]).metrics()
        assert ahead == back

    def test_a_weight_equals_repeating_the_frame(self):
        frames = []
        for seed in range(3):
            truth, kept = judged(*scored_labels(seed, 800))
            frames.append(frame_bins(kept[truth], kept[~truth]))
        weighted = MergedBins(frames).metrics(np.array([0, 2, 1]))
        repeated = MergedBins([frames[1], frames[1], frames[2]]).metrics()
        for name in ('ap', 'fpr95', 'auroc', 'best_f1', 'best_f1_threshold'):
            expected = getattr(repeated, name)
            assert getattr(weighted, name) == pytest.approx(expected, abs=1e-12)


def flood(mask):
    """8-connected components of a bool array, as a list of sets of (row, column)."""
    left = {tuple(place) for place in np.argwhere(mask)}
    components = []
    while left:
        stack, component = [left.pop()], set()
        while stack:
            y, x = stack.pop()
            component.add((y, x))
            near = {(y + dy, x + dx) for dy in (-1, 0, 1) for dx in (-1, 0, 1)} & left
            left -= near
            stack += near
        components.append(component)
    return components


def slow_components(predicted, labels, rule):
    """SIoU and PPV of one frame by sets of pixels, straight from the definitions."""
    truths = flood(labels == 1)
    found = [c for c in flood(predicted & (labels != 255)) if len(c) >= rule.min_predicted]
    dropped = set().union(*[k for k in truths if len(k) < rule.min_truth])
    truths = [k for k in truths if len(k) >= rule.min_truth]
    found = [j - dropped for j in found if j - dropped]
    siou = []
    for k in truths:
        touching = set().union(*[j for j in found if j & k])
        others = set().union(*[other for other in truths if other is not k])
        siou.append(len(k & touching) / (len(k | touching) - len(touching & others)))
    everything = set().union(*truths)
    return sorted(siou), sorted(len(j & everything) / len(j) for j in found)


def blobs(seed, size=(40, 50)):
    """Overlapping random boxes as prediction and labels, void among them."""
    rng = np.random.default_rng(seed)
    labels, predicted = np.zeros(size, np.uint8), np.zeros(size, bool)
    for value in (1, 1, 1, 1, 255, 255):
        y, x, h, w = rng.integers(0, [36, 46, 9, 12])
        labels[y : y + h, x : x + w] = value
        predicted[max(0, y - 1) : y + h + rng.integers(-3, 4), x + 1 : x + w + 3] |= value == 1
    predicted |= rng.random(size) < 0.02
    return predicted, labels


class TestComponents:
    @pytest.mark.parametrize('seed', range(25))
    def test_equals_sets_of_pixels(self, seed):
        predicted, labels = blobs(seed)
        rule = ComponentRule(min_predicted=4, min_truth=6)
        found = frame_components(predicted, labels, rule)
        siou, ppv = slow_components(predicted, labels, rule)
        np.testing.assert_allclose(np.sort(found.siou), siou, atol=1e-12)
        np.testing.assert_allclose(np.sort(found.ppv), ppv, atol=1e-12)

    def test_f1_star_sums_over_frames_before_dividing(self):
        frames = [frame_components(*blobs(seed), ComponentRule(4, 6)) for seed in range(8)]
        f1 = []
        for tau in TAUS:
            tp = sum((frame.siou >= tau - 1e-12).sum() for frame in frames)
            fn = sum((frame.siou < tau - 1e-12).sum() for frame in frames)
            fp = sum((frame.ppv < tau - 1e-12).sum() for frame in frames)
            f1.append(2 * tp / (2 * tp + fn + fp))
        found = component_metrics(frames)
        assert found.f1_star == pytest.approx(np.mean(f1), abs=1e-12)
        all_siou = np.concatenate([frame.siou for frame in frames])
        assert found.siou == pytest.approx(all_siou.mean(), abs=1e-12)

    def test_half_covered_object_in_closed_form(self):
        labels = np.zeros((60, 60), np.uint8)
        labels[10:30, 10:50] = 1
        predicted = np.zeros((60, 60), bool)
        predicted[10:30, 10:30] = True
        found = component_metrics([frame_components(predicted, labels, OBSTACLE_TRACK)])
        assert (found.siou, found.ppv) == (0.5, 1.0)
        # tau 0.25 ... 0.50 hit (6 of 11), the rest miss.
        assert found.f1_star == pytest.approx(6 / 11)

    def test_one_prediction_over_two_objects_is_not_held_against_either(self):
        labels = np.zeros((20, 30), np.uint8)
        labels[:, :10] = labels[:, 20:] = 1
        found = frame_components(np.ones((20, 30), bool), labels, ComponentRule(1, 1))
        # Union 600 pixels, 200 of them on the other object.
        np.testing.assert_allclose(found.siou, [0.5, 0.5])
        np.testing.assert_allclose(found.ppv, [2 / 3])

    def test_diagonal_pixels_are_one_component(self):
        labels = np.eye(12, dtype=np.uint8)
        assert frame_components(labels == 1, labels, ComponentRule(1, 10)).siou.tolist() == [1.0]

    def test_sizes_of_the_tracks_drop_what_is_small(self):
        labels = np.zeros((60, 60), np.uint8)
        labels[:9, :11] = 1  # 99 pixels: void on the anomaly track, judged on the obstacle track
        nothing = np.zeros((60, 60), bool)
        assert frame_components(nothing, labels, ANOMALY_TRACK).siou.size == 0
        assert frame_components(nothing, labels, OBSTACLE_TRACK).siou.size == 1
        predicted = np.zeros((60, 60), bool)
        predicted[30:40, :49] = True  # 490 pixels
        assert frame_components(predicted, labels, ANOMALY_TRACK).ppv.size == 0
        assert frame_components(predicted, labels, OBSTACLE_TRACK).ppv.tolist() == [0.0]

    def test_frames_without_truth_still_cost(self):
        labels = np.zeros((40, 40), np.uint8)
        right = labels.copy()
        right[:20, :20] = 1
        good = frame_components(right == 1, right, OBSTACLE_TRACK)
        false = frame_components(right == 1, labels, OBSTACLE_TRACK)
        assert component_metrics([good]).f1_star == 1.0
        assert component_metrics([good, false]).f1_star == pytest.approx(2 / 3)
        empty = frame_components(right == 2, labels, OBSTACLE_TRACK)
        assert np.isnan(component_metrics([empty]).f1_star)


def slow_pro(frames, limit=0.3):
    """PRO at every threshold, by loops."""
    regions = [
        np.array([scores[place] for place in component])
        for scores, labels in frames
        for component in flood(labels == 1)
    ]
    normal = np.concatenate([scores[labels == 0] for scores, labels in frames])
    points = [(0.0, 0.0)]
    for threshold in np.unique(np.concatenate([*regions, normal]))[::-1]:
        overlap = np.mean([np.mean(region >= threshold) for region in regions])
        points.append((np.mean(normal >= threshold), overlap))
    area = 0.0
    for (x0, y0), (x1, y1) in itertools.pairwise(points):
        if x0 < limit and x1 > x0:
            end = min(x1, limit)
            y_end = y0 + (y1 - y0) * (end - x0) / (x1 - x0)
            area += (end - x0) * (y0 + y_end) / 2
    return area / limit


class TestRegions:
    @pytest.mark.parametrize('levels', [None, 4, 30])
    @pytest.mark.parametrize('seed', range(4))
    def test_equals_the_walk_over_all_thresholds(self, seed, levels):
        rng = np.random.default_rng(seed)
        frames = []
        for offset in range(3):
            _, labels = blobs(seed * 10 + offset, (20, 25))
            scores = rng.normal(0, 1, labels.shape) + (labels == 1)
            if levels:
                scores = np.round(scores * levels / 4)
            frames.append((scores.astype(np.float32), labels))
        regions = RegionScores()
        for scores, labels in frames:
            regions.add(scores, labels)
        normal = np.sort(np.concatenate([s[t == 0] for s, t in frames]))
        for window in (1, 7, 1 << 20):
            found = regions.pro(normal, window=window)
            assert found == pytest.approx(slow_pro(frames), abs=1e-9)

    def test_small_regions_weigh_as_much_as_large_ones(self):
        labels = np.zeros((20, 20), np.uint8)
        labels[:10, :10] = 1  # 100 pixels, found
        labels[15:17, 15:17] = 1  # 4 pixels, missed until everything is
        scores = np.where(labels == 1, 1.0, 0.0).astype(np.float32)
        scores[15:17, 15:17] = -1
        regions = RegionScores()
        regions.add(scores, labels)
        assert regions.pro(np.sort(scores[labels == 0])) == pytest.approx(0.5)

    def test_nothing_to_find_is_nan(self):
        regions = RegionScores()
        regions.add(np.zeros((4, 4)), np.zeros((4, 4), np.uint8))
        assert np.isnan(regions.pro(np.zeros(16, np.float32)))


class TestSegmentation:
    def test_equals_scikit_learn(self):
        rng = np.random.default_rng(0)
        labels = rng.choice(np.array([0, 1, 2, 4, 11, 255], np.uint8), (60, 80))
        predicted = np.where(rng.random((60, 80)) < 0.6, labels, 2).astype(np.uint8)
        predicted[predicted > 4] = 1
        keep = labels < 11
        matrix = confusion(predicted, labels, 5, void=(11, 255))
        expected = oracle.confusion_matrix(labels[keep], predicted[keep], labels=range(5))
        np.testing.assert_array_equal(matrix, expected)
        iou = oracle.jaccard_score(labels[keep], predicted[keep], labels=[0, 1, 2, 4], average=None)
        np.testing.assert_allclose(class_iou(matrix)[[0, 1, 2, 4]], iou, atol=1e-12)
        assert np.isnan(class_iou(matrix)[3])
        assert mean_iou(matrix) == pytest.approx(iou.mean(), abs=1e-12)

    def test_images_pool_into_one_matrix(self):
        evaluation = SegmentationEvaluation(2)
        evaluation.add(np.array([[0, 0]]), np.array([[0, 1]]))
        evaluation.add(np.array([[1, 1, 1, 1]]), np.array([[1, 1, 1, 255]]))
        found = evaluation.result()
        assert found.per_class == (0.5, 0.75)
        assert found.metrics == {'miou': 0.625}
        assert found.interval['miou'][0] <= 0.625 <= found.interval['miou'][1]

    def test_ids_outside_the_classes_are_refused(self):
        with pytest.raises(MetricError, match=r'labels hold the ids \[3\]'):
            confusion(np.zeros((1, 2), int), np.array([[0, 3]]), 3)
        with pytest.raises(MetricError, match=r'predicted classes hold the ids \[-1\]'):
            confusion(np.array([[0, -1]]), np.zeros((1, 2), int), 3)

    def test_void_only_gives_a_reason(self):
        evaluation = SegmentationEvaluation(3)
        evaluation.add(np.zeros((2, 2), int), np.full((2, 2), 255))
        assert evaluation.result().reasons == {'miou': 'the labels hold nothing but void'}


def street(seed, anomalous=True, size=(48, 64)):
    """One image: scores float32 [H, W] and labels with an object, void and a normal rest."""
    rng = np.random.default_rng(seed)
    labels = np.zeros(size, np.uint8)
    labels[-4:] = 255
    if anomalous:
        labels[10:30, 20:45] = 1
    scores = rng.normal(0, 1, size) + 2 * (labels == 1)
    return scores.astype(np.float32), labels


class TestEvaluations:
    def test_pooled_protocols_pool_and_carry_an_interval(self):
        evaluation = anomaly_evaluation(find_protocol('fishyscapes'))
        images = [street(seed, anomalous=seed % 3 > 0) for seed in range(6)]
        for scores, labels in images:
            evaluation.add(scores, labels)
        found = evaluation.result()
        truth, kept = judged(*(np.concatenate([im[i].ravel() for im in images]) for i in (0, 1)))
        expected = oracle.average_precision_score(truth, kept)
        assert found.images == 6
        assert found.metrics['ap'] == pytest.approx(expected, abs=1e-6)
        for name in ('ap', 'fpr95', 'auroc', 'best_f1'):
            low, high = found.interval[name]
            assert 0 <= low <= found.metrics[name] <= high <= 1
            assert high > low
        assert 'f1_star' not in found.metrics

    @pytest.mark.parametrize('protocol', ['fishyscapes', 'pooled'])
    @pytest.mark.parametrize('levels', [None, 2, 30])
    def test_exact_protocols_equal_scikit_learn_with_ties_and_void(self, protocol, levels):
        images = [scored_labels(seed, 1500 + 400 * seed, levels) for seed in range(5)]
        evaluation = anomaly_evaluation(find_protocol(protocol))
        for scores, labels in images:
            evaluation.add(scores.reshape(-1, 50), labels.reshape(-1, 50))
        found = evaluation.result().metrics
        scores, labels = (np.concatenate([image[i] for image in images]) for i in (0, 1))
        truth, kept = judged(scores, labels)
        assert kept.size < scores.size
        assert levels is None or np.unique(kept).size < kept.size / 50
        assert found['ap'] == pytest.approx(oracle.average_precision_score(truth, kept), abs=1e-6)
        assert found['auroc'] == pytest.approx(oracle.roc_auc_score(truth, kept), abs=1e-6)

    def test_what_lies_under_void_changes_nothing(self):
        scores, labels = street(0)
        other = np.where(labels == 255, np.float32(9), scores)
        found = []
        for each in (scores, other):
            evaluation = anomaly_evaluation(find_protocol('pooled'))
            evaluation.add(each, labels)
            found.append(evaluation.result())
        assert found[0] == found[1]

    def test_smiyc_judges_components_above_the_best_f1_threshold(self):
        evaluation = anomaly_evaluation(find_protocol('smiyc'))
        images = [street(seed) for seed in range(3)]
        for scores, labels in images:
            evaluation.add(scores, labels)
        found = evaluation.result()
        expected = component_metrics(
            [
                frame_components(scores.astype(np.float16) > found.threshold, labels)
                for scores, labels in images
            ]
        )
        assert found.metrics['siou'] == pytest.approx(expected.siou, abs=1e-12)
        assert found.metrics['f1_star'] == pytest.approx(expected.f1_star, abs=1e-12)
        assert 0 <= found.interval['f1_star'][0] <= found.interval['f1_star'][1] <= 1

    def test_smiyc_refuses_scores_that_float16_cannot_hold(self):
        with pytest.raises(MetricError, match='do not fit float16'):
            anomaly_evaluation(find_protocol('smiyc')).add(
                np.full((2, 2), 1e5, np.float32), np.zeros((2, 2), np.uint8)
            )

    def test_streethazards_averages_over_images_that_hold_anomalies(self):
        evaluation = PerImageEvaluation(PROTOCOLS['streethazards'])
        images = [street(seed, anomalous=seed != 1) for seed in range(4)]
        for scores, labels in images:
            labels[labels == 255] = 0
            evaluation.add(scores, labels)
        found = evaluation.result()
        each = [
            oracle.average_precision_score((labels == 1).ravel(), scores.ravel())
            for scores, labels in images
            if (labels == 1).any()
        ]
        assert len(each) == 3
        assert found.images == 4
        assert found.metrics['ap'] == pytest.approx(np.mean(each), abs=1e-6)

    def test_streethazards_knows_no_void(self):
        with pytest.raises(MetricError, match=r'labels hold \[255\]'):
            anomaly_evaluation(PROTOCOLS['streethazards']).add(*street(0))

    def test_a_set_without_anomalies_says_so(self):
        for name in ('smiyc', 'fishyscapes', 'pooled'):
            evaluation = anomaly_evaluation(PROTOCOLS[name])
            evaluation.add(*street(0, anomalous=False))
            evaluation.add(*street(1, anomalous=False))
            found = evaluation.result()
            assert found.metrics == {}
            assert found.interval == {}
            assert set(found.reasons.values()) == {'the labels hold no anomalous pixel'}

    def test_industrial_judges_images_pixels_and_regions(self):
        evaluation = IndustrialEvaluation()
        images = [street(seed, anomalous=seed % 2 > 0) for seed in range(6)]
        for index, (scores, labels) in enumerate(images):
            evaluation.add(scores, labels, defective=index % 2 > 0)
        found = evaluation.result().metrics
        truth, kept = judged(*(np.concatenate([im[i].ravel() for im in images]) for i in (0, 1)))
        peaks = [scores.max() for scores, _ in images]
        image_auroc = oracle.roc_auc_score([0, 1] * 3, peaks)
        assert found['image_auroc'] == pytest.approx(image_auroc, abs=1e-6)
        assert found['ap'] == pytest.approx(oracle.average_precision_score(truth, kept), abs=1e-6)
        assert found['pixel_auroc'] == pytest.approx(oracle.roc_auc_score(truth, kept), abs=1e-6)
        assert found['pro'] == pytest.approx(slow_pro(images), abs=1e-6)

    def test_industrial_takes_a_defective_image_with_an_empty_mask(self):
        evaluation = IndustrialEvaluation()
        evaluation.add(np.ones((4, 4)), np.zeros((4, 4), np.uint8), defective=True)
        evaluation.add(np.zeros((4, 4)), np.zeros((4, 4), np.uint8), defective=False)
        found = evaluation.result()
        assert found.metrics == {'image_auroc': 1.0}
        assert set(found.reasons) == {'ap', 'pixel_auroc', 'pro'}

    def test_nothing_added_is_an_error(self):
        for evaluation in (
            anomaly_evaluation(PROTOCOLS['pooled']),
            anomaly_evaluation(PROTOCOLS['streethazards']),
            IndustrialEvaluation(),
            SegmentationEvaluation(2),
        ):
            with pytest.raises(MetricError, match='no image was added'):
                evaluation.result()

    def test_protocols_say_all_of_themselves(self):
        settings_of = find_protocol('smiyc').settings()
        assert settings_of['curve'] == 'binned'
        assert settings_of['components'] == {'min_predicted': 500, 'min_truth': 100}
        with pytest.raises(MetricError, match='choose from smiyc'):
            find_protocol('smiyk')
        with pytest.raises(MetricError, match='judges segmentation'):
            anomaly_evaluation(PROTOCOLS['segmentation'])


class TestBootstrap:
    def test_interval_of_a_mean_has_the_width_of_theory(self):
        values = np.random.default_rng(1).normal(5, 2, 100)

        def mean(counts):
            return {'mean': float(counts @ values / counts.sum())}

        low, high = bootstrap_interval(mean, 100, replicates=4000)['mean']
        half = 1.96 * values.std() / 10
        assert low == pytest.approx(values.mean() - half, abs=0.1 * half)
        assert high == pytest.approx(values.mean() + half, abs=0.1 * half)

    def test_same_seed_same_interval(self):
        def first(counts):
            return {'share': counts[0] / 10}

        again = [bootstrap_interval(first, 10, seed=seed) for seed in (3, 3)]
        assert again[0] == again[1]

    def test_undefined_draws_are_left_out(self):
        def only_with_first(counts):
            return {'x': 1.0 if counts[0] else float('nan'), 'y': float('nan')}

        found = bootstrap_interval(only_with_first, 4)
        assert found['x'] == (1.0, 1.0)
        assert np.isnan(found['y']).all()

    def test_one_image_has_no_interval(self):
        assert bootstrap_interval(lambda counts: {'x': 1.0}, 1) == {}

    def test_bins_of_the_interval_follow_the_exact_curve(self):
        evaluation = PooledEvaluation(PROTOCOLS['pooled'])
        images = [street(seed) for seed in range(5)]
        for scores, labels in images:
            evaluation.add(scores, labels)
        found = evaluation.result()
        draws = np.random.default_rng(0).integers(0, 5, (1000, 5))
        exact = []
        for draw in draws[:200]:
            pooled = [np.concatenate([images[i][part].ravel() for i in draw]) for part in (0, 1)]
            exact.append(oracle.average_precision_score(*judged(*pooled)))
        low, high = np.quantile(exact, [0.025, 0.975])
        assert found.interval['ap'][0] == pytest.approx(low, abs=0.01)
        assert found.interval['ap'][1] == pytest.approx(high, abs=0.01)
