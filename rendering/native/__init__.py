"""The native CPU engine: C++ kernels in ``src/``, their Python face in ``cpu``."""
