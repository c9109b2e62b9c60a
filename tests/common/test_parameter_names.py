import pytest
import torch
from torch import distributed, nn
from torch.distributed.algorithms._checkpoint.checkpoint_wrapper import checkpoint_wrapper
from torch.nn.parallel import DataParallel, DistributedDataParallel

from steepest.common.parameter_names import buffer_names, module_names, parameter_names, without_wrappers


class Backbone(nn.Module):
    """A part called `module`, as wrappers have, beside one of the same name."""

    def __init__(self) -> None:
        super().__init__()
        self.module = nn.ModuleDict({"head": nn.Linear(3, 3)})
        self.head = nn.Linear(3, 3)
        self.norm = nn.BatchNorm1d(3)


NAMES = ["module.head.weight", "module.head.bias", "head.weight", "head.bias", "norm.weight", "norm.bias"]


@pytest.fixture
def one_process(tmp_path):
    distributed.init_process_group("gloo", init_method=f"file://{tmp_path}/store", rank=0, world_size=1)
    yield
    distributed.destroy_process_group()


def compiled(module: nn.Module) -> nn.Module:
    return torch.compile(module, backend="eager")  # type: ignore[return-value]


def with_wrapped_parts(wrap) -> nn.Module:
    module = Backbone()
    module.module["head"] = wrap(module.module["head"])
    module.head = wrap(module.head)
    return module


@pytest.mark.usefixtures("one_process")
@pytest.mark.parametrize(
    "wrapped",
    [
        Backbone,
        lambda: compiled(Backbone()),
        lambda: with_wrapped_parts(compiled),
        lambda: compiled(with_wrapped_parts(compiled)),
        lambda: DistributedDataParallel(Backbone()),
        lambda: DataParallel(Backbone()),
        lambda: DistributedDataParallel(compiled(Backbone())),
        lambda: compiled(DistributedDataParallel(with_wrapped_parts(compiled))),
        lambda: with_wrapped_parts(checkpoint_wrapper),
        lambda: with_wrapped_parts(lambda part: compiled(checkpoint_wrapper(part))),
        lambda: with_wrapped_parts(DistributedDataParallel),
    ],
)
def test_wrappers_leave_no_trace(wrapped) -> None:
    module = wrapped()
    assert list(parameter_names(module).values()) == NAMES
    assert list(map(id, parameter_names(module))) == list(map(id, module.parameters()))
    assert list(buffer_names(module).values()) == ["norm.running_mean", "norm.running_var", "norm.num_batches_tracked"]
    assert {"", "module", "module.head", "head", "norm"} == set(module_names(module).values())


@pytest.mark.parametrize("name", ["module", "_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module"])
def test_a_part_of_that_name_keeps_it(name: str) -> None:
    module, other = nn.Sequential(), nn.Sequential()
    module.add_module(name, nn.Linear(2, 2))
    module.add_module("other", other)
    other.add_module(name, nn.Linear(2, 2, bias=False))
    assert list(parameter_names(module).values()) == [f"{name}.weight", f"{name}.bias", f"other.{name}.weight"]


def test_a_shared_parameter_has_its_first_name() -> None:
    module = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    module[1].weight = module[0].weight
    assert list(parameter_names(module).values()) == ["0.weight", "0.bias", "1.bias"]


class OwnWrapper(DataParallel):
    """A wrapper with a parameter of its own, which has the name of one inside."""

    def __init__(self) -> None:
        super().__init__(nn.Linear(2, 2))
        self.weight = nn.Parameter(torch.zeros(2))


def test_two_of_one_name_are_refused_in_a_line() -> None:
    with pytest.raises(
        ValueError, match=r"\Atwo parts of OwnWrapper are called 'weight' without wrappers: rename one\Z"
    ):
        parameter_names(OwnWrapper())


def test_names_without_their_module() -> None:
    assert without_wrappers("net._orig_mod.0._checkpoint_wrapped_module.weight") == "net.0.weight"
    assert without_wrappers("module.weight") == "module.weight"
