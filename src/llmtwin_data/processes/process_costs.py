"""What processes used: CPU seconds and peak memory."""

from __future__ import annotations

import resource
import sys


def process_costs(who: int = resource.RUSAGE_SELF) -> dict[str, float]:
    """Give CPU seconds and peak memory in MiB of this process, or of its children that have ended."""
    used = resource.getrusage(who)
    # ru_maxrss is in KiB on Linux and in bytes on macOS.
    unit = 1024 * 1024 if sys.platform == "darwin" else 1024
    return {
        "cpu_seconds": round(used.ru_utime + used.ru_stime, 2),
        "peak_rss_mb": round(used.ru_maxrss / unit, 1),
    }
