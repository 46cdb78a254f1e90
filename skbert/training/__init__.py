"""The loop, and all that decides what it does: what trains, from where, how fast, and for how long."""
