"""What a measurement was made on."""

from __future__ import annotations

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
