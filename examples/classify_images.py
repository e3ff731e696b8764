"""The found model of a finished run classifies the first test images of its data.

Command:  python examples/classify_images.py runs/micro-quick
Prints:   for each image its class, and the three classes that the model holds most probable.
"""

import sys
from pathlib import Path

import torch

from enas.data.augmentation import normalise
from enas.data.images import ImageData
from enas.stages import Run

IMAGES = 10


def main(folder: Path) -> None:
    """Say what the found model of the run in `folder` makes of the first test images."""
    run = Run.open(folder)
    data = run.data
    if not isinstance(data, ImageData):
        sys.exit(f"{folder} is not a run on images")
    model = run.found_model()
    images = data.test[:IMAGES]
    trained_on = data.train if run.config.epochs_with_validation() is None else data.joined()
    with torch.no_grad():
        logits_BK = model(normalise(images.images_NCHW, trained_on.normalisation))

    for label, probabilities_K in zip(images.labels_N.tolist(), logits_BK.softmax(-1), strict=True):
        best = zip(*(top.tolist() for top in probabilities_K.topk(3)), strict=True)
        said = ", ".join(f"{data.classes[k]} {probability:.1%}" for probability, k in best)
        print(f"{data.classes[label]:>12}: {said}")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
