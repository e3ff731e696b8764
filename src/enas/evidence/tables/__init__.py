"""Spaces of which the truth is known: what each architecture reaches when it is trained alone."""
