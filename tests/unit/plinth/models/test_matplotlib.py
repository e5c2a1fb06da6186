import numpy as np

from plinth.models import evaluation
from plinth.models.matplotlib import evaluation_plots


def test_an_evaluation_gives_three_images_the_same_every_time():
    rng = np.random.default_rng(0)
    score = rng.random(2000)
    label = (rng.random(2000) < score).astype(int)
    time = np.datetime64("2013-06-01", "s") + rng.integers(0, 80 * 86_400, 2000)
    evidence = {
        **evaluation.summary(label, score),
        "baseline_auc": None,
        "calibration": evaluation.calibration_curve(label, score),
        "roc": evaluation.roc_curve(label, score),
        "months": evaluation.month_table(label, score, time),
    }
    plots = evaluation_plots(evidence)
    assert sorted(plots) == ["calibration.png", "months.png", "roc.png"]
    assert all(image.startswith(b"\x89PNG\r\n") for image in plots.values())
    assert evaluation_plots(evidence) == plots
