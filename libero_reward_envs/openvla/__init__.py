"""OpenVLA on current versions of transformers and timm."""
