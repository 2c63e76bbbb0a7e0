"""Metrics stream: 200 million pixels fit into 2 GB, all that was added included."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
# 200 million pixels in 2 GB: what each may take, the interpreter and the libraries included.
BYTES_A_PIXEL = 10
NEEDED_GB = 3.0

# In a process of its own, whose peak is read from /proc: getrusage's ru_maxrss would begin at the
# peak of the process that started it. Images are made one by one, as a benchmark reads them.
MEASURED = """
import re, sys
from pathlib import Path
import numpy as np
from vq_anomaly_ros.metrics import IndustrialEvaluation, anomaly_evaluation, find_protocol

name, megapixels = sys.argv[1], int(sys.argv[2])
protocol = find_protocol(name)
height, width = 720, 1280
labels = np.zeros((height, width), np.uint8)
labels[-72:] = 255
labels[300:400, 200:700] = 1
noise = np.random.default_rng(0).standard_normal((height, width), np.float32) + 2 * (labels == 1)
industrial = protocol.task == 'industrial'
evaluation = IndustrialEvaluation() if industrial else anomaly_evaluation(protocol)
for number in range(-(-megapixels * 1_000_000 // labels.size)):
    more = {'defective': bool(number % 2)} if industrial else {}
    evaluation.add((noise + number / 1000).astype(np.float32), labels, **more)
found = evaluation.result()
peak = int(re.search(r'VmHWM:\\s+(\\d+) kB', Path('/proc/self/status').read_text())[1])
print(found.images * labels.size, min(found.metrics.values()), peak * 1024)
"""


def available_gb() -> float:
    try:
        lines = Path('/proc/meminfo').read_text(encoding='utf-8').splitlines()
    except OSError:
        pytest.skip('there is no /proc to read memory from')
    (free,) = (int(line.split()[1]) for line in lines if line.startswith('MemAvailable:'))
    return free / 2**20


@pytest.mark.parametrize(
    ('protocol', 'megapixels'),
    [
        ('smiyc', 200),  # binned curve, maps kept for the components
        ('pooled', 200),  # exact curve over all pixels
        ('industrial', 100),  # regions as well, which takes longer: a smaller set of the same share
    ],
)
def test_200_million_pixels_fit_into_2_gb(protocol, megapixels):
    if available_gb() < NEEDED_GB:
        pytest.skip(f'less than {NEEDED_GB:g} GB of memory are free')
    run = subprocess.run(
        [sys.executable, '-c', MEASURED, protocol, str(megapixels)],
        capture_output=True, text=True, cwd=ROOT, check=False,
    )  # fmt: skip
    assert run.returncode == 0, run.stderr
    pixels, lowest, peak = run.stdout.split()
    assert int(pixels) >= megapixels * 1_000_000
    assert 0 <= float(lowest) <= 1
    assert int(peak) <= BYTES_A_PIXEL * megapixels * 1_000_000
