"""What a run has planned: how far it goes, and what happens at which steps of it."""

from dataclasses import dataclass
from typing import Any, Literal, Self

import torch

from bellgrad.core.errors import CheckpointError
from bellgrad.runs.folder import Best, RunFolder
from bellgrad.runs.settings import Settings
from bellgrad.training.engine import Engine
from bellgrad.training.evaluate import EPISODE_CAP

LOG_LINES = 200  # lines of metrics.jsonl in a run
# The least length at which an evaluation cuts an episode of an environment without a time limit. Else it is
# the steps from one checkpoint to the next, so that evaluating costs in proportion to training.
LEAST_EVAL_CAP = 1_000


@dataclass(frozen=True)
class Plan:
    """Made when a run starts and kept when it is resumed: other steps at which to log and save, another
    horizon, another engine or another device would give other results.

    Attributes:
        steps: environment steps in all.
        target_return: stop as soon as an evaluation's mean return reaches this; None never does.
        eval_episodes: episodes of evaluation at every checkpoint; 0 is off.
        horizon: environment steps at which schedules end: the total when the run started.
        log_every: environment steps from one line of the log to the next.
        checkpoint_every: environment steps from one checkpoint to the next.
        eval_cap: environment steps at which an evaluation cuts an episode, if there is no time limit.
        engine: how the functions run.
        device: of the tensors.
    """

    steps: int
    target_return: float | None
    eval_episodes: int
    horizon: int
    log_every: int
    checkpoint_every: int
    eval_cap: int
    engine: Engine
    device: Literal["cpu", "cuda"]

    @classmethod
    def start(cls, settings: Settings, engine: Engine, device: torch.device) -> Self:
        """The plan of a new run."""
        s = settings
        every = -(-s.steps // s.checkpoints)
        return cls(
            steps=s.steps,
            target_return=s.target_return,
            eval_episodes=s.eval_episodes,
            horizon=s.steps,
            log_every=-(-s.steps // LOG_LINES),
            checkpoint_every=every,
            eval_cap=min(max(every, LEAST_EVAL_CAP), EPISODE_CAP),
            engine=engine,
            device="cpu" if device.type == "cpu" else "cuda",
        )

    @classmethod
    def read(cls, run: RunFolder) -> Self:
        """The plan that a run's record keeps.

        Raises:
            CheckpointError: it is missing or damaged.
        """
        s, record = run.settings, run.record
        try:
            counts = {name: _count(record, name) for name in ("horizon", "log_every", "checkpoint_every")}
            counts["eval_cap"] = _count({"eval_cap": EPISODE_CAP} | record, "eval_cap")  # older runs lack it
            engine = Engine(**record["engine_used"])
            if engine.mode not in ("eager", "compiled") or not isinstance(engine.reason, str):
                raise ValueError(f"engine_used is {record['engine_used']!r}")
            for name in ("threads", "updates_per_call"):
                _count(record["engine_used"], name)
            if type(engine.compiled_from) is not int or engine.compiled_from < 0:
                raise ValueError(f"compiled_from is {engine.compiled_from!r}")
            device = record["device_used"]
            if device not in ("cpu", "cuda"):
                raise ValueError(f"device_used is {device!r}")
        except (KeyError, TypeError, ValueError) as error:
            raise CheckpointError(
                f"{run.folder / 'run.json'} is damaged: {type(error).__name__}: {error}"
            ) from error
        return cls(s.steps, s.target_return, s.eval_episodes, **counts, engine=engine, device=device)

    def to_json(self) -> dict[str, Any]:
        """What `read` needs besides the settings, by its name in `run.json`."""
        return {
            "horizon": self.horizon,
            "log_every": self.log_every,
            "checkpoint_every": self.checkpoint_every,
            "eval_cap": self.eval_cap,
            "engine_used": self.engine.to_json(),
            "device_used": self.device,
        }

    def is_reached(self, best: Best | None) -> bool:
        """Whether the best evaluation has the return at which the run may stop."""
        return self.target_return is not None and best is not None and best.return_mean >= self.target_return


def _count(record: dict[str, Any], name: str) -> int:
    value = record[name]
    if type(value) is not int or value < 1:
        raise ValueError(f"{name} is {value!r}")
    return value
