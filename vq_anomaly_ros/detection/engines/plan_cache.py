"""TensorRT plans on disk: each is used for exactly what it was built for, or not at all.

A plan belongs to one graph, TensorRT version, GPU and set of build settings (`PlanKey`). In the
folder each key has three files, named by its digest: `.<first digits of its sha256>.plan`, `.json`
(what it was built for, the name, size and sha256 of the plan) and `.lock`. The plan is written
first, then the JSON that names it, each into a temporary file that is moved into place: whatever is
interrupted, the JSON names a whole plan, the new one or the one before.
"""

from __future__ import annotations

import contextlib
import dataclasses
import fcntl
import hashlib
import json
import os
import re
import stat
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vq_anomaly_ros.file_sizes import read_bounded

FORMAT = 2
_LARGEST = 2 << 30  # bytes; no plan of this package comes near
_LARGEST_SIDECAR = 1 << 20
_WAIT_S = 0.2


class PlanError(RuntimeError):
    """A plan that cannot be used or kept; the message says why."""


@dataclass(frozen=True)
class PlanKey:
    """All that a plan depends on.

    graph_sha256: of the ONNX that is built; library: name and full version; device: name of the
    GPU; settings: what the builder is told, as text.
    """

    model: str
    graph_sha256: str
    library: str
    device: str
    compute_capability: tuple[int, int]
    size: tuple[int, int]
    batch: int
    outputs: tuple[str, ...]
    precision: str
    settings: str
    format: int = FORMAT

    def fields(self) -> dict[str, Any]:
        """As JSON holds it: tuples are lists."""
        fields: dict[str, Any] = json.loads(json.dumps(dataclasses.asdict(self)))
        return fields

    @property
    def digest(self) -> str:
        """Name of its files: 32 hexadecimal digits."""
        return hashlib.sha256(json.dumps(self.fields(), sort_keys=True).encode()).hexdigest()[:32]


def default_folder() -> Path:
    """$VQ_ANOMALY_PLANS, else vq_anomaly_ros/plans in the user's cache folder."""
    chosen = os.environ.get('VQ_ANOMALY_PLANS')
    if chosen:
        return Path(chosen)
    cache = os.environ.get('XDG_CACHE_HOME') or Path.home() / '.cache'
    return Path(cache) / 'vq_anomaly_ros' / 'plans'


