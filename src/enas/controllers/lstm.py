"""The paper's controller (§2.1-2.2): an LSTM that decides node after node, source then function.

Details the paper leaves open follow the authors' recurrent code:

* Every node that decides something takes one LSTM step that reads the function of the node before (at
  first, a learned "empty" embedding); the state h of this step is the node's *anchor*. A node without
  decisions (the fixed input node of the corrected code) has the anchor 0 and the key 0.
* The source of node k is chosen by attention over the earlier anchors: z_j = v · tanh(h W_query + a_j W_key).
* A second step reads the chosen anchor, scaled by 1/(0.1 + k - j), and its h gives the function:
  z = W_softmax h. At a node without a source it reads what the first step read.
* Logits are c·tanh(z / temperature), then, if asked for, minus (k - j)²/6 for sources.

The LSTM has no biases and starts from zeros. All N proposals take each step together.

Shape letters: N proposals, L decisions, K options, k options of one decision, S units of the LSTM,
F functions, G = 4S gate columns: input, forget, output, candidate.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import pairwise
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from enas.architecture import Space
from enas.controllers.base import Policy, Proposals
from enas.controllers.categorical import gumbel_noise
from enas.controllers.config import LSTMConfig
from enas.errors import ConfigError

Choose = Callable[[int, Tensor], Tensor]
"""From the position of a decision and its logits [N, k] to the options taken [N]."""


class NodeDecisions(NamedTuple):
    """Where a node's decisions stand among the space's; None for one that it does not take."""

    source: int | None = None
    function: int | None = None


NOTHING = NodeDecisions()


def nodes_of(space: Space) -> tuple[NodeDecisions, ...]:
    """The decisions of nodes 0, 1, ...

    Raises `ConfigError` unless nodes come in order, each deciding at most a source, among all nodes before
    it, and then a function, among the same functions at every node.
    """
    decisions = space.decisions
    nodes = [NOTHING] * (1 + max(decision.node for decision in decisions))
    kinds: dict[int, list[str]] = {}
    for position, decision in enumerate(decisions):
        kinds.setdefault(decision.node, []).append(decision.kind)
        if decision.kind == "source":
            nodes[decision.node] = nodes[decision.node]._replace(source=position)
        else:
            nodes[decision.node] = nodes[decision.node]._replace(function=position)
    if not (
        all(before.node <= after.node for before, after in pairwise(decisions))
        and all(of_node in (["source"], ["function"], ["source", "function"]) for of_node in kinds.values())
        and all(len(d.options) == d.node for d in decisions if d.kind == "source")
        and len({d.options for d in decisions if d.kind == "function"}) <= 1
    ):
        raise ConfigError(
            f"The lstm controller cannot decide the {space.name} space: it needs nodes in order, each with "
            "at most a source among all earlier nodes and then a function, the same functions everywhere. "
            "Use the independent controller."
        )
    return tuple(nodes)


class LSTMPolicy(Policy):
    """π(a) = Π over decisions of softmax(logits given the decisions before)[choice]."""

    _distance_K: Tensor

    def __init__(self, space: Space, config: LSTMConfig, generator: torch.Generator) -> None:
        """All weights are drawn from U(-init_range, init_range) with `generator`, a CPU generator.

        Raises `ConfigError` if the space is not one of sources and functions.
        """
        super().__init__()
        self.space = space
        self.nodes = nodes_of(space)
        self.temperature = config.temperature
        self.tanh_constant = config.tanh_constant
        self.distance_prior = config.distance_prior
        self.options = max(len(decision.options) for decision in space.decisions)
        functions = max((len(d.options) for d in space.decisions if d.kind == "function"), default=0)

        def weight(*shape: int) -> nn.Parameter:
            r = config.init_range
            return nn.Parameter(torch.empty(shape).uniform_(-r, r, generator=generator))

        units = config.hidden
        self.empty_S = weight(units)
        self.embedding_FS = weight(functions, units)
        self.softmax_FS = self.embedding_FS if config.tied_softmax else weight(functions, units)
        self.input_SG = weight(units, 4 * units)
        self.state_SG = weight(units, 4 * units)
        self.key_SS = weight(units, units)
        self.query_SS = weight(units, units)
        self.attention_S = weight(units)
        distance_K = torch.arange(len(self.nodes) - 1, 0, -1, dtype=torch.get_default_dtype())
        self.register_buffer("_distance_K", distance_K, persistent=False)

    def sample(self, n: int, generator: torch.Generator) -> Proposals:
        noise_NLK = gumbel_noise((n, len(self.space.decisions), self.options), generator, like=self.empty_S)

        def draw(position: int, logits_NK: Tensor) -> Tensor:
            return (logits_NK.detach() + noise_NLK[:, position, : logits_NK.shape[1]]).argmax(-1)

        return Proposals.from_logits(*self._decide(n, draw))

    def score(self, choices_NL: Tensor) -> Proposals:
        return Proposals.from_logits(choices_NL, self.logits(choices_NL))

    def mode(self) -> tuple[int, ...]:
        """Greedy decoding: the most probable option at each step. A more probable architecture may exist."""
        with torch.no_grad():
            choices_NL, _ = self._decide(1, lambda _, logits_NK: logits_NK.argmax(-1))
        return tuple(choices_NL[0].tolist())

    def logits(self, choices_NL: Tensor) -> Tensor:
        """The logits of all decisions along these paths [N, L, K]; -inf where there is no such option."""
        _, logits_NLK = self._decide(len(choices_NL), lambda position, _: choices_NL[:, position])
        return logits_NLK

    def _decide(self, n: int, choose: Choose) -> tuple[Tensor, Tensor]:
        """Take all decisions in order; return the options taken [N, L] and the logits [N, L, K]."""
        choices: list[Tensor] = []
        logits: list[Tensor] = []

        def take(logits_NK: Tensor) -> Tensor:
            choices.append(choose(len(choices), logits_NK))
            logits.append(F.pad(logits_NK, (0, self.options - logits_NK.shape[1]), value=-math.inf))
            return choices[-1]

        zeros_NS = self.empty_S.new_zeros(n, len(self.empty_S))
        embedding_FG = self.embedding_FS @ self.input_SG  # the inputs' part of the gates, once for all steps
        rows_N = torch.arange(n, device=zeros_NS.device)
        anchors: list[Tensor] = []
        keys: list[Tensor] = []
        input_NG = (self.empty_S @ self.input_SG).expand(n, -1)
        h_NS = c_NS = zeros_NS
        for k, node in enumerate(self.nodes):
            if node == NOTHING:
                anchors.append(zeros_NS)
                keys.append(zeros_NS)
                continue
            h_NS, c_NS = self._step(input_NG, h_NS, c_NS)
            anchors.append(h_NS)
            keys.append(h_NS @ self.key_SS)
            if node.source is not None:
                source_N = take(self._source_logits(h_NS, torch.stack(keys[:k], 1)))
                distance_N = (k - source_N).to(zeros_NS.dtype)
                anchor_NS = torch.stack(anchors)[source_N, rows_N]
                input_NG = (anchor_NS / (0.1 + distance_N).unsqueeze(1)) @ self.input_SG
            if node.function is not None:
                h_NS, c_NS = self._step(input_NG, h_NS, c_NS)
                input_NG = embedding_FG[take(self._squash(h_NS @ self.softmax_FS.T))]
        return torch.stack(choices, 1), torch.stack(logits, 1)

    def _step(self, input_NG: Tensor, h_NS: Tensor, c_NS: Tensor) -> tuple[Tensor, Tensor]:
        """One step of the LSTM, given the input's part of the gates: the new h and c."""
        gates_NG = torch.addmm(input_NG, h_NS, self.state_SG)
        units = len(self.empty_S)
        i_NS, f_NS, o_NS = gates_NG[:, : 3 * units].sigmoid().chunk(3, 1)
        g_NS = gates_NG[:, 3 * units :].tanh()
        c_NS = torch.addcmul(i_NS * g_NS, f_NS, c_NS)
        return o_NS * c_NS.tanh(), c_NS

    def _source_logits(self, h_NS: Tensor, keys_NkS: Tensor) -> Tensor:
        """The logits of node k reading node j = 0 .. k-1 [N, k]."""
        z_Nk = (keys_NkS + (h_NS @ self.query_SS).unsqueeze(1)).tanh() @ self.attention_S
        logits_Nk = self._squash(z_Nk)
        if not self.distance_prior:
            return logits_Nk
        return logits_Nk - self._distance_K[-keys_NkS.shape[1] :].square() / 6

    def _squash(self, z_NK: Tensor) -> Tensor:
        """c tanh(z / temperature): flat at first, and never far from flat (Bello et al. 2017)."""
        if self.temperature is not None:
            z_NK = z_NK / self.temperature
        if self.tanh_constant is not None:
            z_NK = self.tanh_constant * z_NK.tanh()
        return z_NK
