"""``python -m perunml`` is the command ``perunml``."""

from perunml.cli import main

if __name__ == "__main__":
    main()
