"""Train a method: `python -m training.train codebook --config C --data ROOT --out RUN`.

The methods: codebook, cpc, ccl. What a run is made of stands in RUN/config.yaml, its method first.
"""

from __future__ import annotations

import argparse
import ctypes
import dataclasses
import os
import sys
from collections.abc import Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import lightning
import torch
import yaml
from lightning.pytorch.callbacks import (
    Callback,
    EMAWeightAveraging,
    LearningRateMonitor,
    ModelCheckpoint,
)
from lightning.pytorch.loggers import TensorBoardLogger

from training.backbones import BackboneError
from training.checkpoints import AtomicCheckpoints
from training.graph import folded
from training.methods.ccl.data import CclData
from training.methods.ccl.task import CclTask
from training.methods.ccl.task import Config as CclConfig
from training.methods.codebook.task import CodebookTask, Config, StreetData
from training.methods.cpc.task import Config as CpcConfig
from training.methods.cpc.task import CpcData, CpcTask
from training.warm_start import (
    StartError,
    checkpoint_weights,
    codevectors,
    model_file_weights,
    refuse_other_backbone,
    unfolded,
    with_own_blocks,
)

CONFIGS = Path(__file__).parent / 'configs'
_MEASURED_BATCHES = 2  # whose statistics the batch norms of a model file get
_M_TRIM_THRESHOLD, _M_MMAP_MAX = -1, -4  # of <malloc.h>


AnyConfig = Config | CpcConfig | CclConfig
METHODS: dict[str, type[AnyConfig]] = {'codebook': Config, 'cpc': CpcConfig, 'ccl': CclConfig}


class ConfigError(ValueError):
    """A configuration that cannot be run."""


def read_config(source: str, changes: Sequence[str]) -> Config:
    """Config of the codebook method; see `read_any_config`, ConfigError for another method's."""
    config = read_any_config(source, changes)
    if not isinstance(config, Config):
        raise ConfigError(f'{source}: is a configuration of another method than codebook')
    return config


def read_any_config(source: str, changes: Sequence[str]) -> AnyConfig:
    """Config from a YAML file, or the name of one in training/configs, with `k=v` changes.

    Raises ConfigError for a missing file, an unknown name or a value of the wrong kind.
    """
    path = Path(source) if Path(source).suffix else CONFIGS / f'{source}.yaml'
    try:
        values = yaml.safe_load(path.read_text()) or {}
    except (OSError, yaml.YAMLError) as error:
        raise ConfigError(f'{path}: cannot be read as a configuration: {error}') from error
    for change in changes:
        key, sign, value = change.partition('=')
        if not sign:
            raise ConfigError(f'--set {change}: write it as name=value')
        values[key] = yaml.safe_load(value)
    return config_from(values, str(path))


def config_from(values: dict[str, Any], source: str) -> AnyConfig:
    """Config from plain values, `method` (codebook where it is missing) among them.

    `source` is named in errors.
    """
    method = values.get('method', 'codebook')
    if method not in METHODS:
        raise ConfigError(f'{source}: no method is called {method}; known: {", ".join(METHODS)}')
    kind = METHODS[method]
    defaults = dataclasses.asdict(kind())
    for key, value in values.items():
        if key == 'method':
            continue
        if key not in defaults:
            raise ConfigError(f'{source}: no setting is called {key}; known: {", ".join(defaults)}')
        expected = type(defaults[key])
        if expected is float and isinstance(value, int):
            value = float(value)
        if expected is tuple and isinstance(value, list):
            value = tuple(value)
        if not isinstance(value, expected):
            raise ConfigError(
                f'{source}: {key} is {value!r}, but must be of type {expected.__name__}'
            )
        defaults[key] = value
    return kind(**defaults)


def method_of(config: AnyConfig) -> str:
    """Name of the method that a configuration is of."""
    return next(name for name, kind in METHODS.items() if isinstance(config, kind))


def write_config(config: AnyConfig, run: Path) -> None:
    """Keep the configuration beside the checkpoints; training.export reads it from there."""
    plain = {'method': method_of(config)} | {
        key: list(value) if isinstance(value, tuple) else value
        for key, value in dataclasses.asdict(config).items()
    }
    (run / 'config.yaml').write_text(yaml.safe_dump(plain, sort_keys=False))


def precision_of(config: AnyConfig) -> str:
    """The precision to train with; 'auto' is bf16 where the machine computes with it, else fp32.

    A CPU without instructions for bf16 emulates them, several times slower than fp32 (measured).
    """
    if config.precision != 'auto':
        return config.precision
    if torch.cuda.is_available():
        native = torch.cuda.is_bf16_supported(including_emulation=False)
    else:
        native = torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
    return 'bf16-mixed' if native else '32-true'


def load_start(
    task: lightning.LightningModule, data: lightning.LightningDataModule, start: Path
) -> None:
    """Begin with the weights of another run's checkpoint, or, codebook, of a model file (.onnx).

    What does not fit in shape starts anew and is named; codevectors of a model file are taken over
    by the names of their classes. Raises ConfigError where the file cannot be read, the backbone
    is another one, or nothing of it fits.
    """
    try:
        if start.suffix == '.onnx':
            if not (isinstance(task, CodebookTask) and isinstance(data, StreetData)):
                raise StartError('only codebook begins with a model file; give a last.ckpt')
            anew = _from_model_file(task, data, start)
        else:
            anew = _from_checkpoint(task, start)
    except StartError as error:
        said = str(error)
        raise ConfigError(said if str(start) in said else f'{start}: {said}') from error
    if anew:
        print(f'{start}: does not fit and starts anew: {", ".join(anew)}', file=sys.stderr)


