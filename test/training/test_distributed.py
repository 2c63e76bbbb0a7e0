"""Several processes over gloo: the objective and the codebook of two are those of one."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import Tensor

from training.data.folders import VOID
from training.data.outliers import PASTED
from training.methods.codebook.quantisation import MovingCodebook
from training.methods.codebook.task import CodebookTask, Config, restart

WORLD = 2
CONFIG = Config(codevectors=3, dimension=8, channels=16, blocks=11)


@pytest.fixture(scope='module')
def shares(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], list[Any]]:
    """shares(name): what each process saved of its share; this file runs twice, as one group."""
    folder = tmp_path_factory.mktemp('meeting')
    environment = {**os.environ, 'PYTHONPATH': str(Path(__file__).parents[2])}
    processes = [
        subprocess.Popen([sys.executable, __file__, str(rank), str(folder)], env=environment)
        for rank in range(WORLD)
    ]
    assert [process.wait(timeout=120) for process in processes] == [0] * WORLD
    return lambda name: [torch.load(folder / f'{name}.{rank}.pt') for rank in range(WORLD)]


def join(rank: int, folder: Path) -> None:
    """Be one of the processes: join the group and do a share of each work."""
    torch.set_num_threads(1)
    dist.init_process_group('gloo', f'file://{folder}/group', rank=rank, world_size=WORLD)
    try:
        for work in (share_of_gradients, share_of_codebook):
            torch.save(work(rank), folder / f'{work.__name__}.{rank}.pt')
    finally:
        dist.destroy_process_group()


def batch() -> tuple[Tensor, Tensor]:
    """Pictures whose labels are shared unevenly: one half has void and pasted, the other little."""
    generator = torch.Generator().manual_seed(0)
    pictures = torch.randint(0, 255, (4, 64, 64, 3), dtype=torch.uint8, generator=generator)
    labels = torch.randint(0, 11, (4, 16, 16), generator=generator)
    labels[:2, :8] = VOID
    labels[1, 8:12] = PASTED
    labels[3, :2] = VOID
    return pictures, labels


def gradients(pictures: Tensor, labels: Tensor) -> dict[str, Tensor]:
    torch.manual_seed(0)
    task = CodebookTask(CONFIG, pretrained=False).eval()  # batch norms keep their statistics
    terms = task.terms(task.net.likelihood(task.net.encode(pictures)), labels)
    torch.stack(list(terms.values())).sum().backward()
    return {n: p.grad for n, p in task.named_parameters() if p.grad is not None}


def share_of_gradients(rank: int) -> dict[str, Tensor]:
    pictures, labels = batch()
    part = slice(rank * 2, rank * 2 + 2)
    return gradients(pictures[part], labels[part])


def test_averaged_gradients_of_two_processes_are_those_of_one(
    shares: Callable[[str], list[Any]],
) -> None:
    parts = shares('share_of_gradients')
    for name, whole in gradients(*batch()).items():
        average = (parts[0][name] + parts[1][name]) / WORLD
        torch.testing.assert_close(average, whole, atol=1e-5, rtol=1e-3, msg=name)
    name = 'net.features.project.weight'
    assert not torch.allclose(parts[0][name], parts[1][name], rtol=0.1)


def features() -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    unit = torch.nn.functional.normalize(torch.randn(40, 5, generator=generator), dim=1)
    codebook = torch.nn.functional.normalize(torch.randn(2, 3, 5, generator=generator), dim=-1)
    return unit, torch.randint(0, 6, (40,), generator=generator), codebook


def share_of_codebook(rank: int) -> dict[str, Tensor]:
    unit, assigned, codebook = features()
    moving = MovingCodebook(codebook, decay=0.5)
    part = slice(0, 10) if rank == 0 else slice(10, 40)
    moving.update(unit[part], assigned[part])
    torch.manual_seed(rank)  # draws that differ
    moving.counts[2] = 0.1
    moving.restart(unit[part], assigned[part] // 3, 3)
    return moving.state_dict()


def test_the_moving_codebook_of_two_processes_is_that_of_one(
    shares: Callable[[str], list[Any]],
) -> None:
    first, second = shares('share_of_codebook')
    unit, assigned, codebook = features()
    alone = MovingCodebook(codebook, decay=0.5)
    alone.update(unit, assigned)
    kept = [0, 1, 3, 4, 5]
    torch.testing.assert_close(first['sums'][kept], alone.sums[kept])
    torch.testing.assert_close(first['counts'][kept], alone.counts[kept])
    for name in ('sums', 'counts'):
        assert torch.equal(first[name], second[name]), 'restarts are drawn by the first'


def test_restarting_without_positions_keeps_the_codevectors() -> None:
    codevectors = torch.eye(4)[None, :2].clone()
    which = torch.ones(1, 2, dtype=torch.bool)
    restart(codevectors, which, torch.zeros(1, 4, 2, 2), torch.full((1, 2, 2), VOID))
    torch.testing.assert_close(codevectors, torch.eye(4)[None, :2])


if __name__ == '__main__':
    join(int(sys.argv[1]), Path(sys.argv[2]))
