"""detector.launch.py, executed through the stand-in, and rviz2's and DDS's files that it uses."""

from __future__ import annotations

import ast
import xml.etree.ElementTree as ET
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml

from vq_anomaly_ros.dds_profile import VARIABLES, profile_variable
from vq_anomaly_ros.node import parameters

ROOT = Path(__file__).resolve().parents[2]
Run = Callable[..., SimpleNamespace]


@pytest.fixture(autouse=True)
def _no_profile_of_the_users(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)


def parameters_of(node: Any) -> tuple[str, dict[str, Any]]:
    """The parameter file and the overrides as the node would get them."""
    file, *overrides = node.options['parameters']
    values = {name: value for part in overrides for name, value in part.items()}
    return file, {n: v.args[0] if hasattr(v, 'args') else v for n, v in values.items()}


def executables() -> set[str]:
    """The console scripts of setup.py."""
    tree = ast.parse((ROOT / 'setup.py').read_text(encoding='utf-8'))
    texts = [n.value for n in ast.walk(tree) if isinstance(n, ast.Constant)]
    return {t.split(' = ')[0] for t in texts if isinstance(t, str) and ':main' in t}


def test_by_default_one_node_with_the_shipped_parameter_file(run_launch_file: Run) -> None:
    launched = run_launch_file('detector.launch.py')
    (node,) = launched.nodes
    assert node.options['package'] == 'vq_anomaly_ros'
    assert node.options['executable'] in executables()
    assert node.options['respawn'] is False
    file, values = parameters_of(node)
    assert Path(file) == ROOT / 'config' / 'detector.yaml'
    assert values == {'use_sim_time': False}


def test_arguments_become_parameters_that_the_node_accepts(run_launch_file: Run) -> None:
    launched = run_launch_file(
        'detector.launch.py',
        model='007',
        backend='onnxruntime',
        cameras="['/front','/rear']",
        target_fpr='0.01',
        use_sim_time='true',
        respawn='true',
        params_file='mine.yaml',
    )
    (node,) = launched.nodes
    file, values = parameters_of(node)
    assert file == 'mine.yaml'
    assert values == {
        'model': '007',
        'backend': 'onnxruntime',
        'cameras': ['/front', '/rear'],
        'target_fpr': 0.01,
        'use_sim_time': True,
    }
    assert node.options['respawn'] is True
    declared = parameters.resolve(values, of_ros=['use_sim_time'])
    assert (declared.problems, declared.unknown) == ({}, [])
    model = node.options['parameters'][1]['model']
    assert model.options == {'value_type': str}, 'launch would read 007 as a number'


def test_a_single_camera_needs_no_brackets(run_launch_file: Run) -> None:
    (node,) = run_launch_file('detector.launch.py', cameras='/rear').nodes
    assert parameters_of(node)[1]['cameras'] == ['/rear']


def test_namespace_remappings_and_log_level(run_launch_file: Run) -> None:
    (node,) = run_launch_file(
        'detector.launch.py',
        namespace='robot1',
        remap="['/front/image_raw:=/cam0/image','/a:=/b']",
        log_level='debug',
    ).nodes
    assert node.options['namespace'] == 'robot1'
    assert node.options['remappings'] == [('/front/image_raw', '/cam0/image'), ('/a', '/b')]
    assert node.options['arguments'] == ['--ros-args', '--log-level', 'debug']
    with pytest.raises(ValueError, match=r"is no remapping; write \['/old:=/new'\]"):
        run_launch_file('detector.launch.py', remap='/front')


def rviz_of(launched: SimpleNamespace) -> dict[str, Any]:
    """The configuration that rviz2 would read; the file is taken away as at a shutdown."""
    _, rviz, handler = launched.nodes
    assert (rviz.options['package'], rviz.options['executable']) == ('rviz2', 'rviz2')
    option, name = rviz.options['arguments']
    assert option == '-d'
    content = yaml.safe_load(Path(name).read_text(encoding='utf-8'))
    handler.args[0].options['on_shutdown'](None, None)
    assert not Path(name).exists()
    return content


def shown(content: dict[str, Any]) -> list[str]:
    """Topics of the displays."""
    return [d['Topic']['Value'] for d in content['Visualization Manager']['Displays']]


def test_rviz_on_demand(run_launch_file: Run) -> None:
    launched = run_launch_file('detector.launch.py', rviz='true', use_sim_time='true')
    assert launched.nodes[1].options['parameters'] == [{'use_sim_time': True}]
    template = yaml.safe_load((ROOT / 'config' / 'detector.rviz').read_text(encoding='utf-8'))
    assert rviz_of(launched) == template


