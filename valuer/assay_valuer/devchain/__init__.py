"""A development chain: a real EVM from PyPI behind JSON-RPC, on loopback, in its own process.

For the demo and the tests only. Its accounts' keys are public knowledge, it keeps nothing on disk,
and it mines each transaction at once. It needs the extra `devchain`.
"""
