"""The ROS face of the detector: the only part of the package that imports rclpy."""