def test_rviz_shows_every_camera_of_the_launch(run_launch_file: Run) -> None:
    launched = run_launch_file(
        'detector.launch.py', rviz='true', cameras="['/left','rear']", namespace='robot'
    )
    content = rviz_of(launched)
    results = ('overlay', 'mask', 'semantic_mask')
    expected = {
        f'{camera}/{topic}'
        for camera in ('/left', '/robot/rear')
        for topic in ('image_raw', *(f'anomaly/{name}' for name in results))
    }
    assert set(shown(content)) == expected
    names = [d['Name'] for d in content['Visualization Manager']['Displays']]
    assert len(set(names)) == 8 and set(names) <= set(content['Window Geometry'])
    assert 'Overlay' not in content['Window Geometry']


def test_rviz_follows_the_parameter_file(run_launch_file: Run, tmp_path: Path) -> None:
    file = tmp_path / 'mine.yaml'
    values = {'cameras': ['/roof'], 'image_topic': 'image_color'}
    file.write_text(yaml.safe_dump({'anomaly_detector': {'ros__parameters': values}}))
    launched = run_launch_file('detector.launch.py', rviz='true', params_file=str(file))
    assert shown(rviz_of(launched))[0] == '/roof/image_color'
    for broken in ('[', 'text', ''):
        file.write_text(broken)
        launched = run_launch_file('detector.launch.py', rviz='true', params_file=str(file))
        assert shown(rviz_of(launched))[0] == '/front/image_raw'


@pytest.mark.parametrize('given_as', ['argument', 'file'])
def test_rviz_shows_the_compressed_pictures_that_are_published(
    run_launch_file: Run, tmp_path: Path, given_as: str
) -> None:
    file = tmp_path / 'mine.yaml'
    transport = {'transport': 'compressed'}
    file.write_text(yaml.safe_dump({'/**': {'ros__parameters': transport}}))
    given = transport if given_as == 'argument' else {'params_file': str(file)}
    launched = run_launch_file('detector.launch.py', rviz='true', **given)
    topics = shown(rviz_of(launched))
    assert topics[0] == '/front/image_raw/compressed', 'its last part names the transport'
    assert topics[1] == '/front/anomaly/overlay', 'results are raw'


def test_rviz_takes_an_argument_before_the_parameter_file(
    run_launch_file: Run, tmp_path: Path
) -> None:
    file = tmp_path / 'mine.yaml'
    file.write_text('/**: {ros__parameters: {transport: compressed}}')
    launched = run_launch_file(
        'detector.launch.py', rviz='true', params_file=str(file), transport='raw'
    )
    assert shown(rviz_of(launched))[0] == '/front/image_raw'


FULL_NAMES = {
    '/robot/anomaly_detector': True,
    'robot/anomaly_detector': True,
    '/**/anomaly_detector': True,
    '/*/anomaly_detector': True,
    '/robot/*': True,
    '/**': True,
    '**': True,
    'anomaly_detector': False,
    '/anomaly_detector': False,
    '/robot': False,
    '/robot2/anomaly_detector': False,
    '/*': False,
}


@pytest.mark.parametrize(('key', 'meant'), FULL_NAMES.items())
def test_rviz_reads_the_parameters_that_the_node_reads(
    run_launch_file: Run, tmp_path: Path, key: str, meant: bool
) -> None:
    file = tmp_path / 'mine.yaml'
    file.write_text(yaml.safe_dump({key: {'ros__parameters': {'cameras': ['/roof']}}}))
    launched = run_launch_file(
        'detector.launch.py', rviz='true', params_file=str(file), namespace='robot'
    )
    camera = '/roof' if meant else '/front'
    assert shown(rviz_of(launched))[0] == f'{camera}/image_raw'


@pytest.mark.parametrize(('key', 'meant'), FULL_NAMES.items())
def test_rcl_reads_a_parameter_file_so(tmp_path: Path, key: str, meant: bool) -> None:
    """The oracle of the test above."""
    rclpy = pytest.importorskip('rclpy', reason='ROS is not installed')
    file = tmp_path / 'mine.yaml'
    file.write_text(yaml.safe_dump({key: {'ros__parameters': {'cameras': ['/roof']}}}))
    context = rclpy.Context()
    rclpy.init(
        args=['--ros-args', '-r', '__ns:=/robot', '--params-file', str(file)], context=context
    )
    try:
        node = rclpy.create_node('anomaly_detector', context=context)
        assert ('cameras' in node._parameter_overrides) is meant
        node.destroy_node()
    finally:
        rclpy.shutdown(context=context)


