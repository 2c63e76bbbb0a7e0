"""The parameters of the node: one table that declares, validates and documents them.

The table is the dataclass `Settings`: a field's annotation is the type, its default the default,
its metadata (`ParameterSpec`) the rest. Plain Python but for `declare`, so the page of the
documentation can be made where ROS is absent:

    python -m vq_anomaly_ros.node.parameters > docs/parameters.md
"""

from __future__ import annotations

import dataclasses
import difflib
import re
import sys
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING, Any, NamedTuple

from vq_anomaly_ros.detection.regions import CALIBRATED, RegionError, asked_region

if TYPE_CHECKING:
    from rcl_interfaces.msg import ParameterDescriptor
    from rclpy.exceptions import ParameterException
    from rclpy.node import Node

Value = bool | int | float | str | tuple[str, ...]

# The calibration tables end at a tail of 1e-5: a lower rate cannot be told from zero.
LOWEST_FPR = 1e-5
_CAMERA_NAME = re.compile(r'/?[A-Za-z_]\w*(/[A-Za-z_]\w*)*', re.ASCII)


class Changes(Enum):
    """When a parameter may be changed."""

    AT_RUN_TIME = 'at run time'
    UNCONFIGURED = 'while unconfigured'
    NEVER = 'only at start'


@dataclass(frozen=True)
class ParameterSpec:
    """One parameter; `bounds` are inclusive, `check` returns what is wrong or ''."""

    name: str
    default: Value
    description: str
    changes: Changes
    bounds: tuple[float, float] | None = None
    choices: tuple[str, ...] = ()
    check: Callable[[Any], str] | None = None

    @property
    def type_name(self) -> str:
        """The type as ROS calls it: bool, integer, double, string, string array."""
        return _TYPE_NAMES[type(self.default)]

    @property
    def allowed(self) -> str:
        """The allowed values in words; '' if the type says it all."""
        if self.choices:
            return ' or '.join(f"'{choice}'" for choice in self.choices)
        if self.bounds is not None:
            return f'{self.bounds[0]:g} to {self.bounds[1]:g}'
        return ''

    def problem(self, value: Any) -> str:
        """Return why `value` is refused, a sentence that names the parameter; '' if it is fine."""
        wrong = self._wrong_type(value) or self._wrong_value(value)
        return f'parameter {self.name}: {wrong}' if wrong else ''

    def coerce(self, value: Any) -> Value:
        """Return a value without `problem` in the type of the table (a double may come as 1)."""
        if isinstance(self.default, tuple):
            return tuple(value)
        return float(value) if isinstance(self.default, float) else value

    def _wrong_type(self, value: Any) -> str:
        if isinstance(self.default, tuple):
            fits = isinstance(value, (list, tuple)) and all(isinstance(v, str) for v in value)
        elif isinstance(self.default, float):
            fits = isinstance(value, (int, float)) and not isinstance(value, bool)
        else:
            fits = type(value) is type(self.default)
        example = _as_yaml(self.default)
        return '' if fits else f'{value!r} is no {self.type_name}; give one, such as {example}'

    def _wrong_value(self, value: Any) -> str:
        if self.choices and value not in self.choices:
            return f'{value!r} is none of {", ".join(self.choices)}'
        # Written so that nan, which compares with nothing, is refused.
        if self.bounds is not None and not self.bounds[0] <= value <= self.bounds[1]:
            return f'{value} is outside {self.allowed}'
        return self.check(value) if self.check else ''


_TYPE_NAMES = {
    bool: 'bool',
    int: 'integer',
    float: 'double',
    str: 'string',
    tuple: 'string array',
}


def _wrong_cameras(cameras: Sequence[str]) -> str:
    if not cameras:
        return "the list is empty; name at least one camera, such as ['/front']"
    for camera in cameras:
        if not _CAMERA_NAME.fullmatch(camera):
            return f'{camera!r} is no namespace; use letters, digits, _ and /, such as /front'
    if len(set(cameras)) < len(cameras):
        return f'a camera is named twice in {list(cameras)}; name each once'
    return ''


