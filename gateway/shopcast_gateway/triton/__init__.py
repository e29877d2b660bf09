"""The bundled Triton: its own environment, and the process."""
