"""Convolutional cells, paper §2.4."""
