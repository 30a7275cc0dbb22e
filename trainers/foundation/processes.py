"""What one of several processes does for all of them."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import ignite.distributed as idist


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
        message = str(idist.broadcast(message, src=0, safe_mode=True))
    heard = json.loads(message)
    if "failure" in heard:
        raise OSError(heard["failure"])
    return heard["given"]
