"""Where readings come from: a driver, a recorded trace, or a simulated fleet."""
