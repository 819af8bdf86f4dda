"""Requests of one step by the revision that each is routed through, and what is looked up in each revision's tables."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import groupby

import torch

from horen_vllm.plugin.requests import TrackedRequest
from horen_vllm.plugin.revisions import RevisionView


@dataclass(frozen=True, slots=True)
class ViewGroup:
    """Requests of one revision, in the order of the batch."""

    view: RevisionView
    requests: list[TrackedRequest] = field(default_factory=list)

    @property
    def space(self) -> tuple[int, bool]:
        """What two revisions have in common whose queries and keys are of one routing space."""
        return id(self.view.space), self.view.radii is not None


def by_view(requests: Iterable[TrackedRequest]) -> list[ViewGroup]:
    """Return the requests by revision; revisions of one routing space stand side by side."""
    groups: dict[int, ViewGroup] = {}
    for tracked in requests:
        groups.setdefault(id(tracked.view), ViewGroup(tracked.view)).requests.append(tracked)
    order: dict[tuple[int, bool], list[ViewGroup]] = {}
    for group in groups.values():
        order.setdefault(group.space, []).append(group)
    return [group for alike in order.values() for group in alike]


def by_space(groups: Sequence[ViewGroup]) -> Iterator[list[ViewGroup]]:
    """Yield the groups that share a routing space."""
    for _, alike in groupby(groups, key=lambda group: group.space):
        yield list(alike)


def looked_up(
    groups: Sequence[ViewGroup], index: torch.Tensor, look_up: Callable[[RevisionView, torch.Tensor], torch.Tensor]
) -> torch.Tensor:
    """Return what each row's own revision says.

    Parameters
    ----------
    index
        [R, ...] int64, a row for each request, group after group.
    look_up
        Gets a revision and its rows of `index`.
    """
    parts = torch.split(index, [len(group.requests) for group in groups])
    return torch.cat([look_up(group.view, part) for group, part in zip(groups, parts, strict=True)])
