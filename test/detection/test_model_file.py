"""What is read from, written to and refused of a model file."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator

from vq_anomaly_ros.detection import model_file
from vq_anomaly_ros.detection.model_file import (
    FORMAT_VERSION,
    METADATA_KEY,
    ModelFileError,
    ModelInfo,
)


def edited(source: Path, target: Path, edit: Callable[[onnx.ModelProto], object]) -> Path:
    """A copy of a model file, changed behind the back of model_file.write."""
    model = onnx.load(source)
    edit(model)
    target.write_bytes(model.SerializeToString())
    return target


def with_fields(source: Path, target: Path, **fields: object) -> Path:
    """A copy with other metadata fields; ... removes one."""

    def edit(model: onnx.ModelProto) -> None:
        entry = model.metadata_props[-1]
        values = {**json.loads(entry.value), **fields}
        entry.value = json.dumps({k: v for k, v in values.items() if v is not ...})

    return edited(source, target, edit)


def assert_refused(path: Path, *words: str) -> None:
    with pytest.raises(ModelFileError) as caught:
        model_file.read(path)
    message = str(caught.value)
    for word in (str(path), *words):
        assert word in message
    assert '\n' not in message


def test_what_is_written_is_read(tiny_model: Path, tiny_info: ModelInfo) -> None:
    model = model_file.read(tiny_model)
    assert dataclasses.replace(model.info, weights_sha256='') == dataclasses.replace(
        tiny_info, weights_sha256=''
    )
    assert model.sha256 == hashlib.sha256(tiny_model.read_bytes()).hexdigest()
    assert model.info.map_size == (16, 32)


def test_the_metadata_is_one_json_object_with_a_version(tiny_model: Path) -> None:
    entries = {entry.key: entry.value for entry in onnx.load(tiny_model).metadata_props}
    fields = json.loads(entries[METADATA_KEY])
    assert fields['format_version'] == FORMAT_VERSION
    assert fields['input_size'] == [64, 128]


def test_writing_twice_gives_the_same_bytes(make_tiny_model, tmp_path: Path) -> None:
    first, second = make_tiny_model(tmp_path / 'a.onnx'), make_tiny_model(tmp_path / 'b.onnx')
    assert first.read_bytes() == second.read_bytes()


def test_a_written_model_is_valid_onnx(tiny_model: Path) -> None:
    onnx.checker.check_model(onnx.load(tiny_model), full_check=True)


def test_write_leaves_the_graph_of_the_caller_alone(tiny_graph, tiny_info, tmp_path) -> None:
    graph = tiny_graph()
    model_file.write(graph, tiny_info, tmp_path / 'm.onnx')
    assert graph == tiny_graph()


def test_write_replaces_older_metadata_and_keeps_that_of_others(
    tiny_graph, tiny_info, tmp_path
) -> None:
    graph = tiny_graph()
    graph.metadata_props.add(key=METADATA_KEY, value='old')
    graph.metadata_props.add(key='other', value='kept')
    model_file.write(graph, tiny_info, tmp_path / 'm.onnx')
    entries = [(e.key, e.value[:4]) for e in onnx.load(tmp_path / 'm.onnx').metadata_props]
    assert entries == [('other', 'kept'), (METADATA_KEY, '{"ca')]


def test_a_cut_file_is_refused_wherever_it_was_cut(tiny_model: Path, tmp_path: Path) -> None:
    data = tiny_model.read_bytes()
    path = tmp_path / 'cut.onnx'
    lengths = [*range(0, len(data), 97), *range(len(data) - 40, len(data))]
    for length in lengths:
        path.write_bytes(data[:length])
        with pytest.raises(ModelFileError):
            model_file.read(path)


def test_damaged_bytes_give_a_model_or_a_model_file_error(tiny_model: Path, tmp_path: Path) -> None:
    data = tiny_model.read_bytes()
    path = tmp_path / 'damaged.onnx'
    rng = np.random.default_rng(0)
    refused = 0
    for position in rng.integers(0, len(data), 1000):
        damaged = bytearray(data)
        damaged[position] ^= int(rng.integers(1, 256))
        path.write_bytes(damaged)
        try:
            model_file.read(path)
        except ModelFileError:
            refused += 1
    assert refused > 500


def test_a_damaged_weight_is_noticed(tiny_model: Path, tmp_path: Path) -> None:
    def edit(model: onnx.ModelProto) -> None:
        tensor = next(t for t in model.graph.initializer if t.name == 'codebook')
        tensor.raw_data = tensor.raw_data[:-1] + bytes([tensor.raw_data[-1] ^ 1])

    assert_refused(edited(tiny_model, tmp_path / 'm.onnx', edit), 'weights', 'sha256')


def test_the_hash_depends_on_values_not_on_their_storage(tiny_graph, tiny_info, tmp_path) -> None:
    graph = tiny_graph()
    written = model_file.write(graph, tiny_info, tmp_path / 'raw.onnx')
    tensors = [numpy_helper.to_array(t) for t in graph.graph.initializer]
    for tensor, values in zip(graph.graph.initializer, tensors, strict=True):
        if values.dtype == np.float32:
            tensor.CopyFrom(
                helper.make_tensor(tensor.name, TensorProto.FLOAT, values.shape, values.ravel())
            )
    stored = list(reversed(graph.graph.initializer))
    del graph.graph.initializer[:]
    graph.graph.initializer.extend(stored)
    other = model_file.write(graph, tiny_info, tmp_path / 'fields.onnx')
    assert other.info.weights_sha256 == written.info.weights_sha256
    assert other.sha256 != written.sha256


def test_missing_file(tmp_path: Path) -> None:
    assert_refused(tmp_path / 'none.onnx', 'no such model file', 'check the path')


def test_a_folder_is_no_model(tmp_path: Path) -> None:
    assert_refused(tmp_path, 'cannot be read')


def test_text_is_no_model(tmp_path: Path) -> None:
    path = tmp_path / 'm.onnx'
    path.write_text('not a model')
    assert_refused(path, 'no ONNX model', 'export')


def test_a_foreign_onnx_is_refused(tiny_graph, tmp_path: Path) -> None:
    path = tmp_path / 'm.onnx'
    onnx.save(tiny_graph(), path)
    assert_refused(path, METADATA_KEY, 'training.export')


def test_another_version_is_refused(tiny_model: Path, tmp_path: Path) -> None:
    path = with_fields(tiny_model, tmp_path / 'm.onnx', format_version=FORMAT_VERSION + 1)
    assert_refused(path, f'version {FORMAT_VERSION + 1}', f'reads {FORMAT_VERSION}')


@pytest.mark.parametrize(
    'field', [f.name for f in dataclasses.fields(ModelInfo) if f.name != 'codebook_usage']
)
def test_every_field_is_due(tiny_model: Path, tmp_path: Path, field: str) -> None:
    path = with_fields(tiny_model, tmp_path / 'm.onnx', **{field: ...})
    assert_refused(path, 'lacks', repr(field))


def test_a_file_from_before_the_usage_was_measured_is_read(
    tiny_model: Path, tmp_path: Path
) -> None:
    path = with_fields(tiny_model, tmp_path / 'm.onnx', codebook_usage=...)
    assert model_file.read(path).info.codebook_usage == {}


@pytest.mark.parametrize('field', [f.name for f in dataclasses.fields(ModelInfo)])
@pytest.mark.parametrize('value', [-1.5, True, [[None]]])
def test_every_field_has_a_type(tiny_model: Path, tmp_path: Path, field: str, value) -> None:
    path = with_fields(tiny_model, tmp_path / 'm.onnx', **{field: value})
    assert_refused(path, repr(field))


@pytest.mark.parametrize(
    ('fields', 'word'),
    [
        ({'method': 'magic'}, 'codebook, cpc, ccl'),
        ({'palette': [[0, 0, 256]] * 4}, 'palette'),
        ({'palette': [[0, 0, 0]] * 3}, '3 colours for 4 classes'),
        ({'input_size': [64, 0]}, 'input_size'),
        ({'input_size': [64, 127]}, 'multiple of 4'),
        ({'stride': 0}, 'stride'),
        ({'score_range': [1.0, -1.0]}, 'score_range'),
        ({'score_range': [0.0, float('inf')]}, 'score_range'),
        ({'codevectors_per_class': -1}, 'codevectors_per_class'),
        ({'weights_sha256': 'abc'}, 'weights_sha256'),
        ({'calibration': {'raw': [1.0, 0.0]}}, 'calibration'),
        ({'classes': ['a'] * 256, 'palette': [[0, 0, 0]] * 256}, '256 classes'),
    ],
)
def test_values_without_sense_are_refused(
    tiny_model: Path, tmp_path: Path, fields: dict[str, object], word: str
) -> None:
    assert_refused(with_fields(tiny_model, tmp_path / 'm.onnx', **fields), word)


@pytest.mark.parametrize('value', ['{', '[]', '"text"', '[' * 100_000])
def test_metadata_that_is_no_object_is_refused(
    tiny_model: Path, tmp_path: Path, value: str
) -> None:
    def edit(model: onnx.ModelProto) -> None:
        model.metadata_props[-1].value = value

    assert_refused(edited(tiny_model, tmp_path / 'm.onnx', edit), 'metadata', 'JSON')


@pytest.mark.parametrize(
    ('fields', 'word'),
    [
        ({'input_size': [32, 128]}, '`image` has the shape [?, 64, 128, 3]'),
        ({'stride': 2}, '`score` has the shape [?, 16, 32]'),
        ({'classes': ['a'], 'palette': [[0, 0, 0]]}, '`class_scores`'),
    ],
)
def test_a_graph_that_contradicts_the_metadata_is_refused(
    tiny_model: Path, tmp_path: Path, fields: dict[str, object], word: str
) -> None:
    assert_refused(with_fields(tiny_model, tmp_path / 'm.onnx', **fields), word)


def test_a_missing_output_is_refused(tiny_model: Path, tmp_path: Path) -> None:
    def edit(model: onnx.ModelProto) -> None:
        del model.graph.output[1]

    assert_refused(edited(tiny_model, tmp_path / 'm.onnx', edit), '`labels`')


def test_a_float_input_is_refused(tiny_model: Path, tmp_path: Path) -> None:
    def edit(model: onnx.ModelProto) -> None:
        model.graph.input[0].type.tensor_type.elem_type = TensorProto.FLOAT

    assert_refused(edited(tiny_model, tmp_path / 'm.onnx', edit), '`image` is float32', 'uint8')


def test_another_input_name_is_refused(tiny_model: Path, tmp_path: Path) -> None:
    def edit(model: onnx.ModelProto) -> None:
        model.graph.input[0].name = 'x'

    assert_refused(edited(tiny_model, tmp_path / 'm.onnx', edit), 'inputs are x', '`image`')


def test_a_fixed_batch_is_refused(tiny_model: Path, tmp_path: Path) -> None:
    def edit(model: onnx.ModelProto) -> None:
        model.graph.input[0].type.tensor_type.shape.dim[0].dim_value = 1

    assert_refused(edited(tiny_model, tmp_path / 'm.onnx', edit), 'free N')


def test_weights_in_another_file_are_refused(tiny_model: Path, tmp_path: Path) -> None:
    def edit(model: onnx.ModelProto) -> None:
        model.graph.initializer[0].data_location = TensorProto.EXTERNAL

    assert_refused(edited(tiny_model, tmp_path / 'm.onnx', edit), 'another file')


@pytest.mark.parametrize(
    'changes',
    [
        {'stride': 3},
        {'input_size': (32, 128)},
        {'method': 'magic'},
        {'palette': ()},
        {'parity': {'score': float('nan')}},
        {'parity': {'score': np.float32(1)}},
    ],
)
def test_a_refused_write_leaves_nothing_and_an_older_file_alone(
    make_tiny_model, tmp_path: Path, changes: dict[str, object]
) -> None:
    path = make_tiny_model(tmp_path / 'm.onnx')
    before = path.read_bytes()
    with pytest.raises(ModelFileError):
        make_tiny_model(path, **changes)
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def test_an_interrupted_write_leaves_nothing(
    make_tiny_model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(self: Path, target: Path) -> Path:
        raise KeyboardInterrupt

    monkeypatch.setattr(Path, 'replace', interrupted)
    with pytest.raises(KeyboardInterrupt):
        make_tiny_model(tmp_path / 'm.onnx')
    assert list(tmp_path.iterdir()) == []


def test_an_invalid_graph_is_not_written(tiny_graph, tiny_info, tmp_path: Path) -> None:
    graph = tiny_graph()
    graph.graph.node[2].input[0] = 'nowhere'
    with pytest.raises(ModelFileError, match='no valid ONNX'):
        model_file.write(graph, tiny_info, tmp_path / 'm.onnx')


def test_a_model_without_classes_needs_a_score_only(tiny_graph, tiny_info, tmp_path: Path) -> None:
    graph = tiny_graph()
    del graph.graph.output[1:]
    info = dataclasses.replace(
        tiny_info, method='cpc', classes=(), palette=(), codevectors_per_class=0
    )
    model = model_file.write(graph, info, tmp_path / 'm.onnx')
    assert list(model.info.output_layouts()) == ['score']


def test_half_weights_are_half_the_size(make_tiny_model, tmp_path: Path) -> None:
    half = onnx.load(make_tiny_model(tmp_path / 'half.onnx', half=True))
    types = {t.name: t.data_type for t in half.graph.initializer}
    assert types['codebook_half'] == TensorProto.FLOAT16


def test_outputs_lists_the_graphs_outputs(tiny_model: Path) -> None:
    assert model_file.outputs(tiny_model) == ('score', 'labels', 'class_scores', 'codes')


@pytest.mark.parametrize('names', [['score'], ['codes'], ['labels', 'score']])
def test_a_pruned_graph_says_the_same_with_less(tiny_model: Path, picture, names) -> None:
    pruned = onnx.load_from_string(model_file.pruned(tiny_model, names))
    onnx.checker.check_model(pruned, full_check=True)
    whole = onnx.load(tiny_model)
    images = {'image': picture(1)[None]}
    expected = ReferenceEvaluator(whole).run(names, images)
    found = ReferenceEvaluator(pruned).run(None, images)
    assert [v.name for v in pruned.graph.output] == names
    for a, b in zip(found, expected, strict=True):
        assert np.array_equal(a, b)
    assert len(pruned.graph.node) < len(whole.graph.node)


def test_pruning_drops_weights_that_nobody_needs(tiny_model: Path) -> None:
    pruned = onnx.load_from_string(model_file.pruned(tiny_model, ['codes']))
    names = {tensor.name for tensor in pruned.graph.initializer}
    assert 'by_class' not in names
    assert 'codebook' in names


@pytest.mark.parametrize('names', [['depth'], []])
def test_pruning_to_no_output_is_refused(tiny_model: Path, names: list[str]) -> None:
    with pytest.raises(ModelFileError, match='score, labels'):
        model_file.pruned(tiny_model, names)


def test_pruning_keeps_what_a_subgraph_takes_from_outside(tmp_path: Path) -> None:
    scalar = helper.make_tensor_value_info
    branches = {
        name: helper.make_graph(
            [helper.make_node(kind, ['outer', 'outer'], [name])],
            name,
            [],
            [scalar(name, TensorProto.FLOAT, [1])],
        )
        for name, kind in (('then', 'Add'), ('else', 'Mul'))
    }
    nodes = [
        helper.make_node('Neg', ['x'], ['outer']),
        helper.make_node('Abs', ['x'], ['unused']),
        helper.make_node(
            'If', ['c'], ['y'], then_branch=branches['then'], else_branch=branches['else']
        ),
    ]
    inputs = [scalar('x', TensorProto.FLOAT, [1]), scalar('c', TensorProto.BOOL, [])]
    outputs = [scalar('y', TensorProto.FLOAT, [1]), scalar('unused', TensorProto.FLOAT, [1])]
    path = tmp_path / 'if.onnx'
    onnx.save(helper.make_model(helper.make_graph(nodes, 'if', inputs, outputs)), path)
    pruned = onnx.load_from_string(model_file.pruned(path, ['y']))
    assert [node.op_type for node in pruned.graph.node] == ['Neg', 'If']


def test_local_functions_are_inlined(tiny_graph, tiny_info, tmp_path: Path) -> None:
    graph = tiny_graph()
    negated = next(node for node in graph.graph.node if node.op_type == 'Neg')
    negated.op_type, negated.domain = 'Minus', 'own'
    graph.opset_import.append(helper.make_opsetid('own', 1))
    body = [helper.make_node('Neg', ['x'], ['y'])]
    opsets = [helper.make_opsetid('', 18)]
    graph.functions.append(helper.make_function('own', 'Minus', ['x'], ['y'], body, opsets))
    path = model_file.write(graph, tiny_info, tmp_path / 'm.onnx').path
    written = onnx.load(path)
    assert not written.functions
    assert 'Neg' in {node.op_type for node in written.graph.node}


class TestFindModel:
    def test_a_path_is_itself(self, tiny_model: Path) -> None:
        assert model_file.find_model(tiny_model) == tiny_model
        assert model_file.find_model(str(tiny_model.with_suffix(''))) == tiny_model

    @pytest.mark.parametrize('name', ['tiny', 'tiny.onnx'])
    def test_a_name_is_found_in_the_share_folder_of_a_prefix(
        self, tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
    ) -> None:
        models = tmp_path / 'second' / 'share' / 'vq_anomaly_ros' / 'models'
        models.mkdir(parents=True)
        (models / 'tiny.onnx').write_bytes(tiny_model.read_bytes())
        prefixes = os.pathsep.join([str(tmp_path / 'first'), str(tmp_path / 'second')])
        monkeypatch.setenv('AMENT_PREFIX_PATH', prefixes)
        assert model_file.find_model(name) == models / 'tiny.onnx'

    def test_a_name_with_dots_keeps_them(self, tiny_model: Path, tmp_path: Path) -> None:
        path = tmp_path / 'street-v1.2.onnx'
        path.write_bytes(tiny_model.read_bytes())
        assert model_file.find_model(tmp_path / 'street-v1.2') == path

    def test_an_unknown_name_lists_where_it_was_looked_for(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv('AMENT_PREFIX_PATH', str(tmp_path))
        with pytest.raises(ModelFileError) as caught:
            model_file.find_model('no_such_model')
        for place in (tmp_path / 'share' / 'vq_anomaly_ros' / 'models', 'models'):
            assert f'{Path(place) / "no_such_model.onnx"}' in str(caught.value)


def test_an_output_without_a_stated_shape_is_left_to_the_engine(
    tiny_model: Path, tmp_path: Path
) -> None:
    def edit(model: onnx.ModelProto) -> None:
        model.graph.output[0].type.tensor_type.ClearField('shape')

    path = edited(tiny_model, tmp_path / 'm.onnx', edit)
    assert model_file.read(path).info.map_size == (16, 32)
