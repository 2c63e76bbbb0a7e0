"""`python -m vq_anomaly_ros.replay.sample_drive`."""

import sys

from .main import main

sys.exit(main())
