"""Frozen encoders: what they add to observations, and how it is kept."""
