"""A CPC run becomes a model file that detector and benchmark run like any other."""

from __future__ import annotations

import dataclasses
import json
from contextlib import ExitStack
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from training import benchmark, export
from training.graph import ExportError
from training.methods.cpc.export import describe, load_task, scorer_of
from training.methods.cpc.task import Config, CpcTask, normalised, read_pictures
from training.train import train
from vq_anomaly_ros.detection import model_file
from vq_anomaly_ros.detection.detector import Detector, DetectorConfig
from vq_anomaly_ros.detection.engines import open_engine
from vq_anomaly_ros.images import Frame


@pytest.fixture(scope='module')
def config(tiny_cpc: Config) -> Config:
    return dataclasses.replace(tiny_cpc, name='watch', epochs=1, bank_centres=16, centre=True)


def picture(number: int) -> np.ndarray:
    blocks = np.random.default_rng(number).integers(0, 256, (8, 12), dtype=np.uint8)
    return blocks.repeat(8, 0).repeat(8, 1)


def picture_rgb(number: int) -> np.ndarray:
    return cv2.cvtColor(picture(number), cv2.COLOR_GRAY2RGB)


@pytest.fixture(scope='module')
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A category: six pictures to train on, two good and two defective ones to judge."""
    root = tmp_path_factory.mktemp('data')
    for part in ('train/good', 'test/good', 'test/hole', 'ground_truth/hole'):
        (root / 'product' / part).mkdir(parents=True)
    for number in range(6):
        cv2.imwrite(str(root / f'product/train/good/{number}.png'), picture(number))
    mask = np.zeros((64, 96), np.uint8)
    mask[16:40, 32:64] = 255
    for number in (10, 11):
        cv2.imwrite(str(root / f'product/test/good/{number}.png'), picture(number))
        holed = np.where(mask > 0, np.uint8(0), picture(number))
        cv2.imwrite(str(root / f'product/test/hole/{number}.png'), holed)
        cv2.imwrite(str(root / f'product/ground_truth/hole/{number}_mask.png'), mask)
    return root


@pytest.fixture(scope='module')
def exported(config: Config, root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp('run')
    train(config, root, folder / 'run', progress=False)
    return export.export(folder / 'run', folder / 'watch.onnx', root).path


def test_the_model_file_says_what_it_is(exported: Path) -> None:
    info = model_file.read(exported).info
    assert (info.method, info.classes, info.stride) == ('cpc', (), 8)
    assert info.training_data == ('product',) and info.outlier_data == ()
    assert info.score_range[0] == 0.0 and 'in 16 centres' in info.score_kind
    assert f'against {6 * 7 * 11} normal ones' in info.score_kind
    assert set(info.parity) == {'openvino', 'onnxruntime'}


def test_the_detector_runs_it_without_classes(exported: Path) -> None:
    with Detector(DetectorConfig(exported, output_size='camera')) as detector:
        colour = cv2.cvtColor(picture(3), cv2.COLOR_GRAY2BGR)
        (found,) = detector.detect([Frame(colour, 'bgr')])
    assert found.labels is None and found.score.shape == (64, 96)
    assert found.score.min() >= 0.0 and found.score.max() <= 1.0


@pytest.mark.parametrize('runtime', ['openvino', 'onnxruntime'])
def test_scores_are_the_same_again_and_in_any_company(exported: Path, runtime: str) -> None:
    model = model_file.read(exported)
    engine = open_engine(model, runtime, ['score'])
    pictures = np.stack([np.repeat(picture(n)[..., None], 3, -1) for n in range(4)])

    def scores(chosen: np.ndarray) -> np.ndarray:
        engine.input_buffer(len(chosen))[:] = chosen
        return engine.infer(len(chosen))['score'].copy()

    try:
        alone = scores(pictures[:1])
        assert np.array_equal(alone, scores(pictures[:1]))
        beside_others = scores(pictures)[0]
        np.testing.assert_allclose(beside_others, alone[0], atol=1e-5)
        np.testing.assert_allclose(scores(pictures[::-1])[3], alone[0], atol=1e-5)
    finally:
        engine.close()


def test_the_benchmark_judges_it_as_industrial(exported: Path, root: Path, tmp_path: Path) -> None:
    rows = tmp_path / 'rows.json'
    command = ['--model', str(exported), '--data', f'{root / "product"}:industrial']
    assert benchmark.main([*command, '--json', str(rows)]) == 0
    (row,) = json.loads(rows.read_text())
    assert row['provenance']['method'] == 'cpc' and row['images'] == 4
    assert set(row['metrics']) >= {'image_auroc', 'pixel_auroc', 'pro'}


def test_a_bank_of_fewer_pictures_is_smaller(config: Config, root: Path) -> None:
    few = dataclasses.replace(config, bank_pictures=2, bank_centres=10_000)
    scorer = scorer_of(CpcTask(few).eval(), list(read_pictures(few, root)))
    kind = describe(few, scorer).score_kind
    assert f'against {2 * 7 * 11} normal ones in {2 * 7 * 11} centres' in kind


@pytest.fixture(scope='module')
def drive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A category of twelve pictures: a whole picture's term needs eight."""
    root = tmp_path_factory.mktemp('drive')
    for part, numbers in (('train', range(12)), ('test', [12])):
        folder = root / 'product' / part / 'good'
        folder.mkdir(parents=True)
        for number in numbers:
            cv2.imwrite(str(folder / f'{number}.png'), picture(number))
    return root


