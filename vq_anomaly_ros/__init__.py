"""Anomaly segmentation of camera images on vehicles: a plain detector with a thin ROS 2 face."""
