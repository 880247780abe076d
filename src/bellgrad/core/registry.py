"""Names for what a user may supply: algorithms, networks, optimizers, replays, transforms and drivers.

Each kind is found in the same way: by a registered name, by `module:Class`, or as the object itself. An
installed package registers names of its own through the kind's group of entry points:

    [project.entry-points."bellgrad.algorithms"]
    my_algorithm = "my_package.algos:MyAlgorithm"

A name of Bellgrad always means Bellgrad's own class: a package cannot replace it. A name is only text until
it is looked up, so that listing names and correcting a misspelled one import nothing.
"""

import ast
import inspect
import re
import sys
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

from bellgrad.core.errors import UsageError, unknown
from bellgrad.core.guard import guarded
from bellgrad.core.imports import import_users, not_in
from bellgrad.core.output import warn

PACKAGE = Path(__file__).parents[1]


class Registry:
    """The names of one kind, and how its objects are recognized.

    Args:
        kind: what a name is a name of, for example `"algorithm"`.
        group: of the entry points by which installed packages register names.
        own: Bellgrad's names, each with its `module:Class`.
        methods: what every object of the kind has, and by which it is recognized.
    """

    def __init__(self, kind: str, group: str, own: Mapping[str, str], methods: tuple[str, ...]):
        self.kind, self.group, self.own, self.methods = kind, group, own, methods

    def names(self) -> list[str]:
        """Every registered name, Bellgrad's first."""
        return [*self.own, *self._installed]

    def find(self, name: str | type) -> Any:
        """The class of a name, imported only now; a class is returned unchanged.

        Args:
            name: a registered name, or `module:Class`.

        Raises:
            UsageError: nothing has this name (the nearest names are offered), its module cannot be imported,
                or it is not a class of this kind.
        """
        target = name
        if isinstance(name, str):
            target = self.own.get(name) or (name if ":" in name else self._installed.get(name, ""))
            if not target:
                raise unknown(self.kind, name, [*self.names(), "module:Class"])
            target = self._load(name, target)
        if not self.fits(target):
            raise UsageError(f"{self.kind} {name!r} is not {self._described()}")
        return target

    def about(self, name: str) -> str:
        """What the class of a name is, in a few words: the first line of its docstring.

        It is read from the source, which imports nothing, unless an installed package registers the name. If
        that package cannot be imported, the text says so.
        """
        if name in self.own:
            module, _, path = self.own[name].partition(":")
            source = (PACKAGE.parent / f"{module.replace('.', '/')}.py").read_text("utf-8")
            classes = [node for node in ast.parse(source).body if isinstance(node, ast.ClassDef)]
            doc = next(ast.get_docstring(node) for node in classes if node.name == path)
        else:
            try:
                doc = inspect.getdoc(self.find(name))
            except UsageError as error:
                return str(error)
        first = " ".join((doc or "").partition("\n\n")[0].split())
        return first.removeprefix("Hyper-parameters of ").rstrip(".")

    def fits(self, cls: Any) -> bool:
        """Whether a class is of this kind: one of Bellgrad's, or one with the methods."""
        if not isinstance(cls, type):
            return False
        return path_of(cls) in self.own.values() or all(
            callable(getattr(cls, name, None)) for name in self.methods
        )

    def make(self, given: Any, *values: Any) -> Any:
        """An object of this kind: the given one, or an instance of the class that a name means.

        Args:
            given: an object, a registered name, or `module:Class`.
            values: with a name, the first fields of the class; the others take their defaults.

        Raises:
            UsageError: as `find` and `check`, or the values do not fit the class.
        """
        if isinstance(given, str):
            given = self._made(given, values)
        self.check(given)
        return given

    def check(self, value: object) -> None:
        """Refuse anything that is not a frozen dataclass with the methods of this kind.

        Raises:
            UsageError: it is something else, a class in place of an instance, or not frozen.
        """
        if self.fits(value):
            name = getattr(value, "__name__", "it")
            raise UsageError(f"the {self.kind} {name} is a class; give an instance: {name}(...)")
        if not self.fits(type(value)):
            classes = [target.partition(":")[2] for target in self.own.values()]
            examples = "".join(f"{name}(...), " for name in classes[:3])
            raise UsageError(
                f"{value!r} is not {'an' if self.kind[0] in 'aeiou' else 'a'} {self.kind}: give {examples}or"
                f" {self._described()}"
            )
        if not is_frozen(type(value)):
            raise UsageError(
                f"{type(value).__name__} must be a frozen dataclass: write @dataclass(frozen=True) before it"
            )

    def name_of(self, cls: type) -> str:
        """The registered name of a class; `module:Class` if it has none.

        Raises:
            UsageError: it was defined inside a function, so that it cannot be found by a name.
        """
        path = path_of(cls)
        for known in (self.own, self._installed):
            for name, target in known.items():
                if target == path:
                    return name
        if "<locals>" in path:
            raise UsageError(
                f"the {self.kind} {cls.__qualname__} is defined inside a function; move it to the top of its"
                " file"
            )
        return path

    @cached_property
    def _installed(self) -> dict[str, str]:
        """The names that installed packages register, each with its `module:Class`."""
        from importlib.metadata import entry_points  # slow, and not needed for Bellgrad's own names

        found: dict[str, str] = {}
        for point in entry_points(group=self.group):
            if point.name in self.own or found.get(point.name, point.value) != point.value:
                warn(f"the {self.kind} {point.name!r} of {point.value} is ignored: the name is taken")
                continue
            found[point.name] = point.value
        return found

    def _made(self, name: str, values: tuple[Any, ...]) -> Any:
        with guarded(f"{self.kind} {name!r}", "its constructor", f"{self.kind} {name!r} could not be made"):
            return self.find(name)(*values)

    def _described(self) -> str:
        """What a user's own object of this kind must be, in words."""
        *others, last = self.methods
        return f"a frozen dataclass with {', '.join(others)}{' and ' if others else ''}{last}"

    def _load(self, name: str, target: str) -> Any:
        module_name, _, path = target.partition(":")
        with guarded(f"{self.kind} {name!r}", "its import", f"{self.kind} {name!r} could not be imported"):
            found: Any = import_users(module_name)
        module = found
        for part in path.split("."):
            found = getattr(found, part, None)
        if found is None:
            there = [key for key, value in vars(module).items() if self.fits(value)]
            raise not_in(module, self.kind, module_name, path, there)
        return found


