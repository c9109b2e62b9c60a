import pytest
from lightning.pytorch.accelerators.cpu import CPUAccelerator

from steepest.command_line.options import check_precision, check_trainer_options


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"devices": "auto", "accelerator": "auto", "strategy": "auto"},
        {"devices": 2, "accelerator": "cpu", "strategy": "ddp_find_unused_parameters_true"},
        {"devices": "2"},
        {"devices": "0,1"},
        {"devices": "1,"},
        {"devices": [0, 3]},
        {"devices": -1},
        {"devices": "-1", "strategy": "fsdp"},
        {"gradient_clip_val": 0, "val_check_interval": 0.25, "log_every_n_steps": 1},
        {"check_val_every_n_epoch": None, "val_check_interval": {"minutes": 5}},
    ],
    ids=repr,
)
def test_what_lightning_takes_passes(options):
    check_trainer_options(options)


@pytest.mark.parametrize("devices", [0, -2, "0", "-3", "two", "", ",", "1;2", "1,x", "0.5"])
def test_devices(devices):
    with pytest.raises(ValueError, match=r"--trainer\.devices .* got"):
        check_trainer_options({"devices": devices})


@pytest.mark.parametrize("value", [-0.5, float("nan")])
def test_clipping(value):
    with pytest.raises(ValueError, match=f"gradient_clip_val must be at least 0, got {value}"):
        check_trainer_options({"gradient_clip_val": value})


@pytest.mark.parametrize("precision", ["16-mixed", 16, "16"])
def test_half_precision_on_a_cpu(precision):
    with pytest.raises(ValueError, match=f"{precision} needs a GPU"):
        check_precision(precision, CPUAccelerator())


@pytest.mark.parametrize("precision", [None, "32-true", "bf16-mixed", 64])
def test_other_precisions_on_a_cpu(precision):
    check_precision(precision, CPUAccelerator())
