"""A run: its folder, and what can be done with it."""

from dataclasses import replace
from pathlib import Path
from typing import Any, Literal, Self

from bellgrad.core.errors import UsageError
from bellgrad.core.output import warn
from bellgrad.core.process import in_own_settings
from bellgrad.envs.transformed import TransformedEnv
from bellgrad.runs.folder import RunFolder, Which, best_of
from bellgrad.runs.settings import Settings
from bellgrad.training import session
from bellgrad.training.assembly import device_of, load_policy, make_run_env, resolve_device
from bellgrad.training.plan import Plan


class Run(RunFolder):
    """A run folder, to train in and to load from.

    Attributes:
        folder: its path.
        settings: what was asked for.
        device: of its tensors.
    """

    def __init__(self, folder: Path, settings: Settings, record: dict[str, Any]):
        super().__init__(folder, settings, record)
        was_trained = "device_used" in record  # perhaps CUDA; a CPU can use every agent of the run
        anywhere = replace(settings, device="cpu" if settings.device == "cpu" else "auto")
        self.device = device_of(anywhere if was_trained else settings)

    @in_own_settings
    def train(self, progress: Literal["auto", "off"] = "auto") -> Self:
        """Train from the start to the end.

        Raises:
            UsageError: another process is training this run, or the settings cannot be met.
            BellgradError: as `session.train`; what was saved is intact.
            KeyboardInterrupt: the user stopped it; its message says what is saved and how to continue.
        """
        with self.lock():
            if self.saved():  # another process made the same folder, and was faster
                raise self.holds_a_run()
            session.train(self, self.device, None, progress)
        return self

    @in_own_settings
    def resume(self, steps: int | None = None, progress: Literal["auto", "off"] = "auto") -> Self:
        """Continue from the newest undamaged checkpoint; from the start if the run was stopped before its
        first one.

        Args:
            steps: a new total of environment steps; the horizon of schedules stays, and a target return that
                was reached no longer stops the run. None keeps the old total.
            progress: as in `train`.

        Raises:
            UsageError: there is nothing left to do, `steps` is not beyond what is reached, or another process
                is training this run.
            CheckpointError: no checkpoint can be used.
            BellgradError, KeyboardInterrupt: as `train`.
        """
        with self.lock():
            checkpoint = self.checkpoint() if self.saved() else None
            target = self.settings.target_return
            if checkpoint is not None:
                plan = Plan.read(self)
                reached = f"{checkpoint.step:,}"
                if steps is None and self.status == "finished":
                    raise UsageError(
                        f"{self.shown} is finished at step {reached}; give a larger --steps to train on"
                    )
                if steps is not None and steps <= checkpoint.step:
                    raise UsageError(
                        f"{self.shown} has reached step {reached}; ask for more steps than that in all"
                    )
                if steps is not None and steps > plan.horizon:
                    self._warn_of_the_horizon(plan.horizon)
                if plan.is_reached(best_of(checkpoint)):
                    target = None
                self.device = resolve_device(plan.device)
            if steps is not None:
                self.extend(steps, target)
            session.train(self, self.device, checkpoint, progress)
        return self

    def _warn_of_the_horizon(self, horizon: int) -> None:
        if getattr(self.settings.algorithm, "learning_rate_decay", None) == "linear":
            warn(f"the learning rate falls to 0 at step {horizon:,}, at which the first plan ended")

    @in_own_settings
    def make_env(self, num_envs: int, **options: Any) -> TransformedEnv:
        """This run's environment with its wrappers; `options` are those of `make_env`."""
        return make_run_env(self.settings, self.device, num_envs, **options)

    @in_own_settings
    def load(
        self, which: Which = "last", env: TransformedEnv | None = None
    ) -> tuple[Any, Any, TransformedEnv]:
        """The learner, its state, and an environment with the run's normalizers, frozen.

        Args:
            which: the checkpoint: `last`, `best` (that of the best evaluation), or the step of one.
            env: the environment to use, which is closed if loading fails; by default a new one.
        """
        return load_policy(self, self.device, which, env)
