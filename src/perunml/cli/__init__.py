"""One command, thin: a file per verb."""
