"""A sealed asset as a read-only file system: the kernel's FUSE protocol, answered out of a bounded number of opened chunks."""
