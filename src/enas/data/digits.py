"""Handwritten digits that need no download: the test half of the UCI set, which scikit-learn brings along.

1797 images of 8×8 grey pixels from 0 to 16, ten classes of about 180. A search on them takes minutes, and says
whether everything works; what is found does not carry over to larger pictures.
"""

import numpy as np

from enas.data.image_splits import ImagePool


def read_digits() -> ImagePool:
    """All digits, pixels scaled to 0..255; they have no split of their own."""
    from sklearn.datasets import load_digits  # where it is needed: see enas.data.image_splits.stratified

    digits = load_digits()
    return ImagePool(
        name="digits",
        classes=tuple(str(digit) for digit in range(10)),
        images_NCHW=np.rint(digits.images * (255 / 16)).astype(np.uint8)[:, None],
        labels_N=digits.target.astype(np.int64),
        splits={},
        source={"from": "scikit-learn"},
    )
