"""The demo: one valuer, three simulated hosts, a development chain, and what happens to a GPU."""
