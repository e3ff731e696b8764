"""The kinds of run: the settings of each, and how models are built from them."""
