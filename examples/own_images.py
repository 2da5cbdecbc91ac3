"""Pre-train on a folder of images and put the weights into a torchvision network.

python examples/own_images.py --images IMAGES --out runs/mine
python examples/own_images.py --images IMAGES --out runs/mine --epochs 100
"""

import argparse

import torchvision

import orl
from orl.recipes import RECIPES


def main(argv: list[str] | None = None) -> None:
    """Run all three stages, then load the weights of the last into a torchvision network."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", required=True, help="a folder, a list file, a COCO JSON or a VOC devkit")
    parser.add_argument("--out", required=True, help="folder of the run; the same command resumes")
    parser.add_argument("--recipe", default="quick", choices=tuple(RECIPES))
    parser.add_argument("--epochs", type=int, help="epochs of both training stages; those of the recipe if not given")
    parser.add_argument("--batch-size", type=int, help="images per step; those of the recipe if not given")
    options = parser.parse_args(argv)

    weights = orl.run(**vars(options))
    print(f"weights: {weights}")

    backbone = orl.load_backbone(weights)  # images in, feature maps out
    print(f"backbone: {backbone.name}, {backbone.num_channels} channels")
    network = getattr(torchvision.models, backbone.name, None)
    if network is not None:  # torchvision has no ResNet-10
        missing, unexpected = network().load_state_dict(backbone.state_dict(), strict=False)
        print(f"torchvision's network: all weights are set but {', '.join(missing)}; left over: {len(unexpected)}")


if __name__ == "__main__":  # the scan starts processes of its own
    main()
