"""What the paper's controllers of all spaces share: one LSTM that takes the decisions of a path in order.

* Nodes, layers and tensors to choose from are known to the controller by their *anchors*, states h of the LSTM.
  One of them is chosen by attention: z_j = v · tanh(h W_query + key_j), where key_j = anchor_j W_key.
* A function or operation is chosen by z = h W_softmax; the next step reads its embedding.
* Where there is nothing to read yet, a step reads a learned "empty" embedding.
* Logits are c·tanh(z / temperature): flat at first, and never far from flat (Bello et al. 2017).

The LSTM has no biases and starts from zeros. All N proposals take each step together.

Shape letters: N proposals, L decisions, K options, D decisions taken at once, k options of each of them,
S units of the LSTM, F functions or operations, G = 4S gate columns: input, forget, output, candidate.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from tyro.conf import Suppress

from enas.architecture import Kind, Space
from enas.constraints import PositiveFloat, Width
from enas.controllers.base import ControllerConfig, Policy, Proposals
from enas.controllers.categorical import gumbel_noise, weighted
from enas.controllers.policy_gradient import PolicyGradientController, ReinforceConfig
from enas.errors import ConfigError


@dataclass(frozen=True)
class LSTMConfig(ControllerConfig):
    """The paper's controller: an LSTM that decides node after node. The defaults are the paper's, but for `reinforce`.

    A setting that means nothing in a space is refused there unless it is at its default.
    """

    kind: Suppress[Literal["lstm"]] = field(default="lstm", kw_only=True)

    hidden: Width = 100
    """Units of the LSTM."""
    init_range: PositiveFloat = 0.1
    """All weights start uniform in ± this."""
    temperature: PositiveFloat | None = 5.0
    """Divides the logits, before the tanh; None does not."""
    tanh_constant: PositiveFloat | None = 2.5
    """Logits become this constant times their tanh, so none leaves ± the constant; None does not."""
    distance_prior: bool = False
    """Subtract (k - j)²/6 from the logit of node k reading node j, as the authors' recurrent codes do
    (recurrent space)."""
    tied_softmax: bool = False
    """Use the embeddings of functions or operations as their softmax weights too, as the authors' corrected
    code does."""
    operation_tanh_reduce: PositiveFloat = 1.0
    """Divides the tanh constant of operations (micro space)."""
    operation_prior: Literal["none", "authors"] = "none"
    """Favour separable convolutions at the start as much as the first released code does, by biases that are
    added after the tanh and learn (micro space)."""
    reinforce: ReinforceConfig = field(default_factory=ReinforceConfig)
    """How the policy learns from rewards."""

    def __post_init__(self) -> None:
        super().__post_init__()
        reduce = self.operation_tanh_reduce
        if reduce != 1 and self.tanh_constant is None:
            raise ConfigError(f"operation_tanh_reduce must be 1 where tanh_constant is None, not {reduce}")

    def build(self, space: Space, seed: int, device: torch.device | str = "cpu") -> PolicyGradientController:
        from enas.controllers.build import lstm_policy  # which knows the policies of all spaces

        policy = lstm_policy(space, self, torch.Generator().manual_seed(seed))
        return PolicyGradientController(policy.to(device), self.reinforce)


class StepsDiffer(Exception):
    """The decisions of a space are not those that the steps of a policy take, in order."""


class Path:
    """The decisions that N proposals have taken so far, in the order of the space.

    They are those given [N, L]; or else the options of the highest logit, after adding noise [N, L, K] if there is some.
    """

    def __init__(self, space: Space, n: int, given_NL: Tensor | None, noise_NLK: Tensor | None) -> None:
        self.space = space
        self.n = n
        self.given_NL = given_NL
        self.noise_NLK = noise_NLK
        self.position = 0
        self.choices: list[Tensor] = []
        self.logits: list[Tensor] = []

    def take_together(self, kind: Kind, node: int, logits_NDk: Tensor) -> Tensor:
        """Take the next D decisions, none of which depends on another of them; return the options taken [N, D].

        Raises `StepsDiffer` if the space's next decisions are not of this kind and node, with this number of options.
        """
        _, d, k = logits_NDk.shape
        here = slice(self.position, self.position + d)
        asked = self.space.decisions[here]
        if [(each.kind, each.node, len(each.options)) for each in asked] != [(kind, node, k)] * d:
            raise StepsDiffer
        if self.given_NL is not None:
            choices_ND = self.given_NL[:, here]
        else:
            noise_NDk = 0 if self.noise_NLK is None else self.noise_NLK[:, here, :k]
            choices_ND = (logits_NDk.detach() + noise_NDk).argmax(-1)
        self.position += d
        self.choices.append(choices_ND)
        self.logits.append(logits_NDk)
        return choices_ND

    def take(self, kind: Kind, node: int, logits_Nk: Tensor) -> Tensor:
        """Take the next decision; return the options taken [N]. In a conditional space it is `weighted`."""
        if self.space.conditional:
            before_Nl = torch.cat(
                [torch.zeros((self.n, 0), dtype=torch.int64, device=logits_Nk.device), *self.choices], 1
            )
            logits_Nk = weighted(self.space, logits_Nk, before_Nl)
        return self.take_together(kind, node, logits_Nk.unsqueeze(1)).squeeze(1)

    def active(self) -> Tensor:
        """Which proposals were asked the last decision [N]."""
        return (self.logits[-1][:, 0] > -math.inf).sum(-1) > 1


class StepwisePolicy(Policy):
    """A policy that takes its decisions one after another with an LSTM; a subclass says in which steps."""

    meaningless: ClassVar[tuple[str, ...]] = ()
    """The settings of `LSTMConfig` that say nothing about the spaces of a subclass."""

    def __init__(self, space: Space, config: LSTMConfig, functions: int, generator: torch.Generator) -> None:
        """All weights start uniform in ± `config.init_range`, drawn from `generator`.

        Raises `ConfigError` if a setting that is `meaningless` here is not at its default. Whether the steps are those of
        the space's decisions shows when they are first taken: `StepsDiffer` is raised where they are not.
        """
        super().__init__()
        for setting in self.meaningless:
            value, default = getattr(config, setting), getattr(LSTMConfig, setting)
            if value != default:
                raise ConfigError(
                    f"{setting} = {value} means nothing to the lstm controller of the {space.name} space; "
                    f"leave it at {default}."
                )
        self.space = space
        self.options = max(len(decision.options) for decision in space.decisions)
        self.temperature = config.temperature
        self.tanh_constant = config.tanh_constant

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

    @abstractmethod
    def walk(self, path: Path) -> None:
        """Take all decisions of the space on `path`."""

    def sample(self, n: int, generator: torch.Generator) -> Proposals:
        noise_NLK = gumbel_noise((n, len(self.space.decisions), self.options), generator, like=self.empty_S)
        return Proposals.from_logits(*self._decide(n, noise_NLK=noise_NLK))

    def score(self, choices_NL: Tensor) -> Proposals:
        return Proposals.from_logits(choices_NL, self.logits(choices_NL))

    def mode(self) -> tuple[int, ...]:
        """Greedy decoding: the most probable option at each step. A more probable architecture may exist."""
        with torch.no_grad():
            choices_NL, _ = self._decide(1)
        return tuple(choices_NL[0].tolist())

    def logit_bounds(self) -> tuple[Tensor, Tensor]:
        """± the tanh constant, if there is one."""
        low_LK, high_LK = super().logit_bounds()
        if self.tanh_constant is None:
            return low_LK, high_LK
        missing_LK = high_LK.isneginf()
        return (
            torch.full_like(low_LK, -self.tanh_constant).masked_fill(missing_LK, -math.inf),
            torch.full_like(low_LK, self.tanh_constant).masked_fill(missing_LK, -math.inf),
        )

    def logits(self, choices_NL: Tensor) -> Tensor:
        return self._decide(len(choices_NL), given_NL=choices_NL)[1]

    def _decide(
        self, n: int, given_NL: Tensor | None = None, noise_NLK: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Take all decisions in order; return the options taken [N, L] and the logits [N, L, K]."""
        path = Path(self.space, n, given_NL, noise_NLK)
        self.walk(path)
        if path.position != len(self.space.decisions):
            raise StepsDiffer
        logits = [F.pad(each, (0, self.options - each.shape[2]), value=-math.inf) for each in path.logits]
        return torch.cat(path.choices, 1), torch.cat(logits, 1)

    # ---- the pieces of a walk --------------------------------------------------------------------------------

    def zeros(self, n: int) -> Tensor:
        """The LSTM's first h and c, and the anchor and key of what it has not seen [N, S]."""
        return self.empty_S.new_zeros(n, len(self.empty_S))

    def empty_input(self, n: int) -> Tensor:
        """The gates' part of an input that says nothing [N, G]."""
        return (self.empty_S @ self.input_SG).expand(n, -1)

    def embedding_inputs(self) -> Tensor:
        """The gates' part of the inputs that name a function or operation [F, G], once for all steps of a walk."""
        return self.embedding_FS @ self.input_SG

    def step(self, input_NG: Tensor, h_NS: Tensor, c_NS: Tensor) -> tuple[Tensor, Tensor]:
        """One step of the LSTM, given the input's part of the gates: the new h and c."""
        gates_NG = torch.addmm(input_NG, h_NS, self.state_SG)
        units = len(self.empty_S)
        i_NS, f_NS, o_NS = gates_NG[:, : 3 * units].sigmoid().chunk(3, 1)
        g_NS = gates_NG[:, 3 * units :].tanh()
        c_NS = torch.addcmul(i_NS * g_NS, f_NS, c_NS)
        return o_NS * c_NS.tanh(), c_NS

    def attend(self, h_NS: Tensor, keys: Sequence[Tensor]) -> Tensor:
        """The squashed logits of the anchors with these keys [N, S] each: one column a key [N, k]."""
        keys_NkS = torch.stack(tuple(keys), 1)
        z_Nk = (keys_NkS + (h_NS @ self.query_SS).unsqueeze(1)).tanh() @ self.attention_S
        return self.squash(z_Nk)

    def squash(self, z_NK: Tensor, reduce: float = 1.0) -> Tensor:
        """c/reduce · tanh(z / temperature), or what is left of it where a constant is None."""
        if self.temperature is not None:
            z_NK = z_NK / self.temperature
        if self.tanh_constant is not None:
            z_NK = self.tanh_constant / reduce * z_NK.tanh()
        return z_NK


def picked(anchors: Sequence[Tensor], source_N: Tensor) -> Tensor:
    """For each proposal the anchor that it chose [N, S]."""
    return torch.stack(tuple(anchors))[source_N, torch.arange(len(source_N), device=source_N.device)]
