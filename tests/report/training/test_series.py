import numpy as np

from bellgrad.report.training.series import read_series


def test_a_series_leaves_out_what_is_absent_null_or_not_finite(make_run, write_metrics):
    run = make_run()
    write_metrics(
        run,
        '{"step": 1, "x": null}',
        '{"step": 2}',
        '{"step": 3, "x": NaN}',
        '{"step": 4, "x": 7}',
        '{"step": 6, "x": -Infinity}',
    )
    steps, values = read_series(run, "x")
    np.testing.assert_array_equal((steps, values), ([4.0], [7.0]))
    assert read_series(run, "unheard")[0].shape == (0,)


def test_resume_lines_written_again_count_once_and_steps_rise(make_run, write_metrics):
    run = make_run()
    write_metrics(
        run,
        '{"step": 1, "x": 1}',
        '{"step": 2, "x": 2}',
        '{"step": 3, "x": 3}',
        '{"step": 2, "x": 20}',
        '{"step": 3, "x": 30}',
    )
    np.testing.assert_array_equal(read_series(run, "x"), [[1, 2, 3], [1, 20, 30]])
