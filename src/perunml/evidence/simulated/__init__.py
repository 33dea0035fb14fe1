"""Evidence of a machine without any root of trust: a bare key."""
