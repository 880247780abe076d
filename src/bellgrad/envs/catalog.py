"""Which native environments there are: Gymnasium's under its own ids, the others under `bellgrad/`."""

from collections.abc import Callable
from functools import partial

from bellgrad.envs.classic import (
    Acrobot,
    CartPole,
    MountainCar,
    MountainCarContinuous,
    Pendulum,
    VelocityFreeCartPole,
    VelocityFreePendulum,
)
from bellgrad.envs.native import Dynamics
from bellgrad.envs.pixelcopter import PixelCopter
from bellgrad.envs.vacuum import vacuum_dynamics

NATIVE: dict[str, Callable[[], Dynamics]] = {
    "CartPole-v0": partial(CartPole, id="CartPole-v0", max_episode_steps=200),
    "CartPole-v1": CartPole,
    "MountainCar-v0": MountainCar,
    "MountainCarContinuous-v0": MountainCarContinuous,
    "Acrobot-v1": Acrobot,
    "Pendulum-v1": Pendulum,
    "bellgrad/VelocityFreeCartPole-v1": VelocityFreeCartPole,
    "bellgrad/VelocityFreePendulum-v1": VelocityFreePendulum,
    "bellgrad/PixelCopter-v0": PixelCopter,
    "bellgrad/VacuumWorld-v0": vacuum_dynamics,
}
