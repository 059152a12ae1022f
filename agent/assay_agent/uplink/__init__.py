"""Everything the agent says over the network; the only rooms of it that touch generated code."""
