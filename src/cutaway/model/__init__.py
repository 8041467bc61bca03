"""The model: loading it, running it, and the names of everything inside it."""
