"""What a run was asked to do: the settings, and how an algorithm is written to `run.json` and read back
without running code."""

import math
from dataclasses import asdict, dataclass, field, fields
from typing import Any, Literal

from bellgrad.algos.a2c import A2C
from bellgrad.algos.cem import CEM
from bellgrad.algos.cma_es import CMAES
from bellgrad.algos.dqn import DQN
from bellgrad.algos.hill_climbing import HillClimbing
from bellgrad.algos.openai_es import OpenAIES
from bellgrad.algos.ppo import PPO
from bellgrad.algos.reinforce import REINFORCE
from bellgrad.algos.sac import SAC
from bellgrad.algos.simulated_annealing import SimulatedAnnealing
from bellgrad.algos.trpo import TRPO
from bellgrad.algos.vpg import VPG
from bellgrad.core.errors import BellgradError, CheckpointError, UsageError, check_range, check_types, unknown
from bellgrad.data.uniform import UniformReplay
from bellgrad.nets.specs import spec_from_json, spec_to_json
from bellgrad.ops.optim import SGD, Adam, AdamW, RMSprop
from bellgrad.tabular.certainty import CertaintyEquivalence
from bellgrad.tabular.double_q_learning import DoubleQLearning
from bellgrad.tabular.dyna import DynaQ
from bellgrad.tabular.expected_sarsa import ExpectedSARSA
from bellgrad.tabular.gradient import GradientQLearning, GradientSARSA
from bellgrad.tabular.monte_carlo import MonteCarlo, MonteCarloControl
from bellgrad.tabular.n_step import NStepSARSA, NStepTD
from bellgrad.tabular.off_policy_monte_carlo import OffPolicyMonteCarlo, OffPolicyMonteCarloControl
from bellgrad.tabular.q_learning import QLearning
from bellgrad.tabular.r_max import RMax
from bellgrad.tabular.sarsa import SARSA
from bellgrad.tabular.sarsa_lambda import SARSA1, SARSALambda
from bellgrad.tabular.td import TD0
from bellgrad.tabular.td_lambda import TDLambda
from bellgrad.tabular.watkins_q_lambda import WatkinsQLambda

ALGORITHMS: dict[str, type] = {
    "dqn": DQN,
    "ppo": PPO,
    "reinforce": REINFORCE,
    "a2c": A2C,
    "vpg": VPG,
    "trpo": TRPO,
    "sac": SAC,
    "hill_climbing": HillClimbing,
    "simulated_annealing": SimulatedAnnealing,
    "cem": CEM,
    "cma_es": CMAES,
    "openai_es": OpenAIES,
    "monte_carlo": MonteCarlo,
    "monte_carlo_control": MonteCarloControl,
    "off_policy_monte_carlo": OffPolicyMonteCarlo,
    "off_policy_monte_carlo_control": OffPolicyMonteCarloControl,
    "td_0": TD0,
    "n_step_td": NStepTD,
    "td_lambda": TDLambda,
    "sarsa": SARSA,
    "sarsa_1": SARSA1,
    "sarsa_lambda": SARSALambda,
    "n_step_sarsa": NStepSARSA,
    "expected_sarsa": ExpectedSARSA,
    "q_learning": QLearning,
    "double_q_learning": DoubleQLearning,
    "watkins_q_lambda": WatkinsQLambda,
    "gradient_q_learning": GradientQLearning,
    "gradient_sarsa": GradientSARSA,
    "dyna_q": DynaQ,
    "certainty_equivalence": CertaintyEquivalence,
    "r_max": RMax,
}
OPTIMIZERS: dict[str, type] = {"adam": Adam, "adamw": AdamW, "sgd": SGD, "rmsprop": RMSprop}
REPLAYS: dict[str, type] = {"uniform": UniformReplay}
# Every other algorithm says it itself by `default_num_envs`, or begins with one environment.
DEFAULT_NUM_ENVS = {"ppo": 8, "reinforce": 8, "a2c": 8, "vpg": 8, "trpo": 8}


def algorithm_name(algorithm: Any) -> str:
    """The name of an algorithm's configuration, as the command line has it.

    Raises:
        UsageError: the object is no algorithm.
    """
    for name, cls in ALGORITHMS.items():
        if type(algorithm) is cls:
            return name
    raise UsageError(f"{algorithm!r} is no algorithm; known: {', '.join(ALGORITHMS)}")


def find_algorithm(name: str) -> type:
    """The algorithm's class by its name in snake_case.

    Raises:
        UsageError: with the nearest right names.
    """
    if name not in ALGORITHMS:
        raise unknown("algorithm", name, ALGORITHMS)
    return ALGORITHMS[name]


def algorithm_to_json(algorithm: Any) -> dict[str, Any]:
    """`{"name": ..., "fields": {...}}` with every hyper-parameter."""
    written = {}
    for f in fields(algorithm):
        value = getattr(algorithm, f.name)
        if f.name == "network":
            value = spec_to_json(value)
        elif f.name == "optimizer":
            value = {"kind": _kind(OPTIMIZERS, value)} | asdict(value)
        elif f.name == "replay":
            value = {"kind": _kind(REPLAYS, value)} | asdict(value)
        written[f.name] = value
    return {"name": algorithm_name(algorithm), "fields": written}


