import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from sklearn.metrics import average_precision_score, roc_auc_score

from vq_anomaly_ros.detection.detector import Detection, Detector, DetectorConfig
from vq_anomaly_ros.images import Frame
from vq_anomaly_ros.replay import bags
from vq_anomaly_ros.replay.evaluate_bag import main

Picture = Callable[..., np.ndarray]
START = 1_700_000_000_000_000_000
FRAMES = 6
SIZE = (96, 160)
TOPIC = '/front/image_raw'


def stamp(index: int) -> int:
    return START + index * 100_000_000


@pytest.fixture(scope='module')
def drive(tmp_path_factory: pytest.TempPathFactory, picture: Picture) -> Path:
    """Six smooth frames of which the fourth holds a square of hard noise, labelled."""
    bag = tmp_path_factory.mktemp('drive') / 'drive'
    noise = np.random.default_rng(0).integers(0, 256, (30, 40, 3), np.uint8)
    with bags.BagWriter(bag) as writer:
        (writer.folder / 'labels' / 'semantic').mkdir(parents=True)
        for index in range(FRAMES):
            pixels = picture(index, *SIZE)
            anomaly = np.zeros(SIZE, np.uint8)
            if index == 3:
                pixels[40:70, 60:100] = noise
                anomaly[40:70, 60:100] = 1
            anomaly[:4] = 255
            classes = np.random.default_rng(index).integers(0, 6, SIZE, np.uint8)
            writer.write_image(TOPIC, stamp(index), pixels, 'bgr8', 'front_camera')
            cv2.imwrite(str(writer.folder / 'labels' / f'{stamp(index)}.png'), anomaly)
            name = writer.folder / 'labels' / 'semantic' / f'{stamp(index)}.png'
            cv2.imwrite(str(name), classes)
    return bag


def frame_of(drive: Path, index: int) -> np.ndarray:
    message = [m for _, _, m in bags.read_images(drive, None)][index]
    return message.data.reshape(*SIZE, 3)


def detections(drive: Path, model: Path) -> list[Detection]:
    with Detector(DetectorConfig(model)) as detector:
        return [detector.detect([Frame(frame_of(drive, i), 'bgr')])[0] for i in range(FRAMES)]


def run(drive: Path, model: Path, out: Path, *more: str) -> int:
    return main([str(drive), '--model', str(model), '--out', str(out), *more])


@pytest.fixture(scope='module')
def labelled(
    tmp_path_factory: pytest.TempPathFactory, drive: Path, tiny_model: Path
) -> tuple[Path, dict[str, Any]]:
    """The folder and the summary of one run with labels."""
    out = tmp_path_factory.mktemp('out')
    assert run(drive, tiny_model, out, '--labels', str(drive / 'labels')) == 0
    return out, json.loads((out / 'summary.json').read_text())


def test_the_bag_holds_what_the_detector_says(
    drive: Path, tiny_model: Path, labelled: tuple[Path, dict[str, Any]]
) -> None:
    output = labelled[0] / 'output'
    parts = {'semantic_mask': np.uint8, 'score': np.float32, 'mask': np.uint8}
    assert set(bags.topics(output)) == {
        f'/front/anomaly/{name}'
        for name in (*parts, 'label_info_json', 'obstacles_json', 'overlay/compressed')
    }
    expected = detections(drive, tiny_model)
    for name, dtype in parts.items():
        messages = list(bags.read_images(output, f'/front/anomaly/{name}'))
        assert [s for s, _, _ in messages] == [stamp(i) for i in range(FRAMES)]
        for (_, _, message), detection in zip(messages, expected, strict=True):
            pixels = message.data.view(dtype).reshape(message.height, message.width)
            field = {'semantic_mask': 'labels', 'mask': 'anomaly_mask'}.get(name, name)
            np.testing.assert_array_equal(pixels, getattr(detection, field))
            assert message.header.frame_id == 'front_camera'


