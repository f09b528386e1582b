"""The canonical net: what the user's module computes, with every use of a weight a plain layer of its own.

Class names and module trees say little about what a net computes: subclasses have a forward of their own, weights are
read instead of called, norms are shared, layers are called twice or never. So the module is traced once, and everything
after works on a net that is rebuilt from the trace.
"""
