"""Results that arrive whole or not at all."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from vq_anomaly_ros.replay.interruption import raise_if_interrupted


class OutputError(OSError):
    """Results cannot be written; the message names the folder, the cause and the remedy."""


@contextmanager
def staged(out: Path) -> Iterator[Path]:
    """Give a temporary folder inside `out`; its entries replace those of `out` on success.

    Left with an exception (Ctrl-C included) it removes what was written: `out` keeps the results
    that it had, and is gone again if it was not there. Entries of `out` with other names stay.

    Raises:
        OutputError: `out` cannot be written to.
    """
    missing = [folder for folder in (out, *out.parents) if not folder.exists()]
    try:
        out.mkdir(parents=True, exist_ok=True)
        scratch = Path(tempfile.mkdtemp(prefix='.unfinished-', dir=out))
    except OSError as error:
        cause = error.strerror or str(error)
        raise OutputError(f'{out}: cannot write there ({cause}); choose another --out') from error
    try:
        fresh = scratch / 'fresh'
        fresh.mkdir()
        yield fresh
        raise_if_interrupted()
        _install(fresh, out, scratch / 'replaced')
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
        _remove_empty(missing)


def _remove_empty(folders: list[Path]) -> None:
    """Remove those of the folders that hold nothing, the innermost first."""
    for folder in folders:
        try:
            folder.rmdir()
        except OSError:  # not empty: somebody's results are in it
            return


def _install(fresh: Path, out: Path, replaced: Path) -> None:
    replaced.mkdir()
    for entry in sorted(fresh.iterdir()):
        target = out / entry.name
        # A folder cannot be replaced in one step: the old one is moved aside first.
        if target.is_dir() and not target.is_symlink():
            target.replace(replaced / entry.name)
        entry.replace(target)


def write_text(path: Path, text: str) -> None:
    """Write a file in UTF-8, whole or not at all; OutputError names it where that fails."""
    write_bytes(path, text.encode('utf-8'))


def write_bytes(path: Path, content: bytes) -> None:
    """Write a file, whole or not at all; OutputError names it where that fails."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(prefix=f'.{path.name}-', dir=path.parent)
        scratch = Path(name)
        try:
            with os.fdopen(handle, 'wb') as file:
                file.write(content)
            scratch.chmod(0o666 & ~_umask())
            scratch.replace(path)
        except BaseException:
            scratch.unlink()
            raise
    except OSError as error:
        cause = error.strerror or error
        raise OutputError(f'{path}: cannot be written ({cause}); choose another place') from error


def _umask() -> int:
    """The permissions that new files go without; mkstemp leaves out all but the owner's."""
    mask = os.umask(0)
    os.umask(mask)
    return mask