def _wrong_regions(entries: Sequence[str]) -> str:
    for entry in entries:
        try:
            asked_region(entry.rpartition(':')[2])
        except RegionError as error:
            return str(error)
    return ''


def _wrong_topic(topic: str) -> str:
    if _CAMERA_NAME.fullmatch(topic) and not topic.startswith('/'):
        return ''
    return f'{topic!r} is no topic below a camera; give one without leading /, such as image_raw'


def _parameter(default: Value, changes: Changes, description: str, **rules: Any) -> Any:
    """Make a dataclass field whose metadata hold the rest of its ParameterSpec."""
    rules = {'changes': changes, 'description': description, **rules}
    return dataclasses.field(default=default, metadata=rules)


@dataclass(frozen=True)
class Settings:
    """The values of all parameters: the table itself."""

    model: str = _parameter(
        'street',
        Changes.UNCONFIGURED,
        'Model file: a path, or a name found in the share folder of the package, then in models/.',
    )
    backend: str = _parameter(
        'auto',
        Changes.UNCONFIGURED,
        'Inference runtime; auto takes the first that works.',
        choices=('auto', 'tensorrt', 'openvino', 'onnxruntime'),
    )
    gpu_precision: str = _parameter(
        'fp16',
        Changes.UNCONFIGURED,
        'Precision of TensorRT; int8 only with a plan that build_engine made beforehand.',
        choices=('fp32', 'fp16', 'int8'),
    )
    gpu_workspace_mb: int = _parameter(
        512,
        Changes.UNCONFIGURED,
        'Memory in MB that a layer may use while TensorRT builds its plan.',
        bounds=(16, 65536),
    )
    threads: int = _parameter(
        0,
        Changes.UNCONFIGURED,
        'Threads of the inference runtime; 0 leaves the number to it.',
        bounds=(0, 256),
    )
    streams: int = _parameter(
        0,
        Changes.UNCONFIGURED,
        'Frames, of different cameras, that a CPU looks at at the same time, each with its share '
        'of the threads: more frames a second, each a little later. 1: one after the other; '
        '0: one a camera, at most the cores and 4.',
        bounds=(0, 64),
    )
    cameras: tuple[str, ...] = _parameter(
        ('/front',),
        Changes.UNCONFIGURED,
        'Namespaces of the cameras; what is said of one is published under <camera>/anomaly/.',
        check=_wrong_cameras,
    )
    image_topic: str = _parameter(
        'image_raw',
        Changes.UNCONFIGURED,
        'Image topic below each camera; with transport compressed, /compressed is added to it.',
        check=_wrong_topic,
    )
    transport: str = _parameter(
        'raw',
        Changes.UNCONFIGURED,
        'Messages to subscribe to: sensor_msgs/Image (raw) or sensor_msgs/CompressedImage.',
        choices=('raw', 'compressed'),
    )
    input_reliability: str = _parameter(
        'best_effort',
        Changes.UNCONFIGURED,
        'Reliability of the image subscriptions; best_effort matches every publisher.',
        choices=('best_effort', 'reliable'),
    )
    input_depth: int = _parameter(
        5,
        Changes.UNCONFIGURED,
        'Images that the subscription keeps while the node is held up; older ones are then counted '
        'as superseded, with 1 they vanish uncounted.',
        bounds=(1, 100),
    )
    output_reliability: str = _parameter(
        'reliable',
        Changes.UNCONFIGURED,
        'Reliability of the result topics; reliable matches every subscriber, rviz2 asks for it.',
        choices=('reliable', 'best_effort'),
    )
    output_depth: int = _parameter(
        5,
        Changes.UNCONFIGURED,
        'Results of each topic that are kept for a subscriber that is held up.',
        bounds=(1, 100),
    )
    camera_info_topic: str = _parameter(
        'camera_info',
        Changes.UNCONFIGURED,
        'CameraInfo topic below each camera, published again scaled to the output; '
        'cameras without one just have none.',
        check=_wrong_topic,
    )
    input_bits: int = _parameter(
        16,
        Changes.AT_RUN_TIME,
        'Bits that 16-bit images use: 10 or 12 for most cameras that fill a part of the range.',
        bounds=(8, 16),
    )
    output_size: str = _parameter(
        'camera',
        Changes.AT_RUN_TIME,
        "Size of semantic_mask, score and mask: the camera's, or the network's own score map.",
        choices=('camera', 'network'),
    )
    label_upsampling: str = _parameter(
        'nearest',
        Changes.UNCONFIGURED,
        "Labels at the camera's size: those of the score map (nearest), or found anew from "
        'upsampled class scores (bilinear: smooth edges, costs time).',
        choices=('nearest', 'bilinear'),
    )
    score_encoding: str = _parameter(
        '32FC1',
        Changes.AT_RUN_TIME,
        'Encoding of score: 32FC1 as it is, mono16 or mono8 on the scale that label_info_json '
        'states.',
        choices=('32FC1', 'mono16', 'mono8'),
    )
    calibration: str = _parameter(
        '',
        Changes.UNCONFIGURED,
        "File that `calibrate` wrote for this model; '' for the model's own table, that of its "
        'training set.',
    )
    calibration_by_class: bool = _parameter(
        False,
        Changes.UNCONFIGURED,
        'Compare a pixel with those of its own predicted class on the calibration drive instead of '
        'with all of them; needs a calibration file.',
    )
    min_obstacle_area: float = _parameter(
        5e-4,
        Changes.AT_RUN_TIME,
        'Smallest share of the picture that is told as an obstacle.',
        bounds=(0.0, 1.0),
    )
    obstacle_growth: float = _parameter(
        3.0,
        Changes.AT_RUN_TIME,
        'How min_obstacle_area grows towards the camera: at the lower edge of the picture it is '
        '(1 + growth)^2 times as large as in its middle.',
        bounds=(0.0, 20.0),
    )
    obstacle_persistence: int = _parameter(
        6,
        Changes.AT_RUN_TIME,
        'Frames in which an obstacle was seen before it is told; 6 at 10 Hz are half a second.',
        bounds=(1, 100),
    )
    region: tuple[str, ...] = _parameter(
        (CALIBRATED,),
        Changes.UNCONFIGURED,
        "Where alarms count: 'all', 'road' (the ground and what stands on it), a polygon 'x,y x,y "
        "x,y' in shares of the picture, or 'calibrated' (where the calibration was made); for one "
        "camera with its name before it, as in '/front: road'.",
        check=_wrong_regions,
    )
    smoothing: float = _parameter(
        0.0,
        Changes.AT_RUN_TIME,
        'Weight of the earlier frames in the score; 0 looks at each frame alone. What moves in the '
        'picture is smeared, and fewer pixels than target_fpr exceed the threshold.',
        bounds=(0.0, 0.95),
    )
    target_fpr: float = _parameter(
        1e-3,
        Changes.AT_RUN_TIME,
        'Share of normal pixels that the mask may hold on a drive like the calibration drive.',
        bounds=(LOWEST_FPR, 0.5),
    )
    explain_frames: int = _parameter(
        5,
        Changes.UNCONFIGURED,
        'Newest frames of each camera that `explain_at` can ask about; they are kept in memory.',
        bounds=(0, 100),
    )
    atlas: str = _parameter(
        '',
        Changes.UNCONFIGURED,
        'Patches that explanations show for a codevector: an atlas of `python -m training.atlas` '
        "(its .npz or folder); '' for <model>.atlas.npz beside the model, where there is one.",
    )
    overlay_opacity: float = _parameter(
        0.35,
        Changes.AT_RUN_TIME,
        'Opacity of the class colours in the overlay picture.',
        bounds=(0.0, 1.0),
    )
    engine_timeout: float = _parameter(
        10.0,
        Changes.AT_RUN_TIME,
        'Seconds after which a frame that is still in work means that the engine hangs, 0 = never; '
        'the build of a plan does not count.',
        bounds=(0.0, 3600.0),
    )
    engine_hang: str = _parameter(
        'reopen',
        Changes.AT_RUN_TIME,
        'What to do then: reopen the engine in a fresh thread (at most three times while the old '
        'ones hang), or exit with code 75 to be started again.',
        choices=('reopen', 'exit'),
    )
    palette: str = _parameter(
        '',
        Changes.UNCONFIGURED,
        "Class colours of the overlay and label_info_json: '' for the model's own, a path, or a "
        'name found in config/palettes.',
    )
    autostart: bool = _parameter(
        True,
        Changes.NEVER,
        'Configure and activate without being asked; false waits for a lifecycle manager.',
    )
    diagnostics_period: float = _parameter(
        1.0,
        Changes.NEVER,
        'Seconds between two messages on /diagnostics.',
        bounds=(0.1, 60.0),
    )
    warn_silence: float = _parameter(
        2.0,
        Changes.AT_RUN_TIME,
        'Diagnostics warn of a camera that was silent for so many seconds.',
        bounds=(0.1, 3600.0),
    )
    warn_superseded: float = _parameter(
        0.5,
        Changes.AT_RUN_TIME,
        'Diagnostics warn when more than this share of the frames came faster than the detector '
        'could take them.',
        bounds=(0.0, 1.0),
    )

    warn_unpublished: float = _parameter(
        10.0,
        Changes.AT_RUN_TIME,
        'A camera topic that nobody publishes is named in the log after so many seconds.',
        bounds=(0.1, 3600.0),
    )

    def input_topic(self, camera: str) -> str:
        """Return the image topic that is subscribed to for `camera`."""
        suffix = '' if self.transport == 'raw' else '/compressed'
        return f'{camera}/{self.image_topic}{suffix}'


