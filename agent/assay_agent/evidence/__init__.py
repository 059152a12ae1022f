"""Hardware evidence of this host's GPUs, collected for a nonce. Optional, and off by default.

collectors.py makes what the configuration names; collector.py says what a collector answers.
"""
