"""The rules of the story."""

from perunml.wire.rules import Kind, rule

PROGRAM_MISSING = rule(
    "program_missing",
    Kind.UNREACHABLE,
    "A program or package that the story needs is not installed on this machine.",
    "Whoever administers the machine installs it; `make setup` does in a checkout.",
)
STORY_BROKEN = rule(
    "story_broken",
    Kind.JOB,
    "A step of the story did not end as it must: something was not refused, or did not work.",
    "Whoever runs it reports it, with what was seen; `perunml quickstart --keep FOLDER` keeps the logs.",
)
DATA_UNUSABLE = rule(
    "data_unusable",
    Kind.USAGE,
    "The folder given to the story holds no CSV files that its training code can read: one header line for all, numbers, a class "
    "label (2 to 1,000 classes) in the last column, 10 rows or more.",
    "Whoever runs the story gives a folder of such files (`perunml quickstart --data FOLDER`), or none: the bundled data is used then.",
)
