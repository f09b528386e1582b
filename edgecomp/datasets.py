"""What model files import: see `edgecomp.training`."""

from .training.characters import characters
from .training.datasets import fashion_mnist
from .training.photographs import photographs

__all__ = ["characters", "fashion_mnist", "photographs"]
