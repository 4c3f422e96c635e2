"""The built-in object and scene models: primitive shapes, our own."""
