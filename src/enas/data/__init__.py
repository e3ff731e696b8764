"""Readers of data sets: files in, tensors out.

`sources` chooses the reader. A text is a `text.Corpus`, which `windows` cuts up for training; `stdlib` is a text that comes
with every Python. Images are an `images.ImageData`: `image_folder` and `image_arrays` read a pool of images, `image_splits`
cuts it, and `augmentation` changes images for training. `published` has published sets of both kinds, and `own_files` what
readers of users' own data share.
"""
