"""What the machine itself says of its GPUs: its PCI bus, its kernel's log, its files."""
