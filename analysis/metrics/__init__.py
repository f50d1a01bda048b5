"""Metrics: tensors in, numbers out."""
