"""Training one network from scratch: the found architecture, a random one, or whatever they are compared with."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import cached_property
from typing import Any

from torch import Tensor, nn

from enas import averaging
from enas.errors import NotFiniteError
from enas.norms import norms_of
from enas.step_logs import Sums
from enas.task import BaseTask, Score, Split
from enas.trainer import Estimate, Trainer


class ChildTraining:
    """A network and its training: resumable, one step at a time.

    The best weights by the validation data are kept on the side, so that the end of the training need not be its best
    moment; without validation data they are the last.
    """

    def __init__(
        self,
        model: nn.Module,
        task: BaseTask,
        epochs: int,
        averaging: Callable[[list[float]], bool] | None = None,
    ) -> None:
        """`averaging` says of the validation losses so far whether the mean of the weights over the steps from now on is
        to be evaluated and kept."""
        self.task = task
        self.trainer = Trainer(model, task)
        self.epochs = epochs
        self.averaging = averaging
        self.done = 0
        """Steps of the training."""
        self.epoch, self.step_of_epoch = 0, 0
        self.sums = Sums()
        """Of what the steps of the epoch logged."""
        self.scores: list[Score] = []
        """On the validation data, after each epoch."""
        self.train_loss: float | None = None
        """Mean of the losses of the last whole epoch's steps; None before there is one."""

    @property
    def model(self) -> nn.Module:
        """The network."""
        return self.trainer.model

    @cached_property
    def total_steps(self) -> int:
        """Steps of the whole training."""
        return sum(self.task.steps(epoch) for epoch in range(self.epochs))

    def step(self) -> dict[str, float]:
        """Train on the next minibatch; returns what to show.

        Raises `NotFiniteError`, with the weights untouched, if the loss is NaN or infinite; on a GPU as `Trainer.step` does.
        """
        self.sums.add(self.trainer.step(self.epoch, self.step_of_epoch))
        self.step_of_epoch += 1
        self.done += 1
        known = {key: value for key, value in self.sums.newest.items() if key == self.task.watched}
        return {"epoch": self.epoch + 1, **known}

    def number(self, place: tuple[int, int] | None) -> int:
        """How many steps of the training are before a place, epoch and step; by default before the next step."""
        if place is None:
            return self.done
        epoch, step = place
        return sum(map(self.task.steps, range(epoch))) + step

    def at_epoch_end(self) -> bool:
        """Whether a pass over the training data has just been completed."""
        return self.step_of_epoch == self.task.steps(self.epoch)

    def end_epoch(self) -> dict[str, float]:
        """Evaluate on the validation data; returns what to log, `best` = 1 if these are the best weights so far.

        Raises `NotFiniteError` if the validation loss is NaN or infinite.
        """
        steps = self.task.steps(self.epoch)
        record: dict[str, float] = {"epoch": self.epoch}
        sums = self.reported_sums()
        record |= {key: total / steps for key, total in sums.items()}
        record["learning_rate"] = self.task.rate(self.epoch)
        self.train_loss = record["loss"]
        model, norms = self.trainer.evaluation_model, self.trainer.norms()
        if self.task.statistics == "recalibrated":
            # The moving averages play no part in the training, so they may as well stay.
            with self.task.evaluating(model, norms, "moving"):
                self.task.calibrate(model, norms, None, self.epoch)
        score = evaluate(model, self.task, "valid")
        if score is None:
            record["best"] = float(self.epoch + 1 == self.epochs)
        else:
            self.scores.append(score)
            record |= {f"valid_{key}": value for key, value in score.items()}
            record["best"] = float(self._best_epoch() == len(self.scores))
        if self.averaging is not None:
            record["averaged"] = float(self.trainer.averaged is not None)
            if self.trainer.averaged is None and self.averaging([one["loss"] for one in self.scores]):
                self.trainer.start_average(averaging.mean).update()
        self.sums.clear()
        self.epoch, self.step_of_epoch = self.epoch + 1, 0
        return record

    def _best_epoch(self) -> int:
        """Counted from 1; of equal ones the first."""
        return 1 + max(range(len(self.scores)), key=lambda epoch: self.task.sort_key(self.scores[epoch]))

    def reported_sums(self) -> dict[str, float]:
        """What the steps of the epoch logged of what is reported, summed."""
        sums = self.sums.settled()
        return {key: sums.get(key, 0.0) for key in self.task.reported}

    def best_weights(self) -> dict[str, Tensor]:
        """The weights to keep, as they are right after an `end_epoch` that said `best`."""
        # An average that the last evaluation has just started holds the very weights that were evaluated.
        weights: dict[str, Tensor] = self.trainer.evaluation_model.state_dict()
        return weights

    def size(self) -> dict[str, Any]:
        """What is known before the training: `parameters`, `epochs`, …"""
        return {**self.task.size(self.model), "epochs": self.epochs}

    def result(self) -> dict[str, Any]:
        """`size`, and the scores of the trained network."""
        known = {**self.size(), "train_loss": self.train_loss}
        if not self.scores:
            return {**known, "best_epoch": self.epochs}
        best = self._best_epoch()
        valid = {f"valid_{key}": value for key, value in self.scores[best - 1].items()}
        return {**known, "best_epoch": best, **valid}

    def estimate(self) -> Estimate:
        """What a step costs, measured on a throw-away step that changes nothing."""
        return self.trainer.estimate()

    def state_dict(self) -> dict[str, Any]:
        """All that resuming needs."""
        return {
            "done": self.done,
            "epoch": self.epoch,
            "step_of_epoch": self.step_of_epoch,
            "trainer": self.trainer.state_dict(),
            "sums": self.reported_sums(),
            "scores": [dict(score) for score in self.scores],
            "train_loss": self.train_loss,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take over what `state_dict` returned."""
        self.done, self.epoch, self.step_of_epoch = state["done"], state["epoch"], state["step_of_epoch"]
        if "average" in state["trainer"]:
            self.trainer.start_average(averaging.mean)
        self.trainer.load_state_dict(state["trainer"])
        self.sums, self.scores = Sums(state["sums"]), [dict(score) for score in state["scores"]]
        self.train_loss = state["train_loss"]


def evaluate(model: nn.Module, task: BaseTask, split: Split) -> Score | None:
    """The score of a network of its own on a whole split; None if there is none. Recalibrated averages are expected to be in
    it already. Raises `NotFiniteError` if the loss is NaN or infinite."""
    with task.evaluating(model, norms_of(model), "batch" if task.statistics == "batch" else "moving"):
        score = task.evaluate(model, split)
    if score is not None and not math.isfinite(score["loss"]):
        raise NotFiniteError(f"the loss on data that it was not trained on is {score['loss']}")
    return score
