"""What model files import: see `edgecomp.training`."""

from .training.train import Recipe

__all__ = ["Recipe"]
