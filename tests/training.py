"""A training that takes no time: what tests/test_train.py runs, in this process and in others."""

import os
import signal
import time

import torch
from torch import Tensor, nn
from torch.utils.data import Dataset

from motionspec.data.clips import View
from motionspec.train import objectives
from motionspec.train.loop import fit
from motionspec.train.recipes import Recipe, Stage

SAMPLES, FEATURES = 24, 5


class Points(Dataset):
    """Two clouds; where a point of the training lies depends on the epoch too."""

    def __init__(self, seconds=0.0):
        self.seconds = seconds

    def __len__(self):
        return SAMPLES

    def __getitem__(self, key):
        epoch, index = key
        time.sleep(self.seconds)
        point = torch.randn(FEATURES, generator=torch.Generator().manual_seed(1000 * epoch + index)) + index % 2
        return {"clip": point, "label": torch.tensor(index % 2), "index": torch.tensor(index)}


class Told(Points):
    """The group of the trainer, who waits, is told to stop in epoch 2, as by `timeout`; a reader too if it is in it."""

    told = False

    def __getitem__(self, key):
        if key[0] == 2 and not self.told:
            self.told = True
            time.sleep(0.3)
            for process in (os.getppid(), os.getpid()):
                if os.getpgid(process) == os.getpgid(os.getppid()):
                    os.kill(process, signal.SIGTERM)
        return super().__getitem__(key)


def network(dropout=0.5):
    torch.manual_seed(7)
    return nn.Sequential(nn.Linear(FEATURES, 8), nn.BatchNorm1d(8), nn.Dropout(dropout), nn.Linear(8, 2))


def stage(name="one", **changes):
    kept = {"loss": objectives.classification, "measure": objectives.accuracy, "length": 3, "unit": "epochs", "lr": 0.1}
    return Stage(name=name, **(kept | changes))


def recipe(*stages, **changes):
    kept = {"view": View(size=8), "batch": 4, "ema": 0.9}  # the view is not looked at
    return Recipe(name="toy", source="tests", network="none", stages=stages or (stage(),), **(kept | changes))


def run(folder, *, resume=False, seconds=0.0, of=None):
    """Two stages in 36 steps, with dropout, batch norm, momentum and a mean of the weights."""
    if of is None:
        of = recipe(stage("one", length=4), stage("two", length=12, unit="steps", optimizer="adam", lr=0.01))
    net = network()
    result = fit(of, net, Points(seconds), Points(), run=folder, resume=resume, save_every=5, device="cpu")
    return net, result


class Frozen(nn.Module):
    """The toy without what the samples of other processes would change, in float64."""

    def __init__(self):
        super().__init__()
        self.body = network(dropout=0.0).double()

    def train(self, mode=True):
        super().train(mode)
        self.body[1].eval()
        return self

    def forward(self, clip: Tensor) -> Tensor:
        return self.body(clip.double())


def share(folder, rank, world, port, accumulate=1):
    """One of several processes, as torchrun starts them."""
    os.environ |= {"RANK": str(rank), "WORLD_SIZE": str(world), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    torch.set_num_threads(1)
    fit(recipe(ema=None), Frozen(), Points(), Points(), run=folder, device="cpu", accumulate=accumulate)
