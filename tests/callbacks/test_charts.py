"""The layout of TensorBoard's Custom Scalars page, read back from event files."""

import re
from pathlib import Path

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.custom_scalar import layout_pb2

from steepest.callbacks import (
    GradientFlowMonitor,
    GradientNoiseScale,
    LearningRateTracker,
    LRRangeTest,
    SharpnessProbe,
    SpectralNormTracker,
    UpdateDynamics,
)
from tests.callbacks.runs import Classifier, events, fit


def layouts(folder: Path) -> list[layout_pb2.Layout]:
    accumulator = EventAccumulator(str(folder), {"tensors": 0})
    accumulator.Reload()
    if "custom_scalars__config__" not in accumulator.Tags()["tensors"]:
        return []
    found = accumulator.Tensors("custom_scalars__config__")
    return [layout_pb2.Layout.FromString(event.tensor_proto.string_val[0]) for event in found]


def charts(folder: Path) -> dict[str, dict[str, list[str]]]:
    (layout,) = layouts(folder)
    return {
        category.title: {chart.title: list(chart.multiline.tag) for chart in category.chart}
        for category in layout.category
    }


def test_every_chart_shows_scalars_of_its_own_kind(tmp_path):
    run = fit(
        tmp_path,
        Classifier(),
        LearningRateTracker(every_n_steps=1, momentum=True),
        GradientFlowMonitor(every_n_steps=1),
        SharpnessProbe(every_n_steps=2),
        SpectralNormTracker(every_n_steps=2),
        GradientNoiseScale(every_n_steps=2),
        UpdateDynamics(every_n_steps=1),
    )
    tags = events(run)
    drawn = {
        title: {tag for tag in tags for expression in expressions if re.match(expression, tag)}
        for charted in charts(Path(str(run.log_dir))).values()
        for title, expressions in charted.items()
    }
    assert all(drawn.values())
    assert drawn["learning rate"] == {"lr/AdamW"}
    assert drawn["gradient and weight norm"] == {"grad/total_norm", "grad/weight_norm"}
    assert drawn["sharpness and its threshold"] == {
        "sharpness/batch",
        "sharpness/batch_preconditioned",
        "sharpness/threshold",
    }
    assert drawn["share of the threshold"] == {"sharpness/batch_ratio", "sharpness/batch_directional_ratio"}


def test_a_module_adds_charts_of_its_own(tmp_path):
    class Charted(Classifier):
        charts = {"training": {"loss": ["train/loss"]}}

    run = fit(tmp_path, Charted(), LearningRateTracker())
    assert charts(Path(str(run.log_dir))) == {
        "training": {"loss": ["train/loss$"], "learning rate": [r"lr/(?!range_|largest_|.*_momentum$).*$"]}
    }


@pytest.mark.parametrize("before", [[], [LRRangeTest(steps=2, figures=False)]])
def test_charts_are_written_once_whichever_diagnostic_comes_first(tmp_path, before):
    run = fit(tmp_path, Classifier(), *before, LearningRateTracker(), GradientFlowMonitor(every_n_steps=1))
    assert charts(Path(str(run.log_dir)))["training"].keys() == {"learning rate"}


@pytest.mark.parametrize("callbacks", [[], [LearningRateTracker()]])
def test_nothing_is_written_without_diagnostics_or_without_a_logger(tmp_path, callbacks):
    fit(tmp_path if not callbacks else None, Classifier(), *callbacks)
    assert not any(layouts(path.parent) for path in tmp_path.rglob("events*"))
