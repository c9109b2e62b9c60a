"""Processes that do not outlive the one that started them."""

import os
import threading
import time

# The process id with which a command is to end.
ENDS_WITH_PARENT = "STEEPEST_ENDS_WITH_PARENT"


def end_with_parent(parent: int | None = None) -> None:
    """End this process when the one that started it is gone, also in the middle of waiting for another one.

    Args:
        parent: Its process id; None takes the one that is there now.
    """
    parent = os.getppid() if parent is None else parent

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(0.5)
        os._exit(1)

    threading.Thread(target=watch, daemon=True, name="parent-watch").start()
