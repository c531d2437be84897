"""The kernel's way to end with its driver."""

from __future__ import annotations

import os
import sys
import threading

# Number of the pipe's reading end, inherited from the driver; nothing is ever written into it.
DRIVER_PIPE = "LLMTWIN_DRIVER_PIPE"


def end_with_driver(pipe: int) -> None:
    """Wait until the driver's end of the pipe is closed, then end this process without another call.

    Every answer is stored before it counts, so there is nothing to clean up.
    """
    while os.read(pipe, 1):
        pass
    os._exit(1)


def main() -> None:
    """Run an IPython kernel on the leash; the arguments are those of ipykernel."""
    pipe = int(os.environ[DRIVER_PIPE])
    threading.Thread(target=end_with_driver, args=(pipe,), name="leash", daemon=True).start()
    # As ipykernel's own launcher does: the current folder must not shadow installed packages.
    sys.path[:] = [entry for entry in sys.path if entry not in ("", os.getcwd())]  # noqa: PTH109
    from ipykernel.kernelapp import launch_new_instance

    launch_new_instance()


if __name__ == "__main__":
    main()
