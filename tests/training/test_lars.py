"""LARS against loops, two other implementations, plain SGD and itself resumed."""

import io
from typing import Any

import pytest
import torch
from lightly.utils.lars import LARS as LightlyLARS
from lightning_fabric import Fabric
from tests.reference.lars import lars_by_loops
from timm.optim.lars import Lars as TimmLARS
from torch import Tensor, nn

from orl.training.lars import LARS, lars_groups

RATES = [0.5, 0.2, 0.9, 0.0, 0.3]


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def network() -> nn.Sequential:
    layers = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(16, 2)).double()
    for seed, weight in enumerate(layers.parameters()):
        weight.data = draw(*weight.shape, seed=seed)
    return layers


def train(layers: nn.Module, optimiser: torch.optim.Optimizer, rates: list[float], start: int = 0) -> None:
    """One step for each rate, with gradients that depend on the step alone."""
    for step, rate in enumerate(rates, start):
        for group in optimiser.param_groups:
            group["lr"] = rate
        for index, weight in enumerate(layers.parameters()):
            weight.grad = draw(*weight.shape, seed=100 * step + index + 50).to(weight.dtype)
        optimiser.step()


def assert_equal_weights(one: nn.Module, other: nn.Module) -> None:
    for ours, expected in zip(one.parameters(), other.parameters(), strict=True):
        torch.testing.assert_close(ours, expected)


def test_one_step_by_hand() -> None:
    weight = nn.Parameter(torch.tensor([[3.0, 4.0]], dtype=torch.float64))
    weight.grad = torch.tensor([[0.0, 2.0]], dtype=torch.float64)
    LARS([weight], lr=0.5, weight_decay=0.1, trust_coefficient=0.01).step()
    # |w| = 5 and |g| = 2: rate 0.01 * 5 / (2 + 0.5) = 0.02, direction (0.3, 2.4), velocity 0.5 * 0.02 of it.
    expected = torch.tensor([[3 - 0.003, 4 - 0.024]], dtype=torch.float64)
    torch.testing.assert_close(weight.data, expected)


@pytest.mark.parametrize("weight_decay", [0.0, 0.05])
def test_steps_equal_the_algorithm_as_loops(weight_decay: float) -> None:
    layers, before = network(), network()
    config = {"momentum": 0.8, "weight_decay": weight_decay, "trust_coefficient": 0.02}
    train(layers, LARS(layers.parameters(), lr=1.0, **config), RATES)
    for index, (weight, start) in enumerate(zip(layers.parameters(), before.parameters(), strict=True)):
        gradients = [draw(*start.shape, seed=100 * step + index + 50).flatten().tolist() for step in range(len(RATES))]
        expected = lars_by_loops(start.flatten().tolist(), gradients, RATES, **config)
        torch.testing.assert_close(weight.flatten().tolist(), expected)


@pytest.mark.parametrize("other", [LightlyLARS, TimmLARS])
def test_steps_equal_those_of_other_libraries(other: type[torch.optim.Optimizer]) -> None:
    # At a constant rate: theirs enters after the velocity, as torch's SGD has it. Without their epsilon of 1e-8.
    ours, theirs = network(), network()
    config: dict[str, Any] = {"lr": 0.4, "momentum": 0.9, "weight_decay": 0.01}
    coefficient = {"trust_coefficient" if other is LightlyLARS else "trust_coeff": 0.002}
    train(ours, LARS(ours.parameters(), trust_coefficient=0.002, **config), [0.4] * 5)
    train(theirs, other(theirs.parameters(), eps=0.0, **coefficient, **config), [0.4] * 5)
    assert_equal_weights(ours, theirs)


def test_excluded_weights_follow_plain_sgd() -> None:
    ours, plain = network(), network()
    groups = [{"params": list(ours.parameters()), "is_adapted": False}]
    train(ours, LARS(groups, lr=1.0, momentum=0.9, weight_decay=0.3), [0.4] * 5)
    train(plain, torch.optim.SGD(plain.parameters(), lr=1.0, momentum=0.9), [0.4] * 5)
    assert_equal_weights(ours, plain)


def test_adapted_and_excluded_groups_are_stepped_differently() -> None:
    layers, all_adapted, none_adapted = network(), network(), network()
    config: dict[str, Any] = {"lr": 1.0, "weight_decay": 0.05, "trust_coefficient": 0.02}
    train(layers, LARS(lars_groups(layers), **config), RATES)
    train(all_adapted, LARS(all_adapted.parameters(), **config), RATES)
    left_out = [{"params": list(none_adapted.parameters()), "is_adapted": False}]
    train(none_adapted, LARS(left_out, **config), RATES)
    for name, weight in layers.named_parameters():
        expected = all_adapted if name in ("0.weight", "3.weight") else none_adapted
        torch.testing.assert_close(weight, expected.get_parameter(name))


def test_only_trained_matrices_and_kernels_are_adapted() -> None:
    layers = network()
    layers.append(nn.Linear(2, 2).requires_grad_(False))
    layers.append(nn.Bilinear(2, 2, 1))
    layers[-1].bias = nn.Parameter(torch.zeros(1, 1))  # a bias of two dimensions
    names = {weight: name for name, weight in layers.named_parameters()}
    adapted, left_out = lars_groups(layers)
    assert adapted["is_adapted"]
    assert [names[weight] for weight in adapted["params"]] == ["0.weight", "3.weight", "5.weight"]
    assert not left_out["is_adapted"]
    assert [names[weight] for weight in left_out["params"]] == ["0.bias", "1.weight", "1.bias", "3.bias", "5.bias"]


