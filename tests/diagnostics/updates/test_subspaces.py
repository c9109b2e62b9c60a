import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.linalg import subspace_angles
from torch import Tensor, nn

from steepest.diagnostics.updates import subspaces
from steepest.diagnostics.updates.subspaces import SubspaceMonitor, leading_subspaces, principal_angles


def basis(seed: int, size: int, count: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.linalg.qr(torch.randn(size, count, generator=generator, dtype=torch.float64)).Q


def spiked(rows: int, columns: int, *spikes: float) -> Tensor:
    """Singular values of a random matrix of norm about 2, and some larger ones."""
    generator = torch.Generator().manual_seed(rows)
    bulk = torch.randn(rows, columns, generator=generator) / max(rows, columns) ** 0.5
    spikes = spikes[: min(rows, columns)]
    left, right = basis(1, rows, len(spikes)).float(), basis(2, columns, len(spikes)).float()
    return bulk + left * torch.tensor(spikes) @ right.mT


@given(seed=st.integers(0, 1000), size=st.integers(1, 30), small=st.floats(1e-12, 1.0), data=st.data())
def test_angles_are_those_of_scipy(seed, size, small, data) -> None:
    count = data.draw(st.integers(1, size))
    one = basis(seed, size, count)
    other = torch.linalg.qr(one + small * basis(seed + 1, size, count)).Q
    found = principal_angles(one, other)
    np.testing.assert_allclose(found.numpy(), subspace_angles(one.numpy(), other.numpy()), atol=1e-7)


def test_known_angles() -> None:
    plane, axes = torch.eye(4)[:, :2], torch.eye(4)[:, [0, 2]]
    assert principal_angles(plane, axes).tolist() == pytest.approx([torch.pi / 2, 0.0])
    assert subspaces.turn(plane, plane) == pytest.approx(0.0, abs=1e-6)
    assert subspaces.turn(plane, torch.eye(4)[:, 2:]) == pytest.approx(90.0)
    # A tiny turn, which a cosine cannot see in float32, nor well in float64.
    tilted = torch.tensor([[1.0, 0.0], [0.0, 1.0], [1e-7, 0.0], [0.0, 0.0]], dtype=torch.float64)
    assert principal_angles(plane, torch.linalg.qr(tilted).Q).tolist() == pytest.approx([1e-7, 0.0], rel=1e-6)


@pytest.mark.parametrize("shape", [(40, 90), (90, 40), (40, 3, 5, 6), (3, 7), (1, 5), (5, 1)])
@pytest.mark.parametrize("exact", [True, False])
def test_leading_subspaces_are_those_of_the_svd(monkeypatch, shape, exact) -> None:
    monkeypatch.setattr(subspaces, "EXACT_UP_TO", 1000 if exact else 0)
    rows, columns = shape[0], int(np.prod(shape[1:]))
    count = min(3, rows, columns)
    matrix = spiked(rows, columns, 9.0, 7.0, 5.0)
    left, right = leading_subspaces(matrix.reshape(shape), 3)
    u, _, vh = np.linalg.svd(matrix.double().numpy(), full_matrices=False)
    assert (left.shape, right.shape) == ((rows, count), (columns, count))
    assert subspace_angles(left.numpy(), u[:, :count]).max() < 2e-3
    assert subspace_angles(right.numpy(), vh[:count].T).max() < 2e-3


def test_a_rotation_of_the_inputs_is_a_right_drift() -> None:
    module = nn.Linear(60, 50, bias=False).double()
    with torch.no_grad():
        module.weight.copy_(spiked(50, 60, 9.0, 7.0))
    monitor = SubspaceMonitor(module, 2)
    assert monitor.measure() == {}
    angle = 0.3
    right = torch.linalg.svd(module.weight.detach()).Vh[[0, 1, 2, 3]].mT
    rotation = torch.eye(60, dtype=torch.float64)
    for here, there in ((0, 2), (1, 3)):  # both leading directions into the space of the others
        one, other = right[:, here, None], right[:, there, None]
        rotation += (np.cos(angle) - 1) * (one @ one.mT + other @ other.mT)
        rotation += np.sin(angle) * (other @ one.mT - one @ other.mT)
    with torch.no_grad():
        module.weight.copy_(module.weight @ rotation.mT)
    first = monitor.measure()
    assert first["left_drift"]["weight"] == pytest.approx(0.0, abs=1e-4)
    assert first["right_drift"]["weight"] == pytest.approx(np.degrees(angle), rel=1e-5)
    assert first["drift"] == first["right_drift"] == first["drift_from_start"]
    with torch.no_grad():
        module.weight.copy_(module.weight @ rotation.mT)
    second = monitor.measure()
    assert second["drift"]["weight"] == pytest.approx(np.degrees(angle), rel=1e-5)
    assert second["drift_from_start"]["weight"] == pytest.approx(2 * np.degrees(angle), rel=1e-5)


def test_state_is_small_and_continues_the_same(tmp_path) -> None:
    torch.manual_seed(0)
    module = nn.Sequential(nn.Linear(200, 300), nn.Linear(300, 10))
    one, other = SubspaceMonitor(module, 4), SubspaceMonitor(module, 4)
    one.measure()
    torch.save(one.state_dict(), tmp_path / "state.pt")
    other.load_state_dict(torch.load(tmp_path / "state.pt", weights_only=True))
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(0.01 * torch.randn_like(parameter))
    assert one.measure() == other.measure()
    stored = sum(t.numel() for of in one.state_dict().values() for pair in of.values() for t in pair)
    assert stored == 2 * 4 * (200 + 300 + 300 + 10)


def test_frozen_vectors_and_nans_are_left_out() -> None:
    module = nn.Sequential(nn.Linear(6, 5), nn.LayerNorm(5), nn.Linear(5, 4), nn.Linear(4, 4))
    module[0].weight.requires_grad = False
    monitor = SubspaceMonitor(module)
    monitor.measure()
    assert set(monitor.measure()["drift"]) == {"2.weight", "3.weight"}
    with torch.no_grad():
        module[2].weight[0, 0] = torch.nan
    assert set(monitor.measure()["drift"]) == {"3.weight"}
    with pytest.raises(ValueError, match="at least 1 direction, got 0"):
        SubspaceMonitor(module, 0)
