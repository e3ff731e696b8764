"""A package that adds to enas from outside."""
