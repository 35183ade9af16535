"""How fast and how true: measurements with fixed scenes and cameras (``docs/benchmarks.md``).

``belvedere bench`` runs them. A bar is a ratio of two things measured in one run, so that a
small or busy machine may judge it, too; absolute times are reported and not judged.
"""
