"""Native helpers of the store, as the extension module ``_store`` (C++ in ``src/``).

Each function has a slow twin in numpy that the tests hold it against.
"""