class PlanCache:
    """A folder of plans that belongs to this user alone."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def load(self, key: PlanKey) -> bytes | None:
        """The plan of a key, None where there is none.

        Raises PlanError for one that is damaged or of something else, after removing it, and for a
        folder that others may write into: a plan is code.
        """
        sidecar = self._path(key, 'json')
        try:
            self._check_owner()
            if not sidecar.exists():
                return None
            described = json.loads(read_bounded(sidecar, _LARGEST_SIDECAR))
            if problem := _wrong_description(described, key):
                raise PlanError(f'{sidecar}: {problem}')
            data = _read(self.folder / described['plan'])
            if problem := _wrong_plan(described, data):
                raise PlanError(f'{self.folder / described["plan"]}: {problem}')
        except (OSError, ValueError) as error:
            self.remove(key)
            raise PlanError(f'{sidecar}: the plan cannot be read ({error})') from error
        except PlanError:
            self.remove(key)
            raise
        return data

    def store(self, key: PlanKey, plan: bytes, notes: dict[str, Any]) -> Path:
        """Keep a plan and what is noted about it; PlanError where the folder cannot be written."""
        checksum = hashlib.sha256(plan).hexdigest()
        path = self._path(key, f'{checksum[:8]}.plan')
        described = {
            **key.fields(),
            'plan': path.name,
            'bytes': len(plan),
            'plan_sha256': checksum,
            'notes': notes,
        }
        try:
            self._make_folder()
            self._remove_leftovers(key)
            _write(path, plan, 0o644)  # to be read by the node's user where root made an image
            _write(self._path(key, 'json'), json.dumps(described, indent=1).encode(), 0o644)
            for other in set(self._plans(key)) - {path}:
                other.unlink(missing_ok=True)
        except OSError as error:
            self._remove_leftovers(key)
            raise PlanError(
                f'{path}: cannot be written ({error.strerror or error}); free some space, or set '
                'VQ_ANOMALY_PLANS to a folder of yours'
            ) from error
        return path

    def note(self, key: PlanKey, notes: dict[str, Any]) -> None:
        """Add to the notes of a stored plan; nothing happens where there is none."""
        sidecar = self._path(key, 'json')
        try:
            described = json.loads(sidecar.read_bytes())
            described['notes'].update(notes)
            _write(sidecar, json.dumps(described, indent=1).encode(), 0o644)
        except FileNotFoundError:
            return
        except (OSError, ValueError) as error:
            raise PlanError(f'{sidecar}: cannot be written ({error})') from error

    def remove(self, key: PlanKey) -> None:
        """Remove a plan, as far as that is possible."""
        for path in (self._path(key, 'json'), *self._plans(key)):
            with contextlib.suppress(OSError):
                path.unlink(missing_ok=True)

    @contextmanager
    def locked(self, key: PlanKey, waiting: Callable[[float], None]) -> Iterator[None]:
        """Hold the key's lock, so that of several processes one builds and the others load.

        `waiting` is told every 0.2 s for how many seconds it has waited. The lock is the kernel's:
        a process that dies gives it back. Raises PlanError where the folder cannot be written.
        """
        try:
            self._make_folder()
            handle = os.open(self._path(key, 'lock'), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise PlanError(f'{self.folder}: cannot be used ({error.strerror or error})') from error
        try:
            _acquire(handle, waiting)
            yield
        finally:
            os.close(handle)

    def _path(self, key: PlanKey, ending: str) -> Path:
        return self.folder / f'{key.digest}.{ending}'

    def _plans(self, key: PlanKey) -> list[Path]:
        return list(self.folder.glob(f'{key.digest}.*.plan'))

    def _make_folder(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._check_owner()

    def _check_owner(self) -> None:
        """OSError where somebody else could have put a plan into the folder."""
        if not self.folder.exists():
            return
        found = self.folder.stat()
        if found.st_uid not in (os.getuid(), 0) or found.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
            raise PermissionError(
                1, f'{self.folder} belongs to or can be written by others; chmod 700 it'
            )

    def _remove_leftovers(self, key: PlanKey) -> None:
        """Temporary files of writers that were killed; the lock says that none is at work."""
        for path in self.folder.glob(f'.{key.digest}.*.part'):
            path.unlink(missing_ok=True)


def _acquire(handle: int, waiting: Callable[[float], None]) -> None:
    start = time.monotonic()
    while True:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            waiting(time.monotonic() - start)
            time.sleep(_WAIT_S)
        else:
            return


def _read(path: Path) -> bytes:
    return read_bounded(path, _LARGEST)


def _write(path: Path, data: bytes, mode: int) -> None:
    """Write a file whole or not at all, durable before it gets its name."""
    handle, name = tempfile.mkstemp(prefix=f'.{path.stem}.', suffix='.part', dir=path.parent)
    try:
        with os.fdopen(handle, 'wb') as file:
            file.write(data)
            file.flush()
            os.fchmod(file.fileno(), mode)
            os.fsync(file.fileno())
        Path(name).replace(path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise


def _wrong_description(described: Any, key: PlanKey) -> str:
    """What keeps a stored description from being that of a key; '' where nothing does."""
    if not isinstance(described, dict):
        return 'its description is no JSON object'
    for name, due in key.fields().items():
        if described.get(name) != due:
            return f'it was built for another {name} ({described.get(name)!r}, due: {due!r})'
    plan = described.get('plan')
    if not isinstance(plan, str) or not re.fullmatch(rf'{key.digest}\.[0-9a-f]{{8}}\.plan', plan):
        return f'it names no plan of its own ({plan!r})'
    return ''


def _wrong_plan(described: dict[str, Any], plan: bytes) -> str:
    """What keeps bytes from being the plan that was described; '' where nothing does."""
    if described.get('bytes') != len(plan):
        return f'it has {len(plan)} bytes where {described.get("bytes")} were written'
    if described.get('plan_sha256') != hashlib.sha256(plan).hexdigest():
        return 'its bytes are not those that were written'
    return ''
