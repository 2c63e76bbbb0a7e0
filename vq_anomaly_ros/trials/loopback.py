"""A network of the trials' own, in which the loopback interface can go down."""

from __future__ import annotations

import fcntl
import os
import shutil
import socket
import struct
import subprocess

_MARK = 'VQ_ANOMALY_TRIALS_OWN_NETWORK'
_UNSHARE = ('unshare', '--user', '--map-root-user', '--net')
_SIOCGIFFLAGS, _SIOCSIFFLAGS, _SIOCSIFADDR = 0x8913, 0x8914, 0x8916
_IFF_UP = 0x1
_NAME = b'lo'


def is_own() -> bool:
    """Whether this process and its children have a network of their own."""
    return _MARK in os.environ


def own_network() -> list[str]:
    """Return what to put before a command for a network of its own, loopback still down.

    Nothing where the system does not allow it.
    """
    if shutil.which(_UNSHARE[0]) is None or subprocess.run([*_UNSHARE, 'true']).returncode:
        return []
    return [*_UNSHARE, 'env', f'{_MARK}=1']


def set_up(up: bool) -> None:
    """Take our own loopback interface up or down; OSError where it is not ours.

    Down it has no address, too: some systems deliver to 127.0.0.1 all the same.
    """
    if not is_own():
        raise OSError("the loopback interface is the machine's: it stays as it is")
    address = socket.inet_aton('127.0.0.1' if up else '0.0.0.0')  # noqa: S104  # nosec B104  none, that is
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as control:
        request = struct.pack('16sh14x', _NAME, 0)
        _, flags = struct.unpack('16sh14x', fcntl.ioctl(control, _SIOCGIFFLAGS, request))
        flags = flags | _IFF_UP if up else flags & ~_IFF_UP
        fcntl.ioctl(control, _SIOCSIFFLAGS, struct.pack('16sh14x', _NAME, flags))
        fcntl.ioctl(
            control, _SIOCSIFADDR, struct.pack('16sHH4s8x', _NAME, socket.AF_INET, 0, address)
        )
