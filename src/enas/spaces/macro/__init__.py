"""Whole convolutional networks, paper §2.3."""
