"""A small real training run, its resumption, its export and the gate of parity."""

from __future__ import annotations

import dataclasses
import os
import re
import resource
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import onnx
import pytest
import torch
import yaml
from onnx import numpy_helper
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch import nn

from training import context, export, parity
from training.backbones import EfficientNetLite0
from training.data.street import CAMVID_CLASSES, read_street
from training.graph import ExportError, rounded
from training.methods.codebook import coarse
from training.methods.codebook import export as codebook_export
from training.methods.codebook.task import Config
from training.train import (
    ConfigError,
    config_from,
    load_start,
    main,
    parts,
    read_config,
    train,
    write_config,
)
from training.warm_start import codevectors, model_file_weights
from vq_anomaly_ros.detection import model_file
from vq_anomaly_ros.detection.detector import Detector, DetectorConfig
from vq_anomaly_ros.detection.engines import open_engine
from vq_anomaly_ros.images import Frame

SMALL = Config(
    name='small',
    datasets=('streets',),
    outlier_objects='objects',
    input_size=(64, 128),
    crop=(64, 96),
    heights=(64, 77),
    codevectors=3,
    epochs=1,
    batch_size=2,
    workers=0,
)


@pytest.fixture(scope='module')
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four striped pictures whose colour is their class, and two cut-outs."""
    root = tmp_path_factory.mktemp('data')
    rng = np.random.default_rng(0)
    for folder in ('streets/images', 'streets/labels', 'objects'):
        (root / folder).mkdir(parents=True)
    for number in range(4):
        labels = np.roll(np.arange(12).repeat(10), 7 * number)[None].repeat(60, axis=0)
        image = labels[..., None] * 20 + rng.integers(0, 15, (60, 120, 3))
        cv2.imwrite(str(root / f'streets/images/{number}.png'), image.astype(np.uint8))
        cv2.imwrite(str(root / f'streets/labels/{number}.png'), labels.astype(np.uint8))
    classes = {'classes': list(CAMVID_CLASSES), 'void': [11]}
    (root / 'classes.yaml').write_text(yaml.safe_dump(classes))
    for name in ('cat_1', 'dog_2'):
        cut_out = rng.integers(0, 255, (20, 20, 4), dtype=np.uint8)
        cut_out[..., 3] = 255
        cv2.imwrite(str(root / f'objects/{name}.png'), cut_out)
    return root


@pytest.fixture(scope='module')
def run(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp('run')
    train(SMALL, data, folder, progress=False)
    return folder


def test_a_run_leaves_its_configuration_a_checkpoint_and_a_log(run: Path) -> None:
    assert read_config(str(run / 'config.yaml'), []) == SMALL
    assert torch.load(run / 'last.ckpt', weights_only=False)['epoch'] == 0
    assert list(run.glob('events.out.tfevents.*'))


def test_training_goes_on_where_it_stopped(data: Path, run: Path, tmp_path: Path) -> None:
    (tmp_path / 'last.ckpt').write_bytes((run / 'last.ckpt').read_bytes())
    before = torch.load(run / 'last.ckpt', weights_only=False)
    longer = config_from({**read_config(str(run / 'config.yaml'), []).__dict__, 'epochs': 2}, '')
    train(longer, data, tmp_path, progress=False)
    after = torch.load(tmp_path / 'last.ckpt', weights_only=False)
    assert (before['epoch'], after['epoch']) == (0, 1)
    assert after['global_step'] == 2 * before['global_step'] == 4


def test_unknown_settings_and_wrong_types_are_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match='no setting is called epoch; known: name, classes, data'):
        config_from({'epoch': 3}, 'c.yaml')
    with pytest.raises(ConfigError, match=r"c\.yaml: epochs is 'many', but must be of type int"):
        config_from({'epochs': 'many'}, 'c.yaml')
    with pytest.raises(ConfigError, match='write it as name=value'):
        read_config('street', ['epochs'])
    with pytest.raises(ConfigError, match='nowhere'):
        read_config(str(tmp_path / 'nowhere.yaml'), [])


def test_a_configuration_survives_its_file(tmp_path: Path) -> None:
    write_config(SMALL, tmp_path)
    assert read_config(str(tmp_path / 'config.yaml'), []) == SMALL


@pytest.fixture(scope='module')
def exported(run: Path, data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp('export') / 'small.onnx'
    return export.export(run, out, data).path


# Where it does not matter how deep the network is: a fifth of the weights.
SHALLOW = dataclasses.replace(SMALL, blocks=11)
EVERYTHING = dataclasses.replace(
    SHALLOW,
    codebook_update='average',
    codebook_decay=0.9,
    assignment='balanced',
    pixel_code_weight=0.1,
    code_pixel_weight=0.1,
    code_code_weight=0.05,
    void_soft_weight=0.1,
    void_erosion=1,
    void_queue=64,
    commit_weight=0.25,
    reconstruct_weight=0.1,
    reconstruct_labels=True,
    frozen_blocks=11,
    coarse=3,
    coarse_share=0.4,
)


def scalars(run: Path) -> dict[str, list[float]]:
    """The logged curves by name."""
    events = EventAccumulator(str(run))
    events.Reload()
    return {n: [s.value for s in events.Scalars(n)] for n in events.Tags()['scalars']}


@pytest.mark.parametrize('update', ['average', 'gradient'])
def test_every_term_trains_and_exports(
    data: Path, tmp_path: Path, update: str, capsys: pytest.CaptureFixture[str]
) -> None:
    config = dataclasses.replace(EVERYTHING, codebook_update=update, epochs=5)
    train(config, data, tmp_path / 'run', progress=False)
    logged = scalars(tmp_path / 'run')
    names = ('pixel to code', 'code to pixel', 'code to code', 'void soft', 'commitment')
    for name in (*names, 'reconstruction'):
        assert np.isfinite(logged[f'loss/{name}']).all()
    state = torch.load(tmp_path / 'run' / 'last.ckpt', weights_only=False)['state_dict']
    assert state['queue.pushed'] > 0
    if update == 'average':
        codevectors = state['net.codevectors'].flatten(0, 1)
        moving = torch.nn.functional.normalize(state['moving.sums'], dim=-1)
        torch.testing.assert_close(codevectors, moving, atol=1e-5, rtol=0)
    assert state['net.coarse.codes'].shape == (3, 112, 1, 1) and state['net.coarse.codes'].any()
    assert state['net.coarse.mean'] > 0, 'fitted, and kept with the weights'
    if update == 'gradient':  # as the run is whose export the other tests look at
        return
    exported = export.export(tmp_path / 'run', tmp_path / 'all.onnx', data).path
    kind = model_file.read(exported).info.score_kind
    assert '0.40 of: the whitened distance to the nearest coarse codevector' in kind
    beside = [str(exported), '--data', str(data), '--out', str(tmp_path / 'twice.onnx')]
    assert context.main(beside) == 1
    assert 'all.onnx: has a coarse codebook of its own backbone' in capsys.readouterr().err
    with Detector(DetectorConfig(exported, output_size='network')) as detector:
        detector.detect([Frame(np.zeros((60, 120, 3), np.uint8), 'bgr')])


@pytest.mark.parametrize(
    ('setting', 'said'),
    [
        ({'codebook_update': 'magic'}, "use 'gradient'"),
        ({'assignment': 'magic'}, "use 'nearest'"),
        ({'crop': (64, 90)}, 'must be multiples of 32'),
        ({'blocks': 5}, 'use blocks = 11 or 16'),
        ({'coarse': 3, 'frozen_blocks': 3}, 'set frozen_blocks to 16, remember_weight above 0'),
        ({'coarse': 3, 'frozen_blocks': 16, 'coarse_distance': 'magic'}, "use 'whitened' or"),
        ({'coarse': 900, 'frozen_blocks': 16}, '900 codevectors cannot be fitted to 30 labelled'),
    ],
)
def test_an_unknown_rule_is_refused(
    data: Path, tmp_path: Path, setting: dict[str, Any], said: str
) -> None:
    with pytest.raises(ValueError, match=said):
        train(dataclasses.replace(SMALL, **setting), data, tmp_path, progress=False)


def test_fine_tuning_begins_with_the_weights_of_another_run(
    data: Path, run: Path, tmp_path: Path
) -> None:
    config = dataclasses.replace(SMALL, start_from=str(run / 'last.ckpt'), learning_rate=0.0)
    train(config, data, tmp_path / 'tuned', progress=False)
    states = [torch.load(p / 'last.ckpt', weights_only=False) for p in (run, tmp_path / 'tuned')]
    before, after = (state['state_dict'] for state in states)
    name = 'net.features.project.weight'
    torch.testing.assert_close(after[name], before[name])
    # Other codevectors: they start anew, the encoder does not.
    more = dataclasses.replace(config, codevectors=4)
    train(more, data, tmp_path / 'more', progress=False)
    state = torch.load(tmp_path / 'more' / 'last.ckpt', weights_only=False)['state_dict']
    assert state['net.codevectors'].shape[1] == 4
    name = next(n for n in before if n.startswith('net.fusion') and n.endswith('0.weight'))
    torch.testing.assert_close(state[name], before[name])


def test_fine_tuning_begins_with_the_weights_of_a_model_file(
    data: Path, exported: Path, tmp_path: Path
) -> None:
    config = dataclasses.replace(
        SMALL, start_from=str(exported), learning_rate=0.0, restart_until=0.0
    )
    train(config, data, tmp_path / 'tuned', progress=False)
    _, net = export.load_run(tmp_path / 'tuned')
    model, graph, weights = model_file_weights(exported)
    own = net.state_dict()['features.project.weight']
    torch.testing.assert_close(own, weights['features.project.weight'])
    codes = codevectors(model, graph, weights, 64)['pole']
    torch.testing.assert_close(net.codebook[CAMVID_CLASSES.index('pole')], codes)


def blocks_of(state: dict[str, Any]) -> EfficientNetLite0:
    """The backbone of a task's weights."""
    backbone = EfficientNetLite0(pretrained=False).eval()
    backbone.load_state_dict({n: state[f'net.backbone.{n}'] for n in backbone.state_dict()})
    return backbone


