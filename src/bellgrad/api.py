"""The library as a few functions: each joins the rooms below in a few lines."""

import json
import os
import re
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, Literal

from gymnasium import Env

from bellgrad.core.codec import same
from bellgrad.core.errors import CheckpointError, UsageError
from bellgrad.core.files import file_path
from bellgrad.core.output import warn
from bellgrad.core.process import public
from bellgrad.core.registry import ALGORITHMS, PARTS
from bellgrad.envs.mdp import to_gymnasium
from bellgrad.envs.names import env_name
from bellgrad.mdp.model import FiniteMDP
from bellgrad.runs.files import absolute, write_json_atomic
from bellgrad.runs.folder import Which
from bellgrad.runs.reading import EVALUATION, RECORD, read_record
from bellgrad.runs.settings import Settings, algorithm_name, expanded, rewritten_record
from bellgrad.training.agent import Agent
from bellgrad.training.evaluate import EVAL_ENVS, Evaluation, evaluate_agent
from bellgrad.training.run import Run


def default_folder(algorithm: Any, env: Any, seed: int | str) -> Path:
    """`runs/cartpole-v1-dqn-0`, or the first free name after it."""
    first = folder = usual_folder(algorithm, env, seed)
    attempt = 1
    while folder.exists():
        attempt += 1
        folder = first.with_name(f"{first.name}-{attempt}")
    return folder


def usual_folder(algorithm: Any, env: Any, seed: int | str) -> Path:
    """`runs/cartpole-v1-dqn-0`, whether it is free or not."""
    short = "".join(
        c if c.isalnum() or c in "-." else "-" for c in env_name(env).split(":")[-1].split("/")[-1]
    ).lower()
    name = algorithm_name(algorithm).rpartition(":")[2].lower()
    return Path("runs") / f"{short}-{name}-{seed}"


@public
def train(
    algorithm: Any,
    env: Any,
    steps: int,
    *,
    seed: int = 0,
    out: Path | str | None = None,
    progress: Literal["auto", "off"] = "auto",
    command: str | None = None,
    **options: Any,
) -> Run:
    """Train an agent and leave a run folder.

    Args:
        algorithm: hyper-parameters, for example `bg.PPO(epochs=4)`; a user's own frozen dataclass with
            `build`; or the name of either, for its defaults.
        env: a registered id, `module:Class`, a Gymnasium class, a callable that makes an environment, or a
            `FiniteMDP`.
        steps: environment steps in all.
        seed: of every random stream.
        out: the run's folder; by default a new one under `runs/`.
        progress: `auto` shows a bar on a terminal and lines elsewhere; `off` shows nothing.
        command: recorded as what repeats this run.
        options: any other field of `Settings`: `num_envs`, `engine`, `device`, `transforms`, `target_return`,
            ... In place of `transforms`, `normalize_obs=True`, `frame_stack=4` and `normalize_reward=True`
            mean `[NormalizeObs(), FrameStack(4), NormalizeReward()]`.

    Raises:
        UsageError: an impossible request.
        EnvironmentFault: the environment broke its contract; the last checkpoint is kept.
    """
    if isinstance(env, FiniteMDP):
        env = _sampler(env)
    settings = _settings(algorithm, env, steps, seed, options)
    folder = Path(out) if out is not None else usual_folder(settings.algorithm, env, settings.seed)
    is_new = out is None or not os.path.exists(folder)  # False also for a name that is too long
    command = command or _call(settings.algorithm, env, steps, seed, options)
    run = Run.create(settings, folder, command, free_name=out is None)
    try:
        return run.train(progress=progress)
    except UsageError:
        if is_new:
            run.discard()  # a request that cannot be met leaves nothing behind
        raise


