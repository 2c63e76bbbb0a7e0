"""The detector without ROS: frames in, labels, calibrated scores and masks out."""
