"""The graph of a net."""
