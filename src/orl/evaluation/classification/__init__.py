"""Evaluations on images of one class each: linear, linear-estimate and semi."""
