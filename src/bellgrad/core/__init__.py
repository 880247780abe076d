"""Records, trees, random streams, protocols and errors: what every other room uses."""
