"""The settings in a run's record: which of them make an experiment, and how a page shows them."""

from collections.abc import Mapping
from typing import Any

# Runs that differ only in these are seeds of one experiment.
IRRELEVANT = {
    *("seed", "engine", "engine_used", "device", "device_used", "checkpoints", "checkpoint_every"),
    *("eval_episodes", "log_every", "horizon"),
    *("format", "versions", "status", "command", "started", "finished"),
}
# In older records, instead of `transforms`.
OLD_TRANSFORMS = {"normalize_obs", "normalise_obs", "normalize_reward", "normalise_reward", "frame_stack"}
LABELS = {
    "env": "environment",
    "max_episode_steps": "time limit in steps",
    "transforms": "transforms",
    "num_envs": "parallel environments",
    "backend": "backend",
    "bins": "bins",
    "bin_low": "lowest bin from",
    "bin_high": "highest bin to",
    "tilings": "tilings",
    "steps": "planned steps",
    "target_return": "target return",
    "seed": "seed",
}
DEFAULTS = {"transforms": [], "backend": "auto", "tilings": 1}  # that the page leaves out


def settings_that_matter(record: Mapping[str, Any]) -> dict[str, Any]:
    """What makes a run an experiment of its own: runs that agree in it are seeds of one experiment.

    Everything counts that is not listed as irrelevant, so that a setting that nobody thought of separates
    runs and never pools them.

    Args:
        record: a `run.json` of this or an older version.

    Returns:
        JSON values by name, among them `algorithm`, `env` and `transforms`.
    """
    kept = {name: value for name, value in record.items() if name not in IRRELEVANT | OLD_TRANSFORMS}
    return {"transforms": _old_transforms(record)} | kept


def shown_settings(record: Mapping[str, Any]) -> list[tuple[str, Any]]:
    """What a run's page shows of its settings, each with its label; for engine and device, what was used.

    Args:
        record: a `run.json` of this or an older version.
    """
    settings = settings_that_matter(record) | {"seed": record.get("seed")}
    rows = [
        (label, settings[name])
        for name, label in LABELS.items()
        if settings.get(name) is not None and settings[name] != DEFAULTS.get(name)
    ]
    rows[1:1] = (settings.get("env_kwargs") or {}).items()
    used = {
        "engine": (record.get("engine_used") or record).get("mode", record.get("engine")),
        "device": record.get("device_used", record.get("device")),
    }
    return rows + [(label, value) for label, value in used.items() if value is not None]


def _old_transforms(record: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The transforms that an older record describes by keys of their own, in the order of their use."""
    found: list[dict[str, Any]] = []
    if record.get("normalize_obs") or record.get("normalise_obs"):
        found.append({"kind": "normalize_obs", "clip": 10.0})
    if record.get("frame_stack", 1) > 1:
        found.append({"kind": "frame_stack", "n": record["frame_stack"]})
    if record.get("normalize_reward") or record.get("normalise_reward"):
        found.append({"kind": "normalize_reward", "gamma": None, "clip": 10.0})
    return found