def test_label_info_says_what_the_values_mean(labelled: tuple[Path, dict[str, Any]]) -> None:
    (raw,) = bags.read_raw(labelled[0] / 'output', ['/front/anomaly/label_info_json'])
    info = json.loads(bags.deserialize(raw).data)
    assert [c['name'] for c in info['classes']] == ['road', 'tree', 'car', 'person']
    assert (info['no_class'], info['target_fpr'], info['threshold']) == (255, 0.001, 0.999)
    assert info['model']['weights_sha256'] == labelled[1]['model']['weights_sha256']
    qos = bags.offered_qos(labelled[0] / 'output')['/front/anomaly/label_info_json']
    assert [q.durability.name for q in qos] == ['TRANSIENT_LOCAL']


def test_two_runs_give_the_same_bits(tmp_path: Path, drive: Path, tiny_model: Path) -> None:
    for name in ('a', 'b'):
        assert run(drive, tiny_model, tmp_path / name, '--no-video') == 0
    first, second = ((tmp_path / n / 'output' / 'output.mcap').read_bytes() for n in 'ab')
    assert first == second


def test_the_summary_equals_direct_computation(
    drive: Path, tiny_model: Path, labelled: tuple[Path, dict[str, Any]]
) -> None:
    summary = labelled[1]
    found = detections(drive, tiny_model)
    labels = drive / 'labels'
    truth = [cv2.imread(str(labels / f'{stamp(i)}.png'), -1) for i in range(FRAMES)]
    raw = [cv2.resize(d.raw_score, SIZE[::-1], interpolation=cv2.INTER_LINEAR) for d in found]
    judged = np.ravel(truth) != 255
    y, score = np.ravel(truth)[judged], np.ravel(raw)[judged]
    assert summary['metrics']['ap'] == pytest.approx(average_precision_score(y, score), abs=1e-6)
    assert summary['metrics']['auroc'] == pytest.approx(roc_auc_score(y, score), abs=1e-6)
    masks = np.array([d.anomaly_mask for d in found])
    assert summary['anomaly_fraction'] == pytest.approx(np.mean(masks == 255))
    shares = [np.mean([d.labels == c for d in found]) for c in range(4)]
    assert list(summary['class_shares'].values()) == pytest.approx(shares)
    assert (summary['frames'], summary['frames_dropped']) == (FRAMES, 0)
    assert summary['metrics']['anomaly_frames'] == FRAMES


def test_ids_without_a_class_of_the_model_are_void(
    drive: Path, tiny_model: Path, labelled: tuple[Path, dict[str, Any]]
) -> None:
    found = np.array([d.labels for d in detections(drive, tiny_model)])
    folder = drive / 'labels' / 'semantic'
    truth = np.array([cv2.imread(str(folder / f'{stamp(i)}.png'), -1) for i in range(FRAMES)])
    assert truth.max() == 5
    iou = []
    for c in range(4):
        hit = np.sum((found == c) & (truth == c))
        iou.append(hit / np.sum(((found == c) | (truth == c)) & (truth < 4)))
    assert list(labelled[1]['metrics']['iou'].values()) == pytest.approx(iou)
    assert labelled[1]['metrics']['miou'] == pytest.approx(np.mean(iou))


def test_the_report_is_one_file_that_loads_nothing(labelled: tuple[Path, dict[str, Any]]) -> None:
    page = (labelled[0] / 'report.html').read_text()
    links = re.findall(r"""(?:src|href|action|data|poster)\s*=\s*["']([^"']*)""", page)
    assert {link for link in links if not link.startswith(('data:image/jpeg;base64,', '#'))} == {
        'overlay.webm'
    }
    without_pictures = re.sub(r'data:image/jpeg;base64,[^"]*', '', page)
    assert not re.findall(r'https?:|//[\w.]+/|@import|url\(', without_pictures)
    assert '<script' not in page
    assert not re.search(r'\bnan\b', without_pictures, re.IGNORECASE)


