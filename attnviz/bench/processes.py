"""Several processes that share a benchmark, on one machine or many: started by torchrun or `accelerate launch`.

accelerate says which process this is and splits the prompts; nothing here starts a process or opens a port.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeVar, cast

from attnviz.errors import BadInput

Item = TypeVar("Item")
PATIENCE = timedelta(days=14)
"""How long a process waits for the others; the default of torch, half an hour, ends long benchmarks."""


@dataclass(frozen=True)
class Crew:
    """All processes of this benchmark. `state`: accelerate's, None where this process is alone."""

    count: int = 1
    index: int = 0
    state: Any = None

    @property
    def leads(self) -> bool:
        """Whether this process writes the plan and the tables."""
        return self.index == 0

    def share(self, items: Sequence[Item]) -> list[Item]:
        """The part of the items that is this process's to do."""
        if self.state is None:
            return list(items)
        with self.state.split_between_processes(list(items)) as mine:
            return list(mine)

    def wait(self) -> None:
        """Until all processes are here."""
        if self.state is not None:
            self.state.wait_for_everyone()

    def told_by_first(self, value: Item) -> Item:
        """What the first process has, in all of them."""
        if self.state is None:
            return value
        from accelerate.utils import broadcast_object_list

        return cast(Item, broadcast_object_list([value])[0])

    def gathered(self, items: Sequence[Item]) -> list[Item]:
        """The items of all processes, in the order of the processes."""
        if self.state is None:
            return list(items)
        from accelerate.utils import gather_object

        return cast("list[Item]", gather_object(list(items)))


def crew(device: str = "auto") -> Crew:
    """The processes this one was started with; alone where the environment names no others.

    Raises:
        BadInput: accelerate sees other processes than were started, so that each would do all the work.
    """
    started = os.environ.get("WORLD_SIZE", "1")
    if not started.isdigit():
        raise BadInput(f"WORLD_SIZE: expected a number of processes, got {started!r:.40}.")
    if int(started) <= 1:
        return Crew()
    import torch
    from accelerate import PartialState

    if device != "cpu" and torch.cuda.is_available():
        state = PartialState(timeout=PATIENCE)
    else:  # accelerate joins processes without a GPU only when it is told that there is none
        state = PartialState(cpu=True, backend="gloo", timeout=PATIENCE)
    if state.num_processes != int(started):
        raise BadInput(
            f"{started} processes were started, but accelerate joined {state.num_processes}: each would do all of the "
            "work. Start them with torchrun or accelerate launch."
        )
    return Crew(state.num_processes, state.process_index, state)