@public
def train_or_resume(
    algorithm: Any,
    env: Any,
    steps: int,
    *,
    out: Path | str,
    seed: int = 0,
    progress: Literal["auto", "off"] = "auto",
    command: str | None = None,
    **options: Any,
) -> Run:
    """As `train`, but a folder that already holds a run of the same settings is continued, or left alone
    if it is finished.

    Raises:
        UsageError: the folder holds a run of other settings.
    """
    if not (Path(out) / RECORD).exists():
        return train(algorithm, env, steps, seed=seed, out=out, progress=progress, command=command, **options)
    found = rewritten_record(read_record(out))
    asked = json.loads(json.dumps(_settings(algorithm, env, steps, seed, options).recorded(env_name(env))))
    other = [name for name in asked if not same(found.get(name), asked[name])]
    if other:
        raise UsageError(f"{out} holds a run with other settings ({', '.join(other)}); choose another --out")
    run = Run.open(out, True, env)  # it imports only what was just asked for
    return run if run.status == "finished" else resume(run, progress=progress)


def _sampler(mdp: FiniteMDP) -> Callable[..., Env]:
    """What makes environments that sample an MDP, under the name of the MDP's class."""

    def make(**kwargs: Any) -> Env:
        return to_gymnasium(mdp, **kwargs)

    make.__module__, make.__qualname__ = FiniteMDP.__module__, FiniteMDP.__qualname__
    return make


def _settings(algorithm: Any, env: Any, steps: int, seed: int, options: dict[str, Any]) -> Settings:
    try:
        return Settings(ALGORITHMS.make(algorithm), env, steps, seed, **expanded(options))
    except TypeError as error:
        raise UsageError(f"train: {str(error).replace('Settings.__init__() ', '')}") from None


def _call(algorithm: Any, env: Any, steps: int, seed: int, options: dict[str, Any]) -> str:
    """The Python that trains such a run again."""
    shown = repr(env) if isinstance(env, str) else env_name(env).split(":")[-1]
    rest = "".join(f", {name}={_in_python(value)}" for name, value in options.items())
    return f"bg.train({_in_python(algorithm)}, env={shown}, steps={steps}, seed={seed}{rest})"


def _in_python(value: Any) -> str:
    """An expression that makes the value again, after `import bellgrad as bg` and of what a user defined."""
    ours = {target.partition(":")[2] for names in (ALGORITHMS, *PARTS) for target in names.own.values()}
    text = re.sub(r"\b([A-Z]\w*)\(", lambda m: f"bg.{m[0]}" if m[1] in ours else m[0], repr(value))
    return re.sub(r"<class '(?:[\w.]+\.)?(\w+)'>", r"\1", text)


@public
def resume(
    run: Run | Path | str,
    steps: int | None = None,
    *,
    env: Any = None,
    trust_imports: bool = False,
    progress: Literal["auto", "off"] = "auto",
) -> Run:
    """Continue a run exactly from its last checkpoint.

    Args:
        run: the run or its folder.
        steps: a new total of environment steps; None keeps the old one.
        env: the environment, for a run whose environment was given as a callable.
        trust_imports: whether the run's own classes (environment, algorithm, network, ...) may be imported.
        progress: as in `train`.

    Raises:
        UsageError: the run has nothing left to do, or it has already taken more than `steps` steps.
        CheckpointError: none of its checkpoints can be used.
    """
    return _open(run, trust_imports, env).resume(steps, progress)


@public
def evaluate(
    run: Run | Path | str,
    episodes: int = 100,
    *,
    seed: int = 1_000,
    deterministic: bool = True,
    checkpoint: Which = "last",
    env: Any = None,
    trust_imports: bool = False,
) -> Evaluation:
    """Whole episodes with frozen normalizers, from fixed seeds; the result is left in the run's
    `evaluation.json` too.

    Args:
        run: the run or its folder.
        episodes: how many.
        seed: of the episodes; training evaluates with the run's own seed, so that these are new.
        deterministic: the greedy action, or a sample of the policy.
        checkpoint: `last`, `best`, or the step of one.
        env: the environment, for a run whose environment was given as a callable.
        trust_imports: whether the run's own classes (environment, algorithm, network, ...) may be imported.
    """
    _check_episodes(episodes)
    opened = _open(run, trust_imports, env)
    backend = "gymnasium" if opened.settings.backend == "subprocess" else opened.settings.backend
    batch = opened.make_env(min(episodes, EVAL_ENVS), backend=backend)
    try:
        learner, state, batch = opened.load(checkpoint, batch)
        result = evaluate_agent(learner, state, batch, episodes, seed, deterministic)
    finally:
        batch.close()
    record = result.to_json() | {"seed": seed, "deterministic": deterministic, "checkpoint": checkpoint}
    try:
        write_json_atomic(opened.folder / EVALUATION, record)
    except CheckpointError as error:  # a read-only folder: the result is worth more than its copy
        warn(str(error))
    return result


