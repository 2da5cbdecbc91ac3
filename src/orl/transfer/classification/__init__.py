"""Judges on one label a photo: linear layers, few labels, and the counts that they are scored by."""
