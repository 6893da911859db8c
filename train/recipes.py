"""How the papers train: one table, each number with its source. `motionspec train --list` prints it."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from motionspec.train import objectives
from motionspec.train.objectives import Batch, Records

__all__ = ["RECIPES", "Cosine", "Drops", "Plateau", "Recipe", "Schedule", "Stage"]


@dataclass(frozen=True)
class Drops:
    """Learning rate times `factor` at each of `at`, 0 from `stop` on; all in the unit of the stage."""

    at: tuple[float, ...] = ()
    factor: float = 0.1
    stop: float | None = None

    def __call__(self, time: float, length: float) -> float:
        return 0.0 if self.stop is not None and time >= self.stop else self.factor ** sum(time >= at for at in self.at)


@dataclass(frozen=True)
class Cosine:
    """Half a cosine from 1 to 0, `cycles` times."""

    cycles: int = 1

    def __call__(self, time: float, length: float) -> float:
        return 0.5 * (1 + math.cos(math.pi * (time * self.cycles / length % 1)))


@dataclass(frozen=True)
class Plateau:
    """Learning rate times `factor` when the loss on the test data has not fallen for `patience` epochs."""

    patience: int
    factor: float = 0.1


Schedule = Drops | Cosine | Plateau


@dataclass(frozen=True, kw_only=True)
class Stage:
    """A part of a training with one optimizer.

    loss: of a network and a batch, the mean over the samples. measure: of the same, numbers for each sample; summary
      makes one result of those of all samples, the first of which decides what is best: more, or less if not `higher`.
    length: in `unit`, "steps" of the optimizer or "epochs". lr, schedule: of the parameter groups, times what the
      network's `groups` gives each; own: schedules for groups by name.
    optimizer: "sgd" or "adam". weight_decay and options go to `groups` where that takes them.
    clip: the most that the norm of the gradient of all parameters may be.
    of: the submodule that learns and is given to loss and measure; "" the network. only: submodules of that; () all
      that the network itself lets learn.
    """

    name: str
    loss: Callable[[Any, Batch], Tensor]
    measure: Callable[[Any, Batch], Records]
    summary: Callable[[Records], dict[str, float]] = objectives.mean
    higher: bool = True
    length: int
    unit: str = "steps"
    lr: float
    schedule: Schedule = Drops()
    own: Mapping[str, Schedule] = field(default_factory=dict)
    optimizer: str = "sgd"
    momentum: float = 0.9
    weight_decay: float = 0.0
    options: Mapping[str, Any] = field(default_factory=dict)
    clip: float | None = None
    of: str = ""
    only: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """A training: a network of `models.table`, arguments on its full size, how clips are made, stages.

    batch: samples of one step, over all processes and parts. ema: decay of the mean of the weights over the steps,
    which then is what is measured and kept. sources: what a number is -> where it is said.
    """

    name: str
    source: str
    network: str
    arguments: Mapping[str, Any] = field(default_factory=dict)
    view: Any = None
    batch: int
    stages: tuple[Stage, ...]
    ema: float | None = None
    sources: Mapping[str, str] = field(default_factory=dict)


RECIPES: dict[str, Recipe] = {}
