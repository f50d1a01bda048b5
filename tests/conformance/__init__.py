"""Conformance: the add-on works with whatever diffusers exports, or says why not."""
