"""Generative anomaly segmentation with class-specific codevectors (README.md beside it)."""
