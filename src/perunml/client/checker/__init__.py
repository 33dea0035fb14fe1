"""Automated members of a board: a program that a party runs, which signs what its rules allow and nothing else (docs/checker.md)."""
