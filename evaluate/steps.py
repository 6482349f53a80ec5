"""A training that one file holds, for whatever an evaluation fits: probes and detectors.

The state is saved every so often and on a signal, and the same command continues. A loss that is
not finite ends the training at its step (two steps later on a GPU), and nothing of it is saved.

    training = Training(model, optimizer, file, identity, "classifier")
    training.restore()
    if not training.finished:
        training.run(batches_from(training.step), loss_of, rates, steps, save_every, name)
        training.save(finished=True)

Used by evaluate/probes/sgd.py and evaluate/detection/training.py.
"""

import json
import operator
import os
import signal
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel
from tqdm import tqdm

from data.cli import UsageError
from data.io import is_own
from data.stopping import Stopping
from data.tensors import fitting, load_tensors, write_tensors
from train import distributed
from train.checkpoint import differences, finite
from train.run import FiniteLosses
from train.workers import LoaderError

ANEW = "delete it to begin anew"
SHOWN = 20  # steps between two losses on the bar
NOT_FINITE = 1 << 10  # a process's flag, beside the numbers of signals


@dataclass
class Training:
    """A model, its optimizer, and the file that holds both; without the optimizer when finished.

    Attributes:
        identity: what makes it the same training (JSON-able).
        what: noun of the messages, "classifier" or "detector".
        advice: what to change where the loss is not finite.
        step: steps that are done.  saved: those that the file holds.
        finished: whether the file holds the finished model.
    """

    model: nn.Module
    optimizer: torch.optim.Optimizer
    file: Path
    identity: dict
    what: str
    advice: str = "lower --lr"
    step: int = 0
    saved: int = 0
    finished: bool = False

    def __post_init__(self) -> None:
        self.losses = FiniteLosses(next(self.model.parameters()).device)

    def restore(self) -> None:
        """Load what the file holds, where there is one.

        Raises:
            UsageError: a file that is damaged, or of another training.
        """
        if os.path.lexists(self.file):
            if not is_own(self.file):
                raise UsageError(f"{self.file}: a link to elsewhere, or no ordinary file; {ANEW}")
            state = load_tensors(self.file, "checkpoint", ANEW)
            identity = json.loads(json.dumps(self.identity))  # as it will be read
            try:
                different = differences(json.loads(state["identity"]), identity)
                if not different:
                    self._load(**state)
            except (KeyError, TypeError, AttributeError, ValueError, RuntimeError) as error:
                raise UsageError(f"{self.file}: not a {self.what}'s checkpoint; {ANEW}") from error
            if different:
                raise UsageError(
                    f"{self.file}: holds a {self.what} trained otherwise ({different}); delete it, "
                    "or choose another --json"
                )
        distributed.barrier()  # no process writes the file before all have read it

    def _load(self, identity: str, step: int, model: dict, optimizer: dict | None = None) -> None:
        """Raises where a file of the same training, but from elsewhere, does not fit."""
        self.model.load_state_dict(fitting(model, self.model.state_dict(), "the model"))
        if optimizer is not None:
            groups = self.optimizer.state_dict()["param_groups"]
            self.optimizer.load_state_dict({"state": optimizer["state"], "param_groups": groups})
        for parameter, buffers in self.optimizer.state.items():
            fitting(buffers, dict.fromkeys(buffers, parameter), "the optimizer")
        self.finished = optimizer is None
        self.step = self.saved = operator.index(step)

    def run(
        self,
        batches: Iterable,
        loss_of: Callable[[object, int], torch.Tensor],
        rates: Callable[[int], Sequence[float]],
        steps: int,
        save_every: int,
        name: str,
    ) -> None:
        """Train from the step that is reached to the last, and save that.

        Args:
            batches: from that step on.
            loss_of: (batch, step) -> this process's loss; the mean over processes is minimised.
            rates: step -> the learning rate of each of the optimizer's groups.
            steps: all of them, those that are done included.
            save_every: steps between two saves; the last step is saved too.
            name: of the progress bar.

        Raises:
            UsageError: a loss that is not finite, or workers that fail again and again.
            SystemExit: stopped by a signal, and saved; code 0, or 130 on Ctrl-C.
        """
        options = {"leave": False, "disable": distributed.rank() > 0, "initial": self.step}
        bar = tqdm(desc=name, total=steps, unit="step", **options)
        with Stopping() as stop, bar:
            for batch in self._saved_on_failure(batches):
                for group, rate in zip(self.optimizer.param_groups, rates(self.step), strict=True):
                    group["lr"] = rate
                loss = loss_of(batch, self.step)
                self._update(loss)
                bar.update()
                # at every step: torchrun kills what has not ended 30 s after its SIGTERM
                flag = NOT_FINITE if self.losses.failed() else stop.received
                flag = distributed.any_rank(flag)
                if flag or self.step % save_every == 0 or self.step == steps:
                    self.save()
                if flag and self.step < steps:
                    self._stop(flag, steps)
                if self.step % SHOWN == 0:
                    mean = distributed.mean(loss).item()
                    bar.set_postfix(loss=f"{mean:.3f}", refresh=False)

    def _saved_on_failure(self, batches: Iterable) -> Iterator:
        try:
            yield from batches
        except LoaderError:
            if distributed.world() == 1:  # others would wait for this one in `save`
                self.save()
            raise

    def _update(self, loss: torch.Tensor) -> None:
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        self.optimizer.step()
        self.step += 1
        self.losses.add(self.step, loss)

    def _check_finite(self) -> None:
        """UsageError, in every process, where a loss or a weight is not finite in one of them."""
        failed = self.losses.failed(wait=True) or not finite(self.model.state_dict())
        if not distributed.any_rank(failed):
            return
        bad = distributed.any_rank(self.losses.step) or self.step
        advice = self.advice
        if self.saved:
            advice = f"{self.file} keeps step {self.saved}; {advice} and give another --json"
        raise UsageError(f"{self.file.stem}: the loss is not finite at step {bad}; {advice}")

    def _stop(self, received: int, steps: int) -> None:
        if distributed.rank() == 0:
            print(
                f"stopped at step {self.step} of {steps} and saved to {self.file}; "
                "the same command continues"
            )
        raise SystemExit(130 if received == signal.SIGINT else 0)

    def save(self, finished: bool = False) -> None:
        """Write the file; a finished model without its optimizer. UsageError, instead, where a
        loss or a weight is not finite."""
        self._check_finite()
        state = {"identity": json.dumps(self.identity), "step": self.step}
        state["model"] = self.model.state_dict()
        if not finished:
            state["optimizer"] = self.optimizer.state_dict()
        self.saved, self.finished = self.step, finished
        if distributed.rank() == 0:
            self.file.parent.mkdir(parents=True, exist_ok=True)
            write_tensors(self.file, state)


def spread(model: nn.Module, device: torch.device, buffers: bool = True) -> nn.Module:
    """The model with gradients averaged over processes, where there are several.

    Args:
        buffers: the first process's are sent to the others at every step; frozen ones need not be.
    """
    if distributed.world() == 1:
        return model
    ids = [device.index or torch.cuda.current_device()] if device.type == "cuda" else None
    with warnings.catch_warnings(action="ignore"):  # the argument's successor is not there yet
        return DistributedDataParallel(model, ids, broadcast_buffers=buffers)