def test_fine_tuning_can_leave_the_later_blocks_to_imagenet(
    data: Path, run: Path, exported: Path, tmp_path: Path
) -> None:
    """From a model file or a checkpoint: the blocks before are its own, those behind are not."""
    imagenet = EfficientNetLite0().state_dict()
    before = torch.load(run / 'last.ckpt', weights_only=False)['state_dict']
    early, late = (f'blocks.{n}._project_conv.weight' for n in (10, 11))
    assert not torch.equal(before[f'net.backbone.{late}'], imagenet[late]), 'it was trained'
    for start in (run / 'last.ckpt', exported):
        config = dataclasses.replace(
            SMALL, start_from=str(start), start_blocks=11, learning_rate=0.0
        )
        task, pictures = parts(config, data)
        load_start(task, pictures, start)
        state = task.state_dict()
        found = blocks_of(state)
        maps = torch.randn(1, 112, 4, 6)
        with torch.no_grad():
            expected = EfficientNetLite0().eval().blocks[11](maps)
            kept = found.blocks[11](maps)
            torch.testing.assert_close(kept, expected, atol=1e-4, rtol=1e-3)
            trained = blocks_of(before).blocks[11](maps)
            assert not torch.allclose(trained, expected, atol=1e-2)
        if start.suffix == '.ckpt':  # in a model file the norms are part of it
            assert torch.equal(state[f'net.backbone.{early}'], before[f'net.backbone.{early}'])


