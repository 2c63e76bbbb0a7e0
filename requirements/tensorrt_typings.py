"""Lay out TensorRT's stubs for mypy: `python tensorrt_typings.py FOLDER`.

tensorrt-stubs 10.13 has five lines that are no Python (parameters called `in`, one without a
default behind one with), and its packages lack the py.typed that mypy asks for. Copies without
these go into FOLDER, which mypy_path names.
"""

import shutil
import sys
import sysconfig
from pathlib import Path

REPAIRS = ((', in: ', ', in_: '), ('channel_axis: int)', 'channel_axis: int = ...)'))


def lay_out(source: Path, folder: Path) -> None:
    """Copy the two packages of stubs from site-packages, repaired."""
    for name in ('tensorrt', 'tensorrt_bindings'):
        shutil.rmtree(folder / name, ignore_errors=True)
        (folder / name).mkdir(parents=True)
        for stub in (source / name).glob('*.pyi'):
            text = stub.read_text()
            for broken, repaired in REPAIRS:
                text = text.replace(broken, repaired)
            (folder / name / stub.name).write_text(text)


if __name__ == '__main__':
    lay_out(Path(sysconfig.get_path('purelib')), Path(sys.argv[1]))
