"""Instruction datasets from your own texts, made by notebooks that call this package."""

__version__ = "0.1.0"
