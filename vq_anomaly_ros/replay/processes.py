"""Processes that a command starts, watches, and never leaves behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import TracebackType

_LAST_LINES = 15
_DEFERRED = (signal.SIGINT, signal.SIGTERM)
# Patience with each signal before the next, seconds: a bag may have to be written out.
_PATIENCE = ((signal.SIGINT, 20.0), (signal.SIGTERM, 5.0), (signal.SIGKILL, 5.0))


class ProcessError(RuntimeError):
    """A process ended or hangs; the message names it and holds the last lines of its output."""


@contextmanager
def _signals_deferred() -> Iterator[None]:
    """Let SIGINT and SIGTERM wait until the end of the block (main thread only).

    A child that has just been started must not be forgotten, one that is ending not be left.
    """
    came: list[int] = []
    previous = {n: signal.signal(n, lambda number, _: came.append(number)) for n in _DEFERRED}
    try:
        yield
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
    if came:
        signal.raise_signal(came[0])


class Child:
    """A Python module that runs as a process of its own; a context manager that ends it."""

    def __init__(
        self, module: str, arguments: Sequence[str], environment: Mapping[str, str], log: Path
    ) -> None:
        """Start `python -m module arguments`; its output goes to the file `log`."""
        self.name = module.rpartition('.')[2]
        self.log = log
        with log.open('wb') as output:
            self._process = subprocess.Popen(
                [sys.executable, '-m', module, *arguments],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                env=dict(environment),
                # Ctrl-C in a terminal goes to its whole group: children end in our order instead.
                start_new_session=True,
            )

    @property
    def pid(self) -> int:
        """Its process id."""
        return self._process.pid

    @property
    def code(self) -> int | None:
        """Its exit code; None while it runs."""
        return self._process.poll()

    def __enter__(self) -> Child:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        with _signals_deferred():
            self._end()

    def stop(self) -> None:
        """Let it stand still (SIGSTOP) until `go_on`, or its end."""
        self._process.send_signal(signal.SIGSTOP)

    def go_on(self) -> None:
        """Let it run again."""
        self._process.send_signal(signal.SIGCONT)

    def said(self, text: str) -> bool:
        """Return whether the process has printed `text`."""
        return text in self.log.read_text(errors='replace')

    def check(self) -> None:
        """Raise ProcessError if the process has ended."""
        code = self._process.poll()
        if code is not None:
            raise ProcessError(f'{self.name} ended early with exit code {code}:\n{self._tail()}')

    def wait(self, seconds: float, others: Sequence[Child] = ()) -> None:
        """Wait for the process to end by itself.

        Raises:
            ProcessError: it ends with another code than 0, takes longer, or one of `others` ends.
        """
        end = time.monotonic() + seconds
        while self._process.poll() is None:
            for other in others:
                other.check()
            if time.monotonic() > end:
                raise ProcessError(f'{self.name} does not end in {seconds:g} s:\n{self._tail()}')
            time.sleep(0.05)
        self._check_code()

    def finish(self) -> None:
        """Ask the process to end and wait until it has.

        Raises:
            ProcessError: its exit code is not 0.
        """
        self._end()
        self._check_code()

    def _check_code(self) -> None:
        if self._process.returncode:
            raise ProcessError(
                f'{self.name} failed with exit code {self._process.returncode}:\n{self._tail()}'
            )

    def _end(self) -> None:
        self.go_on()
        for number, seconds in _PATIENCE:
            if self._process.poll() is not None:
                return
            os.killpg(self._process.pid, number)
            try:
                self._process.wait(seconds)
            except subprocess.TimeoutExpired:
                continue

    def _tail(self) -> str:
        lines = self.log.read_text(errors='replace').splitlines()
        return '\n'.join(f'  {line}' for line in lines[-_LAST_LINES:]) or '  (it printed nothing)'


def start_child(
    stack: ExitStack,
    module: str,
    arguments: Sequence[str],
    environment: Mapping[str, str],
    log: Path,
) -> Child:
    """Start a Child that ends with `stack`, whatever signal comes meanwhile."""
    with _signals_deferred():
        return stack.enter_context(Child(module, arguments, environment, log))


def wait_until(condition: Callable[[], bool], children: Sequence[Child], what: str) -> None:
    """Wait until `condition` holds while all children run.

    Raises:
        ProcessError: a child ends, or it takes more than two minutes.
    """
    end = time.monotonic() + 120.0
    while not condition():
        for child in children:
            child.check()
        if time.monotonic() > end:
            outputs = '\n'.join(f'{child.name}:\n{child._tail()}' for child in children)
            raise ProcessError(f'{what} did not happen within two minutes.\n{outputs}')
        time.sleep(0.05)
