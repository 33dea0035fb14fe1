"""An agent on a Debian or Ubuntu machine that is there already: what is written for it, and how it is taken away again."""

from perunml.host.install.apply import Change, Done, install, uninstall
from perunml.host.install.plan import Wish, files

__all__ = ["Change", "Done", "Wish", "files", "install", "uninstall"]
