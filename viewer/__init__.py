"""Everything a person touches: the browser viewer, the command line, headless export."""
