"""What networks are searched and trained for."""
