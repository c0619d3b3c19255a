"""keepstep: exact resume for PyTorch loops.

A run that is stopped anywhere continues from the exact micro-batch: the same samples, the same random draws, the same
counters and, where the hardware allows it, the same bytes.
"""

from ._core import __version__

__all__ = ["__version__"]
