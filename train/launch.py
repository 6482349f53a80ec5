"""torchrun for programs that a signal stops: it waits until they are saved and ends as they do,
where torchrun itself ends with an error.

    python -m train.launch --standalone --nproc-per-node 8 -m train /data/imagenet/train ...

Takes torchrun's own arguments.
"""

import os
import signal
import sys
from pathlib import Path

from data.stopping import SIGNALS, leave

received: list[int] = []


def main() -> None:
    for number in SIGNALS:
        signal.signal(number, forward)
    # takes seconds, in which a signal may come
    from torch.distributed import run
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError

    if received:  # an import caught the exit
        raise SystemExit(code(received[0]))
    try:
        run.main(["--signals-to-handle", "SIGHUP", *sys.argv[1:]])
    except ChildFailedError as error:  # that process has said why
        _, failure = error.get_first_failure()
        raise SystemExit(max(1, failure.exitcode)) from None
    if signal.SIGINT in received:
        raise SystemExit(130)


def forward(number: int, _: object) -> None:
    """Send every training process SIGTERM: it saves and ends, and so torchrun does; before there is
    one, end at once."""
    received.append(number)
    children = Path(f"/proc/{os.getpid()}/task/{os.getpid()}/children").read_text().split()
    for child in children:
        os.kill(int(child), signal.SIGTERM)
    if not children:
        print("stopped before the first process was started", file=sys.stderr)
        leave(SystemExit(code(number)))


def code(number: int) -> int:
    """The exit code after a signal."""
    return 130 if number == signal.SIGINT else 0


if __name__ == "__main__":
    main()
