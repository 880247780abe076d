from bellgrad.report.training.settings import settings_that_matter


def test_a_setting_that_nobody_thought_of_separates_runs():
    record = {"algorithm": {"name": "ppo", "fields": {}}, "env": "CartPole-v1", "seed": 3}
    assert settings_that_matter(record) != settings_that_matter(record | {"unheard_of": 1})
    assert settings_that_matter(record) == settings_that_matter(record | {"seed": 4, "started": "now"})
