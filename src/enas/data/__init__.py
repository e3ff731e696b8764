"""Readers of data sets: files in, tensors out.

Text: `text` (a corpus, read from a folder), `windows` (how a corpus is walked through), `published` (Penn
Treebank and WikiText-2 by checksum), `stdlib` (text that every Python brings along), `sources` (the setting
that picks one of them).

Images: `images` (a data set in three splits), `image_splits` (who is in which), `digits` (those of scikit-learn),
`published_images` (CIFAR-10 and Fashion-MNIST by checksum), `image_folder` and `image_arrays` (one's own; `image_layout`
says which file of a folder is of which class, `pictures` reads one), `image_sources` (the setting that picks one of them),
`batches` and `augmentation` (what a training sees of them). Both: `downloads`, and `own_files` (paths as typed, memory).
"""
