"""Key Knowledge Augmentation: generated anomalies that teach a detector where the boundary is."""

__version__ = "0.1.0"
