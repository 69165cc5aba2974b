"""SLIMP: nested contrastive learning between skin-lesion images and clinical metadata."""

__version__ = "0.1.0.dev0"
