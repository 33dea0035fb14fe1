"""The story that `make demo` and `perunml quickstart` tell: five parties, one manager, two hosts, real processes."""
