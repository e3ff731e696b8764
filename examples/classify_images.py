"""The found network of a finished run classifies pictures. It needs none of the data that it was trained on.

Command:  python examples/classify_images.py runs/micro-quick picture.png another.jpg
Prints:   for each picture the three classes that the network holds most probable.
"""

import sys

import torch

import enas


def main(run: str, pictures: list[str]) -> None:
    """Say what the found network of a run makes of pictures."""
    model = enas.load(run)
    with torch.no_grad():
        probabilities_BK = model(model.preprocess(pictures)).softmax(-1)

    for picture, probabilities_K in zip(pictures, probabilities_BK, strict=True):
        best = zip(*(top.tolist() for top in probabilities_K.topk(min(3, len(probabilities_K)))), strict=True)
        print(f"{picture}: " + ", ".join(f"{model.classes[k]} {probability:.1%}" for probability, k in best))


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2:])
