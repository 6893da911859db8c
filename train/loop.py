"""The trainer: a plain loop over the stages of a recipe, on one device or, under `torchrun`, on many.

Nothing random is left over from one step to the next: batches depend on (seed, epoch), samples on (seed, epoch, index),
dropout on (seed, stage, step, process). So a run that went on from resume.pt, which has everything else, equals one
without a stop.
"""

import inspect
import logging
import math
import os
import signal
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.parallel import DistributedDataParallel
from torch.optim.lr_scheduler import LambdaLR, ReduceLROnPlateau
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from torch.utils.data import DataLoader, Dataset

from motionspec.checks import choice, count
from motionspec.data.clips import Epochs, loader
from motionspec.progress import Progress
from motionspec.train.objectives import Batch, Records
from motionspec.train.recipes import Cosine, Drops, Plateau, Recipe, Stage
from motionspec.train.runs import Run, RunError, plain

__all__ = ["Diverged", "Interrupted", "Result", "fit"]


class Diverged(ArithmeticError):
    """Loss or gradient is not finite any more; one line that says where and what to do."""


class Interrupted(KeyboardInterrupt):
    """Ctrl-C or SIGTERM, after the state was saved."""


@dataclass(frozen=True)
class Result:
    """What a run came to: steps done; what the last measuring of the last stage gave; the best of its first number."""

    steps: int
    measured: Mapping[str, float]
    best: float | None


def fit(
    recipe: Recipe,
    network: nn.Module,
    train: Dataset[Any],
    test: Dataset[Any] | None = None,
    *,
    run: str | os.PathLike[str],
    seed: int = 0,
    device: torch.device | str | None = None,
    precision: str = "float32",
    accumulate: int = 1,
    workers: int = 0,
    save_every: int = 100,
    measure_every: int = 1,
    resume: bool = False,
    tensorboard: bool = False,
    about: Mapping[str, Any] | None = None,
    begins: Callable[[], None] | None = None,
    progress: Progress | None = None,
) -> Result:
    """Train a network in place by a recipe; what comes of it is in the folder `run` (docs/training.md).

    train, test: datasets of `(epoch, index)` -> dict of tensors, such as `data.clips.Clips`. test is measured at the
      end of every `measure_every` epochs and of each stage.
    device: None: CUDA if there is any. precision: "float32", or "bfloat16" by autocast. accumulate: in how many parts a
      process takes its share of the batch, one after the other. workers: processes that read samples.
    save_every: steps between two writes of resume.pt, which is also written after each measuring.
    resume: go on where `run` stopped, with the same arguments. tensorboard: write what log.csv says for it too.
    about: more for config.json, such as the names of the classes. begins: called by the first process when the run can
      begin, before its first step.

    On CPU, with the same number of threads and processes, a run that was stopped, even killed, and resumed ends with
    the same bits as one that was not. Under `torchrun` each process takes its share of the batch; batch norms that are
    not frozen see the samples of one process and part alone.
    Raises RunError, Diverged, Interrupted (a KeyboardInterrupt), or what a dataset raises; TypeError or ValueError
    `fit: argument: expected ..., got ...`.
    """
    choice("fit", "precision", precision, ("float32", "bfloat16"))
    for name, value in {"accumulate": accumulate, "save_every": save_every, "measure_every": measure_every}.items():
        count("fit", name, value)
    for name, value in {"workers": workers, "seed": seed}.items():
        count("fit", name, value, 0)
    samples = len(train)  # type: ignore[arg-type]
    config = {"recipe": plain(recipe), "seed": seed, "precision": precision, "samples": samples, **(about or {})}
    with _processes(device) as (place, rank, world), _stops() as stopped:
        size = _parts(recipe, samples, test, world, accumulate)
        folder: Run | None = None
        state: dict[str, Any] | None = None
        problem: str | None = None
        if rank == 0:
            try:
                folder = Run(Path(run), config, resume=resume, tensorboard=tensorboard)
                state = folder.state
            except RunError as error:
                problem = str(error)
        if world > 1:
            told: list[Any] = [state, problem]
            dist.broadcast_object_list(told, 0)
            state, problem = told
        if problem:
            raise RunError(problem)
        trainer = _Trainer(
            recipe=recipe,
            network=network.to(place),
            data=train,
            test=test,
            run=folder,
            state=state,
            seed=seed,
            device=place,
            rank=rank,
            world=world,
            stopped=stopped,
            half=precision == "bfloat16",
            accumulate=accumulate,
            size=size,
            epoch=samples // recipe.batch,
            workers=workers,
            save_every=save_every,
            measure_every=measure_every,
            progress=progress if progress and rank == 0 else lambda text, done, total: None,
        )
        try:
            if begins and rank == 0:
                begins()
            return trainer.all()
        finally:
            if folder:
                folder.close()


