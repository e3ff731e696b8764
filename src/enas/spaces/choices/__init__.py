"""What may be chosen in a network of the user's own."""
