"""The budgets, each measured beside what bounds it. `make bench` runs bench/run.py."""
