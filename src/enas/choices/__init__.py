"""Choices inside a network of the user's own: modules that ask, the space that they span, and one path or child of it.

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(3, 16, 3, padding=1)
        self.mix = Choice({"conv3": conv(3), "conv5": conv(5), "idle": nn.Identity()})
        self.skip = Inputs(2, at_least=1)

    def forward(self, x):
        x = self.stem(x)
        return self.skip([self.mix(x), x]).mean((2, 3))

space = space_of(net)
with use(net, architecture):
    y = net(x)
model = child_of(net, architecture)
"""

from enas.choices.child import child_of
from enas.choices.modules import Choice, Inputs, SharedDecision, fresh_decisions
from enas.choices.plan import asked_by, use
from enas.choices.reading import space_of

Decision = SharedDecision
"""Its name before: recipe files of runs that there are import it."""

__all__ = [
    "Choice",
    "Decision",
    "Inputs",
    "SharedDecision",
    "asked_by",
    "child_of",
    "fresh_decisions",
    "space_of",
    "use",
]
