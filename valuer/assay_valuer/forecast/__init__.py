"""What prices will do, with the error stated: statistics in floats, pure, and no money."""
