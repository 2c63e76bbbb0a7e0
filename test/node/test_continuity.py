"""What is odd from one frame to the next."""

from __future__ import annotations

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from vq_anomaly_ros.node.continuity import Continuity, FrameKind

VGA = FrameKind('bgr8', 480, 640)


def test_a_stamp_that_jumps_back_is_told_with_the_jump() -> None:
    stream = Continuity()
    assert stream.note(5_000_000_000, VGA) == {}
    odd = stream.note(3_500_000_000, VGA)
    assert 'jumps back by 1.500 s' in odd['stamp']
    assert stream.note(3_500_000_000, VGA) == {}, 'goes on from there; the same stamp is no jump'
    assert stream.jumps_back == 1


def test_a_new_size_or_encoding_is_told_once() -> None:
    stream = Continuity()
    stream.note(1, VGA)
    odd = stream.note(2, FrameKind('mono8', 480, 640))
    assert odd == {'kind': 'the frames changed from 640x480 bgr8 to 640x480 mono8'}
    assert stream.note(3, FrameKind('mono8', 480, 640)) == {}
    assert stream.changes == 1


@given(st.lists(st.integers(0, 10**12)))
def test_jumps_are_the_falls_of_the_stamps(stamps: list[int]) -> None:
    stream = Continuity()
    for stamp in stamps:
        stream.note(stamp, VGA)
    assert stream.jumps_back == sum(b < a for a, b in pairwise(stamps))