class Networks(Registry):
    """The names of networks: of specifications, and of `torch.nn.Module` classes."""

    def fits(self, cls: Any) -> bool:
        """A `torch.nn.Module` class is a network as it is."""
        return is_module(cls) or super().fits(cls)

    def check(self, value: object) -> None:
        """A `torch.nn.Module` class is given as itself, not as an instance."""
        if is_module(type(value)):
            name = type(value).__name__
            raise UsageError(f"this {name} is an instance; give its class, {name}: each run makes its own")
        if not is_module(value):
            super().check(value)

    def _made(self, name: str, values: tuple[Any, ...]) -> Any:
        found = self.find(name)
        return found if is_module(found) else super()._made(name, values)

    def _described(self) -> str:
        return f"a torch.nn.Module class, or {super()._described()}"


def take_names(owner: object, **kinds: Registry) -> None:
    """Replace names in the fields of a frozen dataclass by their objects; for its `__post_init__`.

    Args:
        owner: the dataclass instance; a field holds an object, a registered name, or `module:Class`.
        kinds: the registry of each of these fields.

    Raises:
        UsageError: a field holds something else.
    """
    for name, registry in kinds.items():
        object.__setattr__(owner, name, registry.make(getattr(owner, name)))


def is_module(value: Any) -> bool:
    """Whether it is a `torch.nn.Module` class; without importing torch, before which there is none."""
    torch = sys.modules.get("torch")
    return torch is not None and isinstance(value, type) and issubclass(value, torch.nn.Module)