PARAMETERS: tuple[ParameterSpec, ...] = tuple(
    ParameterSpec(name=field.name, default=getattr(Settings(), field.name), **field.metadata)
    for field in dataclasses.fields(Settings)
)


class Declared(NamedTuple):
    """Outcome of `declare`: the settings, what was refused {name: sentence}, and unknown names."""

    settings: Settings
    problems: dict[str, str]
    unknown: list[str]


def resolve(overrides: Mapping[str, Any], of_ros: Collection[str] = ()) -> Declared:
    """Put the overrides (parameter file, command line) over the defaults.

    A refused override leaves the default in its place and is told in `problems`; `unknown` holds a
    sentence for each name that is neither in the table nor in `of_ros` (parameters that every node
    has), with the likely spelling.
    """
    values: dict[str, Any] = {}
    problems: dict[str, str] = {}
    for spec in PARAMETERS:
        if spec.name not in overrides:
            continue
        if problem := spec.problem(overrides[spec.name]):
            problems[spec.name] = problem
        else:
            values[spec.name] = spec.coerce(overrides[spec.name])
    foreign = [name for name in overrides if name not in of_ros]
    return Declared(Settings(**values), problems, _unknown(foreign))


def _unknown(overrides: Sequence[str]) -> list[str]:
    names = [spec.name for spec in PARAMETERS]
    sentences = []
    for name in overrides:
        if name in names or name.startswith('qos_overrides.'):
            continue
        close = difflib.get_close_matches(name, names, n=1)
        hint = f'did you mean {close[0]}?' if close else 'it has no effect'
        sentences.append(f'parameter {name}: the node has none of this name; {hint}')
    return sentences


