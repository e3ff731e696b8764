"""Readers of data sets: files in, tensors out.

Text: `text` (a corpus, read from a folder), `windows` (how a corpus is walked through), `published` (Penn
Treebank and WikiText-2 by checksum), `stdlib` (text that every Python brings along), `sources` (the setting
that picks one of them).
"""
