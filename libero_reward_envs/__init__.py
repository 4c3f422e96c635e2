"""Gymnasium environments for LIBERO and wrappers with learned rewards."""

__version__ = "0.1.0"
