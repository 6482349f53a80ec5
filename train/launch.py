"""torchrun for programs that a signal stops: it waits until they are saved and ends as they do,
where torchrun itself ends with an error.

    python -m train.launch --standalone --nproc-per-node 8 -m train /data/imagenet/train ...

Takes torchrun's own arguments.
"""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

from torch.distributed import run

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)


def main() -> None:
    for number in SIGNALS:
        signal.signal(number, forward)
    run.main(["--signals-to-handle", "SIGHUP", *sys.argv[1:]])


def forward(*_: object) -> None:
    """Send every training process SIGTERM: it saves and ends, and so torchrun does."""
    for child in Path(f"/proc/{os.getpid()}/task/{os.getpid()}/children").read_text().split():
        os.kill(int(child), signal.SIGTERM)


if __name__ == "__main__":
    main()
