"""Whether a search was worth it: methods compared, rankings, ablations, tables of known scores, and statistics."""
