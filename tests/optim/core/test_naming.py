"""Every parameter takes up its own state, whatever the parts of the model are called and whatever is around them."""

import copy
import io
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, distributed, nn
from torch.nn.parallel import DataParallel, DistributedDataParallel

from steepest.optim import OPTIMIZERS
from steepest.optim.contract.models import train, weights
from tests.optim.contract.cases import ENTRIES, Entry

battery = pytest.mark.parametrize("entry", ENTRIES, ids=lambda entry: entry.name)


class Wrapped(nn.Module):
    """A backbone called `module`, as in a wrapper, whose layer has the name of the model's own."""

    def __init__(self) -> None:
        super().__init__()
        self.module = nn.ModuleDict({"head": nn.Linear(6, 6), "inner": nn.Linear(6, 6)})
        self.head = nn.Linear(6, 6)
        self.last = nn.Linear(6, 3)

    def forward(self, inputs: Tensor) -> Tensor:
        hidden = torch.tanh(self.module["inner"](torch.tanh(self.module["head"](inputs))))
        return self.last(torch.tanh(self.head(hidden)))


def network(seed: int) -> Wrapped:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return Wrapped()


def compiled_parts(module: Wrapped) -> nn.Module:
    module.module["head"] = torch.compile(module.module["head"], backend="eager")  # type: ignore[assignment]
    module.head = torch.compile(module.head, backend="eager")  # type: ignore[assignment]
    return module


WRAPS: dict[str, Callable[[Wrapped], nn.Module]] = {
    "bare": lambda module: module,
    "compiled": lambda module: torch.compile(module, backend="eager"),  # type: ignore[return-value]
    "compiled_parts": compiled_parts,
    "data_parallel": DataParallel,
    "ddp": DistributedDataParallel,
    "ddp_of_compiled": lambda module: DistributedDataParallel(compiled_parts(module)),
}


@pytest.fixture(scope="module", autouse=True)
def one_process(tmp_path_factory):
    store = tmp_path_factory.mktemp("store") / "file"
    distributed.init_process_group("gloo", init_method=f"file://{store}", rank=0, world_size=1)
    with torch.compiler.set_stance("force_eager"):
        yield
    distributed.destroy_process_group()


@pytest.mark.parametrize(
    ("saved", "loaded"), [("bare", "bare"), ("bare", "ddp_of_compiled"), ("ddp_of_compiled", "bare")]
)
@battery
def test_every_optimizer_gives_each_parameter_its_own_state(entry: Entry, saved: str, loaded: str) -> None:
    resumes(entry, saved, loaded)


@pytest.mark.parametrize("loaded", WRAPS)
@pytest.mark.parametrize("saved", WRAPS)
@pytest.mark.parametrize("name", ["adamw", "muon_adamw", "reference_momentum"])
def test_every_wrapper_gives_each_parameter_its_own_state(name: str, saved: str, loaded: str) -> None:
    resumes(next(entry for entry in ENTRIES if entry.name == name), saved, loaded)


def resumes(entry: Entry, saved: str, loaded: str) -> None:
    """A run that goes on inside another wrapper ends where the whole one does."""
    whole = network(0)
    train(whole, entry.make(whole), 6)
    inner = network(0)
    first = WRAPS[saved](inner)
    optimizer = entry.make(first)
    train(first, optimizer, 3)
    file = io.BytesIO()
    torch.save(optimizer.state_dict(), file)
    file.seek(0)
    second_inner = network(1)
    second = WRAPS[loaded](second_inner)
    with torch.no_grad():
        for own, other in zip(second.parameters(), first.parameters(), strict=True):
            own.copy_(other)
    optimizer = entry.make(second)
    optimizer.load_state_dict(torch.load(file, weights_only=True))
    train(second, optimizer, 3, first=3)
    assert torch.equal(weights(second), weights(whole))


def formerly(state: dict) -> dict:
    """A state dictionary as it was saved when a leading "module." was always left out."""
    state = copy.deepcopy(state)
    for group in state["param_groups"]:
        group["param_names"] = [name.removeprefix("module.") for name in group["param_names"]]
    return state


class Around(nn.Module):
    """A model whose one part is called `module`."""

    def __init__(self) -> None:
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            self.module = nn.Sequential(nn.Linear(6, 6), nn.Tanh(), nn.Linear(6, 3))

    def forward(self, inputs: Tensor) -> Tensor:
        return self.module(inputs)


@battery
def test_states_of_the_former_names_load(entry: Entry) -> None:
    whole = Around()
    train(whole, entry.make(whole), 6)
    module = Around()
    optimizer = entry.make(module)
    train(module, optimizer, 3)
    again = entry.make(module)
    again.load_state_dict(formerly(optimizer.state_dict()))
    train(module, again, 3, first=3)
    assert torch.equal(weights(module), weights(whole))


@battery
def test_former_names_of_which_two_are_one_are_refused(entry: Entry) -> None:
    module = network(0)
    optimizer = entry.make(module)
    train(module, optimizer, 1)
    with pytest.raises(
        ValueError, match=r"\A[^\n]*has 2 parameters called 'head.(weight|bias)' and cannot be matched\Z"
    ):
        entry.make(module).load_state_dict(formerly(optimizer.state_dict()))


def test_two_parameters_of_one_name_make_no_optimizer() -> None:
    wrapper = DataParallel(nn.Linear(6, 3))
    wrapper.register_parameter("weight", nn.Parameter(torch.zeros(2)))
    with pytest.raises(ValueError, match="are called 'weight'"):
        OPTIMIZERS.create("adamw", wrapper)
