"""What ImageNet's weights give, learnt again by the later blocks of another backbone."""

from __future__ import annotations

import torch

from training.backbones import EfficientNetLite0, normalise
from training.methods.codebook.memory import Memory, remembered


def pictures(seed: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (2, 64, 96, 3), dtype=torch.uint8, generator=generator)


def test_later_blocks_learn_what_the_untouched_backbone_gives() -> None:
    """From noise in their weights back towards ImageNet's map; those before stay as they are."""
    torch.manual_seed(0)
    backbone = EfficientNetLite0()
    with torch.no_grad():
        for weight in backbone.blocks[13:].parameters():
            weight.add_(torch.randn_like(weight) * 0.5 * weight.std(correction=0))
    before = {name: value.clone() for name, value in backbone.state_dict().items()}
    batches = [pictures(0)] * 12
    first = remembered(backbone, 13, batches[:1], 1000)  # a warm-up's first step: hardly moved
    last = remembered(backbone, 13, batches, 12)
    assert last < first
    after = backbone.state_dict()
    for name, value in before.items():
        later = name.startswith('blocks.') and int(name.split('.')[1]) >= 13
        assert later or torch.equal(after[name], value), name
    name = 'blocks.15._project_conv.weight'
    assert not torch.equal(after[name], before[name])
    assert not any(module.training for module in backbone.modules())
    assert not any(parameter.requires_grad for parameter in backbone.parameters())


def test_a_backbone_that_nobody_touched_has_nothing_to_learn() -> None:
    memory = Memory(16, torch.device('cpu'))
    backbone = EfficientNetLite0().eval()
    found = memory(pictures(1))
    assert found.shape == (2, 320, 2, 3) and not found.requires_grad
    with torch.no_grad():
        expected = backbone(normalise(pictures(1), backbone))[-1]
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)