def _from_model_file(task: CodebookTask, data: StreetData, start: Path) -> list[str]:
    model, graph, weights = model_file_weights(start)
    data.setup()
    batches = islice(data.train_dataloader(workers=0), _MEASURED_BATCHES)
    own = task.net.codevectors.detach().clone()
    known = codevectors(model, graph, weights, own.shape[2])
    for index, name in enumerate(task.config.classes):
        if name in known and known[name].shape == own[index].shape:
            own[index] = known[name]
    weights['codevectors'] = own
    if task.config.start_blocks:
        as_it_is = folded(task.net).state_dict()
        weights = with_own_blocks(weights, as_it_is, task.config.start_blocks)
    anew = unfolded(task.net, weights, torch.cat([pictures for pictures, _ in batches]))
    return anew + [f'codevectors of {n}' for n in task.config.classes if n not in known]


def _from_checkpoint(task: lightning.LightningModule, start: Path) -> list[str]:
    state, own = checkpoint_weights(start), task.state_dict()
    if isinstance(task, CodebookTask) and task.config.start_blocks:
        state = with_own_blocks(state, own, task.config.start_blocks)
    fitting = {
        name: value
        for name, value in state.items()
        if name in own and own[name].shape == value.shape
    }
    if not fitting:
        raise StartError('nothing of it fits: it is of another method')
    anew = [name for name in own if name not in fitting and 'num_batches' not in name]
    refuse_other_backbone(anew)
    task.load_state_dict(fitting, strict=False)
    return anew


def keep_freed_memory() -> None:
    """Let glibc reuse the memory of freed maps instead of giving it back, and use huge pages.

    A training step frees and asks again for the same maps of tens of megabytes; the kernel zeroes
    each page anew, which takes a quarter of a step on a CPU (measured: 1.5 s against 1.1 s).
    """
    os.environ.setdefault('THP_MEM_ALLOC_ENABLE', '1')  # read by torch at its first allocation
    mallopt = getattr(ctypes.CDLL(None), 'mallopt', None)
    if mallopt is not None:  # glibc only
        mallopt(_M_MMAP_MAX, 0)
        mallopt(_M_TRIM_THRESHOLD, 2**31 - 1)


def parts(
    config: AnyConfig, root: Path
) -> tuple[lightning.LightningModule, lightning.LightningDataModule]:
    """The task and the data of a configuration; `root`: folder of the data sets."""
    if isinstance(config, CpcConfig):
        return CpcTask(config), CpcData(config, root)
    if isinstance(config, CclConfig):
        return CclTask(config), CclData(config, root)
    return CodebookTask(config), StreetData(config, root)


def train(
    config: AnyConfig,
    data: Path,
    run: Path,
    progress: bool = True,
    callbacks: Sequence[Callback] = (),
) -> Path:
    """Train to the end, resuming from RUN/last.ckpt where there is one; returns that file."""
    run.mkdir(parents=True, exist_ok=True)
    lightning.seed_everything(config.seed, workers=True, verbose=False)
    write_config(config, run)
    checkpoint = run / 'last.ckpt'
    keep = ModelCheckpoint(
        dirpath=run,
        filename='last',
        save_top_k=1,
        enable_version_counter=False,
        save_on_train_epoch_end=True,
    )
    watching: list[Callback] = [*callbacks, keep, LearningRateMonitor('step')]
    if config.average_weights:
        watching.append(EMAWeightAveraging(decay=config.average_weights))
    task, pictures = parts(config, data)
    trainer = lightning.Trainer(
        accelerator='auto',
        devices=config.devices or 'auto',
        use_distributed_sampler=False,  # the sampler of the crops shares each batch itself
        sync_batchnorm=torch.cuda.is_available(),
        precision=precision_of(config),  # type: ignore[arg-type]
        max_epochs=config.epochs,
        logger=TensorBoardLogger(str(run), name='', version=''),
        callbacks=watching,
        plugins=[AtomicCheckpoints()],
        enable_progress_bar=progress,
        enable_model_summary=False,
        # A task that steps several optimisers by itself also clips by itself.
        gradient_clip_val=5.0 if task.automatic_optimization else None,
        log_every_n_steps=10,
    )
    if config.start_from and not checkpoint.exists():
        load_start(task, pictures, Path(config.start_from))
    trainer.fit(
        task,
        datamodule=pictures,
        ckpt_path=str(checkpoint) if checkpoint.exists() else None,
        weights_only=False,
    )
    return checkpoint


def main(argv: Sequence[str] | None = None) -> int:
    """Command line; returns the exit code."""
    parser = argparse.ArgumentParser(prog='training.train', description=__doc__)
    parser.add_argument('method', choices=list(METHODS))
    parser.add_argument('--config', help='YAML file or name in training/configs (street, cpc, ccl)')
    parser.add_argument('--data', type=Path, required=True, help='folder of the data sets')
    parser.add_argument('--out', type=Path, required=True, help='folder of the run')
    parser.add_argument('--set', action='append', default=[], metavar='K=V', dest='changes')
    arguments = parser.parse_args(argv)
    keep_freed_memory()
    try:
        default = {'codebook': 'street'}.get(arguments.method, arguments.method)
        config = read_any_config(arguments.config or default, arguments.changes)
        if method_of(config) != arguments.method:
            raise ConfigError(
                f'{arguments.config}: is a configuration of {method_of(config)}, not of '
                f'{arguments.method}'
            )
        train(config, arguments.data, arguments.out)
    except (BackboneError, ConfigError, OSError, ValueError) as error:
        # From a worker of the loader the text is a traceback that ends in the error itself.
        said = str(error).rstrip().rpartition('FolderError: ')[2]
        print(f'training.train: {said}', file=sys.stderr)
        return 2
    return 0


if __name__ == '__main__':
    sys.exit(main())
