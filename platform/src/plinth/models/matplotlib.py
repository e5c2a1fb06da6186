"""Plots of an evaluation, as PNG images drawn without a display."""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping
from typing import Any

from plinth.errors import MissingExtra

INK, OURS, OTHER, GRID = "#1f2933", "#1565c0", "#b0572b", "#d9dee4"


def evaluation_plots(evidence: Mapping[str, Any]) -> dict[str, bytes]:
    """Calibration, ROC and months of one evaluation.

    Args:
        evidence: With `calibration`, `roc`, `auc`, `baseline_auc`, `calibration_error` and `months`
            (flight_delays.evaluation.evaluate).

    Returns:
        `calibration.png`, `roc.png` and `months.png`.

    Raises:
        MissingExtra: matplotlib is not installed.
    """
    return {
        "calibration.png": _image(lambda axes: _calibration(axes, evidence)),
        "roc.png": _image(lambda axes: _roc(axes, evidence)),
        "months.png": _image(lambda axes: _months(axes, evidence)),
    }


def _image(draw: Callable[[Any], None]) -> bytes:
    try:
        # Without pyplot: it keeps every figure alive and looks for a display.
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError as error:
        raise MissingExtra("matplotlib", "models") from error
    figure = Figure(figsize=(4.8, 3.6), dpi=120, layout="constrained")
    canvas: Any = FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    axes.grid(color=GRID, linewidth=0.8)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(GRID)
    axes.tick_params(colors=INK, labelsize=9, length=0)
    draw(axes)
    axes.set_title(axes.get_title("left"), loc="left", fontsize=10, fontweight="bold", color=INK)
    buffer = io.BytesIO()
    # A fixed software tag keeps the bytes the same on every run.
    canvas.print_png(buffer, metadata={"Software": "plinth"})
    return buffer.getvalue()


def _calibration(axes: Any, evidence: Mapping[str, Any]) -> None:
    curve = evidence["calibration"]
    predicted = [point["mean_prediction"] for point in curve]
    outcome = [point["outcome_rate"] for point in curve]
    edge = max(*predicted, *outcome) * 1.05
    axes.plot([0, edge], [0, edge], color=OTHER, linewidth=1, linestyle="--", label="perfect")
    axes.plot(predicted, outcome, color=OURS, marker="o", markersize=4, label="model, bins of equal mass")
    axes.set(xlabel="mean prediction", ylabel="outcome rate", xlim=(0, edge), ylim=(0, edge))
    axes.set_title(f"Calibration: error {evidence['calibration_error']:.3f}", loc="left")
    axes.legend(frameon=False, fontsize=8, loc="upper left")


def _roc(axes: Any, evidence: Mapping[str, Any]) -> None:
    x, y = zip(*evidence["roc"], strict=True)
    axes.plot([0, 1], [0, 1], color=OTHER, linewidth=1, linestyle="--", label="chance")
    axes.plot(x, y, color=OURS, label="model")
    axes.set(xlabel="false positive rate", ylabel="true positive rate", xlim=(0, 1), ylim=(0, 1))
    axes.set_title(f"ROC: AUC {_number(evidence['auc'])}, baseline {_number(evidence['baseline_auc'])}", loc="left")
    axes.legend(frameon=False, fontsize=8, loc="lower right")


def _months(axes: Any, evidence: Mapping[str, Any]) -> None:
    months = [month for month in evidence["months"] if month["auc"] is not None]
    names = [month["month"] for month in months]
    axes.plot(names, [month["auc"] for month in months], color=OURS, marker="o", markersize=4, label="model")
    baseline = [month.get("baseline_auc") for month in months]
    if None not in baseline:
        axes.plot(names, baseline, color=OTHER, marker="s", markersize=4, linestyle="--", label="baseline")
    # Room above the lines for the legend.
    axes.margins(y=0.3)
    axes.set(ylabel="AUC")
    axes.set_title("By month", loc="left")
    axes.tick_params(axis="x", rotation=45)
    axes.legend(frameon=False, fontsize=8, loc="upper right", ncols=2)


def _number(value: float | None) -> str:
    return "undefined" if value is None else f"{value:.3f}"
