"""A lock's file may be removed at the end: whoever waited for it holds the lock on the next one."""

import threading
import time

import pytest

from data.cli import UsageError
from data.io import lock


def test_a_lock_whose_file_was_removed_is_taken_on_a_new_one(tmp_path):
    path, seen = tmp_path / ".x.lock", []

    def wait_for_it() -> None:
        with lock(path, wait=True, remove=True):
            seen.append(path.exists())
            with pytest.raises(UsageError, match="another process holds this lock"), lock(path):
                pass

    waiting = threading.Thread(target=wait_for_it)
    with lock(path, remove=True):
        waiting.start()
        time.sleep(0.1)
    waiting.join()
    assert seen == [True] and not path.exists()
