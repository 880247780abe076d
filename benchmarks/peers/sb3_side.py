"""One measurement of Stable-Baselines3: environment steps a second of learning, as one line of JSON.

The environment is what `make_vec_env` makes: Gymnasium's, in a `DummyVecEnv`, with a `Monitor`. The clock
starts after `--warm` steps, by which learning has begun, and stops after `--steps` more; imports and
construction are outside.
"""

import time

import stable_baselines3 as sb3
from side import arguments, tell
from stable_baselines3.common.env_util import make_vec_env


def build(s: dict, env) -> "sb3.common.base_class.BaseAlgorithm":
    """The algorithm with the settings of a row; whatever a row does not name is the library's default."""
    shared = {"learning_rate": s["learning_rate"], "gamma": s["gamma"], "device": "cpu", "seed": s["seed"]}
    if s["algorithm"] in ("a2c", "vpg"):
        return sb3.A2C(
            "MlpPolicy",
            env,
            n_steps=s["rollout_steps"],
            gae_lambda=s["lambda"],
            use_rms_prop=s["algorithm"] == "a2c",
            policy_kwargs={"net_arch": s["hidden"]},
            **shared,
        )
    shared["batch_size"] = s["batch_size"]
    if s["algorithm"] == "ppo":
        return sb3.PPO(
            "MlpPolicy",
            env,
            n_steps=s["rollout_steps"],
            n_epochs=s["epochs"],
            gae_lambda=s["lambda"],
            policy_kwargs={"net_arch": s["hidden"]},
            **shared,
        )
    shared |= {
        "buffer_size": s["buffer_size"],
        "learning_starts": s["learning_starts"],
        "train_freq": 1,
        "gradient_steps": 1,
    }
    shared["policy_kwargs"] = {"net_arch": s["hidden"]}
    if s["algorithm"] == "sac":
        return sb3.SAC("MlpPolicy", env, tau=s["tau"], **shared)
    # epsilon is at its final value from the first step: with a random action the library skips the network
    return sb3.DQN("MlpPolicy", env, target_update_interval=s["target_period"], exploration_fraction=1e-9,
                   exploration_final_eps=s["epsilon"], **shared)  # fmt: skip


def main() -> None:
    args = arguments(__doc__)
    model = build(
        args.settings,
        make_vec_env(args.settings["env"], args.settings["num_envs"], seed=args.settings["seed"]),
    )
    model.learn(args.warm)
    before, start = model.num_timesteps, time.perf_counter()
    model.learn(args.steps, reset_num_timesteps=False)
    seconds = time.perf_counter() - start
    tell("stable-baselines3", model.num_timesteps - before, seconds)


if __name__ == "__main__":
    main()
