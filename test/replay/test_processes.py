import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from vq_anomaly_ros.replay.processes import Child, ProcessError, wait_until

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):  # type: ignore[no-untyped-def]
    def make(code: str) -> Child:
        (tmp_path / 'child_module.py').write_text(code)
        environment = {**os.environ, 'PYTHONPATH': str(tmp_path), 'PYTHONUNBUFFERED': '1'}
        return Child('child_module', [], environment, tmp_path / 'log.txt')

    return make


LISTENING = """
import signal, sys, time
signal.signal(signal.SIGINT, lambda *_: sys.exit({code}))
print('ready', flush=True)
time.sleep(600)
"""


def test_a_child_is_asked_to_end_and_waited_for(start) -> None:  # type: ignore[no-untyped-def]
    with start(LISTENING.format(code=0)) as child:
        wait_until(lambda: child.said('ready'), (child,), 'ready')
        child.finish()


def test_a_failing_child_is_told_with_its_last_words(start) -> None:  # type: ignore[no-untyped-def]
    child = start('raise SystemExit("out of luck")')
    with pytest.raises(ProcessError, match=r'child_module failed .* 1:\n  out of luck'), child:
        child.wait(60)


def test_a_bad_exit_code_at_the_end_is_an_error(start) -> None:  # type: ignore[no-untyped-def]
    with start(LISTENING.format(code=3)) as child:
        wait_until(lambda: child.said('ready'), (child,), 'ready')
        with pytest.raises(ProcessError, match='exit code 3'):
            child.finish()


def test_waiting_notices_that_a_child_has_ended(start) -> None:  # type: ignore[no-untyped-def]
    child = start('print("bye")')
    with pytest.raises(ProcessError, match=r'ended early with exit code 0:\n  bye'), child:
        wait_until(lambda: False, (child,), 'never')


def test_no_child_outlives_an_error(start) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(KeyboardInterrupt), start(LISTENING.format(code=0)) as child:
        wait_until(lambda: child.said('ready'), (child,), 'ready')
        raise KeyboardInterrupt
    with pytest.raises(ProcessError, match='ended early'):
        child.check()


INTERRUPTED = """
import os, signal, sys
from contextlib import ExitStack
from pathlib import Path
from vq_anomaly_ros.replay import processes
from vq_anomaly_ros.replay.processes import ProcessError

# A shell's background job inherits an ignored SIGINT.
signal.signal(signal.SIGINT, signal.default_int_handler)
children = []

class Interrupting(processes.Child):
    def __enter__(self):
        children.append(self)
        os.kill(os.getpid(), signal.SIGINT)
        return super().__enter__()

processes.Child = Interrupting
folder = Path(sys.argv[1])
environment = {**os.environ, 'PYTHONPATH': str(folder)}
try:
    with ExitStack() as stack:
        processes.start_child(stack, 'child_module', [], environment, folder / 'log.txt')
except KeyboardInterrupt:
    print('interrupted')
try:
    children[0].check()
except ProcessError as error:
    print('ended early' in str(error))
"""


def test_a_signal_waits_until_a_child_is_known(tmp_path: Path) -> None:
    # A process of its own: signals are the process's, and native libraries take part in them.
    (tmp_path / 'child_module.py').write_text(LISTENING.format(code=0))
    command = [sys.executable, '-c', INTERRUPTED, str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=90)
    assert done.stdout.splitlines() == ['interrupted', 'True'], done.stderr


def test_a_hanging_child_is_named(start) -> None:  # type: ignore[no-untyped-def]
    with start('import time; time.sleep(600)') as child:
        begun = time.monotonic()
        with pytest.raises(ProcessError, match='does not end in'):
            child.wait(0.2)
        assert time.monotonic() - begun < 60


def test_children_run_in_the_same_python(start, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    with start('import sys; print(sys.executable)') as child:
        child.wait(60)
    assert (tmp_path / 'log.txt').read_text().strip() == sys.executable
