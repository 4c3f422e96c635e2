"""What changes an environment."""