def test_a_backbone_that_learns_remembers(data: Path, tmp_path: Path) -> None:
    """The later blocks come closer to what ImageNet's weights give, the frozen ones stay."""
    config = dataclasses.replace(
        SHALLOW, frozen_blocks=8, left_out=(9,), remember_weight=5.0, coarse=3, epochs=20,
        learning_rate=0.003, backbone_rate=1.0, restart_until=0.0,
    )  # fmt: skip
    train(config, data, tmp_path, progress=False)
    distance = scalars(tmp_path)['loss/remember']
    assert distance[-1] < 0.8 * distance[0]
    state = torch.load(tmp_path / 'last.ckpt', weights_only=False)['state_dict']
    assert not any('memory' in name for name in state), 'no part of what is kept'
    imagenet = EfficientNetLite0(blocks=11)
    name = 'blocks.7._project_conv.weight'
    assert torch.equal(state[f'net.backbone.{name}'], imagenet.state_dict()[name])
    examples = read_street(data / 'streets', CAMVID_CLASSES)
    codebook = coarse.CoarseCodebook(3, 112, config.coarse_distance)
    coarse.fit(codebook, imagenet, list(examples), config.input_size, config.seed)
    found = {name: state[f'net.coarse.{name}'] for name in codebook.state_dict()}
    torch.testing.assert_close(found, codebook.state_dict(), msg='of what is remembered')


