import subprocess
import sys
from pathlib import Path

import pytest

from vq_anomaly_ros.replay.files import OutputError, staged

ROOT = Path(__file__).resolve().parents[2]


def test_entries_replace_those_of_the_same_name_only(tmp_path: Path) -> None:
    (tmp_path / 'keep.txt').write_text('mine')
    (tmp_path / 'report.html').write_text('old')
    (tmp_path / 'output').mkdir()
    (tmp_path / 'output' / 'stale').touch()
    with staged(tmp_path) as folder:
        (folder / 'report.html').write_text('new')
        (folder / 'output').mkdir()
        (folder / 'output' / 'fresh').touch()
        assert (tmp_path / 'report.html').read_text() == 'old'
    assert (tmp_path / 'keep.txt').read_text() == 'mine'
    assert (tmp_path / 'report.html').read_text() == 'new'
    assert [p.name for p in (tmp_path / 'output').iterdir()] == ['fresh']
    assert sorted(p.name for p in tmp_path.iterdir()) == ['keep.txt', 'output', 'report.html']


SWALLOWED = """
import contextlib, signal, sys
from pathlib import Path
from vq_anomaly_ros.replay.files import staged
from vq_anomaly_ros.replay.interruption import interruptible

out = Path(sys.argv[1])
try:
    with interruptible(), staged(out) as folder:
        (folder / 'report.html').write_text('whole')
        with contextlib.suppress(KeyboardInterrupt):
            signal.raise_signal(signal.SIGTERM)
    sys.exit('not interrupted')
except KeyboardInterrupt:
    print([path.name for path in out.iterdir()])
# What was interrupted once does not stop what comes next.
with staged(out) as folder:
    (folder / 'report.html').write_text('whole')
print([path.name for path in out.iterdir()])
"""


def test_a_swallowed_interruption_installs_nothing(tmp_path: Path) -> None:
    # A process of its own: signals are the process's, and native libraries take part in them.
    command = [sys.executable, '-c', SWALLOWED, str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert done.stdout.splitlines() == ['[]', "['report.html']"], done.stderr


@pytest.mark.parametrize('error', [KeyboardInterrupt, ValueError])
def test_an_error_leaves_what_was_there(tmp_path: Path, error: type[BaseException]) -> None:
    (tmp_path / 'report.html').write_text('old')
    with pytest.raises(error), staged(tmp_path) as folder:
        (folder / 'report.html').write_text('half')
        raise error
    assert (tmp_path / 'report.html').read_text() == 'old'
    assert [p.name for p in tmp_path.iterdir()] == ['report.html']


def test_an_error_leaves_no_new_folder(tmp_path: Path) -> None:
    out = tmp_path / 'new' / 'out'
    with pytest.raises(KeyboardInterrupt), staged(out) as folder:
        (folder / 'report.html').write_text('half')
        raise KeyboardInterrupt
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(KeyboardInterrupt), staged(out):
        (out / 'notes.txt').write_text('put there meanwhile')
        raise KeyboardInterrupt
    assert [path.name for path in out.iterdir()] == ['notes.txt']


def test_a_place_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / 'file').touch()
    with (
        pytest.raises(OutputError, match=r'file/out.*choose another --out'),
        staged(tmp_path / 'file' / 'out'),
    ):
        pass
