"""Readers of data sets: files in, tensors out.

`sources` goes from a setting to data. A text is a `text.Corpus`, walked through by `windows`; `stdlib` is one that every
Python brings along. Images are an `images.ImageData`, cut from a pool by `image_splits`, which `image_folder` and
`image_arrays` read; `batches` and `augmentation` are what a training sees of them. `published` has the published sets of
both, `own_files` what both need to read data of the user's own.
"""
