"""A small ResNet after Detectron2's documentation, built from its config.

Written from the documentation of BasicStem, BasicBlock, BottleneckBlock and of the MODEL.RESNETS settings: every
convolution carries its own `norm`, stages are res2 to res5, the shortcut is there where the channels change.
"""

from collections.abc import Mapping
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

BLOCKS = {18: (2, 2, 2, 2), 34: (3, 4, 6, 3), 50: (3, 4, 6, 3), 101: (3, 4, 23, 3), 152: (3, 8, 36, 3)}


class NormedConv(nn.Conv2d):
    def __init__(self, inputs: int, outputs: int, kernel: int, stride: int = 1) -> None:
        super().__init__(inputs, outputs, kernel, stride, padding=kernel // 2, bias=False)
        self.norm = nn.BatchNorm2d(outputs, track_running_stats=True)

    def forward(self, maps: Tensor) -> Tensor:
        return self.norm(super().forward(maps))


class Stem(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv1 = NormedConv(3, 64, 7, 2)

    def forward(self, images: Tensor) -> Tensor:
        return F.max_pool2d(F.relu(self.conv1(images)), 3, 2, 1)


class Block(nn.Module):
    """Convolutions with a ReLU between them; those of a bottleneck are 1x1, 3x3 and 1x1."""

    def __init__(self, sizes: list[int], kernels: list[int], stride: int, strided: int) -> None:
        super().__init__()
        self.count = len(kernels)
        for index, kernel in enumerate(kernels):
            step = stride if index == strided else 1
            self.add_module(f"conv{index + 1}", NormedConv(sizes[index], sizes[index + 1], kernel, step))
        self.shortcut = NormedConv(sizes[0], sizes[-1], 1, stride) if sizes[0] != sizes[-1] else None

    def forward(self, maps: Tensor) -> Tensor:
        out = maps
        for index in range(self.count):
            out = self.get_submodule(f"conv{index + 1}")(out)
            if index + 1 < self.count:
                out = F.relu(out)
        return F.relu(out + (maps if self.shortcut is None else self.shortcut(maps)))


class Detectron2ResNet(nn.Module):
    def __init__(self, config: Mapping[str, Any]) -> None:
        """Build the network from the MODEL.RESNETS part of a config."""
        super().__init__()
        self.stem = Stem()
        depth, inputs, outputs = config["DEPTH"], 64, config["RES2_OUT_CHANNELS"]
        inner = config["WIDTH_PER_GROUP"]
        for number, count in enumerate(BLOCKS[depth], start=2):
            blocks = []
            for index in range(count):
                stride = 2 if index == 0 and number > 2 else 1
                if depth < 50:
                    blocks.append(Block([inputs, outputs, outputs], [3, 3], stride, strided=0))
                else:
                    strided = 0 if config["STRIDE_IN_1X1"] else 1
                    blocks.append(Block([inputs, inner, inner, outputs], [1, 3, 1], stride, strided))
                inputs = outputs
            self.add_module(f"res{number}", nn.Sequential(*blocks))
            outputs, inner = 2 * outputs, 2 * inner

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        maps, found = self.stem(images), {}
        for name in ("res2", "res3", "res4", "res5"):
            found[name] = maps = self.get_submodule(name)(maps)
        return found
