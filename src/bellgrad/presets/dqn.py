"""Tuned settings for DQN."""

from bellgrad.algos.dqn import DQN
from bellgrad.envs.images import FrameStack, Gray, MaxPool, Resize
from bellgrad.envs.transforms import ActionRepeat, ClipReward
from bellgrad.nets.specs import CNN, MLP
from bellgrad.ops.optim import AdamW, RMSprop
from bellgrad.presets import Preset

# Its target period counts environment steps, and is checked when updates are made: here it is in updates.
_ZOO = "RL Baselines3 Zoo, hyperparams/dqn.yml"
_256 = MLP((256, 256), activation="relu", initialization="torch")
_LANDER = DQN(
    learning_rate=6.3e-4,
    double=False,
    batch_size=128,
    buffer_size=50_000,
    learning_starts=128,
    update_period=4,
    updates_per_period=4,
    target_period=250,
    epsilon_final=0.1,
    epsilon_steps=12_000,
    network=_256,
)

PRESETS = {
    "CartPole-v1": Preset(
        DQN(
            learning_rate=2.3e-3,
            double=False,
            batch_size=64,
            buffer_size=100_000,
            learning_starts=1_000,
            update_period=256,
            updates_per_period=128,
            target_period=128,
            epsilon_final=0.04,
            epsilon_steps=8_000,
            network=_256,
        ),
        num_envs=1,
        steps=50_000,
        source=_ZOO,
    ),
    "MountainCar-v0": Preset(
        DQN(
            learning_rate=4e-3,
            double=False,
            gamma=0.98,
            batch_size=128,
            buffer_size=10_000,
            learning_starts=1_000,
            update_period=16,
            updates_per_period=8,
            target_period=300,
            epsilon_final=0.07,
            epsilon_steps=24_000,
            network=_256,
        ),
        num_envs=1,
        steps=120_000,
        source=_ZOO,
    ),
    "LunarLander-v3": Preset(_LANDER, num_envs=1, steps=100_000, source=_ZOO),
    "Acrobot-v1": Preset(_LANDER, num_envs=1, steps=100_000, source=_ZOO),
    "pytorch-tutorial": Preset(
        DQN(
            learning_rate=1e-4,
            double=False,
            optimizer=AdamW(amsgrad=True),
            max_grad_norm=None,
            max_grad_value=100.0,
            target_period=1,
            tau=0.005,
            buffer_size=10_000,
            learning_starts=128,
            batch_size=128,
            epsilon_initial=0.9,
            epsilon_final=0.05,
            epsilon_steps=1_000,
            epsilon_decay="exponential",
            network=MLP((128, 128), activation="relu", initialization="torch"),
        ),
        num_envs=1,
        steps=100_000,
        source="PyTorch, Reinforcement Learning (DQN) Tutorial",
    ),
    "atari": Preset(
        DQN(
            learning_rate=2.5e-4,
            double=False,
            optimizer=RMSprop(decay=0.95, epsilon=0.01, centered=True),
            max_grad_norm=None,
            target_period=10_000,
            buffer_size=1_000_000,
            learning_starts=50_000,
            batch_size=32,
            update_period=4,
            epsilon_final=0.1,
            epsilon_steps=1_000_000,
            network=CNN(),
        ),
        num_envs=1,
        steps=50_000_000,
        source="Mnih et al. 2015, extended data table 1 (steps are agent steps)",
        transforms=(MaxPool(2), ActionRepeat(4), Gray(), Resize(84), FrameStack(4), ClipReward()),
    ),
}
