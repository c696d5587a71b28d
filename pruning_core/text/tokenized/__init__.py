"""Texts as token windows."""
