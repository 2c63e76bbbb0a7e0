"""Names of topics as ROS takes them, judged without ROS; types for argparse."""

from __future__ import annotations

import argparse
import re

# What rmw_validate_full_topic_name takes: DDS adds a prefix to 255 characters less 8.
LONGEST = 247
_NAME = re.compile(r'(~/|/)?[A-Za-z_]\w*(/[A-Za-z_]\w*)*', re.ASCII)


def topic_name(text: str) -> str:
    """Return a topic as it was given: /absolute, relative or ~/private.

    Raises argparse.ArgumentTypeError for what ROS would refuse.
    """
    if len(text) > LONGEST:
        raise argparse.ArgumentTypeError(f'a topic of {len(text)} letters; {LONGEST} are allowed')
    if not _NAME.fullmatch(text):
        raise argparse.ArgumentTypeError(
            f'{text!r} is no topic; use letters, digits, _ and /, no part empty or beginning with '
            'a digit, such as /front/image_raw'
        )
    return text


def absolute_topic_name(text: str) -> str:
    """Return a topic with a leading / as it stands in a bag, where nothing is relative.

    Raises argparse.ArgumentTypeError for what ROS would refuse.
    """
    if text.startswith('~'):
        raise argparse.ArgumentTypeError(f'{text!r} belongs to a node; give a topic without ~')
    return topic_name(text) if text.startswith('/') else topic_name(f'/{topic_name(text)}')
