"""A task on pictures that do not fit in memory: two processes read and vary them while the network trains.

Command:  python examples/picture_folder.py FOLDER     (with a folder of pictures for each class)
Prints:   the accuracy of a small network on a fifth of the pictures, after each of three passes over the others.
"""

import sys
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset

from enas import Task, Training
from enas.child_training import ChildTraining
from enas.tasks.batches import BatchTask

SIDE, EPOCHS = 32, 3
SUFFIXES = (".png", ".jpg", ".jpeg", ".webp")


class Pictures(Dataset[tuple[Tensor, int]]):
    """Pictures [3, SIDE, SIDE] from -1 to 1 and the numbers of their classes, read from the disk one by one."""

    def __init__(self, files: list[tuple[Path, int]], varied: bool) -> None:
        self.files = files
        self.varied = varied

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        path, label = self.files[index]
        with Image.open(path) as picture:
            pixels_HWC = np.asarray(picture.convert("RGB").resize((SIDE, SIDE)), dtype=np.float32)
        picture_CHW = torch.from_numpy(pixels_HWC).permute(2, 0, 1) / 127.5 - 1
        # What is drawn follows from the run's seed, in a process of its own too: resuming draws the same.
        if self.varied and torch.rand(()) < 0.5:
            picture_CHW = picture_CHW.flip(-1)
        return picture_CHW, label


def files_of(folder: Path) -> list[tuple[Path, int]]:
    """All pictures with the numbers of their classes, which are the folders in `folder`, by name."""
    classes = sorted(path for path in folder.iterdir() if path.is_dir())
    return [
        (path, label)
        for label, each in enumerate(classes)
        for path in sorted(each.iterdir())
        if path.suffix.lower() in SUFFIXES
    ]


def loss(scores_BK: Tensor, batch: list[Tensor]) -> Tensor:
    """The cross-entropy."""
    return F.cross_entropy(scores_BK, batch[1])


def accuracy(scores_BK: Tensor, batch: list[Tensor]) -> Tensor:
    """The share of pictures whose class has the highest score."""
    return (scores_BK.argmax(1) == batch[1]).float().mean()


def task(files: list[tuple[Path, int]], size: int = 32) -> Task:
    """Telling the classes of pictures; every fifth picture is one to validate with."""
    train = [file for number, file in enumerate(files) if number % 5]
    return Task(
        DataLoader(Pictures(train, varied=True), size, shuffle=True, num_workers=2),
        DataLoader(Pictures(files[::5], varied=False), size, num_workers=2),
        loss=loss,
        score=accuracy,
        training=Training(optimizer="adamw", learning_rate=3e-3, warmup=0.5),
    )


def main(folder: Path) -> None:
    """Train a small network on the pictures of a folder, and say how it does."""
    files = files_of(folder)
    torch.manual_seed(0)
    network = nn.Sequential(
        *(nn.Conv2d(3, 16, 5, stride=2), nn.BatchNorm2d(16), nn.ReLU()),
        *(nn.Conv2d(16, 32, 5, stride=2), nn.BatchNorm2d(32), nn.ReLU()),
        *(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(32, 1 + max(label for _, label in files))),
    )
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    own = BatchTask(
        task(files), epochs=EPOCHS, seed=0, device=device, dtype=torch.float32, statistics="moving"
    )
    training = ChildTraining(network, own, EPOCHS)
    while training.done < training.total_steps:
        training.step()
        if training.at_epoch_end():
            print(f"epoch {training.epoch + 1}: accuracy {training.end_epoch()['valid_score']:.1%}")


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(
            "which folder? python examples/picture_folder.py FOLDER, with a folder of pictures for each class"
        )
    main(Path(sys.argv[1]))
