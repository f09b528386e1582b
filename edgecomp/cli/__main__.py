"""`python -m edgecomp.cli`."""

from . import main

main()
