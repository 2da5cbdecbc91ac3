"""Pre-train on a folder of images and put the weights into a torchvision network.

python examples/own_images.py --images IMAGES --out runs/mine
python examples/own_images.py --images IMAGES --out runs/mine --epochs 100
"""

import argparse
from dataclasses import replace
from pathlib import Path

import torchvision

from orl.networks.backbones import read_backbone_file
from orl.pipeline.run import run_all
from orl.recipes import RECIPES


def main(argv: list[str] | None = None) -> None:
    """All three stages, then a torchvision network with the weights of the last."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=Path, required=True, help="a folder, a list file, a COCO JSON or a VOC devkit")
    parser.add_argument("--out", type=Path, required=True, help="folder of the run; the same again goes on")
    parser.add_argument("--recipe", default="quick", choices=tuple(RECIPES))
    parser.add_argument("--epochs", type=int, help="of both training stages; as the recipe says, if not given")
    parser.add_argument("--batch-size", type=int, help="images a step; as the recipe says, if not given")
    options = parser.parse_args(argv)

    config = RECIPES[options.recipe](options.images, options.out)
    changes = {"epochs": options.epochs, "batch_size": options.batch_size}
    given = {name: value for name, value in changes.items() if value is not None}
    config = replace(config, stage1=replace(config.stage1, **given), stage3=replace(config.stage3, **given))
    report = run_all(config)

    backbone = read_backbone_file(options.out / "stage3" / "backbone.safetensors")  # images in, feature maps out
    print(f"report: {report}")
    print(f"backbone: {backbone.name}, {backbone.num_channels} channels")
    network = getattr(torchvision.models, backbone.name, None)
    if network is not None:  # torchvision has no ResNet-10
        missing, unexpected = network().load_state_dict(backbone.state_dict(), strict=False)
        print(f"in torchvision's network all is set but {', '.join(missing)}; left over: {len(unexpected)}")


if __name__ == "__main__":  # the scan starts processes of its own
    main()
