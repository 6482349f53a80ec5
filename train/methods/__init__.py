"""Contrastive methods, a file each.

A method is a dataclass of its settings (train.config.MethodSettings), whose `make(config, images)`
gives an nn.Module, `images` being the number of training images. The settings say in `VIEWS` how
many views of an image it takes, 1 or 2. The module's contract:

- `forward(views, step, index, negative=None, counts=None) -> (loss, accuracy)`: `views` are `VIEWS`
  normalised batches, (B, 3, s, s) each, of this process; `step` the global step, 0, 1, ...; `index`
  (B,) int64, each image's place in the run's list; `negative` (B, 3, s, s) or None, one more
  negative for each query (backgrounds of `swap`), and `counts` (B,) bool or None (all) the queries
  that have it: the loss of the others is as without. The loss is the mean over this process's
  batch, so that its mean over processes (DistributedDataParallel's) is the global batch's; accuracy
  is the share of queries, in 0..1, that prefer their own positive. Moving averages and memories
  move here, alike on every process: what they take from a batch is gathered first
  (train/distributed.py).
- `encoder`: the network, with its head as `fc`, whose backbone is the result of the run.
- `slow`: its slow copy, where the method has one; it begins equal to `encoder`, with --init too.
- Whatever has requires_grad is trained.
"""

from train.config import MethodSettings
from train.methods import byol, instdisc, moco, simclr

METHODS: dict[str, type[MethodSettings]] = {
    "moco": moco.Settings,
    "instdisc": instdisc.Settings,
    "simclr": simclr.Settings,
    "byol": byol.Settings,
}
