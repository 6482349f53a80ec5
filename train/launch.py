"""torchrun for programs that a signal stops: it waits until they are saved and ends as they do,
where torchrun itself ends with an error.

    python -m train.launch --standalone --nproc-per-node 8 -m train /data/imagenet/train ...

Takes torchrun's own arguments.
"""

import os
import signal
import sys
from pathlib import Path

from data.cli import fail
from data.stopping import ending

received: list[int] = []


def main() -> None:
    with ending("stopped before the first process was started", forward):
        # takes seconds, in which a signal may come
        from torch.distributed import run
        from torch.distributed.elastic.multiprocessing.errors import ChildFailedError

        try:
            arguments = ["--signals-to-handle", "SIGQUIT", *sys.argv[1:]]
            if "-m" in arguments:  # or it would take the module's --run for one of its own
                arguments.insert(arguments.index("-m") + 1, "--")
            run.main(arguments)
        except ChildFailedError as error:  # that process has said why
            _, failure = error.get_first_failure()
            raise SystemExit(max(1, failure.exitcode)) from None
        except (AssertionError, ValueError, RuntimeError) as error:  # torchrun's, of its arguments
            reason = str(error) or "nodes and processes must be at least 1"
            raise SystemExit(fail(f"torchrun: {reason}")) from None
    if signal.SIGINT in received:
        raise SystemExit(130)


def forward(number: int) -> bool:
    """Send every training process SIGTERM: it saves and ends, and so torchrun does; False where
    there is none."""
    received.append(number)
    children = Path(f"/proc/{os.getpid()}/task/{os.getpid()}/children").read_text().split()
    for child in children:
        os.kill(int(child), signal.SIGTERM)
    return bool(children)


if __name__ == "__main__":
    main()
