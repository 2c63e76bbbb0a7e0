"""Between a fine-tuned run and the model file that it began with.

`python -m training.interpolate RUN --data ROOT --out NEW [--share 0.5]` writes a run of weights on
the straight line from the one to the other (Wortsman et al. 2022: fine-tuning gains on what it is
tuned on and loses elsewhere; weights half-way keep most of both). The batch norms are measured anew
on training crops, coarse codevectors are fitted anew to the map that the backbone now gives, and
codevectors that no position of the training pictures is nearest to take half of the positions of
the most used one of their class. `--share 1` does that to the run itself.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path

import torch
from rich.progress import track
from torch import Tensor, nn
from torch.nn import functional as F

from training.checkpoints import AtomicCheckpoints
from training.export import load_task
from training.exporting import stretched
from training.graph import ExportError
from training.methods.codebook.task import CodebookTask, Config, StreetData
from training.train import ConfigError, load_start, write_config

_MEASURED_BATCHES = 24
_EVERY_PICTURE, _EVERY_POSITION = 12, 7  # that codevectors are counted on
_APART = 0.05  # of its length, between a codevector and each of its halves


def interpolated(start: CodebookTask, end: CodebookTask, share: float) -> CodebookTask:
    """`end` with weights (1 - share) * start + share * end; whole numbers stay those of `end`."""
    first, last = start.state_dict(), end.state_dict()
    mixed = {
        name: torch.lerp(first[name], value, share) if value.is_floating_point() else value
        for name, value in last.items()
    }
    end.load_state_dict(mixed)
    return end


def measure_norms(task: CodebookTask, batches: Sequence[Tensor]) -> None:
    """Give batch norms the mean statistics of some batches, but for those of frozen blocks."""
    task.train()
    task.net.backbone.freeze(task.config.frozen_blocks)
    norms = [one for one in task.net.modules() if isinstance(one, nn.BatchNorm2d) and one.training]
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # the plain mean over batches
    with torch.no_grad():
        for pictures in track(batches, 'measuring batch norms'):
            task.net.encode(pictures)
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum
    task.eval()


def labelled_features(task: CodebookTask, data: StreetData) -> Tensor:
    """Unit features [P, D] of some labelled positions of the training pictures."""
    config, found = task.config, []
    distinct = list(dict.fromkeys(data.examples))[::_EVERY_PICTURE]
    with torch.inference_mode():
        for one in track(distinct, 'looking at codevectors'):
            example = one.load()
            picture = torch.from_numpy(stretched(example.image, config.input_size))[None]
            features = task.net.encode(picture)[0]
            labels = F.interpolate(
                torch.from_numpy(example.labels)[None, None].float(), features.shape[1:]
            )[0, 0]
            known = (labels < len(config.classes)).flatten()
            found.append(features.flatten(1).T[known][::_EVERY_POSITION])
    return torch.cat(found)


def counts_of(codevectors: Tensor, features: Tensor) -> Tensor:
    """How many of the features [P, D] each codevector [C, M, D] is nearest to, int64 [C, M]."""
    return torch.bincount(
        _nearest(codevectors, features), minlength=codevectors.shape[0] * codevectors.shape[1]
    ).view(codevectors.shape[:2])


def _nearest(codevectors: Tensor, features: Tensor) -> Tensor:
    codes = F.normalize(codevectors, dim=-1).flatten(0, 1)
    return torch.cat([(part @ codes.T).argmax(dim=1) for part in features.split(65536)])


def split_unused(codevectors: Tensor, features: Tensor) -> int:
    """Split the most used codevector of a class for each unused one, in place; how many were moved.

    After Linde, Buzo & Gray 1980: to both sides along the direction in which its positions differ
    most, and no farther: at the mean of its positions, some of them misclassified, a codevector
    would make the unknown look known. codevectors: [C, M, D]; features: [P, D], unit. Classes that
    no position chose stay.
    """
    moved = 0
    for c in range(codevectors.shape[0]):
        for _ in range(2 * codevectors.shape[1]):  # each may need more than one split
            counts = counts_of(codevectors, features)[c]
            if (counts > 0).all() or not counts.any():
                break
            unused, most = int((counts == 0).nonzero()[0, 0]), int(counts.argmax())
            code = c * codevectors.shape[1] + most
            own = features[_nearest(codevectors, features) == code][:5000]
            _, _, directions = torch.pca_lowrank(own, q=min(2, *own.shape))
            whole = codevectors[c, most].clone()
            step = _APART * whole.norm() * directions[:, 0]
            codevectors[c, most], codevectors[c, unused] = whole + step, whole - step
            moved += 1
    return moved


def interpolate(run: Path, data: Path, out: Path, share: float) -> tuple[int, int]:
    """Write the run `out`; how many codevectors were moved and how many are still unused.

    Raises ExportError, ConfigError where the run or its start cannot be read.
    """
    end = load_task(run)
    config = end.config
    if not config.start_from:
        raise ConfigError(f'{run}: began with no model file; train with start_from')
    pictures = StreetData(config, data)
    pictures.setup()
    start = CodebookTask(config, pretrained=False)
    load_start(start, pictures, Path(config.start_from))
    task = interpolated(start, end, share)
    measure_norms(task, list(islice(_crops(pictures), _MEASURED_BATCHES)))
    task.fit_coarse(pictures, task.net.backbone)
    with torch.no_grad():
        features = labelled_features(task, pictures)
        moved = split_unused(task.net.codevectors.data, features)
        unused = int((counts_of(task.net.codevectors.data, features) == 0).sum())
    _write(task, config, out)
    return moved, unused


def _crops(pictures: StreetData) -> Iterator[Tensor]:
    for batch, _ in pictures.train_dataloader(workers=0):
        yield batch


def _write(task: CodebookTask, config: Config, out: Path) -> None:
    out.mkdir(parents=True, exist_ok=True)
    write_config(config, out)
    AtomicCheckpoints().save_checkpoint({'state_dict': task.state_dict()}, out / 'last.ckpt')


def main(argv: Sequence[str] | None = None) -> int:
    """Command line; returns the exit code."""
    parser = argparse.ArgumentParser(
        prog='training.interpolate',
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument('run', type=Path, help='folder of a run that began with a model file')
    parser.add_argument('--data', type=Path, required=True, help='folder of the data sets')
    parser.add_argument('--out', type=Path, required=True, help='folder of the new run')
    parser.add_argument('--share', type=float, default=0.5, help='of the run: 0 is its start')
    options = parser.parse_args(argv)
    try:
        if not 0.0 <= options.share <= 1.0:
            raise ConfigError(f'--share {options.share}: give 0 to 1')
        moved, unused = interpolate(options.run, options.data, options.out, options.share)
    except (ConfigError, ExportError, OSError, ValueError) as error:
        print(f'training.interpolate: {error}', file=sys.stderr)
        return 2
    print(f'{options.out}: {moved} codevectors moved, {unused} unused')
    return 0


if __name__ == '__main__':
    sys.exit(main())
