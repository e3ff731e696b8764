"""The found network of a finished run reads a text and says what may come next. It needs none of the data that it was
trained on.

Command:  python examples/next_words.py runs/recurrent-quick "the value of the"
Prints:   the five words that the network holds most probable next.
"""

import sys

import torch

import enas


def main(run: str, text: str) -> None:
    """Say what the found network of a run expects after a text."""
    model = enas.load(run)
    with torch.no_grad():
        scores_TBV, _ = model(model.preprocess(text))
    probabilities_K, words_K = scores_TBV[-1, 0].softmax(-1).topk(min(5, len(model.words)))

    for probability, word in zip(probabilities_K.tolist(), words_K.tolist(), strict=True):
        print(f"{probability:6.1%}  {model.words[word]}")


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2])