def test_the_term_of_the_picture_is_added_everywhere_and_exported(
    config: Config, drive: Path, tmp_path: Path
) -> None:
    whole = dataclasses.replace(
        config, frame_term=True, context=False, learning_rate=3e-2, epochs=20
    )
    train(whole, drive, tmp_path / 'run', progress=False)
    model = model_file.read(export.export(tmp_path / 'run', tmp_path / 'whole.onnx', drive).path)
    assert 'plus how untypical the picture is' in model.info.score_kind
    scorer = scorer_of(load_task(tmp_path / 'run', whole), list(read_pictures(whole, drive)))
    assert scorer.frame is not None
    flat = np.full((64, 96, 3), 128, np.uint8)
    pictures = torch.from_numpy(np.stack([*map(picture_rgb, range(12)), flat]))
    with torch.inference_mode():
        z = scorer.net.encode(normalised(pictures))
        terms = scorer.frame(z)
        expected = (scorer.grid_losses(z) + terms[:, None, None]).clamp(scorer.least, scorer.most)
        torch.testing.assert_close(scorer.grid_scores(z), expected)
    # Of what it has learnt from; shrinkage makes it less than 1.
    assert 0.1 < terms[:-1].square().mean() < 1.1
    assert terms[-1] > terms[:-1].max()
    engine = open_engine(model, 'openvino', ['score'])
    try:
        engine.input_buffer(1)[0] = flat
        with torch.inference_mode():
            expected = scorer(pictures[-1:])[0]
        # Weights in half precision, scores of several.
        np.testing.assert_allclose(engine.infer(1)['score'][0], expected, rtol=1e-2)
    finally:
        engine.close()


@pytest.mark.parametrize(
    ('pictures', 'context', 'why'),
    [
        (7, False, '7 pictures do not say what is typical'),
        (8, True, 'context=False'),
        (8, False, 'the network has learnt too little'),
    ],
)
def test_a_term_of_the_picture_that_cannot_be_had_is_refused(
    config: Config, pictures: int, context: bool, why: str
) -> None:
    untrained = CpcTask(dataclasses.replace(config, frame_term=True, context=context)).eval()
    torch.nn.init.zeros_(untrained.net.predict)  # a network that predicts nothing
    with pytest.raises(ExportError, match=why):
        scorer_of(untrained, [picture_rgb(number) for number in range(pictures)])


def test_the_node_runs_it(exported: Path, tmp_path: Path) -> None:
    pytest.importorskip('rclpy', reason='ROS is not installed')
    from sensor_msgs.msg import Image
    from std_msgs.msg import Header

    from vq_anomaly_ros.node.messages import image_message
    from vq_anomaly_ros.trials.peer import own_domain
    from vq_anomaly_ros.trials.stage import Stage

    holed = picture_rgb(10)
    holed[16:40, 32:64] = 0
    with Detector(DetectorConfig(exported, output_size='camera')) as detector:
        (expected,) = detector.detect([Frame(holed, 'rgb')])
    with own_domain() as (peer, environment), ExitStack() as stack:
        stage = Stage(peer.node.context, environment, tmp_path)
        node = stage.node(stack, peer, model=str(exported), cameras=['/front'])
        scores = peer.collect(Image, '/front/anomaly/score')
        publisher = peer.publisher(Image, '/front/image_raw')
        message = image_message(Header(), holed, 'rgb8')
        found = peer.spin_until(lambda: scores or publisher.publish(message), 60.0)
        assert found, node.output
        assert node.counts('/front').failed == 0
    got = np.frombuffer(scores[0].data, np.float32).reshape(scores[0].height, scores[0].width)
    assert got.tobytes() == expected.score.tobytes()
