"""The command `solve`: from a name to a finite MDP, and its solution as text, JSON, a picture and a film."""

import argparse
import warnings
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bellgrad.core.errors import UsageError, unknown
from bellgrad.core.guard import guarded
from bellgrad.core.output import warn

if TYPE_CHECKING:
    from bellgrad.mdp.model import FiniteMDP
    from bellgrad.mdp.solution import Solution

# MDPs that have a name of their own, and the module of `bellgrad.mdp` that makes them.
NAMED = {
    "chain": "examples",
    "cliff_walking": "examples",
    "corridor": "examples",
    "garnet": "examples",
    "gridworld": "gridworld",
    "random_walk": "examples",
    "vacuum_world": "examples",
    "windy_gridworld": "examples",
}
# How the names of files end that `bellgrad.mdp.formats` reads.
FILES = (".drn", ".tra", ".pomdp", ".mdp", ".safetensors")
LISTED = 1_000  # states, up to which the values and the policy are in the JSON


def run(args: argparse.Namespace) -> Any:
    """Run the command."""
    from time import perf_counter

    from bellgrad.mdp.solve import solve
    from bellgrad.report.figures import checked_path
    from bellgrad.report.finite.film import Sweeps, animate, checked_film_path
    from bellgrad.report.finite.pictures import picture
    from bellgrad.report.finite.text import solution_text

    # Report a file that cannot be written before minutes of work.
    plot = args.plot and checked_path(args.plot)
    film = args.animate and checked_film_path(args.animate)
    sweeps = Sweeps()
    options: dict[str, Any] = {
        name: getattr(args, name)
        for name in ("gamma", "criterion", "horizon", "tolerance", "max_iterations", "dtype")
    }
    mdp, discount = find_mdp_and_discount(args.env, args.env_kwargs)
    if discount is not None and _is_discounted(options):
        options["gamma"] = discount
    began = perf_counter()
    watch: dict[str, Any] = {
        "on_sweep": sweeps if film else None,
        "progress": "off" if args.quiet else "auto",
    }
    with warnings.catch_warnings(record=True) as warned:
        solution = solve(mdp, args.method, **options, **watch)
    seconds = perf_counter() - began
    if plot:
        picture(mdp, solution, plot, args.env)
    if film:
        animate(mdp, sweeps, film, solution.gamma)
    for warning in warned:
        warn(str(warning.message))
    args.exit_code = 0 if solution.converged else 1
    return as_json(mdp, solution, args.env, seconds) if args.json else solution_text(mdp, solution)


def _is_discounted(options: dict[str, Any]) -> bool:
    """Whether the discount of a file is used: nothing on the command line says otherwise."""
    return (
        options["gamma"] is None
        and options["horizon"] is None
        and options["criterion"] in (None, "discounted")
    )


def find_mdp_and_discount(name: str, env_kwargs: dict[str, Any]) -> tuple["FiniteMDP", float | None]:
    """The finite MDP of a file or of another name, and the discount if the file has one; see `find_mdp`."""
    suffix = Path(name).suffix.lower()
    if suffix in FILES:
        from bellgrad.mdp.formats import read_with_discount

        return read_with_discount(name, **env_kwargs)
    return find_mdp(name, env_kwargs), None


def find_mdp(name: str, env_kwargs: dict[str, Any]) -> "FiniteMDP":
    """The finite MDP of a name on the command line that is not a file.

    Args:
        name: one of `NAMED`; a Gymnasium id whose environment shows its dynamics; or `module:function`, which
            is called and gives a `FiniteMDP` or such an environment.
        env_kwargs: arguments of what is called.

    Raises:
        UsageError: an unknown name, arguments that do not fit, or not a finite MDP.
    """
    import gymnasium

    from bellgrad.envs.names import make_single, resolve
    from bellgrad.mdp.model import FiniteMDP

    if name in NAMED:
        make = getattr(import_module(f"bellgrad.mdp.{NAMED[name]}"), name)
    elif name.isidentifier() and name.islower():  # an id has a version, and capitals
        raise unknown("MDP", name, NAMED)
    else:
        make = resolve(name)
    if isinstance(make, str):
        made = make_single(name, env_kwargs=env_kwargs)
    else:
        with guarded(name, "its constructor", f"{name} could not be made"):
            made = make(**env_kwargs)
    if isinstance(made, FiniteMDP):
        return made
    if not isinstance(made, gymnasium.Env):
        raise UsageError(f"{name} made a {type(made).__name__}, not a FiniteMDP or a gymnasium.Env")
    with guarded(name, "its dynamics"):
        try:
            return FiniteMDP.from_gymnasium(made)
        finally:
            made.close()


def as_json(mdp: "FiniteMDP", solution: "Solution", env: str, seconds: float) -> dict[str, Any]:
    """A solution as one JSON object; with a horizon, value and policy are those of its first step."""
    from bellgrad.report.finite.shown import first_step, value_at_start

    value, _, policy = first_step(solution)
    found = {
        "env": env,
        "states": mdp.num_states,
        "actions": mdp.num_actions,
        "method": solution.method,
        "criterion": solution.criterion,
        "gamma": solution.gamma,
        "horizon": solution.horizon,
        "converged": solution.converged,
        "iterations": solution.iterations,
        "residual": _finite(solution.residual),
        "error_bound": _finite(solution.error_bound),
        "seconds": seconds,
        "note": solution.note,
        "gain": solution.gain,
        "value_at_start": value_at_start(mdp, value),
    }
    if mdp.num_states <= LISTED:
        values = [_finite(state_value) for state_value in value.tolist()]
        found |= {"value": values, "policy": policy.tolist()}
    return found


def _finite(value: float) -> float | None:
    """JSON has no infinity and no NaN."""
    return value if abs(value) < float("inf") else None
