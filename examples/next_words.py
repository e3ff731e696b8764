"""The found model of a finished run reads words of its test data and says what may come next.

Command:  python examples/next_words.py runs/recurrent-quick
Prints:   the first test words, and the five words that the model holds most probable next.
"""

import sys
from pathlib import Path

import torch

from enas.data.text import Corpus
from enas.stages import Run

WORDS = 40


def main(folder: Path) -> None:
    """Say what the found model of the run in `folder` expects after the first test words."""
    run = Run.open(folder)
    corpus = run.data
    if not isinstance(corpus, Corpus):
        sys.exit(f"{folder} is not a run on text")
    model = run.found_model()
    tokens_TB = corpus.test[:WORDS].unsqueeze(1)
    with torch.no_grad():
        logits_TBV, _ = model(tokens_TB)
    probabilities_K, words_K = logits_TBV[-1, 0].softmax(-1).topk(5)

    print(" ".join(corpus.vocabulary[token] for token in tokens_TB[:, 0].tolist()), "...")
    for probability, word in zip(probabilities_K.tolist(), words_K.tolist(), strict=True):
        print(f"{probability:6.1%}  {corpus.vocabulary[word]}")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
