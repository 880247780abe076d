import pytest

from bellgrad.report.training.experiments import group_runs

STACK = {"kind": "frame_stack", "n": 4}


def test_a_folder_of_seeds_is_one_experiment(make_run, tmp_path):
    runs = [make_run(f"many/seed-{seed}", seed=seed, lines=2) for seed in range(3)]
    (experiment,) = group_runs([tmp_path / "many", runs[1]])
    assert experiment.runs == tuple(runs)


def test_runs_that_differ_only_in_the_seed_and_in_how_they_were_computed_are_one_experiment(make_run):
    runs = [
        make_run(
            f"r{seed}", seed=seed, lines=2, device_used=f"cuda:{seed}", engine=engine, checkpoints=seed + 1
        )
        for seed, engine in enumerate(("auto", "eager", "compiled"))
    ]
    (experiment,) = group_runs([*runs, runs[0]])  # one path given twice
    assert experiment == ("ppo", "ppo", "CartPole-v1", tuple(runs))


def test_experiments_are_named_by_what_differs(make_run):
    runs = [
        make_run("a", fields={"gamma": 0.99, "net": {"hidden": [64, 64]}}, lines=2),
        make_run("b", fields={"gamma": 0.99, "net": {"hidden": [256, 256]}}, lines=2),
        make_run("c", fields={"gamma": 0.99, "net": {"hidden": [64, 64]}}, steps=1_000_000, lines=2),
        make_run("d", algorithm="dqn", fields={"gamma": 0.9}, lines=2),
        make_run("e", env="Acrobot-v1", fields={"gamma": 0.5}, lines=2),
        make_run("f", env="Lake", fields={}, env_kwargs={"is_slippery": True}, lines=2),
        make_run("g", env="Lake", fields={}, env_kwargs={"is_slippery": False}, lines=2),
    ]
    assert [experiment.label for experiment in group_runs(runs)] == [
        "ppo (net.hidden=[64, 64], steps=20,000)",
        "ppo (net.hidden=[256, 256], steps=20,000)",
        "ppo (net.hidden=[64, 64], steps=1,000,000)",
        "dqn",  # alone in its environment: nothing to tell apart
        "ppo",
        "ppo (env_kwargs.is_slippery=True)",
        "ppo (env_kwargs.is_slippery=False)",
    ]


@pytest.mark.parametrize(
    ("given", "labels"),
    [
        ([{"bins": [2]}, {"bins": [9]}], ["bins=[2]", "bins=[9]"]),
        ([{"bin_low": [0.0, 0.0]}, {"bin_low": [-1.0, 0.0]}], ["bin_low=[0.0, 0.0]", "bin_low=[-1.0, 0.0]"]),
        ([{"tilings": 1}, {"tilings": 8}], ["tilings=1", "tilings=8"]),
        ([{"backend": "native"}, {"backend": "gymnasium"}], ["backend=native", "backend=gymnasium"]),
        ([{"num_envs": 1}, {"num_envs": 1_000}], ["num_envs=1", "num_envs=1,000"]),
        ([{"target_return": None}, {"target_return": 9.5}], ["target_return=None", "target_return=9.5"]),
        ([{"transforms": []}, {"transforms": [STACK]}], ["transforms=[]", "transforms=[frame_stack(n=4)]"]),
    ],
)
def test_runs_that_differ_in_a_setting_are_not_pooled(make_run, given, labels):
    runs = [make_run(f"r{i}", "q_learning", seed=i, lines=2, **settings) for i, settings in enumerate(given)]
    assert [(found.label, found.runs) for found in group_runs(runs)] == [
        (f"q_learning ({label})", (run,)) for label, run in zip(labels, runs, strict=True)
    ]


@pytest.mark.parametrize("old", [{"normalize_obs": True}, {"normalise_obs": True, "normalise_reward": False}])
def test_an_old_record_of_the_same_settings_is_of_the_same_experiment(make_run, old):
    new = {"transforms": [{"kind": "normalize_obs", "clip": 10.0}]}
    runs = [make_run("old", lines=2, frame_stack=1, **old), make_run("new", lines=2, seed=1, **new)]
    assert [found.runs for found in group_runs(runs)] == [tuple(runs)]
    assert len(group_runs([*runs, make_run("without", lines=2, transforms=[])])) == 2
