"""ament_python package: `colcon build` installs the executables into lib/vq_anomaly_ros."""

from pathlib import Path

from setuptools import find_packages, setup

PACKAGE = 'vq_anomaly_ros'
SHARE = Path('share') / PACKAGE


def files(folder: str, *patterns: str) -> tuple[str, list[str]]:
    """An entry of data_files: what matches in `folder`, into the same folder of the share."""
    found = sorted(str(path) for pattern in patterns for path in Path(folder).glob(pattern))
    return str(SHARE / folder), found


setup(
    name=PACKAGE,
    version='0.1.0',
    packages=find_packages(include=[PACKAGE, f'{PACKAGE}.*']),
    package_data={PACKAGE: ['replay/templates/*']},
    data_files=[
        ('share/ament_index/resource_index/packages', [f'resource/{PACKAGE}']),
        (str(SHARE), ['package.xml']),
        files('launch', '*.launch.py'),
        files('config', '*.yaml', '*.rviz', '*.xml', '*.json'),
        files('config/palettes', '*.yaml'),
        files('config/sros2', '*.xml'),
        files('models', '*.onnx', '*.md', 'LICENSE'),
    ],
    install_requires=['setuptools'],
    zip_safe=False,
    maintainer='vq_anomaly_ros maintainers',
    maintainer_email='maintainers@example.com',
    description='Anomaly segmentation of camera frames with a calibrated false-alarm rate',
    license='Apache-2.0',
    entry_points={
        'console_scripts': [
            'build_engine = vq_anomaly_ros.replay.build_engine:main',
            'calibrate = vq_anomaly_ros.replay.calibrate:main',
            'anomaly_detector = vq_anomaly_ros.node.detector_node:main',
            'play_bag = vq_anomaly_ros.node.player:main',
            'measure_transport = vq_anomaly_ros.node.transport:main',
            'record_bag = vq_anomaly_ros.node.recorder:main',
            'drive_cameras = vq_anomaly_ros.replay.drive_cameras:main',
            'evaluate_bag = vq_anomaly_ros.replay.evaluate_bag:main',
            'faults = vq_anomaly_ros.replay.faults:main',
            'images_to_bag = vq_anomaly_ros.replay.images_to_bag:main',
            'sample_drive = vq_anomaly_ros.replay.sample_drive.main:main',
        ],
    },
)
