"""The detector node, with the stand-ins as its TensorRT and its GPU: a program for tests."""

from __future__ import annotations

import sys

import stand_in_cuda
import stand_in_tensorrt

from vq_anomaly_ros.detection.engines import tensorrt
from vq_anomaly_ros.detection.engines.cuda import Cuda, find_device
from vq_anomaly_ros.node.detector_node import main

stand_in_tensorrt.GPU = stand_in_cuda.Cudart()
RUNTIME = tensorrt.Runtime(
    stand_in_tensorrt, Cuda(stand_in_tensorrt.GPU), find_device(stand_in_cuda.Driver())
)
tensorrt.find_runtime = lambda: RUNTIME

if __name__ == '__main__':
    sys.exit(main())
