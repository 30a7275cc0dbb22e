"""Signals to stop, and whom they reach."""

from __future__ import annotations

import os


def leave_group(worker: int) -> None:
    """Takes a loader's worker out of reach of Ctrl-C, and of signals to the group: its trainer tells it when to end."""
    if hasattr(os, "setpgrp"):
        os.setpgrp()
