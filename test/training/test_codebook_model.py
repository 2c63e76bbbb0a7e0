"""What the exported forward pass gives is what the likelihood says, whatever its order of work."""

from __future__ import annotations

import copy

import pytest
import torch

from training.backbones import BackboneError, EfficientNetLite0
from training.methods.codebook.model import CodebookNet
from training.methods.codebook.scores import anomaly_score, class_evidence, nearest_codes


@pytest.fixture(scope='module')
def net(pictures: torch.Tensor) -> CodebookNet:
    """Random, its norms with the statistics of the pictures, so that features differ."""
    torch.manual_seed(0)
    made = CodebookNet(4, 3, 8, 16, top_k=2, pretrained=False, fine=12, blocks=11)
    torch.nn.init.uniform_(made.features.scale, 0.5, 1.5)
    torch.nn.init.normal_(made.features.shift, 0.0, 0.3)
    for module in made.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.momentum = 1.0
    made.train()(pictures)
    return made.eval()


@pytest.fixture(scope='module')
def pictures() -> torch.Tensor:
    generator = torch.Generator().manual_seed(1)
    return torch.randint(0, 255, (2, 64, 96, 3), dtype=torch.uint8, generator=generator)


def test_the_forward_pass_is_the_likelihood(net: CodebookNet, pictures: torch.Tensor) -> None:
    with torch.no_grad():
        score, labels, class_scores, codes = net(pictures)
        said = net.likelihood(net.encode(pictures))
    torch.testing.assert_close(class_scores, said.class_scores, atol=1e-5, rtol=0)
    torch.testing.assert_close(score, anomaly_score(said.class_scores), atol=1e-5, rtol=0)
    assert torch.equal(labels.long(), said.class_scores.argmax(dim=1))
    assert torch.equal(codes.long(), nearest_codes(said.similarity))
    assert score.shape == (2, 16, 24) and class_scores.shape == (2, 4, 16, 24)
    assert len(codes.unique()) > 3, 'not one codevector for everything'


def test_a_smoothed_score_is_the_mean_of_its_window(
    net: CodebookNet, pictures: torch.Tensor
) -> None:
    smooth = copy.deepcopy(net)
    smooth.smooth = 3
    with torch.no_grad():
        plain, found = net(pictures)[0], smooth(pictures)[0]
    torch.testing.assert_close(found[:, 5, 7], plain[:, 4:7, 6:9].mean(dim=(1, 2)))
    torch.testing.assert_close(found[:, 0, 0], plain[:, :2, :2].mean(dim=(1, 2)))


def test_the_score_may_be_the_evidence_of_all_classes(
    net: CodebookNet, pictures: torch.Tensor
) -> None:
    other = copy.deepcopy(net)
    other.evidence = 0.1
    with torch.no_grad():
        plain, found = net(pictures), other(pictures)
    torch.testing.assert_close(found[0], class_evidence(plain[2], 0.1))
    assert torch.equal(found[1], plain[1]), 'labels are those of the best class'


def test_centred_weights_give_the_same_features(net: CodebookNet, pictures: torch.Tensor) -> None:
    centred = copy.deepcopy(net)
    centred.features.centre()
    with torch.no_grad():
        torch.testing.assert_close(
            centred.encode(pictures), net.encode(pictures), atol=1e-5, rtol=0
        )


def test_features_have_unit_length(net: CodebookNet, pictures: torch.Tensor) -> None:
    length = net.encode(pictures).norm(dim=1)
    torch.testing.assert_close(length, torch.ones_like(length), atol=1e-5, rtol=0)


def test_a_shorter_backbone_ends_at_a_coarser_map() -> None:
    short = EfficientNetLite0(pretrained=False, blocks=11)
    assert short.channels == (24, 40, 112)
    maps = short(torch.zeros(1, 3, 64, 96))
    assert [m.shape[1:] for m in maps] == [(24, 16, 24), (40, 8, 12), (112, 4, 6)]
    with pytest.raises(BackboneError, match='cannot end after 7 blocks; use 3, 5, 11, 16'):
        EfficientNetLite0(pretrained=False, blocks=7)


def test_a_block_that_is_left_out_hands_on_what_it_is_given() -> None:
    torch.manual_seed(0)
    whole = EfficientNetLite0(pretrained=False).eval()
    short = EfficientNetLite0(pretrained=False, left_out=(12, 13)).eval()
    own = short.state_dict()
    assert set(whole.state_dict()) - set(own) == {
        name for name in whole.state_dict() if name.startswith(('blocks.12.', 'blocks.13.'))
    }
    short.load_state_dict({name: whole.state_dict()[name] for name in own})
    pictures = torch.randn(1, 3, 64, 96)
    with torch.no_grad():
        maps, found = whole(pictures), short(pictures)
        expected = whole.blocks[11](maps[2])
        for number in (14, 15):
            expected = whole.blocks[number](expected)
    torch.testing.assert_close(found[3], expected)
    assert all(torch.equal(one, other) for one, other in zip(found[:3], maps[:3], strict=True))
    assert not torch.equal(found[3], maps[3])


@pytest.mark.parametrize('block', [0, 11, 15, 16, -1])
def test_a_block_that_adds_nothing_to_its_input_cannot_be_left_out(block: int) -> None:
    """Another stride or another number of channels: those behind would not fit."""
    with pytest.raises(BackboneError, match=f'leave out block {block}: .* 2, 4, 6, 7, 9, 10, 12'):
        EfficientNetLite0(pretrained=False, left_out=(block,))
