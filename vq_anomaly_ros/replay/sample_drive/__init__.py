"""A procedural street for machines without data: pictures, classes and anomalies by code alone."""

from .drive import DriveFrame, render_drive, training_pictures
from .scene import CLASSES

__all__ = ['CLASSES', 'DriveFrame', 'render_drive', 'training_pictures']
