"""Spaces whose every architecture was trained: a search on them is scored exactly, without any training."""
