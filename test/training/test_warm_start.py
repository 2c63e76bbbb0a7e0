"""A model file as the start of a training: the network computes again what the file computes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from training.data.street import CAMVID_CLASSES
from training.graph import folded
from training.methods.codebook.model import CodebookNet
from training.warm_start import StartError, codevectors, model_file_weights, unfolded
from vq_anomaly_ros.detection import model_file
from vq_anomaly_ros.detection.engines import open_engine


def trained_like(seed: int) -> CodebookNet:
    """A network whose norms have statistics of their own, as after a training."""
    torch.manual_seed(seed)
    net = CodebookNet(3, 2, 8, 16, pretrained=False)
    for module in net.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.running_mean.normal_(0.0, 0.3)  # type: ignore[union-attr]
            module.running_var.uniform_(0.5, 2.0)  # type: ignore[union-attr]
            torch.nn.init.uniform_(module.weight, 0.5, 1.5)
            torch.nn.init.normal_(module.bias, 0.0, 0.2)
    return net.eval()


def noise(seed: int) -> torch.Tensor:
    return torch.randint(
        0, 255, (2, 64, 96, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(seed)
    )


def test_batch_norms_come_back_with_the_same_function() -> None:
    before, after = trained_like(0), trained_like(1)
    weights = folded(before).state_dict()
    unfolded(after, weights, noise(0))
    with torch.no_grad():
        for seed in (0, 1):  # what was measured and what was not
            torch.testing.assert_close(
                after(noise(seed))[0], before(noise(seed))[0], atol=1e-4, rtol=0
            )


def test_batch_norms_get_the_statistics_of_the_pictures() -> None:
    net = trained_like(1)
    unfolded(net, folded(trained_like(0)).state_dict(), noise(0))
    expected = net(noise(0))[0]
    net.train()
    # In training mode each norm takes the batch's own statistics: those that were measured.
    torch.testing.assert_close(net(noise(0))[0], expected, atol=2e-2, rtol=0)


def test_what_does_not_fit_starts_anew_and_is_named() -> None:
    weights = dict(folded(trained_like(0)).state_dict())
    other = CodebookNet(3, 2, 8, 16, pretrained=False, fine=24).eval()
    fresh = other.fusion.lateral[0][0].weight.clone()
    anew = unfolded(other, weights, noise(0))
    assert set(anew) >= {'fusion.lateral.0.0.weight', 'features.project.weight'}
    assert not any('backbone' in name or 'lateral.1' in name for name in anew)
    torch.testing.assert_close(other.fusion.lateral[0][0].weight, fresh)
    del weights['backbone.stem.0.weight']
    with pytest.raises(StartError, match=r'no fitting backbone\.stem\.0\.weight'):
        unfolded(trained_like(1), weights, noise(0))


def test_a_model_file_starts_a_training_where_it_ended() -> None:
    """The shipped one, as far as the networks are alike: what its backbone gives is the same."""
    path = model_file.find_model('street')
    model, graph, weights = model_file_weights(path)
    net = CodebookNet(len(CAMVID_CLASSES), pretrained=False, smooth=3, evidence=0.1).eval()
    known = codevectors(model, graph, weights, 64)
    assert list(known) == list(CAMVID_CLASSES)
    for codes in known.values():
        assert codes.shape == (10, 64)
        torch.testing.assert_close(codes.norm(dim=1), torch.ones(10), atol=1e-3, rtol=0)
    weights['codevectors'] = torch.stack(list(known.values()))
    assert unfolded(net, weights, noise(0)) == []
    picture = torch.randint(0, 255, (1, 512, 1024, 3), dtype=torch.uint8)
    engine = open_engine(model_file.read(path), 'openvino', ['score'])
    engine.input_buffer(1)[:] = picture.numpy()
    expected = engine.infer(1)['score'].copy()
    engine.close()
    with torch.no_grad():
        np.testing.assert_allclose(net(picture)[0].numpy(), expected, atol=2e-3)


def test_no_model_file_and_no_codebook_are_told(tmp_path: Path) -> None:
    model, graph, weights = model_file_weights(model_file.find_model('street'))
    assert codevectors(model, graph, weights, 7) == {}
    broken = tmp_path / 'broken.onnx'
    broken.write_bytes(b'not a model')
    with pytest.raises(StartError, match=r'broken\.onnx'):
        model_file_weights(broken)