_TRAINED = 256  # samples of the training that are measured beside the test data


class _Measured(Dataset[Batch]):
    """The test data and, after them, samples of the training spread over it: one set of workers reads both."""

    def __init__(self, test: Any, train: Any) -> None:
        self.test, self.train, self.tests = test, train, len(test)
        trained = min(len(train), self.tests, _TRAINED)
        self.spread = [k * len(train) // trained for k in range(trained)]

    def __getitem__(self, key: tuple[int, int]) -> Batch:
        epoch, index = key
        found: Batch = self.test[key] if index < self.tests else self.train[epoch, self.spread[index - self.tests]]
        return found

    def batches(self, size: int, rank: int, world: int) -> list[list[tuple[int, int]]]:
        """The keys of one process: no batch has samples of both."""
        options: dict[str, Any] = {"train": False, "rank": rank, "world": world}
        of_training = Epochs(len(self.spread), size, **options)
        shifted = [[(epoch, self.tests + index) for epoch, index in batch] for batch in of_training]
        return [*Epochs(self.tests, size, **options), *shifted]

    def place(self, keys: list[tuple[int, int]]) -> tuple[bool, list[int]]:
        """Whether a batch is of the training, and the indices of its samples in its own data."""
        training = bool(keys) and keys[0][1] >= self.tests
        return training, [self.spread[index - self.tests] if training else index for _, index in keys]


@dataclass(kw_only=True)
class _Trainer:
    """One run, as one of `world` processes sees it. `run` is None but in the first, which alone writes."""

    recipe: Recipe
    network: nn.Module
    data: Any
    test: Any
    run: Run | None
    state: dict[str, Any] | None
    seed: int
    device: torch.device
    rank: int
    world: int
    stopped: threading.Event
    half: bool
    accumulate: int
    size: int  # samples of a part of a batch
    epoch: int  # steps of an epoch
    workers: int
    save_every: int
    measure_every: int
    progress: Progress
    best: tuple[float, float] | None = None  # score, and the loss that decides between equal ones

    def all(self) -> Result:
        """All stages, or those that are left."""
        if self.test is not None:
            self.measured_on = _Measured(self.test, self.data)
            self.asked = self.measured_on.batches(self.size, self.rank, self.world)
            self.tests = self.loader(self.measured_on, self.asked)
        self.measured: dict[str, float] = {}
        free = {p for p in self.network.parameters() if p.requires_grad}
        lengths = [stage.length * (1 if stage.unit == "steps" else self.epoch) for stage in self.recipe.stages]
        for number, stage in enumerate(self.recipe.stages):
            if self.state is None or number >= self.state["stage"]:
                self.before, self.epochs = sum(lengths[:number]), sum(-(-n // self.epoch) for n in lengths[:number])
                self.stage(number, stage, lengths[number], free)
        for p in self.network.parameters():
            p.requires_grad_(p in free)
        return Result(sum(lengths), self.measured, self.best and self.best[0])

    def stage(self, number: int, stage: Stage, length: int, free: set[nn.Parameter]) -> None:
        module = self.network.get_submodule(stage.of)
        parts = [module.get_submodule(name) for name in stage.only] or [module]
        learning = [p for part in parts for p in part.parameters() if p in free or stage.of]
        for p in self.network.parameters():
            p.requires_grad_(False)
        for p in learning:
            p.requires_grad_(True)
        optimizer = _optimizer(stage, module)
        schedule = _schedule(stage, optimizer, length, self.epoch, self.measure_every)
        decay = self.recipe.ema
        ema = None if decay is None else AveragedModel(self.network, multi_avg_fn=_mean(decay))
        first, self.best = 0, None
        if self.state is not None:
            first, self.best, self.measured = (self.state[key] for key in ("step", "best", "measured"))
            kept = {"network": self.network, "optimizer": optimizer, "schedule": schedule, "ema": ema}
            for key, part in kept.items():
                if part is not None:
                    part.load_state_dict(self.state[key])  # type: ignore[attr-defined]
            self.state = None
        judged = self.network if ema is None else ema.module

        def save(done: int) -> None:
            if self.run:
                state: dict[str, Any] = {"done": self.before + done, "stage": number, "step": done}
                state |= {"best": self.best, "measured": self.measured, "network": self.network.state_dict()}
                state |= {"optimizer": optimizer.state_dict(), "schedule": schedule.state_dict()}
                self.run.save(state | {"ema": None if ema is None else ema.state_dict()})

        model: Any = _Loss(module, stage)
        if self.world > 1:
            model = DistributedDataParallel(model)
        if not first:
            save(0)
        batches = iter(self.loader(self.data, self.batches(first, length)))
        _learn(self.network, module, stage)
        for step in range(first, length):
            began = time.monotonic()
            torch.manual_seed(int(np.random.SeedSequence((self.seed, number, step, self.rank)).generate_state(1)[0]))
            loss = torch.zeros((), device=self.device)
            for part in range(self.accumulate):
                alone = self.world > 1 and part + 1 < self.accumulate
                with model.no_sync() if alone else nullcontext():
                    with self.autocast():
                        value = model(self.put(next(batches))) / self.accumulate
                    value.backward()
                loss += value.detach()
            norm = float(nn.utils.clip_grad_norm_(learning, math.inf if stage.clip is None else stage.clip))
            mean, stop = self.shared(float(loss))
            rate, done = optimizer.param_groups[0]["lr"], step + 1
            if not (math.isfinite(mean) and math.isfinite(norm)):
                raise Diverged(
                    f"loss {mean:g}, gradient {norm:g} at step {self.before + done} (stage {stage.name}, lr {rate:g}): "
                    "not finite; begin again with a lower lr or a clip"
                )
            optimizer.step()
            optimizer.zero_grad()
            if isinstance(schedule, LambdaLR):
                schedule.step()
            if ema is not None:
                ema.update_parameters(self.network)
            row: dict[str, Any] = {"step": self.before + done, "epoch": self.epochs + step // self.epoch}
            row |= {"stage": stage.name, "lr": rate, "loss": mean, "gradient": norm}
            row["seconds"] = round(time.monotonic() - began, 4)
            self.progress(f"{stage.name}, loss {mean:.4g}", done, length)
            ended = done == length or done % (self.epoch * self.measure_every) == 0
            if ended and self.test is not None:
                row |= self.measure(stage, judged)
                if isinstance(schedule, ReduceLROnPlateau):
                    schedule.step(self.measured["loss"])
                _learn(self.network, module, stage)
            if self.run:
                self.run.log(**row)
                if ended:
                    self.run.weights("last", judged)
                    self.run.draw(done == length)
            if ended or stop or done % self.save_every == 0:
                save(done)
            if stop:
                raise Interrupted(f"stopped at step {done} of {length} of stage {stage.name}")

    def measure(self, stage: Stage, network: nn.Module) -> dict[str, Any]:
        """Measure the test data and keep the weights if they are the best of the stage; what log.csv says of it.

        As many samples of the training, as far as there are, are measured in the same way: of all that is logged, these
        numbers alone may be set beside those of the test data.
        """
        network.eval()
        module, batches = network.get_submodule(stage.of), len(self.asked)
        seen: tuple[Records, Records] = [], []
        if self.world > 1:  # of batch norms the first process's statistics count
            for buffer in network.buffers():
                dist.broadcast(buffer, 0)
        with torch.no_grad():
            for k, (keys, batch) in enumerate(zip(self.asked, self.tests, strict=True), start=1):
                training, indices = self.measured_on.place(keys)
                asked = torch.tensor(indices)
                own = batch.get("index", asked) == asked  # else it stands in for one that cannot be read
                if own.any():
                    with self.autocast():
                        found = stage.measure(module, self.put({name: value[own] for name, value in batch.items()}))
                    seen[training].extend(found)
                self.progress("measuring", k, batches)
        tests, trained = map(self.gathered, seen)
        self.measured = stage.summary(tests)
        name, score = next(iter(self.measured.items()))
        best = score, self.measured.get("loss", 0.0)
        sign = 1 if stage.higher else -1
        if math.isfinite(score) and (
            self.best is None or (sign * score, -best[1]) > (sign * self.best[0], -self.best[1])
        ):
            self.best = best
            if self.run:
                self.run.weights("best", network)
        row = {"measure": name, "score": score, "test_loss": self.measured.get("loss", "")}
        same = stage.summary(trained) if any(trained) else {}
        return row | {"train_score": same.get(name, ""), "train_loss": same.get("loss", "")}

    def gathered(self, records: Records) -> Records:
        """Those of all processes."""
        if self.world == 1:
            return records
        shares: list[Any] = [None] * self.world
        dist.all_gather_object(shares, records)
        return [record for share in shares for record in share]

    def batches(self, first: int, length: int) -> Iterator[list[tuple[int, int]]]:
        """The keys of the parts of this process, from a step on."""
        while first < length:
            epoch, k = divmod(first, self.epoch)
            steps = min(self.epoch - k, length - first)
            keys = Epochs(
                len(self.data),
                self.size,
                train=True,
                seed=self.seed,
                epoch=self.epochs + epoch,
                start=k * self.accumulate,
                rank=self.rank,
                world=self.world,
            )
            yield from islice(keys, steps * self.accumulate)
            first += steps

    def loader(self, data: Any, batches: Iterable[list[tuple[int, int]]]) -> DataLoader:
        # spawn: torch hangs in forked children of a process that has used OpenMP.
        options: dict[str, Any] = (
            {"multiprocessing_context": "spawn", "persistent_workers": True} if self.workers else {}
        )
        return loader(data, batches, workers=self.workers, pin_memory=self.device.type == "cuda", **options)

    def put(self, batch: Batch) -> Batch:
        return {name: value.to(self.device, non_blocking=True) for name, value in batch.items()}

    def autocast(self) -> Any:
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self.half)

    def shared(self, loss: float) -> tuple[float, bool]:
        """The mean loss of all processes, and whether one of them was told to stop."""
        stop = self.stopped.is_set()
        if self.world == 1:
            return loss, stop
        both = torch.tensor([loss, stop], dtype=torch.float64, device=self.device)
        dist.all_reduce(both)
        return float(both[0]) / self.world, bool(both[1])


def _parts(recipe: Recipe, samples: int, test: object, world: int, accumulate: int) -> int:
    """How many samples a process takes at a time. Raises RunError where the recipe does not fit the data."""
    batch, parts = recipe.batch, world * accumulate
    if batch % parts:
        raise RunError(f"batch {batch}: expected a multiple of {world} processes x {accumulate} parts")
    if samples < batch:
        raise RunError(f"{samples} training samples do not make a batch of {batch}: take a smaller one")
    for stage in recipe.stages:
        if isinstance(stage.schedule, Plateau) and test is None:
            raise RunError(f"stage {stage.name}: its schedule needs test data that give a loss")
    return batch // parts


class _Loss(nn.Module):
    """The loss as a module, for only through a module's forward does DDP see it."""

    def __init__(self, network: nn.Module, stage: Stage):
        super().__init__()
        self.network, self.loss = network, stage.loss

    def forward(self, batch: Batch) -> Tensor:
        return self.loss(self.network, batch)


def _learn(network: nn.Module, module: nn.Module, stage: Stage) -> None:
    """Training mode for what learns, its dropout included; a batch norm that `only` leaves out keeps its statistics."""
    network.eval()
    module.train()
    for part in module.modules() if stage.only else ():
        if isinstance(part, _BatchNorm) and not any(p.requires_grad for p in part.parameters()):
            part.eval()


def _optimizer(stage: Stage, module: Any) -> torch.optim.Optimizer:
    """Of the groups that the network makes, or of all parameters; without those that do not learn."""
    options = {"lr": stage.lr, "weight_decay": stage.weight_decay, **stage.options}
    groups = [{"params": [*module.parameters()]}]
    if hasattr(module, "groups"):
        taken = inspect.signature(module.groups).parameters
        groups = module.groups(**{name: value for name, value in options.items() if name in taken})
    groups = [group | {"params": [p for p in group["params"] if p.requires_grad]} for group in groups]
    groups = [group for group in groups if group["params"]]
    if stage.optimizer == "adam":
        return torch.optim.Adam(groups, stage.lr, weight_decay=stage.weight_decay)
    return torch.optim.SGD(groups, stage.lr, stage.momentum, weight_decay=stage.weight_decay)


def _schedule(
    stage: Stage, optimizer: torch.optim.Optimizer, length: int, epoch: int, measure_every: int
) -> LambdaLR | ReduceLROnPlateau:
    if isinstance(stage.schedule, Plateau):
        patience = stage.schedule.patience // measure_every  # in measurings
        return ReduceLROnPlateau(optimizer, factor=stage.schedule.factor, patience=patience)
    unit = 1 if stage.unit == "steps" else epoch
    rates = [stage.own.get(group.get("name", ""), stage.schedule) for group in optimizer.param_groups]

    def at(rate: Drops | Cosine) -> Callable[[int], float]:
        return lambda step: rate(step / unit, length / unit)

    return LambdaLR(optimizer, [at(rate) for rate in rates])


def _mean(decay: float) -> Callable[[Any, Any, Any], None]:
    """An exponential mean that forgets sooner at its beginning, as tf.train.ExponentialMovingAverage(decay, step) does.

    Else a run much shorter than 1 / (1 - decay) steps would be measured on the weights it began with.
    """

    def update(means: Any, weights: Any, averaged: Any) -> None:
        steps = int(averaged)  # 0: torch has copied the weights; kept in its state_dict
        get_ema_multi_avg_fn(min(decay, (1 + steps) / (10 + steps)))(means, weights, averaged)

    return update


@contextmanager
def _processes(device: torch.device | str | None) -> Iterator[tuple[torch.device, int, int]]:
    """The device of this process, its number and how many there are, as `torchrun` says; joined while this lasts."""
    rank, world = int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))
    place = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    if place.type == "cuda" and place.index is None:
        place = torch.device("cuda", int(os.environ.get("LOCAL_RANK", 0)))
    if place.type == "cuda":
        torch.cuda.set_device(place)
    if world == 1:
        yield place, 0, 1
        return
    dist.init_process_group("nccl" if place.type == "cuda" else "gloo")
    try:
        yield place, rank, world
    finally:
        dist.destroy_process_group()


@contextmanager
def _stops() -> Iterator[threading.Event]:
    """Set by the first Ctrl-C or SIGTERM; the second Ctrl-C interrupts at once. In the main thread alone."""
    stopped = threading.Event()

    def stop(number: int, frame: object) -> None:
        if stopped.is_set():
            raise KeyboardInterrupt
        stopped.set()
        logging.getLogger("motionspec").warning("stopping after this step; once more stops at once")

    if threading.current_thread() is not threading.main_thread():
        yield stopped
        return
    before = {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield stopped
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