def refusal(changes: Mapping[str, Any], unconfigured: bool) -> str:
    """Return why a change of parameters {name: value} is refused, or '' if it may be made.

    Args:
        changes: the new values; names that are not in the table are not judged.
        unconfigured: whether the node is in that lifecycle state.
    """
    for spec in PARAMETERS:
        if spec.name not in changes:
            continue
        if problem := spec.problem(changes[spec.name]):
            return problem
        if spec.changes is Changes.UNCONFIGURED and not unconfigured:
            return (
                f'parameter {spec.name}: can be changed only while the node is unconfigured; '
                'deactivate and clean it up first'
            )
    return ''


def updated(settings: Settings, changes: Mapping[str, Any]) -> Settings:
    """Return `settings` with the accepted changes {name: value} of parameters in the table."""
    specs = {spec.name: spec for spec in PARAMETERS}
    known = {n: specs[n].coerce(value) for n, value in changes.items() if n in specs}
    return dataclasses.replace(settings, **known)  # type: ignore[arg-type]


def descriptor(spec: ParameterSpec) -> ParameterDescriptor:
    """Return the rcl_interfaces descriptor of a parameter."""
    from rcl_interfaces.msg import FloatingPointRange, IntegerRange, ParameterDescriptor

    result = ParameterDescriptor(
        name=spec.name,
        description=spec.description,
        additional_constraints=f'{spec.allowed}; changes {spec.changes.value}'.removeprefix('; '),
        read_only=spec.changes is Changes.NEVER,
    )
    if spec.bounds is not None and isinstance(spec.default, float):
        low, high = spec.bounds
        result.floating_point_range = [FloatingPointRange(from_value=low, to_value=high)]
    elif spec.bounds is not None:
        first, last = (int(bound) for bound in spec.bounds)
        result.integer_range = [IntegerRange(from_value=first, to_value=last, step=1)]
    return result


