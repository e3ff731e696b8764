"""Graph neural networks of four nodes, for searches on known scores."""