def test_the_report_leads_with_the_strange_frame(labelled: tuple[Path, dict[str, Any]]) -> None:
    page = (labelled[0] / 'report.html').read_text()
    assert labelled[1]['anomaly_fraction'] > 0
    assert re.findall(r'stamp (\d+)', page)[0] == str(stamp(3))


def test_the_video_holds_every_frame(labelled: tuple[Path, dict[str, Any]]) -> None:
    video = cv2.VideoCapture(str(labelled[0] / 'overlay.webm'))
    count = 0
    while True:
        found, pixels = video.read()
        if not found:
            break
        assert pixels.shape == (*SIZE, 3)
        count += 1
    assert count == FRAMES
    assert video.get(cv2.CAP_PROP_FPS) == pytest.approx(10, rel=0.01)


@pytest.mark.parametrize(
    ('condition', 'code'),
    [
        ('frames>5', 1),
        ('frames>6', 0),
        ('latency_ms.p99<=0', 0),
        ('class_shares.road>=0', 1),
    ],
)
def test_fail_if_decides_the_exit_code(
    tmp_path: Path, drive: Path, tiny_model: Path, condition: str, code: int
) -> None:
    more = ['--no-video', '--fail-if', 'frames_dropped>0', '--fail-if', condition]
    assert run(drive, tiny_model, tmp_path, *more) == code
    summary = json.loads((tmp_path / 'summary.json').read_text())
    assert len(summary['failed']) == code
    assert ('FAILED' in (tmp_path / 'report.html').read_text()) == bool(code)


@pytest.mark.parametrize(
    ('more', 'message'),
    [
        (['--fail-if', 'speed>1'], 'no number speed'),
        (['--fail-if', 'frames'], 'no condition'),
        (['--fail-if', 'metrics.ap<0.5'], 'no number metrics.ap'),
        (['--topic', '/rear/image_raw'], 'no image topic /rear/image_raw'),
        (['--labels', 'nowhere'], 'no such folder of labels'),
        (['--backend', 'abacus'], 'abacus'),
        (['--target-fpr', '2'], '2'),
        (['--model', 'nothing'], 'nothing: no such model'),
    ],
)
def test_usage_errors_are_told_before_anything_is_written(
    tmp_path: Path,
    drive: Path,
    tiny_model: Path,
    capsys: pytest.CaptureFixture[str],
    more: list[str],
    message: str,
) -> None:
    assert run(drive, tiny_model, tmp_path / 'out', *more) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / 'out').exists()


def test_wrong_options_exit_with_two() -> None:
    with pytest.raises(SystemExit, match='2'):
        main(['--out'])


def test_labels_that_belong_to_no_frame_are_an_error(
    tmp_path: Path, drive: Path, tiny_model: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / 'labels').mkdir()
    cv2.imwrite(str(tmp_path / 'labels' / '7.png'), np.zeros(SIZE, np.uint8))
    code = run(drive, tiny_model, tmp_path / 'out', '--labels', str(tmp_path / 'labels'))
    assert code == 2
    assert 'no label belongs to a frame' in capsys.readouterr().err
    assert not (tmp_path / 'out').exists()


def test_labels_are_found_through_frames_json(
    tmp_path: Path, picture: Picture, tiny_model: Path
) -> None:
    bag = tmp_path / 'bag'
    (tmp_path / 'labels').mkdir()
    anomaly = np.eye(64, 128, dtype=np.uint8)
    cv2.imwrite(str(tmp_path / 'labels' / 'seven.png'), anomaly)
    with bags.BagWriter(bag) as writer:
        writer.write_image(TOPIC, START, picture(0), 'rgb8')
        writer.write_image(TOPIC, START + 1, picture(1), 'rgb8')
        (writer.folder / 'frames.json').write_text(json.dumps({str(START): 'seven'}))
    out = tmp_path / 'out'
    more = ['--no-video', '--labels', str(tmp_path / 'labels')]
    assert run(bag, tiny_model, out, *more) == 0
    metrics = json.loads((out / 'summary.json').read_text())['metrics']
    assert metrics['anomaly_frames'] == 1
    assert metrics['miou'] is None


