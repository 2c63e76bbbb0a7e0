"""Checkpoints that are replaced whole or not at all."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path
from typing import Any

import torch
from lightning.fabric.plugins import TorchCheckpointIO
from typing_extensions import override


class CheckpointError(OSError):
    """A checkpoint that could not be written; the one before is still there."""


class AtomicCheckpoints(TorchCheckpointIO):
    """Writes beside the file and renames: a full disk or a kill leaves the last good checkpoint."""

    @override
    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None
    ) -> None:
        """Replace `path`; CheckpointError where there is no room or no right to write."""
        target = Path(path)
        scratch = target.with_name(f'.{target.name}.{os.getpid()}')
        target.parent.mkdir(parents=True, exist_ok=True)
        try:
            with scratch.open('wb') as file:
                torch.save(checkpoint, file)
                file.flush()
                os.fsync(file.fileno())
            scratch.replace(target)
        except (
            OSError,
            RuntimeError,
        ) as error:  # torch's writer raises RuntimeError on a full disk
            raise CheckpointError(
                f'{target}: cannot be written ({error}); the checkpoint before it is kept: make '
                'room and start the same command again'
            ) from error
        finally:
            with contextlib.suppress(OSError):
                scratch.unlink(missing_ok=True)
