"""Golden values: what a machine image will measure when it boots, computed from its files alone.

Nothing is run and no machine is trusted: a party that builds the image again, or has its files, computes the same values.
"""

from perunml.client.golden.compute import Golden, compute

__all__ = ["Golden", "compute"]