def test_without_decay_the_length_of_a_gradient_does_not_matter() -> None:
    one, other = (nn.Parameter(draw(3, 4)) for _ in range(2))
    for weight, scale in ((one, 1), (other, 1000)):
        weight.grad = scale * draw(3, 4, seed=1)
        LARS([weight], lr=0.5, weight_decay=0.0, trust_coefficient=0.02).step()
        # The first step has the length that the trust coefficient says.
        assert (weight.data - draw(3, 4)).norm().item() == pytest.approx(0.5 * 0.02 * draw(3, 4).norm().item())
    torch.testing.assert_close(one, other)


def test_a_weight_or_a_gradient_of_zero_is_not_scaled() -> None:
    new, still = nn.Parameter(torch.zeros(2, 2)), nn.Parameter(torch.ones(2, 2))
    new.grad, still.grad = torch.ones(2, 2), torch.zeros(2, 2)
    LARS([new, still], lr=0.5, weight_decay=0.1).step()
    torch.testing.assert_close(new.data, torch.full((2, 2), -0.5))
    torch.testing.assert_close(still.data, torch.full((2, 2), 1 - 0.5 * 0.1))


def test_a_weight_without_gradient_stays_and_gets_no_velocity() -> None:
    one, other = nn.Parameter(torch.ones(2, 2)), nn.Parameter(torch.ones(2, 2))
    one.grad = torch.ones(2, 2)
    optimiser = LARS([{"params": [one, other]}, {"params": [nn.Parameter(torch.ones(3))]}], lr=0.5)
    optimiser.step()
    assert torch.equal(other.data, torch.ones(2, 2))
    assert list(optimiser.state) == [one]


def test_gradients_stay_unchanged() -> None:
    layers = network()
    train(layers, LARS(lars_groups(layers), lr=1.0, weight_decay=0.1), [0.5])
    for index, weight in enumerate(layers.parameters()):
        assert torch.equal(weight.grad, draw(*weight.shape, seed=index + 50))


def test_a_resumed_training_equals_one_that_did_not_stop_bit_for_bit() -> None:
    uninterrupted, first = network().float(), network().float()
    train(uninterrupted, LARS(lars_groups(uninterrupted), lr=1.0), RATES)
    optimiser = LARS(lars_groups(first), lr=1.0)
    train(first, optimiser, RATES[:2])
    file = io.BytesIO()
    torch.save({"network": first.state_dict(), "optimiser": optimiser.state_dict()}, file)
    file.seek(0)
    saved = torch.load(file)
    second = network().float()
    second.load_state_dict(saved["network"])
    resumed = LARS(lars_groups(second), lr=7.0)
    resumed.load_state_dict(saved["optimiser"])
    assert resumed.param_groups[0]["is_adapted"]
    train(second, resumed, RATES[2:], start=2)
    for weight, expected in zip(second.parameters(), uninterrupted.parameters(), strict=True):
        assert torch.equal(weight, expected)


def test_fabric_does_the_same_steps() -> None:
    plain, wrapped = network().float(), network().float()
    images = draw(4, 3, 4, 4).float()
    fabric = Fabric(accelerator="cpu", devices=1)
    alone: Any = LARS(lars_groups(plain), lr=1.0)
    model, optimiser = fabric.setup(wrapped, LARS(lars_groups(wrapped), lr=1.0))
    for rate in RATES:
        for one in (alone, optimiser):
            one.zero_grad()
            for group in one.param_groups:
                group["lr"] = rate
        plain(images).square().mean().backward()
        fabric.backward(model(images).square().mean())
        alone.step()
        optimiser.step()
    for weight, expected in zip(wrapped.parameters(), plain.parameters(), strict=True):
        assert torch.equal(weight, expected)


def test_a_closure_computes_the_gradients_of_its_step() -> None:
    weight = nn.Parameter(torch.tensor([2.0]))
    optimiser = LARS([{"params": [weight], "is_adapted": False}], lr=0.1)

    def loss() -> Tensor:
        value = weight.square().sum()
        value.backward()
        return value

    assert optimiser.step(loss).item() == 4
    assert weight.item() == pytest.approx(2 - 0.1 * 4)


def test_a_step_transfers_nothing_to_the_cpu() -> None:
    # Tensors of this device have no values: to ask for one is an error.
    layers = network().to("meta")
    for weight in layers.parameters():
        weight.grad = torch.empty_like(weight)
    optimiser = LARS(lars_groups(layers), lr=1.0)
    optimiser.step()
    optimiser.step()
    assert len(optimiser.state) == 6


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"lr": -0.1}, "got -0.1, 1e-06 and 0.001"),
        ({"lr": 0.1, "weight_decay": -1.0}, "got 0.1, -1.0 and 0.001"),
        ({"lr": 0.1, "trust_coefficient": 0.0}, "got 0.1, 1e-06 and 0.0"),
        ({"lr": 0.1, "momentum": 1.0}, r"momentum must lie in \[0, 1\), got 1.0"),
        ({"lr": 0.1, "momentum": -0.1}, r"momentum must lie in \[0, 1\), got -0.1"),
    ],
)
def test_numbers_out_of_range_are_refused(options: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        LARS(network().parameters(), **options)
