"""Names that configs choose from: backbones, initial weights, devices and precisions; torch is not imported here."""

from typing import Literal

BackboneName = Literal["resnet10", "resnet18", "resnet34", "resnet50", "resnet101", "wide_resnet50_2"]
"""Backbones that can be trained by name."""
OWN_MODULE = "module/"
"""Prefix of the name of a backbone that is a user-defined module."""
InitialWeights = Literal["fan-in", "torchvision"]
"""Rules of random weights, see `orl.networks.initial_weights`."""
DeviceName = Literal["auto", "cpu", "cuda"]
"""Device to compute on; auto takes a GPU if there is one."""
Precision = Literal["32-true", "bf16-mixed", "16-mixed", "64-true"]
"""Arithmetic of training; 16-mixed needs a GPU."""
