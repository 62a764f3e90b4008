"""Bytes to values and back: tar, index, audio, image and text."""