def test_frames_that_cannot_be_decoded_are_counted_and_told(
    tmp_path: Path, picture: Picture, tiny_model: Path
) -> None:
    _, jpeg = cv2.imencode('.jpg', picture(0))
    with bags.BagWriter(tmp_path / 'bag') as writer:
        for index, data in enumerate([b'rubbish', jpeg.tobytes(), jpeg.tobytes()[:100]]):
            writer.write_compressed('/image/compressed', stamp(index), data, 'jpeg')
    out = tmp_path / 'out'
    assert run(tmp_path / 'bag', tiny_model, out, '--no-video') == 0
    summary = json.loads((out / 'summary.json').read_text())
    assert (summary['frames'], summary['frames_dropped']) == (3, 2)
    assert [d['stamp_ns'] for d in summary['dropped']] == [stamp(0), stamp(2)]
    page = (out / 'report.html').read_text()
    assert '2 more without a result' in page
    assert set(bags.topics(out / 'output')) > {'/anomaly/score'}


def test_a_bag_without_one_usable_frame_is_an_error(
    tmp_path: Path, tiny_model: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with bags.BagWriter(tmp_path / 'bag') as writer:
        writer.write_compressed('/image/compressed', START, b'rubbish', 'jpeg')
    assert run(tmp_path / 'bag', tiny_model, tmp_path / 'out') == 2
    assert 'check the encoding' in capsys.readouterr().err
    assert not (tmp_path / 'out').exists()


def test_a_cut_bag_leaves_the_earlier_results(
    tmp_path: Path, drive: Path, tiny_model: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / 'out'
    assert run(drive, tiny_model, out, '--no-video') == 0
    before = {p: p.stat().st_mtime_ns for p in out.rglob('*')}
    cut = tmp_path / 'cut'
    with bags.BagWriter(cut, 'sqlite3') as writer:
        for raw in bags.read_raw(drive):
            writer.write(raw.topic, raw.msgtype, raw.stamp_ns, raw.cdr)
    os.truncate(cut / 'cut.db3', 150_000)
    assert run(cut, tiny_model, out, '--no-video') == 2
    assert 'damaged or incomplete' in capsys.readouterr().err
    assert {p: p.stat().st_mtime_ns for p in out.rglob('*')} == before


def test_several_bags_become_one_report(tmp_path: Path, drive: Path, tiny_model: Path) -> None:
    other = tmp_path / 'other'
    with bags.BagWriter(other) as writer:
        for raw in bags.read_raw(drive):
            writer.write(raw.topic, raw.msgtype, raw.stamp_ns, raw.cdr)
    out = tmp_path / 'out'
    assert main([str(drive), str(other), '--model', str(tiny_model), '--out', str(out)]) == 0
    summary = json.loads((out / 'summary.json').read_text())
    assert (summary['frames'], summary['sources']) == (2 * FRAMES, ['drive', 'other'])


def test_a_folder_that_is_no_bag_is_not_replaced(
    tmp_path: Path, drive: Path, tiny_model: Path
) -> None:
    (tmp_path / 'output').mkdir()
    (tmp_path / 'output' / 'thesis.tex').touch()
    assert run(drive, tiny_model, tmp_path) == 2
    assert [p.name for p in tmp_path.rglob('*')] == ['output', 'thesis.tex']


@pytest.mark.parametrize('number', [signal.SIGINT, signal.SIGTERM])
def test_signals_leave_no_half_written_file(
    tmp_path: Path, picture: Picture, tiny_model: Path, number: signal.Signals
) -> None:
    bag, out = tmp_path / 'bag', tmp_path / 'out'
    pixels = picture(0, 540, 960)
    with bags.BagWriter(bag) as writer:
        for index in range(60):
            writer.write_image(TOPIC, stamp(index), np.roll(pixels, 20 * index, 1), 'bgr8')
    command = [sys.executable, '-m', 'vq_anomaly_ros.replay.evaluate_bag', str(bag)]
    options = ['--model', str(tiny_model), '--out', str(out)]
    process = subprocess.Popen(command + options, stderr=subprocess.PIPE, text=True)
    limit = time.monotonic() + 120
    # Interrupted while it writes, not before it begins.
    while not list(out.glob('.unfinished-*/fresh/overlay.webm')) and time.monotonic() < limit:
        assert process.poll() is None
        time.sleep(0.02)
    process.send_signal(number)
    _, errors = process.communicate(timeout=120)
    assert process.returncode == 130
    assert 'interrupted; nothing was written' in errors
    assert 'Traceback' not in errors
    assert not out.exists()


@pytest.mark.parametrize('threads', ['-1', '257', '1.5', 'all'])
def test_a_senseless_number_of_threads_is_refused(
    threads: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        main(['bag', '--out', 'out', f'--threads={threads}'])
    assert ended.value.code == 2
    assert f'{threads!r} is no number of threads; give 0 to 256' in capsys.readouterr().err


def test_a_region_gets_its_own_figures(drive: Path, tiny_model: Path, tmp_path: Path) -> None:
    """Against the masks of the whole picture, cut to the region by hand."""
    labels = str(drive / 'labels')
    more = ['--labels', labels, '--target-fpr', '0.2', '--output-size', 'network', '--no-video']
    region = ['--region', '0,0 0.5,0 0.5,1 0,1', '--persistence', '1']
    assert run(drive, tiny_model, tmp_path / 'out', *more, *region) == 0
    summary = json.loads((tmp_path / 'out' / 'summary.json').read_text())
    with Detector(DetectorConfig(tiny_model, target_fpr=0.2, output_size='network')) as detector:
        masks = [
            detector.detect([Frame(frame_of(drive, i), 'bgr')])[0].anomaly_mask
            for i in range(FRAMES)
        ]
    inside = np.mean([mask[:, :16] > 0 for mask in masks])
    assert summary['region']['share'] == pytest.approx(0.5, abs=0.04)
    assert summary['region']['anomaly_fraction'] == pytest.approx(inside, rel=0.1)
    assert summary['anomaly_fraction'] == pytest.approx(inside / 2, rel=0.1)
    assert summary['region']['share_above']['1e-1'] > 0
    assert 0 <= summary['flicker']['parts_before'] <= 1
    page = (tmp_path / 'out' / 'report.html').read_text(encoding='utf-8')
    assert f'{summary["region"]["share"]:.1%}'.replace('%', ' %') in page
    assert f'{summary["region"]["anomaly_fraction"]:.3%}'.replace('%', ' %') in page
    assert '“0,0 0.5,0 0.5,1 0,1”' in page
    # The square lies in the middle: half of it is judged.
    assert 0 < summary['metrics']['region']['ap'] <= 1
    assert summary['metrics']['region']['ap'] != summary['metrics']['ap']


def test_without_a_region_its_figures_are_undefined(
    labelled: tuple[Path, dict[str, Any]],
) -> None:
    _, summary = labelled
    assert summary['region']['share'] is None and summary['metrics']['region']['ap'] is None
    assert set(summary['flicker']) == {
        'pixels_before',
        'pixels_after',
        'parts_before',
        'parts_after',
    }


def test_the_region_of_a_model_without_ground_is_refused(
    drive: Path,
    make_tiny_model: Callable[..., Path],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    model = make_tiny_model(tmp_path / 'm.onnx', classes=('sky', 'tree', 'car', 'person'))
    assert run(drive, model, tmp_path / 'out', '--region', 'road') == 2
    assert 'draw a polygon' in capsys.readouterr().err and not (tmp_path / 'out').exists()
    with pytest.raises(SystemExit, match='2'):
        run(drive, model, tmp_path / 'out', '--persistence', '0')