def test_remappings_mean_the_same_to_rviz_as_to_the_detector(run_launch_file: Run) -> None:
    rules = "['front/image_raw:=cam0/image','~/a:=~/b','/c:=d']"
    launched = run_launch_file(
        'detector.launch.py', rviz='true', namespace='/robot', remap=rules, cameras="['front']"
    )
    detector, rviz, _ = launched.nodes
    assert detector.options['remappings'][0] == ('front/image_raw', 'cam0/image')
    assert rviz.options['remappings'] == [
        ('/robot/front/image_raw', '/robot/cam0/image'),
        ('/robot/anomaly_detector/a', '/robot/anomaly_detector/b'),
        ('/c', '/robot/d'),
    ]
    assert shown(rviz_of(launched))[0] == '/robot/front/image_raw'


def test_a_number_that_is_none_is_named(run_launch_file: Run) -> None:
    with pytest.raises(ValueError, match=r"^target_fpr:='abc' is no number; write target_fpr:="):
        run_launch_file('detector.launch.py', target_fpr='abc')


def test_every_argument_is_described(run_launch_file: Run) -> None:
    arguments = run_launch_file('detector.launch.py').arguments
    assert set(arguments) == {
        'model', 'backend', 'cameras', 'transport', 'target_fpr', 'params_file', 'namespace',
        'remap', 'log_level', 'use_sim_time', 'respawn', 'rviz',
    }  # fmt: skip
    assert all(len(options['description']) > 10 for options in arguments.values())


def test_the_profile_for_large_images_is_set_unless_the_user_has_one(
    run_launch_file: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    for release in ('jazzy', 'kilted'):
        monkeypatch.setenv('ROS_DISTRO', release)
        environment = run_launch_file('detector.launch.py').environment
        assert set(environment) == {profile_variable()}
        assert all(Path(path).is_file() for path in environment.values())
    monkeypatch.setenv(profile_variable(), 'mine.xml')
    assert run_launch_file('detector.launch.py').environment == {}


def test_the_profile_holds_several_images_and_replaces_the_default_transports() -> None:
    root = ET.parse(ROOT / 'config' / 'fastdds_large_images.xml').getroot()  # noqa: S314  our own
    space = {'d': 'http://www.eprosima.com'}
    transports = {
        t.findtext('d:type', '', space): t
        for t in root.iter(f'{{{space["d"]}}}transport_descriptor')
    }
    assert set(transports) == {'SHM', 'UDPv4'}
    megabytes = int(transports['SHM'].findtext('d:segment_size', '0', space)) / 2**20
    assert megabytes >= 10 * 1920 * 1080 * 3 / 2**20
    participant = root.find('.//d:participant', space)
    assert participant is not None and participant.get('is_default_profile') == 'true'
    assert participant.findtext('.//d:useBuiltinTransports', '', space) == 'false'
    period = participant.find('.//d:leaseAnnouncement', space)
    assert period is not None
    seconds, nanoseconds = (
        int(period.findtext(f'd:{name}', '0', space)) for name in ('sec', 'nanosec')
    )
    assert 0 < seconds + 1e-9 * nanoseconds <= 1, 'participants that miss each other wait so long'
    used = {t.text for t in participant.iterfind('.//d:userTransports/d:transport_id', space)}
    assert used == {t.findtext('d:transport_id', '', space) for t in transports.values()}


def test_rviz_shows_topics_of_the_default_camera() -> None:
    content = yaml.safe_load((ROOT / 'config' / 'detector.rviz').read_text(encoding='utf-8'))
    manager = content['Visualization Manager']
    settings = parameters.Settings()
    (camera,) = settings.cameras
    results = ('overlay', 'mask', 'semantic_mask')
    expected = {
        settings.input_topic(camera): 'Best Effort',
        **{f'{camera}/anomaly/{name}': 'Reliable' for name in results},
    }
    shown = {d['Topic']['Value']: d['Topic'] for d in manager['Displays']}
    assert {topic: qos['Reliability Policy'] for topic, qos in shown.items()} == expected
    assert {qos['Durability Policy'] for qos in shown.values()} == {'Volatile'}
    # A display that rviz2 ships; it cannot be trusted with the score's 32FC1 (ros2/rviz#969).
    assert {d['Class'] for d in manager['Displays']} == {'rviz_default_plugins/Image'}
    assert all(d['Enabled'] for d in manager['Displays'])
    assert manager['Global Options']['Fixed Frame'] == 'camera'
    names = [display['Name'] for display in manager['Displays']]
    assert len(set(names)) == len(names) and set(names) <= set(content['Window Geometry'])
