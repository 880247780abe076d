"""What a run was asked to do: every setting is declared once, here.

A field's declaration says what it is, what it may be, whether runs that differ in it can be compared, and how
it is shown. The command line's flags, the documentation, the run's page and the comparison of runs are made
from that. Importing this file imports no torch.
"""

import contextlib
import json
import math
import typing
from collections.abc import Callable, Iterable, Mapping
from dataclasses import MISSING, Field, dataclass, field, fields, replace
from typing import Any, Literal

from bellgrad.core.codec import (
    by_field,
    class_named,
    described,
    fields_from_json,
    fields_to_json,
    from_json,
    plain,
    plain_from_json,
    plain_to_json,
    rewritten,
    same,
    to_json,
)
from bellgrad.core.errors import (
    BellgradError,
    CheckpointError,
    UsageError,
    check_range,
    check_types,
    python_number,
)
from bellgrad.core.registry import ALGORITHMS, TRANSFORMS


# ------------------------------------------------------------------------------------------------ algorithms
def algorithm_name(algorithm: Any) -> str:
    """The name of an algorithm, as the command line takes it; `module:Class` for a user's own.

    Raises:
        UsageError: the object is not an algorithm.
    """
    ALGORITHMS.check(algorithm)
    return ALGORITHMS.name_of(type(algorithm))


def algorithm_to_json(algorithm: Any) -> dict[str, Any]:
    """`{"name": ..., "fields": {...}}` with every hyper-parameter."""
    return {"name": algorithm_name(algorithm), "fields": fields_to_json(algorithm)}


def algorithm_from_json(data: Any, trust_imports: bool = False) -> Any:
    """The algorithm that `algorithm_to_json` wrote. A user's own classes are imported only if trusted.

    Raises:
        CheckpointError: the algorithm is unknown, or the fields do not fit it.
        UsageError: it is a user's class that is not trusted.
    """
    if not isinstance(data, dict) or not isinstance(data.get("fields"), dict):
        raise CheckpointError(f"{data!r} is not the record of an algorithm")
    cls = class_named(data.get("name"), trust_imports, ALGORITHMS)
    if not ALGORITHMS.fits(cls):
        raise CheckpointError(f"{data['name']!r} is not an algorithm")
    return fields_from_json(cls, data["fields"], trust_imports)


# ------------------------------------------------------------------------------------------------ transforms
# What may be written in place of `transforms`, in the order in which it is applied. Older versions recorded
# it, some with British spelling.
SHORTHAND = {
    "normalize_obs": "scale observations by their running mean and standard deviation",
    "frame_stack": "the last n observations as one; 1 is off",
    "normalize_reward": "scale rewards by the standard deviation of the running discounted return",
}
OLD_SPELLING = {"normalise_obs": "normalize_obs", "normalise_reward": "normalize_reward"}


