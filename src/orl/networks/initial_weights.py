"""Distributions of random weights before training."""

from typing import TypeVar

from torch import nn

from orl.networks.names import InitialWeights

Network = TypeVar("Network", bound=nn.Module)


def initialise(network: Network, rule: InitialWeights) -> Network:
    """Sample the weights of a new network by a rule, from torch's global generator.

    Args:
        network: changed in place; convolutions and linear layers, at any depth. Batch normalisation starts at 1 and 0.
        rule: 'fan-in', a normal distribution with variance 2 / fan-in and zero biases; or 'torchvision', the weights
            that the layers have on construction (for ResNets by fan-out, for linear layers uniform).

    Returns:
        The network.

    Source:
        Kaiming initialisation (arXiv 1502.01852, Eq. 10) by fan-in, as ORL's published code and the code it builds on
        initialise ResNets, projectors and predictors of all methods.
    """
    for part in network.modules() if rule == "fan-in" else ():
        if isinstance(part, nn.Conv2d | nn.Linear):
            nn.init.kaiming_normal_(part.weight, mode="fan_in", nonlinearity="relu")
            if part.bias is not None:
                nn.init.zeros_(part.bias)
    return network