def test_fine_tuning_can_add_a_class(
    data: Path, exported: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The data's own class list has eleven; the twelfth starts anew, the others do not."""
    classes = ('deer', *CAMVID_CLASSES)
    config = dataclasses.replace(
        SMALL, start_from=str(exported), learning_rate=0.0, restart_until=0.0, classes=classes
    )
    train(config, data, tmp_path / 'run', progress=False)
    assert 'starts anew: codevectors of deer' in capsys.readouterr().err
    model, graph, weights = model_file_weights(exported)
    _, net = export.load_run(tmp_path / 'run')
    codes = codevectors(model, graph, weights, 64)['car']
    torch.testing.assert_close(net.codebook[classes.index('car')], codes)
    info = codebook_export.describe(read_config(str(tmp_path / 'run/config.yaml'), []))
    assert info.classes == classes and len(info.palette) == 12


def test_averaged_weights_are_what_a_run_leaves(data: Path, tmp_path: Path) -> None:
    config = dataclasses.replace(SHALLOW, average_weights=0.5, epochs=2, repeats=(2,))
    train(config, data, tmp_path, progress=False)
    checkpoint = torch.load(tmp_path / 'last.ckpt', weights_only=False)
    assert checkpoint['global_step'] == 8, 'each picture twice a pass'
    average, last = (checkpoint[key] for key in ('state_dict', 'current_model_state'))
    name = 'net.features.project.weight'
    assert not torch.equal(average[name], last[name])
    _, net = export.load_run(tmp_path)
    torch.testing.assert_close(net.state_dict()['features.project.weight'], average[name])


def test_fine_tuning_from_what_does_not_fit_is_refused(
    data: Path, run: Path, tmp_path: Path
) -> None:
    (tmp_path / 'broken.ckpt').write_bytes(b'not a checkpoint')
    for changes, said in (
        ({'start_from': str(tmp_path / 'none.ckpt')}, 'cannot be read as a checkpoint'),
        ({'start_from': str(tmp_path / 'broken.ckpt')}, 'cannot be read as a checkpoint'),
        ({'start_from': str(tmp_path / 'none.onnx')}, 'none.onnx'),
    ):
        config = dataclasses.replace(SMALL, **changes)  # type: ignore[arg-type]
        with pytest.raises(ConfigError, match=said):
            train(config, data, tmp_path / 'out', progress=False)


@pytest.fixture
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.mark.usefixtures('one_thread')
def test_a_killed_run_ends_where_it_would_have_ended(data: Path, tmp_path: Path) -> None:
    """Killed after its first checkpoint and resumed: the very weights of a run that was not.

    One thread each: sums over several are not the same twice.
    """
    config = dataclasses.replace(EVERYTHING, epochs=6, precision='32-true')
    whole, killed = tmp_path / 'whole', tmp_path / 'killed'
    train(config, data, whole, progress=False)
    process = _training(config, data, killed)
    while not (killed / 'last.ckpt').exists():
        assert process.poll() is None, 'it ended without a checkpoint'
        time.sleep(0.01)
    process.kill()
    process.wait()
    train(config, data, killed, progress=False)
    states = [torch.load(run / 'last.ckpt', weights_only=False) for run in (whole, killed)]
    assert states[0]['global_step'] == states[1]['global_step'] == 12
    for name, value in states[0]['state_dict'].items():
        torch.testing.assert_close(
            states[1]['state_dict'][name], value, msg=name, atol=1e-6, rtol=0
        )


def test_two_processes_train_one_network_and_go_on_where_they_stopped(
    data: Path, tmp_path: Path
) -> None:
    config = dataclasses.replace(EVERYTHING, devices=2, in_memory=False, epochs=1)
    assert _training(config, data, tmp_path).wait() == 0
    checkpoint = torch.load(tmp_path / 'last.ckpt', weights_only=False)
    assert checkpoint['global_step'] == 2, 'four pictures, two a step, one a process'
    assert _training(dataclasses.replace(config, epochs=2), data, tmp_path).wait() == 0
    assert torch.load(tmp_path / 'last.ckpt', weights_only=False)['global_step'] == 4
    export.load_run(tmp_path)  # its weights have the names of a run of one process


def test_an_unreadable_picture_in_the_middle_of_a_pass_is_named(
    data: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(data, tmp_path / 'data')
    broken = tmp_path / 'data' / 'streets' / 'images' / '2.png'
    broken.write_bytes(broken.read_bytes()[:100])
    config = dataclasses.replace(SHALLOW, in_memory=False, workers=1)
    (tmp_path / 'run').mkdir()
    write_config(config, tmp_path / 'run')
    command = ['codebook', '--data', str(tmp_path / 'data'), '--out', str(tmp_path / 'run')]
    assert main([*command, '--config', str(tmp_path / 'run/config.yaml')]) == 2
    said = capfd.readouterr().err
    assert f'training.train: {broken}: is no readable picture' in said
    assert 'Traceback' not in said.partition('training.train:')[2]


def test_a_full_disk_leaves_the_checkpoint_that_was_there(
    data: Path, run: Path, tmp_path: Path
) -> None:
    """The limit on the size of a file stands for the disk: what is longer cannot be written."""
    before = (run / 'last.ckpt').read_bytes()
    (tmp_path / 'last.ckpt').write_bytes(before)
    process = _training(
        dataclasses.replace(SMALL, epochs=2), data, tmp_path, largest_file=len(before) // 2,
        stderr=subprocess.PIPE,
    )  # fmt: skip
    said = process.communicate()[1].decode()
    assert process.returncode == 2
    assert 'last.ckpt: cannot be written' in said.splitlines()[-1]
    assert (tmp_path / 'last.ckpt').read_bytes() == before
    assert {p.name for p in tmp_path.iterdir() if 'ckpt' in p.name} == {'last.ckpt'}


def _training(
    config: Config, data: Path, run: Path, largest_file: int = -1, stderr: int = subprocess.DEVNULL
) -> subprocess.Popen[bytes]:
    """Start a run in a process of its own, with one thread."""
    run.mkdir(exist_ok=True)
    write_config(config, run)
    command = [sys.executable, '-m', 'training.train', 'codebook', '--data', str(data)]
    command += ['--config', str(run / 'config.yaml'), '--out', str(run)]
    return subprocess.Popen(
        command,
        env={**os.environ, 'OMP_NUM_THREADS': '1'},
        stdout=subprocess.DEVNULL,
        stderr=stderr,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (largest_file, largest_file)),
    )


def test_an_export_is_a_model_file_that_the_detector_runs(exported: Path) -> None:
    info = model_file.read(exported).info
    assert info.method == 'codebook' and info.codevectors_per_class == 3
    assert info.outlier_data == ('void labels', 'pasted objects')
    assert set(info.parity) == {'openvino', 'onnxruntime'}
    with Detector(DetectorConfig(exported, output_size='network')) as detector:
        (detection,) = detector.detect([Frame(np.full((60, 120, 3), 90, np.uint8), 'bgr')])
    assert detection.score.shape == (16, 32)
    assert detection.labels is not None and detection.labels.max() < 11


def test_rounded_weights_are_a_network_of_its_own_in_a_smaller_file(
    run: Path, exported: Path, data: Path, tmp_path: Path
) -> None:
    """All weights are fp16; the gate holds to rounding of sums, the scores are next to the same."""
    shutil.copy(run / 'last.ckpt', tmp_path)
    config = dataclasses.replace(read_config(str(run / 'config.yaml'), []), round_weights=True)
    write_config(config, tmp_path)
    made = export.export(tmp_path, tmp_path / 'rounded.onnx', data)
    large = [one for one in onnx.load(made.path).graph.initializer if np.prod(one.dims) > 1000]
    assert {one.data_type for one in large} == {onnx.TensorProto.FLOAT16}
    assert made.path.stat().st_size < 0.8 * exported.stat().st_size
    for report in made.info.parity.values():
        assert report['score_difference'] < 1e-4
    names, pictures = ['score', 'labels'], street_pictures(data)
    found = run_batch(made, 'onnxruntime', pictures, names)
    before = run_batch(model_file.read(exported), 'onnxruntime', pictures, names)
    np.testing.assert_allclose(found['score'], before['score'], atol=0.04)
    assert np.abs(found['score'] - before['score']).max() > 1e-5, 'they were rounded'
    assert (found['labels'] == before['labels']).mean() > 0.98


def test_rounding_refuses_what_fp16_cannot_hold() -> None:
    net = nn.Linear(2, 2)
    with torch.no_grad():
        net.weight[0, 0] = 1e5
    with pytest.raises(ExportError, match=r'weight has values up to 1e\+05, beyond fp16'):
        rounded(net)


@pytest.mark.parametrize('distance', ['whitened', 'cosine'])
def test_a_context_changes_the_score_and_nothing_else(
    exported: Path, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], distance: str
) -> None:
    """(1 - share) of the model's own score, share of the novelty, which is -1..1; calibrated."""
    out = tmp_path / 'beside.onnx'
    command = [str(exported), '--data', str(data), '--out', str(out), '--count', '5']
    command += ['--distance', distance]
    assert context.main([*command, '--share', '0.25', '--size', '256x384']) == 0, (
        capsys.readouterr()
    )
    made, alone = model_file.read(out), model_file.read(exported)
    assert (
        made.info.name == 'small-context' and 'ImageNet features at 384x256' in made.info.score_kind
    )
    assert made.info.calibration != alone.info.calibration
    assert made.info.codebook_usage == alone.info.codebook_usage
    pictures = street_pictures(data)
    names = list(alone.info.output_layouts())
    for backend in ('openvino', 'onnxruntime'):
        found, expected = (run_batch(one, backend, pictures, names) for one in (made, alone))
        for name in ('labels', 'codes'):
            np.testing.assert_array_equal(found[name], expected[name])
        novelty = (found['score'] - 0.75 * expected['score']) / 0.25
        assert novelty.min() >= -1.0001 and novelty.max() <= 1.0001
        assert novelty.std() > 0.001, 'it differs from place to place'
    again = tmp_path / 'again.onnx'
    assert context.main([str(out), '--data', str(data), '--out', str(again), '--count', '5']) == 1
    assert 'beside.onnx: has a second backbone; give the file' in capsys.readouterr().err
    assert not again.exists()