def algorithm_from_json(data: Any, trust_imports: bool = False) -> Any:
    """The algorithm that `algorithm_to_json` wrote. A user's own network class is imported only with
    `trust_imports`.

    Raises:
        CheckpointError: an unknown algorithm, or fields that do not fit it.
        UsageError: a user's class that is not trusted.
    """
    try:
        cls, values = ALGORITHMS[data["name"]], dict(data["fields"])
        missing = {f.name for f in fields(cls)} - values.keys()
        if missing:
            raise CheckpointError(f"the algorithm in run.json lacks {', '.join(sorted(missing))}")
        if "network" in values:
            values["network"] = spec_from_json(values["network"], trust_imports)
        if "optimizer" in values:
            optimizer = dict(values["optimizer"])
            values["optimizer"] = OPTIMIZERS[optimizer.pop("kind")](
                **{k: _tuple(v) for k, v in optimizer.items()}
            )
        if "replay" in values:
            replay = dict(values["replay"])
            values["replay"] = REPLAYS[replay.pop("kind")](**replay)
        return cls(**values)
    except (UsageError, CheckpointError):
        raise
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise CheckpointError(
            f"the algorithm in run.json is damaged or foreign: {type(error).__name__}: {error}"
        ) from error


def _kind(kinds: dict[str, type], value: Any) -> str:
    for kind, cls in kinds.items():
        if type(value) is cls:
            return kind
    raise UsageError(f"{value!r} is none of {', '.join(kinds)}")


def _tuple(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value


@dataclass(frozen=True)
class Settings:
    """Everything that a user may decide about a run.

    Attributes:
        algorithm: hyper-parameters.
        env: a registered id, `module:Class`, or (from Python) a class or callable.
        steps: environment steps in the whole run, over all environments.
        seed: of every random stream.
        num_envs: environments that step together; None is the algorithm's usual number.
        env_kwargs: arguments for the environment's constructor.
        backend: how environments run: `auto`, `native`, `gymnasium` or `subprocess`.
        max_episode_steps: replaces the environment's own time limit, in environment steps.
        normalize_obs: scale observations by their running mean and standard deviation.
        normalize_reward: scale rewards by the standard deviation of the running discounted return.
        frame_stack: the last n observations as one; 1 is off.
        bins: for tables over a Box, intervals in each dimension of the observation; one number serves all
            dimensions.
        bin_low: where the first interval begins, in each dimension; by default the space's own bounds.
        bin_high: likewise where the last one ends.
        tilings: grids of bins, each shifted against the others, for the gradient forms of tabular algorithms;
            1 is plain bins.
        engine: `auto`, `eager` or `compiled`.
        device: `auto`, `cpu` or `cuda`.
        checkpoints: how many are written after the one at step 0.
        eval_episodes: episodes of evaluation at every checkpoint; 0 is off.
        target_return: stop once an evaluation's mean return reaches this.
    """

    algorithm: Any
    env: Any
    steps: int
    seed: int = 0
    num_envs: int | None = None
    env_kwargs: dict[str, Any] = field(default_factory=dict)
    backend: Literal["auto", "native", "gymnasium", "subprocess"] = "auto"
    max_episode_steps: int | None = None
    normalize_obs: bool = False
    normalize_reward: bool = False
    frame_stack: int = 1
    bins: tuple[int, ...] | None = None
    bin_low: tuple[float, ...] | None = None
    bin_high: tuple[float, ...] | None = None
    tilings: int = 1
    engine: Literal["auto", "eager", "compiled"] = "auto"
    device: Literal["auto", "cpu", "cuda"] = "auto"
    checkpoints: int = 10
    eval_episodes: int = 10
    target_return: float | None = None

    def __post_init__(self) -> None:
        name = algorithm_name(self.algorithm)
        check_types(self)
        check_range(
            self,
            steps=(1, 1e15),
            seed=(0, 2**63 - 1),
            frame_stack=(1, 1000),
            checkpoints=(1, 1e6),
            eval_episodes=(0, 1e6),
        )
        check_range(self, tilings=(1, 1000), max_episode_steps=(1, 1e15), target_return=(-math.inf, math.inf))
        if self.num_envs is None:
            object.__setattr__(
                self, "num_envs", DEFAULT_NUM_ENVS.get(name, getattr(self.algorithm, "default_num_envs", 1))
            )
        check_range(self, num_envs=(1, 1e7))
        if self.normalize_reward and not hasattr(self.algorithm, "gamma"):
            raise UsageError(f"normalize_reward scales by the discounted return, and {name} has no discount")
        if self.target_return is not None and not self.eval_episodes:
            raise UsageError("a target return needs evaluations: eval_episodes must be at least 1")

    def to_json(self, env_name: str) -> dict[str, Any]:
        """A JSON-able record; `env_name` is the environment in words."""
        record = {f.name: getattr(self, f.name) for f in fields(self)}
        return record | {"algorithm": algorithm_to_json(self.algorithm), "env": env_name}

    @classmethod
    def from_json(cls, record: dict[str, Any], trust_imports: bool = False) -> "Settings":
        """The settings in a `run.json`, whose other keys are left alone.

        Raises:
            CheckpointError: a key is missing or of the wrong kind.
        """
        try:
            values = {f.name: record[f.name] for f in fields(cls)}
            values |= {name: _tuple(values[name]) for name in ("bins", "bin_low", "bin_high")}
            values["algorithm"] = algorithm_from_json(values["algorithm"], trust_imports)
            return cls(**values)
        except BellgradError:
            raise
        except (KeyError, TypeError) as error:
            raise CheckpointError(f"run.json is damaged: {type(error).__name__}: {error}") from error
