from steepest.study.report.exports import FIELDS, history_records
from tests.steepest.study.results import trial


def result(**history):
    return trial({}, history={name.replace("__", "/"): points for name, points in history.items()})


def test_a_record_for_each_evaluation_with_the_last_values_up_to_it() -> None:
    records = history_records(
        result(
            val__loss=[[19, 1.0, 1.5], [38, 2.0, 0.7]],
            val__accuracy=[[19, 1.0, 0.6], [38, 2.0, 0.8]],
            train__epoch_loss=[[19, 1.0, 2.1], [38, 2.0, 0.9]],
            train__epoch_accuracy=[[19, 1.0, 0.3], [38, 2.0, 0.7]],
            train__loss=[[10, 0.5, 2.2], [20, 1.1, 1.4]],
            spectral__norm_max=[[1, 0.0, 1.7], [38, 2.0, 2.8], [40, 2.2, 9.0]],
            sharpness__running=[[20, 1.1, 15.0]],
            noise__batch_scale=[[10, 0.5, 54.0], [19, 1.0, None]],
            lr__decay=[[1, 0.0, 1e-3], [20, 1.1, 2e-3]],
            lr__decay_momentum=[[1, 0.0, 0.9]],
            lr__no_decay=[[1, 0.0, 3e-3], [20, 1.1, 1e-3]],
            lr__range_loss=[[1, 0.0, 7.0]],
        )
    )
    first = dict(step=19, epoch=1, train_loss=2.1, train_acc=0.3, val_loss=1.5, val_acc=0.6, max_spectral_norm=1.7)
    first |= dict(sharpness=None, grad_noise_scale=None, lr=3e-3, time=1.0)
    second = dict(step=38, epoch=2, train_loss=0.9, train_acc=0.7, val_loss=0.7, val_acc=0.8, max_spectral_norm=2.8)
    second |= dict(sharpness=15.0, grad_noise_scale=None, lr=2e-3, time=2.0)
    assert records == [first, second]
    assert all(tuple(record) == FIELDS for record in records)


def test_evaluations_within_an_epoch_have_the_training_loss_since_the_last_record() -> None:
    records = history_records(
        result(
            val__loss=[[5, None, 3.0], [10, None, 2.0], [15, None, 1.0]],
            train__epoch_loss=[[10, None, 9.0]],
            train__loss=[[5, None, 3.5], [10, None, 2.5]],
        )
    )
    assert [record["train_loss"] for record in records] == [3.5, 2.5, 2.5]
    assert [record["epoch"] for record in records] == [0, 1, 1]
    assert {record["time"] for record in records} == {record["lr"] for record in records} == {None}


def test_without_evaluations_there_are_no_records() -> None:
    assert history_records(result(train__loss=[[5, 1.0, 3.5]])) == []