def test_a_context_can_share_the_first_blocks_of_the_model(
    exported: Path, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Only the later blocks are added, and they take the very map that the model's own take."""
    shutil.copytree(data, tmp_path / 'data')
    (tmp_path / 'data/objects').rename(tmp_path / 'data/outlier_objects')
    out = tmp_path / 'shared.onnx'
    command = [str(exported), '--data', str(tmp_path / 'data'), '--out', str(out), '--count', '5']
    shared = ['--shared', '11', '--left-out', '12,13', '--steps', '2']
    assert context.main([*command, *shared]) == 0, capsys.readouterr()
    assert 'mean distance to what ImageNet weights give: 0.' in capsys.readouterr().err
    made, alone = model_file.read(out), model_file.read(exported)
    assert made.info.name == 'small-shared11'
    assert 'features behind block 11 as ImageNet' in made.info.score_kind
    names = [one.name for one in onnx.load(out).graph.initializer]
    added = {int(n.split('blocks.')[1].split('.')[0]) for n in names if n.startswith('context_')
             and 'blocks.' in n}  # fmt: skip
    assert added == {11, 14, 15}
    pictures = street_pictures(data)
    outputs = list(alone.info.output_layouts())
    found, expected = (run_batch(one, 'onnxruntime', pictures, outputs) for one in (made, alone))
    # A map with two uses is fused in another way: equal but for rounding.
    np.testing.assert_allclose(found['class_scores'], expected['class_scores'], atol=1e-5)
    for name in ('labels', 'codes'):
        assert (found[name] == expected[name]).mean() > 0.999
    novelty = (found['score'] - 0.7 * expected['score']) / 0.3
    assert novelty.min() >= -1.0001 and novelty.max() <= 1.0001 and novelty.std() > 0.001


@pytest.mark.parametrize(
    ('options', 'said'),
    [
        (['--size', '64x100'], '--size 64x100: must be multiples of 32'),
        (['--share', '1.5'], '--share 1.5: must lie between 0 and 1'),
        (['--shared', '16'], '--shared 16: the backbone of the model has no block 16'),
        (['--shared', '11', '--size', '64x96'], '--size: blocks that are shared see the size'),
        (['--shared', '11', '--left-out', '9'], '--left-out: the first 11 blocks are shared'),
        (['--shared', '11', '--left-out', '11'], 'cannot leave out block 11'),
        (['--steps', '5'], 'are of the blocks behind --shared N'),
    ],
)
def test_a_context_that_cannot_be_is_refused(
    options: list[str],
    said: str,
    exported: Path,
    data: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    out = tmp_path / 'beside.onnx'
    command = [str(exported), '--data', str(data), '--out', str(out), *options]
    assert context.main(command) == 1
    assert said in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_a_size_is_written_as_everywhere(
    exported: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = [str(exported), '--data', str(tmp_path), '--out', str(tmp_path / 'beside.onnx')]
    with pytest.raises(SystemExit, match='2'):
        context.main([*command, '--size', 'large'])
    assert 'write HEIGHTxWIDTH' in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def street_pictures(data: Path) -> np.ndarray:
    """Pictures of the training: of noise, all is farther away than the score tells apart."""
    examples = [stored.load() for stored in read_street(data / 'streets', CAMVID_CLASSES)]
    return np.stack([cv2.resize(one.image, (128, 64)) for one in examples[:3]])


def run_batch(
    model: model_file.ModelFile, backend: str, pictures: Any, names: list[str]
) -> dict[str, Any]:
    engine = open_engine(model, backend, names)
    try:
        engine.input_buffer(len(pictures))[:] = pictures
        return {name: value.copy() for name, value in engine.infer(len(pictures)).items()}
    finally:
        engine.close()


def test_the_use_of_the_codebook_is_in_the_model_file(exported: Path) -> None:
    """Perplexity lies between 1 and the codevectors a class; a class without positions has 1."""
    info = model_file.read(exported).info
    assert set(info.codebook_usage['perplexity']) == set(info.classes)
    assert all(1.0 <= value <= 3.0 for value in info.codebook_usage['perplexity'].values())
    assert 0 <= info.codebook_usage['unused'] < 33


def test_terms_name_the_data_and_outlier_data_what_is_none_of_the_classes() -> None:
    config = dataclasses.replace(SMALL, datasets=('idd_lite/train', 'my_town/train'))
    info = codebook_export.describe(config)
    assert 'IDD-Lite (research use), my_town (see its own terms), cut-outs' in info.terms
    assert info.outlier_data == ('void labels', 'pasted objects')
    none = dataclasses.replace(config, outlier_objects='', void_labels=False, outlier_textures=0.1)
    assert (
        codebook_export.describe(none).outlier_data == ()
        and 'COCO' not in codebook_export.describe(none).terms
    )


def test_most_weights_are_stored_as_half_precision(exported: Path) -> None:
    model = onnx.load(exported)
    values = {t.data_type: 0 for t in model.graph.initializer}
    for tensor in model.graph.initializer:
        values[tensor.data_type] += numpy_helper.to_array(tensor).size
    total = sum(values.values())
    assert values[onnx.TensorProto.FLOAT16] > 0.5 * total


def test_an_export_names_no_file_of_the_machine_that_made_it(exported: Path) -> None:
    content = exported.read_bytes()
    for trace in (str(Path.home()), str(export.__file__), 'site-packages'):
        assert trace.encode() not in content


def break_weight(graph: onnx.ModelProto) -> None:
    """Change one convolution as a wrong exporter would: its second half is lost."""
    tensor = next(t for t in graph.graph.initializer if 'stem' in t.name and t.dims)
    values = numpy_helper.to_array(tensor).copy()
    values[len(values) // 2 :] = 0
    tensor.CopyFrom(numpy_helper.from_array(values, tensor.name))


def test_the_export_fails_when_parity_is_broken(
    run: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    whole = codebook_export.graph_of

    def broken(*arguments: object) -> onnx.ModelProto:
        graph = whole(*arguments)  # type: ignore[arg-type]
        break_weight(graph)
        return graph

    monkeypatch.setattr(codebook_export, 'graph_of', broken)
    out = tmp_path / 'broken.onnx'
    assert export.main([str(run), '--out', str(out), '--data', str(data)]) == 1
    assert re.search(r'training.export: .*openvino: .* (row|labels)', capsys.readouterr().err)
    assert list(tmp_path.iterdir()) == []


def outputs(score: float, label: int = 0) -> dict[str, np.ndarray]:
    return {
        'score': np.full((2, 3, 4), score, np.float32),
        'labels': np.full((2, 3, 4), label, np.uint8),
    }


def test_parity_says_where_the_scores_differ_most() -> None:
    found = outputs(0.0)
    found['score'][1, 2, 3] = 0.01
    agreement = parity.compare('openvino', outputs(0.0), found, (-1.0, 1.0))
    assert agreement.where == (1, 2, 3)
    assert agreement.score_difference == pytest.approx(0.005)
    with pytest.raises(parity.ParityError, match='picture 1 at row 2, column 3'):
        parity.require(agreement)


def test_parity_refuses_scores_that_are_no_numbers_and_other_labels() -> None:
    with pytest.raises(parity.ParityError, match='score'):
        parity.require(parity.compare('x', outputs(0.0), outputs(np.nan), (-1.0, 1.0)))
    found = outputs(0.0)
    found['labels'][0, 0, 0] = 1
    with pytest.raises(parity.ParityError, match='labels'):
        parity.require(parity.compare('x', outputs(0.0), found, (-1.0, 1.0)))
    parity.require(parity.compare('x', outputs(0.0), outputs(0.001), (-1.0, 1.0)))


def test_a_run_without_a_checkpoint_is_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert export.main([str(tmp_path), '--out', str(tmp_path / 'm.onnx'), '--data', '.']) == 1
    assert 'no last.ckpt' in capsys.readouterr().err
