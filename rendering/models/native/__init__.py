"""The native kernels of neural models, C++ in ``src/``; ``rendering.models.components`` wraps
them."""
