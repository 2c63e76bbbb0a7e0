"""Contrastive Predictive Coding: the contrastive loss of a patch is its anomaly score."""
