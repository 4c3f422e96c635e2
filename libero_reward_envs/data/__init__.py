"""Episodes and their files."""
