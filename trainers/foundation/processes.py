"""What one of several processes does for all of them."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import timedelta
from typing import Any, cast

import ignite.distributed as idist
import torch.distributed as dist

LONGEST_WORK = timedelta(hours=6)
"""How long the others wait for the first process; what all processes do together ends sooner if one is lost."""


def from_first_process(work: Callable[[], Any]) -> Any:
    """What ``work`` gives on the first process, for all of them: also if it is an error, or they would wait for ever.

    Args:
        work: Gives what JSON can hold.

    Raises:
        OSError: ``work`` raised an ``OSError`` or a ``ValueError``, which is told in its words.
    """
    message = ""
    if idist.get_rank() == 0:
        try:
            message = json.dumps({"given": work()})
        except (OSError, ValueError) as error:
            message = json.dumps({"failure": str(error)})
    if idist.get_world_size() > 1:
        message = _told(message)
    heard = json.loads(message)
    if "failure" in heard:
        raise OSError(heard["failure"])
    return heard["given"]


def _told(message: str) -> str:
    """The first process's message on all of them, for which they wait in a group of their own."""
    group = cast("dist.ProcessGroup", dist.new_group(backend="gloo", timeout=LONGEST_WORK))
    try:
        messages = [message]
        dist.broadcast_object_list(messages, src=0, group=group)
        return messages[0]
    finally:
        dist.destroy_process_group(group)
