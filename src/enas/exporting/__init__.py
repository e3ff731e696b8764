"""Handing a trained network over: one module a format, each file compared with the network before it is kept."""