def written_out(given: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The transforms that the shorthand means, as JSON.

    Raises:
        UsageError: a value of a wrong type or out of range.
    """
    found: list[dict[str, Any]] = []
    for name in ("normalize_obs", "normalize_reward"):
        if not isinstance(given.get(name, False), bool):
            raise UsageError(f"{name} = {given[name]!r} must be True or False")
    n = given.get("frame_stack", 1)
    if type(n) is not int or not 1 <= n <= 1000:
        raise UsageError(f"frame_stack = {n!r} is out of range [1, 1000]")
    if given.get("normalize_obs"):
        found.append({"kind": "normalize_obs", "clip": 10.0})
    if n > 1:
        found.append({"kind": "frame_stack", "n": n})
    if given.get("normalize_reward"):
        found.append({"kind": "normalize_reward", "gamma": None, "clip": 10.0})
    return found


def expanded(options: Mapping[str, Any]) -> dict[str, Any]:
    """Options as a user writes them, as `Settings` takes them: the shorthand and names become transforms.

    Raises:
        UsageError: the shorthand and `transforms` at once, or what is wrong in either.
    """
    rest = dict(options)
    written = from_json(written_out({name: rest.pop(name) for name in SHORTHAND if name in rest}))
    if "transforms" in rest:
        if written and rest["transforms"]:
            raise UsageError(f"give either transforms or {', '.join(SHORTHAND)}, not both")
        rest["transforms"] = find_transforms(rest["transforms"]) or written
    elif written:
        rest["transforms"] = written
    return rest


def find_transforms(given: Iterable[Any]) -> tuple[Any, ...]:
    """The transforms in a list of objects and names; `NAME:1:2` gives a transform's first fields.

    Raises:
        UsageError: an unknown name, or what is not a transform.
    """
    if isinstance(given, str) or not isinstance(given, Iterable):
        raise UsageError(f"transforms = {given!r} must be a list of transforms")
    return tuple(_transform(item) if isinstance(item, str) else TRANSFORMS.make(item) for item in given)


def _transform(text: str) -> Any:
    name, *values = text.split(":")
    if name not in TRANSFORMS.names() and values and values[0].isidentifier():  # module:Class
        name = f"{name}:{values.pop(0)}"
    try:
        given: list[Any] = [_number(value) for value in values]
    except ValueError:
        hints = typing.get_type_hints(TRANSFORMS.find(name)).values()
        if not any(typing.get_origin(hint) is Literal for hint in hints):  # no field takes a word
            raise UsageError(
                f"{text!r}: after the name of a transform come numbers, as in resize:84"
            ) from None
        given = values
    return TRANSFORMS.make(name, *given)


def _number(text: str) -> float:
    return float(text) if set(text) & set(".e") else int(text)


# -------------------------------------------------------------------------------------------------- settings
def declared(
    about: str,
    *,
    within: tuple[float, float] | None = None,
    label: str | None = None,
    always: bool = False,
    matters: bool = True,
) -> dict[str, Any]:
    """The metadata of a field of `Settings`.

    Args:
        about: what it is, in one sentence without its period; for the documentation and the command line.
        within: the closed range of a number.
        label: what the run's page calls it; None leaves it out.
        always: show it even if it is at its default.
        matters: whether runs that differ in it are different experiments.
    """
    return {"about": about, "within": within, "label": label, "always": always, "matters": matters}


@dataclass(frozen=True)
class Settings:
    """Everything that a user may decide about a run."""

    algorithm: Any = field(metadata=declared("hyper-parameters"))
    env: Any = field(
        metadata=declared(
            "a registered id, `module:Class`, or (from Python) a class or callable", label="environment"
        )
    )
    steps: int = field(
        metadata=declared(
            "environment steps in the whole run, over all environments; for a command also as 50k or 5e4",
            within=(1, 1e15),
            label="planned steps",
        )
    )
    seed: int = field(
        default=0,
        metadata=declared(
            "of every random stream", within=(0, 2**63 - 1), label="seed", always=True, matters=False
        ),
    )
    num_envs: int | None = field(
        default=None,
        metadata=declared(
            "environments that step together; by default the algorithm's usual number",
            within=(1, 1e7),
            label="parallel environments",
        ),
    )
    env_kwargs: dict[str, Any] = field(
        default_factory=dict,
        metadata=declared("arguments for the environment's constructor", label="arguments"),
    )
    backend: Literal["auto", "native", "gymnasium", "subprocess"] = field(
        default="auto",
        metadata=declared(
            "how environments run: `auto`, `native`, `gymnasium` or `subprocess`", label="backend"
        ),
    )
    max_episode_steps: int | None = field(
        default=None,
        metadata=declared(
            "time limit in place of the environment's own, in environment steps",
            within=(1, 1e15),
            label="time limit in steps",
        ),
    )
    worker_timeout: float | None = field(
        default=None,
        metadata=declared(
            "for worker processes, seconds that a step may take before it counts as hung (default 60); a"
            " reset may take ten times as long",
            within=(1e-3, 1e9),
            matters=False,
        ),
    )
    transforms: tuple[Any, ...] = field(
        default=(),
        metadata=declared(
            "transforms between the environment and the learner, the first nearest to the"
            " environment, as in `max_pool,resize:84,frame_stack:4`",
            label="transforms",
        ),
    )
    bins: tuple[int, ...] | None = field(
        default=None,
        metadata=declared(
            "for tables over a Box, intervals in each dimension of the observation; one number"
            " serves all dimensions",
            label="bins",
        ),
    )
    bin_low: tuple[float, ...] | None = field(
        default=None,
        metadata=declared(
            "beginning of the first interval, in each dimension; by default the space's own bound",
            label="bins from",
        ),
    )
    bin_high: tuple[float, ...] | None = field(
        default=None,
        metadata=declared(
            "end of the last interval, in each dimension; by default the space's own bound", label="bins to"
        ),
    )
    tilings: int = field(
        default=1,
        metadata=declared(
            "grids of bins, each shifted against the others, for the gradient forms of tabular"
            " algorithms; 1 is plain bins",
            within=(1, 1000),
            label="tilings",
        ),
    )
    engine: Literal["auto", "eager", "compiled"] = field(
        default="auto",
        metadata=declared("`auto`, `eager` or `compiled`", label="engine", always=True, matters=False),
    )
    device: Literal["auto", "cpu", "cuda"] = field(
        default="auto",
        metadata=declared("`auto`, `cpu` or `cuda`", label="device", always=True, matters=False),
    )
    checkpoints: int = field(
        default=10,
        metadata=declared("how many are written after the one at step 0", within=(1, 1e6), matters=False),
    )
    eval_episodes: int = field(
        default=10,
        metadata=declared(
            "episodes of evaluation at every checkpoint; 0 is off", within=(0, 1e6), matters=False
        ),
    )
    target_return: float | None = field(
        default=None,
        metadata=declared(
            "stop once an evaluation's mean return reaches this",
            within=(-math.inf, math.inf),
            label="target return",
        ),
    )

    def __post_init__(self) -> None:
        name = algorithm_name(self.algorithm)
        if self.num_envs is None:
            object.__setattr__(self, "num_envs", getattr(self.algorithm, "default_num_envs", 1))
        check_types(self)
        object.__setattr__(self, "env_kwargs", plain(self.env_kwargs, "env_kwargs"))
        if not all(isinstance(key, str) for key in self.env_kwargs):
            raise UsageError(f"env_kwargs = {self.env_kwargs!r}: the names of arguments are words")
        for given in ("bins", "bin_low", "bin_high"):
            object.__setattr__(self, given, _as_tuple(getattr(self, given)))
        check_range(self, **{f.name: f.metadata["within"] for f in fields(self) if f.metadata["within"]})
        if not isinstance(self.transforms, tuple):
            raise UsageError(f"Settings.transforms = {self.transforms!r} must be a tuple of transforms")
        for transform in self.transforms:
            TRANSFORMS.check(transform)
            if _lacks_discount(transform) and not hasattr(self.algorithm, "gamma"):
                kind = TRANSFORMS.name_of(type(transform))
                raise UsageError(
                    f"{kind} scales by the discounted return, and {name} has no discount; give it a gamma"
                )
        if self.worker_timeout is not None and self.backend != "subprocess":
            raise UsageError(
                f"worker_timeout = {self.worker_timeout:g} is for environments in worker processes, with the"
                f" backend subprocess, not {self.backend}"
            )
        if self.target_return is not None and not self.eval_episodes:
            raise UsageError("a target return needs evaluations: eval_episodes must be at least 1")

    def filled_num_envs(self) -> int:
        """`num_envs`; the algorithm's usual number if none was given."""
        assert self.num_envs is not None  # filled at construction
        return self.num_envs

    def filled_transforms(self) -> tuple[Any, ...]:
        """The transforms, with the algorithm's discount if their `gamma` is None."""
        return tuple(
            replace(transform, gamma=self.algorithm.gamma) if _lacks_discount(transform) else transform
            for transform in self.transforms
        )

    def to_json(self, env_name: str) -> dict[str, Any]:
        """A JSON-able record; `env_name` is the name of the environment."""
        record = {f.name: getattr(self, f.name) for f in fields(self)}  # plain values are written unchanged
        return record | {
            "algorithm": algorithm_to_json(self.algorithm),
            "env": env_name,
            "env_kwargs": plain_to_json(self.env_kwargs),
            "transforms": to_json(self.transforms),
        }

    def recorded(self, env_name: str) -> dict[str, Any]:
        """As `to_json`, of settings that are certain to come back the same from it.

        Raises:
            UsageError: a value would be another one after it was written and read; it is named.
        """
        record = self.to_json(env_name)
        try:
            back = Settings.from_json(json.loads(json.dumps(record)), trust_imports=True)
        except (CheckpointError, TypeError, ValueError, RecursionError) as error:
            raise UsageError(f"the settings cannot be kept in run.json: {error}") from error
        for f in fields(self):
            ours, theirs = getattr(self, f.name), getattr(back, f.name)
            if f.name != "env" and not same(ours, theirs):
                raise UsageError(
                    f"{f.name} = {described(ours)} would come back from run.json as {described(theirs)};"
                    " give plain numbers, words, tuples and dictionaries"
                )
        return record

    @classmethod
    def from_json(cls, record: dict[str, Any], trust_imports: bool = False) -> "Settings":
        """The settings in a `run.json` of this or an older version; its other keys are ignored.

        Raises:
            CheckpointError: a key is missing or of the wrong kind.
            UsageError: it names code that is not trusted, or a value is out of range.
        """
        try:
            found = by_field(cls, _without_shorthand(record))
            read: dict[str, Callable[[Any], Any]] = {
                "algorithm": lambda data: algorithm_from_json(data, trust_imports),
                "env": lambda data: data,
                "env_kwargs": plain_from_json,
            }
            return cls(
                **{
                    name: read[name](value) if name in read else from_json(value, trust_imports)
                    for name, value in found.items()
                }
            )
        except BellgradError:
            raise
        except (TypeError, ValueError, RecursionError) as error:
            raise CheckpointError(f"run.json is damaged: {type(error).__name__}: {error}") from error


def _as_tuple(values: Any) -> Any:
    """Numbers for each dimension, which may be given as a list or an array."""
    given = values.tolist() if hasattr(values, "tolist") else values
    return tuple(map(python_number, given)) if isinstance(given, list | tuple) else given


def _lacks_discount(transform: Any) -> bool:
    return getattr(transform, "gamma", 0) is None


def _without_shorthand(record: Mapping[str, Any]) -> dict[str, Any]:
    """A record in which the keys of older versions are replaced by the present list of transforms."""
    record = {OLD_SPELLING.get(name, name): value for name, value in record.items()}
    short = {name: record.pop(name) for name in SHORTHAND if name in record}
    return {"transforms": written_out(short), **record} if short else record


# ------------------------------------------------------------------------ records, of this and older versions
def rewritten_record(record: Mapping[str, Any]) -> dict[str, Any]:
    """A record with its settings as this version writes them; what cannot be read stays unchanged."""
    new = _without_shorthand(record)
    if isinstance(algorithm := new.get("algorithm"), Mapping):
        with contextlib.suppress(BellgradError):
            new["algorithm"] = algorithm_to_json(algorithm_from_json(algorithm))
    if "transforms" in new:
        new["transforms"] = rewritten(new["transforms"])
    return new


def settings_that_matter(record: Mapping[str, Any]) -> dict[str, Any]:
    """What identifies an experiment: runs that agree in it are seeds of one experiment.

    Args:
        record: a `run.json` of this or an older version.

    Returns:
        JSON values by the names of the fields of `Settings`; what an older version did not record is at its
        default.
    """
    new = rewritten_record(record)
    matters = {f.name: new.get(f.name, _default(f)) for f in fields(Settings) if f.metadata["matters"]}
    # A run that was extended keeps the schedules of its first plan.
    extended = new.get("horizon", new.get("steps")) != new.get("steps")
    return matters | ({"horizon": new["horizon"]} if extended else {})


def shown_settings(record: Mapping[str, Any]) -> list[tuple[str, Any]]:
    """What the run's page shows of the settings, each with its label.

    Args:
        record: a `run.json` of this or an older version.

    Returns:
        Settings that are not at their defaults, and those that are always shown; what was used in place of
        `auto`, if the record has it.
    """
    new = rewritten_record(record)
    used = {"engine": (new.get("engine_used") or {}).get("mode"), "device": new.get("device_used")}
    rows: list[tuple[str, Any]] = []
    for f in fields(Settings):
        value = used.get(f.name) or new.get(f.name)
        label = f.metadata["label"]
        if label is None or value is None or (value == _default(f) and not f.metadata["always"]):
            continue
        if f.name == "env_kwargs" and isinstance(value, Mapping):
            rows += plain_from_json(value).items()
        else:
            rows.append((label, value))
    return rows


def _default(f: Field[Any]) -> Any:
    if f.default_factory is not MISSING:
        return f.default_factory()
    return None if f.default is MISSING else to_json(f.default)