def declare(node: Node) -> Declared:
    """Declare all parameters on a node, from its overrides; never raises for a bad value."""
    # rclpy has no public way to look at overrides before they are declared (and raised about).
    overrides = {name: given.value for name, given in node._parameter_overrides.items()}
    # rclpy has declared its own by now: which they are depends on its version.
    declared = resolve(overrides, [name for name in overrides if node.has_parameter(name)])
    for spec in PARAMETERS:
        value = getattr(declared.settings, spec.name)
        value = list(value) if isinstance(value, tuple) else value
        # The override is judged and in `value` already; rclpy would raise for a bad one.
        node.declare_parameter(spec.name, value, descriptor(spec), ignore_override=True)
    return declared


def refused_by_ros(node: Node, error: ParameterException) -> str:
    """Return the sentence for a parameter that every node has and rclpy refused: all are bools."""
    for name, given in node._parameter_overrides.items():
        if f"'{name}'" in str(error):
            return (
                f'parameter {name}: {given.value!r} is no bool; give true or false, without quotes'
            )
    return str(error)


def markdown() -> str:
    """Render the page of the documentation."""
    lines = [
        '# Parameters of `anomaly_detector`',
        '',
        'Made by `python -m vq_anomaly_ros.node.parameters`; `config/detector.yaml` holds the',
        'defaults to start from. A refused value is named in the log with its reason; refused at',
        'start, it keeps the node unconfigured until it is set right.',
        '',
        '| name | type | default | allowed | changes | description |',
        '|---|---|---|---|---|---|',
    ]
    for spec in PARAMETERS:
        cells = (
            f'`{spec.name}`',
            spec.type_name,
            f'`{_as_yaml(spec.default)}`',
            spec.allowed,
            spec.changes.value,
            spec.description.replace('<', '&lt;').replace('|', '\\|'),
        )
        lines.append(f'| {" | ".join(cells)} |')
    return '\n'.join([*lines, ''])


def _as_yaml(value: Value) -> str:
    if isinstance(value, tuple):
        return f'[{", ".join(map(repr, value))}]'
    return str(value).lower() if isinstance(value, bool) else repr(value)


if __name__ == '__main__':
    sys.stdout.write(markdown())
