"""Trust region policy optimization: the greatest improvement of the surrogate within a bound on the mean KL
divergence.

    maximize    E[ ratio * A ] + entropy_coef * H(pi)
    subject to  E[ KL(pi_old(. | s) || pi(. | s)) ] <= target_kl

with ratio = pi(a | s) / pi_old(a | s). To first order in the objective and second in the bound the solution
is the natural gradient F^-1 g, found by conjugate gradients from products with the Fisher information F and
scaled to the bound. Of such steps, each shorter than the one before it, the first is taken that improves the
objective itself and keeps the KL divergence itself within the bound; if there is none, the policy stays as it
is. Then the value is fitted to the lambda-return A + V_old.

Source: Schulman et al. 2015, arXiv 1502.05477, equation 14 and appendix C; advantages: Schulman et al. 2016,
arXiv 1506.02438, equation 16, normalized over the rollout. Deviates in the value, which is fitted by a
first-order optimizer and not within a second trust region.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from bellgrad.algos.actor_critic import ActorCritic, ActorCriticLearner, ActorCriticState, split
from bellgrad.core.errors import check_range
from bellgrad.core.records import EnvSpec, Metrics, Minibatch, Rollout
from bellgrad.core.tree import flat
from bellgrad.nets.policy import Distribution
from bellgrad.ops.grads import value_and_grad
from bellgrad.ops.losses import normalize_advantage, surrogate
from bellgrad.ops.trust_region import fisher_product, line_search, natural_step, ravel

ALGORITHMS = {"trpo": "TRPO"}


@dataclass(frozen=True)
class TRPO(ActorCritic):
    """Hyper-parameters of trust region policy optimization, for discrete and continuous actions.

    Attributes:
        learning_rate: of the value's optimizer, above 0; the policy has none.
        epochs: passes over a rollout, of the value alone.
        minibatches: parts into which each pass splits it; must divide `rollout_steps` times the number of
            environments.
        max_grad_norm: the value's gradients are scaled down to this global norm; None leaves them.
        optimizer: of the value; its learning rate is replaced by the field above.
        network: of actor and critic alike: an `MLP`, a `CNN`, or a user's own `nn.Module` class.
        target_kl: bound on the mean KL divergence of a step, nats, above 0; 0.01 is the authors'.
        conjugate_steps: of the conjugate gradient method, each a product with the Fisher information.
        damping: added to the diagonal of the Fisher information.
        line_search_steps: candidates for the length of a step.
        line_search_decay: length of each candidate in units of the one before it, in (0, 1).
    """

    learning_rate: float = 1e-3
    learning_rate_decay: Literal["constant", "linear"] = "constant"
    rollout_steps: int = 128
    max_grad_norm: float | None = None
    epochs: int = 10
    minibatches: int = 8
    target_kl: float = 0.01
    conjugate_steps: int = 10
    damping: float = 0.1
    line_search_steps: int = 10
    line_search_decay: float = 0.8

    def __post_init__(self) -> None:
        super().__post_init__()
        check_range(self, epochs=(1, 1e4), minibatches=(1, 1e6), target_kl=(1e-12, 1e9), damping=(0, 1e9))
        check_range(
            self, conjugate_steps=(1, 1000), line_search_steps=(1, 1000), line_search_decay=(1e-6, 1 - 1e-6)
        )

    def build(self, spec: EnvSpec, steps: int | None = None) -> TRPOLearner:
        """Join these hyper-parameters to an environment; `steps` planned are the horizon of a linear learning
        rate."""
        return TRPOLearner(self, spec, steps)


class TRPOLearner(ActorCriticLearner):
    """The pure functions of TRPO for one environment."""

    config: TRPO

    def init(self, rng: torch.Generator) -> ActorCriticState:
        """Random parameters; the policy begins close to uniform (discrete) or to a centered Gaussian."""
        params, _, *others = super().init(rng)
        return ActorCriticState(params, self.config.optimizer.init(split(params)[1]), *others)

    def prepare(
        self, state: ActorCriticState, rollout: Rollout, noise: None = None
    ) -> tuple[ActorCriticState, Minibatch, Metrics]:
        """Advantages and value targets, `[T, B]`; and the step of the policy."""
        c = self.config
        state, whole, _ = super().prepare(state, rollout)
        batch = flat(whole)
        advantage = normalize_advantage(batch.advantage) if c.normalize_advantages else batch.advantage
        params, unravel = ravel(split(state.params)[0])
        old = self.policy.distribution(state.params, batch.obs)
        old_logprob = old.logprob(batch.action)

        def distribution(vector: Tensor) -> Distribution:
            return self.policy.distribution(unravel(vector), batch.obs)

        def kl_to(policy: Distribution) -> Tensor:
            return old.kl(policy).mean()  # type: ignore[arg-type]  # both come from one policy

        def objective_and_kl(vector: Tensor) -> tuple[Tensor, Tensor]:
            """The objective and the mean KL divergence from the old policy."""
            policy = distribution(vector)
            bonus = c.entropy_coef * policy.entropy().mean()
            return surrogate(policy.logprob(batch.action), old_logprob, advantage) + bonus, kl_to(policy)

        (objective, _), gradient = value_and_grad(objective_and_kl, has_aux=True)(params)
        product = fisher_product(distribution, kl_to, params, c.damping)
        step = natural_step(product, gradient, c.target_kl, c.conjugate_steps)

        def acceptable(vector: Tensor) -> Tensor:
            improved, kl = objective_and_kl(vector)
            return improved.gt(objective) & kl.le(c.target_kl)

        fractions = c.line_search_decay ** torch.arange(c.line_search_steps, device=params.device)
        chosen, fraction = line_search(acceptable, params, step, fractions)
        improved, kl = objective_and_kl(chosen)
        metrics = {
            "surrogate_gain": improved - objective,
            "kl": kl,
            "step_fraction": fraction,
            "entropy": old.entropy().mean(),
        }
        return state._replace(params=state.params | unravel(chosen)), whole, metrics

    def update(
        self, state: ActorCriticState, batch: Minibatch, noise: None = None
    ) -> tuple[ActorCriticState, Metrics]:
        """One step of the value down its squared error."""
        return self.value_step(state, batch)
