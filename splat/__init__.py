"""The shared vocabulary: cameras, bounds, Gaussians, spherical harmonics, errors.

This package imports nothing else of the project, and neither torch nor viser, so
that every room can speak it and the command line starts quickly.
"""
