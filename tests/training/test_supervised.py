"""A step with labels: gradients of the sum of the terms, rates by group, nothing done when a loss is not finite."""

import pytest
import torch
import torch.nn.functional as F
from lightning_fabric import Fabric
from torch import Tensor, nn
from torch.testing import assert_close

from orl.training.supervised import SupervisedStep
from orl.training.training_step import NotFiniteError


class Network(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.body, self.norm, self.head = nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 2)
        for weight in self.parameters():
            weight.data = torch.randn(weight.shape, generator=generator)

    def forward(self, inputs: Tensor) -> Tensor:
        return self.head(self.norm(self.body(inputs)))


def losses(model: nn.Module, batch: tuple[Tensor, Tensor]) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    inputs, labels = batch
    outputs = model(inputs)
    terms = {"classes": F.cross_entropy(outputs, labels), "size": 0.1 * outputs.square().mean()}
    return terms, {"right": (outputs.argmax(dim=1) == labels).float().mean()}


def new_batch() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    return torch.randn(8, 3, generator=generator), torch.randint(2, (8,), generator=generator)


def new_training_step(network: Network) -> SupervisedStep:
    groups = [
        {"params": [*network.body.parameters(), *network.norm.parameters()]},
        {"params": network.head.parameters(), "lr_scale": 100.0},
    ]
    optimiser = torch.optim.SGD(groups, lr=1.0)
    return SupervisedStep(Fabric(accelerator="cpu", devices=1), network, optimiser, losses)


def test_a_step_is_the_gradient_of_the_sum_of_the_terms_at_the_rate_of_each_group() -> None:
    network, twin = Network(), Network()
    found = new_training_step(network).update(1, new_batch(), {"lr": 0.01})
    terms, metrics = losses(twin, new_batch())
    sum(terms.values()).backward()  # type: ignore[union-attr]
    for name, weight in twin.named_parameters():
        rate = 1.0 if name.startswith("head") else 0.01
        assert_close(network.get_parameter(name).data, weight.data - rate * weight.grad)
    assert found["loss"] == pytest.approx((terms["classes"] + terms["size"]).item())
    assert found["size"] == pytest.approx(terms["size"].item())
    assert found["right"] == pytest.approx(metrics["right"].item())
    squares = sum(weight.grad.square().sum() for weight in twin.parameters())
    assert found["gradient_norm"] == pytest.approx(float(squares) ** 0.5)


def test_a_loss_that_is_not_finite_changes_nothing_and_names_the_term() -> None:
    network = Network()
    training_step = new_training_step(network)
    before = {name: value.clone() for name, value in network.state_dict().items()}
    inputs, labels = new_batch()
    inputs[0, 0] = float("inf")
    with pytest.raises(NotFiniteError, match="classes is nan"):
        training_step.update(1, (inputs, labels), {"lr": 0.1})
    for name, value in network.state_dict().items():
        assert torch.equal(value, before[name]), name


def test_a_loaded_state_continues_bit_for_bit() -> None:
    straight, stopped, resumed = (new_training_step(Network()) for _ in range(3))
    for step in (1, 2):
        straight.update(step, new_batch(), {"lr": 0.1})
    stopped.update(1, new_batch(), {"lr": 0.1})
    resumed.load_state(stopped.state())
    resumed.update(2, new_batch(), {"lr": 0.1})
    for name, value in straight.network.state_dict().items():
        assert torch.equal(value, resumed.network.state_dict()[name]), name
