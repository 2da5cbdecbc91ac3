"""Judges on one label an image: linear layers, few labels, and the counts that they are scored by."""
