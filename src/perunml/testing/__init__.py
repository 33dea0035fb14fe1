"""The forge and the simulated machine. Imported by tests, demo and quickstart only."""
