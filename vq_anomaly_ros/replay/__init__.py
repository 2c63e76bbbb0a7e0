"""Offline use of the detector: bags in, bags, numbers, pictures and reports out. Needs no ROS."""
