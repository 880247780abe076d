import json

from bellgrad.report.training.experiments import group_runs


def test_a_folder_of_seeds_is_one_experiment(make_run, tmp_path):
    runs = [make_run(f"many/seed-{seed}", seed=seed, lines=2) for seed in range(3)]
    (experiment,) = group_runs([tmp_path / "many", runs[1]])
    assert experiment.runs == tuple(runs)


def test_runs_that_differ_only_in_the_seed_are_one_experiment(make_run):
    runs = [make_run(f"r{seed}", seed=seed, lines=2, device_used=f"cuda:{seed}") for seed in range(3)]
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


def test_run_json_without_fields_is_enough(tmp_path):
    run = tmp_path / "bare"
    run.mkdir()
    (run / "run.json").write_text(json.dumps({"algorithm": {"name": "q_learning"}, "env": "FrozenLake-v1"}))
    assert group_runs([run])[0].label == "q_learning"