@public
def load(
    run: Run | Path | str, checkpoint: Which = "last", *, env: Any = None, trust_imports: bool = False
) -> Agent:
    """A trained agent: `agent.act(obs) -> action`, in the environment's own observations and actions."""
    return Agent.load(_open(run, trust_imports, env), checkpoint)


@public
def record(
    run: Run | Path | str,
    out: Path | str,
    *,
    episodes: int = 1,
    seed: int = 1_000,
    deterministic: bool = True,
    checkpoint: Which = "last",
    env: Any = None,
    trust_imports: bool = False,
) -> Path:
    """A video (MP4) of whole episodes."""
    from bellgrad.report.video import record as write_video
    from bellgrad.training.watch import frames

    _check_episodes(episodes)
    place = absolute(out)  # the environment may change the current folder
    opened = _open(run, trust_imports, env)
    pictures, fps = frames(opened, episodes, seed, deterministic, checkpoint)
    write_video(pictures, place, fps)
    return Path(out)


@public
def plot(runs: Run | Path | str | Iterable[Run | Path | str], out: Path | str, **options: Any) -> Path:
    """Learning curves; see `bellgrad.report.training.curves.plot` for the options."""
    from bellgrad.report.training import curves

    return curves.plot(_each(runs), Path(out), **options)


@public
def compare(runs: Run | Path | str | Iterable[Run | Path | str]) -> dict[str, Any]:
    """Interquartile means with bootstrap intervals, and the probability of improvement between groups."""
    from bellgrad.report.training import compare as comparison

    return comparison.compare(_each(runs))


@public
def export(
    run: Run | Path | str,
    out: Path | str,
    *,
    checkpoint: Which = "last",
    env: Any = None,
    trust_imports: bool = False,
) -> Path:
    """The greedy policy as ONNX, from raw observations to the environment's own actions."""
    from bellgrad.report.training.export import export_onnx

    place = absolute(out)  # the environment may change the current folder
    agent = Agent.load(_open(run, trust_imports, env), checkpoint)
    policy, example = agent.as_module()
    export_onnx(policy, example, place)
    return Path(out)


@public
def picture(run: Run | Path | str, *, env: Any = None, trust_imports: bool = False) -> list[Path]:
    """Draw a tabular run into its folder: `values.png`, the values and the policy; for R-max also when
    each state became known.

    Args:
        run: the run or its folder.
        env: the environment, for a run whose environment was given as a callable.
        trust_imports: whether the run's own classes may be imported.

    Raises:
        UsageError: the run has no tables, or its environment can only be stepped.
    """
    from bellgrad.report.training.learned import draw_learned

    opened = _open(run, trust_imports, env)
    return draw_learned(opened, opened.folder)


@public
def write_report(run: Run | Path | str) -> Path:
    """Write the run's own page, `report.html`, with what the folder holds."""
    from bellgrad.report.training import page

    return page.write_report(run.folder if isinstance(run, Run) else Path(run))


@public
def is_finished(folder: Path | str) -> bool:
    """Whether a run folder's training is over."""
    return bool(read_record(folder)["status"] == "finished")


def _open(run: Run | Path | str, trust_imports: bool, env: Any) -> Run:
    if isinstance(run, Run):
        return run
    return Run.open(run, trust_imports, _sampler(env) if isinstance(env, FiniteMDP) else env)


def _each(runs: Run | Path | str | Iterable[Run | Path | str]) -> list[Path]:
    several = runs if isinstance(runs, Iterable) and not isinstance(runs, str) else [runs]
    return [run.folder if isinstance(run, Run) else file_path(run) for run in several]


def _check_episodes(episodes: int) -> None:
    if episodes < 1:
        raise UsageError(f"episodes = {episodes} is out of range [1, inf]")
