"""The recurrent cells of paper §2.1."""
