"""Training of a baseline: the data, class weights and schedule of the codebook method."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import lightning
import torch
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from torch import Tensor

from training.baselines.linear import LinearNet
from training.baselines.network import BaselineNet
from training.data.folders import VOID
from training.methods.codebook import losses
from training.methods.codebook.task import Config, StreetData
from training.schedules import one_cycle
from training.train import precision_of


class BaselineTask(lightning.LightningModule):
    """A head's loss on the crops of the codebook method; what is pasted or coarser is void here."""

    def __init__(self, config: Config, net: BaselineNet) -> None:
        super().__init__()
        self.config = config
        self.net = net
        self.net.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.net.backbone.freeze(config.frozen_blocks)
        self.class_weight: Tensor
        self.register_buffer('class_weight', torch.ones(len(config.classes)))

    def on_fit_start(self) -> None:
        """Weights of the classes come from the training pictures."""
        data: StreetData = self.trainer.datamodule  # type: ignore[attr-defined]
        self.class_weight.copy_(losses.class_weights(data.class_pixels()))

    def on_train_epoch_start(self) -> None:
        """Lightning puts everything into training mode; what is frozen stays as it was."""
        self.net.backbone.freeze(self.config.frozen_blocks)

    def training_step(self, batch: tuple[Tensor, Tensor], index: int) -> Tensor:
        """One batch of crops and coarse labels -> the loss."""
        pictures, labels = batch
        target = torch.where(labels < len(self.config.classes), labels, VOID)
        fused = self.net.encode(pictures)
        if not (target != VOID).any():
            return fused.sum() * 0.0
        # Differences of log-likelihoods and cosines are too fine for the encoder's precision.
        with torch.autocast(self.device.type, enabled=False):
            loss = self.net.head.loss(fused, target, self.class_weight)
        self.log('loss', loss, prog_bar=True)
        return loss

    def configure_optimizers(self) -> OptimizerLRScheduler:
        """AdamW with one cycle; the pretrained backbone at a share of the rate."""
        rate = self.config.learning_rate
        backbone = [p for p in self.net.backbone.parameters() if p.requires_grad]
        groups: list[dict[str, Any]] = [
            {'params': backbone, 'lr': rate * self.config.backbone_rate},
            {'params': [*self.net.fusion.parameters(), *self.net.head.parameters()]},
        ]
        optimiser = torch.optim.AdamW(groups, lr=rate, weight_decay=self.config.weight_decay)
        steps = int(self.trainer.estimated_stepping_batches)
        schedule = torch.optim.lr_scheduler.LambdaLR(
            optimiser, lambda step: one_cycle(step / steps, self.config.warm_up)
        )
        return {
            'optimizer': optimiser,
            'lr_scheduler': {'scheduler': schedule, 'interval': 'step'},
        }


class LinearTask(BaselineTask):
    """The linear head's task."""

    def __init__(self, config: Config, pretrained: bool = True) -> None:
        super().__init__(
            config,
            LinearNet(len(config.classes), config.channels, config.fine_channels, pretrained),
        )


def fit(config: Config, data: Path, make: Callable[[], BaselineNet]) -> BaselineNet:
    """Train what `make` makes (after seeding) to the end; the network on the CPU, to be judged.

    `data`: folder of the data sets. On one device, and without checkpoints: minutes a run.
    """
    lightning.seed_everything(config.seed, workers=True, verbose=False)
    trainer = lightning.Trainer(
        accelerator='auto',
        devices=1,
        precision=precision_of(config),  # type: ignore[arg-type]
        max_epochs=config.epochs,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        gradient_clip_val=5.0,
    )
    task = BaselineTask(config, make())
    trainer.fit(task, datamodule=StreetData(config, data))
    return task.net.cpu().eval()
