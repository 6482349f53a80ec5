"""Numerics that estimators share."""
