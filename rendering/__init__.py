"""Turning Gaussians into images on whatever device there is."""
