"""Everything this project raises on purpose, with the exit code each ends a command with.

LlmTwinError                 1   unexpected
├── ParamsError              2   a parameter, prompt, path or command line is not what it must be
│   └── ModelUnknown         2   the endpoint does not know the model
├── KeyRejected              3   a key is missing, wrong or not allowed (endpoint or Qdrant)
├── BillingRefused           3   the endpoint wants money
├── SourceError              4   contents cannot be read: server, collection, file, line
├── RunIncomplete            5   stopped before the end; the same command goes on
│   ├── EndpointDown         5   network, server or rate limit for longer than our patience
│   ├── BudgetReached        5   the next request would cross max_cost_usd
│   └── TrackingFailed       5   Comet did not take it; `publish` tries again
├── QualityGate              6   an alarm, an audit finding or a failed check
├── RunLocked                7   another run works in this folder
├── DiskFailed               8   disk full, read-only or a damaged file
└── Interrupted            130   stopped by a person; the same command goes on
"""

from __future__ import annotations

import os
import traceback

# Set in the environment of a command by `--debug`, and so of the kernels that it starts.
DEBUG = "LLMTWIN_DEBUG"
# The state that each exit code leaves a run in; any other code: failed.
RUN_STATES = {0: "complete", 5: "incomplete", 6: "gated", 130: "incomplete"}


class LlmTwinError(Exception):
    """Base of the tree; its text names place, expectation, finding and next step."""

    exit_code = 1

    def _render_traceback_(self) -> list[str]:
        """Return what IPython shows of it in a notebook: its lines, as a command prints them."""
        if os.environ.get(DEBUG):
            return traceback.format_exception(self)
        return f"{type(self).__name__}: {self}".splitlines()


class ParamsError(LlmTwinError):
    exit_code = 2


class ModelUnknown(ParamsError): ...


class KeyRejected(LlmTwinError):
    exit_code = 3


class BillingRefused(LlmTwinError):
    exit_code = 3


class SourceError(LlmTwinError):
    exit_code = 4


class RunIncomplete(LlmTwinError):
    exit_code = 5


class EndpointDown(RunIncomplete): ...


class BudgetReached(RunIncomplete): ...


class TrackingFailed(RunIncomplete): ...


class QualityGate(LlmTwinError):
    exit_code = 6


class RunLocked(LlmTwinError):
    exit_code = 7


class DiskFailed(LlmTwinError):
    exit_code = 8


class Interrupted(LlmTwinError):
    exit_code = 130


def exit_code_of(class_name: str) -> int:
    """Return the exit code of the class of this name, 1 for a foreign one, 130 for KeyboardInterrupt."""
    if class_name == "KeyboardInterrupt":
        return Interrupted.exit_code
    return int(getattr(globals().get(class_name), "exit_code", LlmTwinError.exit_code))
