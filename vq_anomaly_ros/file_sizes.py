"""Files that are read whole: only plain ones, and none that is far larger than it should be."""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path


def read_bounded(path: Path, most: int) -> bytes:
    """Return the content of a file of at most so many bytes.

    Raises OSError, with a cause in `strerror`, as opening would: also for what is no plain file (a
    pipe, /dev/zero), and for one that is larger.
    """
    # Without blocking: the name may be that of a pipe.
    handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    with os.fdopen(handle, 'rb') as file:
        about = os.fstat(handle)
        if stat.S_ISDIR(about.st_mode):
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
        if not stat.S_ISREG(about.st_mode):
            raise OSError(errno.EINVAL, 'it is no plain file', str(path))
        # One byte more: it may grow while it is read.
        content = file.read(most + 1) if about.st_size <= most else b''
        if about.st_size > most or len(content) > most:
            raise OSError(errno.EFBIG, f'it has more than {most} bytes', str(path))
        return content
