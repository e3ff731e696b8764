"""How diabetes goes on within a year, from ten measurements of 442 patients: an MLP of chosen depth and widths.

Every block has a width to choose, and after every block there is the choice to go on or to stop. What is after a stop is
not asked, so that the space has 121 networks, each once.

Command:  enas run examples/diabetes.py   (a quarter of a minute on one core)
or        python examples/diabetes.py   (the same, and a line for the first test patients)
"""

import torch
from sklearn.datasets import load_diabetes
from torch import Tensor, nn
from torch.nn import functional as F

import enas
from enas import Choice, NetworkConfig, Task, Training

FEATURES, WIDTHS, DEPTH = 32, (8, 32, 128), 4


def hidden(width: int) -> nn.Module:
    """A hidden layer of one width."""
    return nn.Sequential(nn.Linear(FEATURES, width), nn.GELU(), nn.Linear(width, FEATURES))


class Block(nn.Module):
    """Adds what a hidden layer of chosen width makes of the features."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(FEATURES)
        self.hidden = Choice({f"wide{width}": hidden(width) for width in WIDTHS})

    def forward(self, x_BF: Tensor) -> Tensor:
        return x_BF + self.hidden(self.norm(x_BF))


def blocks(most: int) -> nn.Module:
    """At most so many blocks: none, or one and then at most one fewer."""
    if most == 0:
        return nn.Identity()
    return Choice({"stop": nn.Identity(), "go": nn.Sequential(Block(), blocks(most - 1))})


class Net(nn.Module):
    """From ten numbers to one."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Linear(10, FEATURES)
        self.blocks = blocks(DEPTH)
        self.head = nn.Linear(FEATURES, 1)

    def forward(self, x_BF: Tensor) -> Tensor:
        return self.head(self.blocks(self.stem(x_BF)))


def loss(output_B1: Tensor, batch: tuple[Tensor, Tensor]) -> Tensor:
    """The squared error."""
    return F.mse_loss(output_B1, batch[1])


def r2(output_B1: Tensor, batch: tuple[Tensor, Tensor]) -> Tensor:
    """The share of the variance that is explained; of all patients at once, as `whole_split` says."""
    target_B1 = batch[1]
    return 1 - (target_B1 - output_B1).square().sum() / (target_B1 - target_B1.mean()).square().sum()


def task() -> Task:
    """282 patients to train on, 80 to choose by, 80 to test on; what is predicted has mean 0 and deviation 1."""
    table, progress = load_diabetes(return_X_y=True)
    x_NF = torch.tensor(table, dtype=torch.float32)
    x_NF, y_N1 = x_NF / x_NF.std(0), torch.tensor(progress, dtype=torch.float32)[:, None]
    order_N = torch.randperm(len(x_NF), generator=torch.Generator().manual_seed(0))
    train_N = order_N[:282]
    y_N1 = (y_N1 - y_N1[train_N].mean()) / y_N1[train_N].std()
    splits = [(x_NF[part], y_N1[part]) for part in order_N.split((282, 80, 80))]
    training = Training(optimizer="adamw", learning_rate=0.003, weight_decay=0.1, clip=1.0)
    return Task(*splits, batch=32, loss=loss, score=r2, whole_split=True, training=training)


def recipe() -> NetworkConfig:
    """What `enas run` reads."""
    return NetworkConfig(network=Net, task=task)


def main(folder: str = "runs/diabetes", **settings: object) -> None:
    """Search, train what was found beside three random networks, and use it."""
    found = enas.search(Net, task, folder, **settings)
    print(f"{found.space.count()} networks; found: {found.architecture}")
    model = enas.train(found, random=3)
    x_NF, y_N1 = task().test
    with torch.no_grad():
        for predicted, true in zip(
            model(x_NF[:5]).flatten().tolist(), y_N1[:5].flatten().tolist(), strict=True
        ):
            print(f"predicted {predicted:5.2f}, true {true:5.2f}")


if __name__ == "__main__":
    main()
