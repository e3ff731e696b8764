"""Launches that are recorded once and repeated, as CUDA graphs: a pass over a window is then one launch, whatever the cell.

A window is recorded when its layout comes for the second time, in memory of its own that stays. Only a few layouts are
recorded: of windows of random length some are, and the others are launched one by one.

Not run on a GPU yet; the tests put repeated calls in the place of CUDA's graphs.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from enas.gpu.window import Inputs, Layout, Window

SWITCH = "ENAS_GRAPHS"
"""The environment variable that turns recording off where it is `off`."""
FEW = 4
"""Layouts that are recorded at the same time, as each keeps its memory."""
LONG = 200
"""Windows after which a layout that did not come makes room for another."""


class Place:
    """Memory that windows of one layout are computed in."""

    def __init__(self, layout: Layout) -> None:
        self.window = Window(layout)
        self.uses = 0
        """What was left in the memory is that of so many uses."""
        self.last = 0
        """When it was used, in windows."""

    def forward(self, inputs: Inputs, weights: Sequence[Tensor]) -> None:
        """Compute a window."""
        self.window.take(inputs, weights)
        self.window.forward()

    def backward(self, d_output_TABD: Tensor) -> None:
        """Compute its gradients, once."""
        self.window.d_output_TABD = d_output_TABD
        self.window.backward()

    def own(self, result: Tensor) -> Tensor:
        """A result, in memory that no later window changes."""
        # Another object: autograd makes this one point to what keeps the memory.
        return result.view(result.shape)


class Recorded(Place):
    """Memory that many windows are computed in, one after the other, by the same launches."""

    def __init__(self, layout: Layout, inputs: Inputs, weights: Sequence[Tensor]) -> None:
        """The first window, computed. What is launched is recorded; `inputs` are copied for each window."""
        super().__init__(layout)
        window = self.window
        window.take(inputs.copied(), weights)
        works = [window.forward]
        if layout.keep:
            window.d_output_TABD = torch.zeros_like(window.output_TABD)
            works.append(window.backward)
        self._repeat = recorded(works, layout.device)

    def forward(self, inputs: Inputs, weights: Sequence[Tensor]) -> None:
        for mine, given in zip(self.window.inputs, inputs, strict=True):
            if mine is not None and given is not None:
                mine.copy_(given)
        self.window.take(self.window.inputs, weights)
        self._repeat[0]()

    def backward(self, d_output_TABD: Tensor) -> None:
        self.window.d_output_TABD.copy_(d_output_TABD)
        self._repeat[1]()

    def own(self, result: Tensor) -> Tensor:
        return result.clone()


class Lease:
    """A window that was computed, as long as nothing else is computed in its memory."""

    def __init__(self, place: Place) -> None:
        place.uses += 1
        self.place, self.use = place, place.uses

    @property
    def valid(self) -> bool:
        """Whether what the forward pass left is still there."""
        return self.place.uses == self.use

    def results(self) -> tuple[Tensor, Tensor | None]:
        """Outputs [T, A, B, D], and the batch's mean and variance [T, 2, A, D] if the norm used them."""
        window, own = self.place.window, self.place.own
        statistics = window.statistics_T2AD
        return own(window.output_TABD), None if statistics is None else own(statistics)

    def backward(self, d_output_TABD: Tensor) -> Window:
        """The window with the gradients in it, until the next use of its memory."""
        self.place.uses += 1  # what the forward pass left is used up
        self.place.backward(d_output_TABD.contiguous())
        return self.place.window


class Graphs:
    """The layouts that are recorded."""

    def __init__(self) -> None:
        self.allowed = True
        self.recorded: dict[Layout, Recorded] = {}
        self._seen: Counter[Layout] = Counter()
        self._windows = 0

    def computed(self, layout: Layout, inputs: Inputs, weights: Sequence[Tensor]) -> Lease:
        """A window, computed, by a record where there is one or this layout comes for the second time."""
        self._windows += 1
        place: Place | None = self.recorded.get(layout)
        if place is None:
            self._seen[layout] += 1
            if self._seen[layout] > 1 and self.allowed and can_record(layout.device) and self._has_room():
                with torch.inference_mode(False):  # the memory is used again, perhaps outside of it
                    place = self.recorded[layout] = Recorded(layout, inputs, weights)
            else:
                place = Place(layout)
        place.last = self._windows
        place.forward(inputs, weights)
        return Lease(place)

    def forget(self) -> None:
        """Give back the memory of all."""
        self.recorded.clear()
        self._seen.clear()

    def _has_room(self) -> bool:
        if len(self.recorded) < FEW:
            return True
        oldest = min(self.recorded, key=lambda layout: self.recorded[layout].last)
        if self._windows - self.recorded[oldest].last < LONG:
            return False
        del self.recorded[oldest]
        return True


GRAPHS = Graphs()


def can_record(device: torch.device) -> bool:
    """Whether launches can be recorded on this device: on a CUDA GPU, unless somebody does so already or turned it off."""
    return (
        device.type == "cuda"
        and os.environ.get(SWITCH, "").lower() != "off"
        and not torch.cuda.is_current_stream_capturing()
    )


def recorded(works: Sequence[Callable[[], None]], device: torch.device) -> list[Callable[[], None]]:
    """What repeats each of the works, all that they launch on this GPU at once. They only write to memory that stays.

    Each is done once before, in order, so that nothing is compiled or set up while it is recorded.
    """
    with torch.cuda.device(device):
        aside, graphs = torch.cuda.Stream(), []
        aside.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(aside):
            for work in works:
                work()
        torch.cuda.current_stream().wait_stream(aside)
        for work in works:
            graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(graph, capture_error_mode="thread_local"):  # other threads may pin memory
                work()
            graphs.append(graph)
    return [graph.replay for graph in graphs]
