"""The machine that this process runs on: what it is, what of it may be used, what goes back."""

from __future__ import annotations

import ctypes
import gc
import os
import platform
from pathlib import Path


def cpu_name() -> str:
    """The processor's name, as the system has it."""
    try:
        lines = Path('/proc/cpuinfo').read_text(encoding='utf-8').splitlines()
    except OSError:
        lines = []
    named = [line.split(':', 1)[1].strip() for line in lines if line.startswith('model name')]
    return named[0] if named else platform.processor() or platform.machine()


def usable_cores() -> int:
    """Cores that this process may run on."""
    return len(os.sched_getaffinity(0))


def return_memory() -> None:
    """Give the system what was freed and the C library keeps for later, where that is glibc."""
    trim = getattr(ctypes.CDLL(None), 'malloc_trim', None)
    if trim is not None:
        gc.collect()
        trim(0)