def path_of(cls: type) -> str:
    """`module:Class`."""
    return f"{cls.__module__}:{cls.__qualname__}"


def is_frozen(cls: Any) -> bool:
    """Whether a class is a dataclass whose fields cannot be assigned."""
    parameters = getattr(cls, "__dataclass_params__", None)
    return parameters is not None and bool(parameters.frozen)


def _declared(*rooms: str) -> dict[str, str]:
    """The algorithms of some rooms, each with its `module:Class`.

    A module that holds algorithms declares them in one literal, `ALGORITHMS = {"name": "Class"}`. It is read
    from the source, since importing it would import torch.
    """
    found: dict[str, str] = {}
    for room in rooms:
        there = {}
        for path in (PACKAGE / room).glob("*.py"):
            literal = re.search(
                r"^ALGORITHMS = \{(.*?)\}$", path.read_text("utf-8"), re.MULTILINE | re.DOTALL
            )
            for name, cls in re.findall(r'"(\w+)": "(\w+)"', literal[1] if literal else ""):
                there[name] = f"bellgrad.{room}.{path.stem}:{cls}"
        found |= dict(sorted(there.items()))
    return found


ALGORITHMS = Registry("algorithm", "bellgrad.algorithms", _declared("algos", "tabular"), ("build",))
NETWORKS = Networks(
    "network",
    "bellgrad.networks",
    {
        "mlp": "bellgrad.nets.specs:MLP",
        "cnn": "bellgrad.nets.specs:CNN",
        "lstm": "bellgrad.nets.specs:LSTM",
        "gru": "bellgrad.nets.specs:GRU",
    },
    ("build",),
)
OPTIMIZERS = Registry(
    "optimizer",
    "bellgrad.optimizers",
    {
        "adam": "bellgrad.ops.optim:Adam",
        "adamw": "bellgrad.ops.optim:AdamW",
        "sgd": "bellgrad.ops.optim:SGD",
        "rmsprop": "bellgrad.ops.optim:RMSprop",
    },
    ("init", "step"),
)
REPLAYS = Registry(
    "replay",
    "bellgrad.replays",
    {"uniform": "bellgrad.data.uniform:UniformReplay"},
    ("allocate", "add", "noise", "sample", "feedback", "filled", "restore_into"),
)
TRANSFORMS = Registry(
    "transform",
    "bellgrad.transforms",
    {
        "normalize_obs": "bellgrad.envs.transforms:NormalizeObs",
        "normalize_reward": "bellgrad.envs.transforms:NormalizeReward",
        "rescale_reward": "bellgrad.envs.transforms:RescaleReward",
        "clip_reward": "bellgrad.envs.transforms:ClipReward",
        "frame_stack": "bellgrad.envs.images:FrameStack",
        "max_pool": "bellgrad.envs.images:MaxPool",
        "action_repeat": "bellgrad.envs.transforms:ActionRepeat",
        "gray": "bellgrad.envs.images:Gray",
        "resize": "bellgrad.envs.images:Resize",
        "channels_first": "bellgrad.envs.images:ChannelsFirst",
        "image_layout": "bellgrad.envs.images:ImageLayout",
    },
    ("bind", "init", "action", "reset", "step", "observe"),
)
DRIVERS = Registry(
    "driver",
    "bellgrad.drivers",
    {
        "off_policy": "bellgrad.training.off_policy:OffPolicy",
        "on_policy": "bellgrad.training.on_policy:OnPolicy",
        "episodes": "bellgrad.training.episodes:WholeEpisodes",
        "population": "bellgrad.training.population:Population",
        "tabular": "bellgrad.training.tabular:Tabular",
    },
    ("workload", "advance", "snapshot", "restore"),
)
# What an algorithm's fields and a run's settings are made of, besides plain values.
PARTS = (NETWORKS, OPTIMIZERS, REPLAYS, TRANSFORMS)
